import os
import signal
import subprocess

import numpy as np
import pytest
from report_material import make_folds, make_groups, make_map

from fusion_lab.report.attention import attention_dict, summarise
from fusion_lab.report.attention_picture import attention_png
from fusion_lab.report.curves import curves_dict, curves_png
from fusion_lab.report.drawing import DrawingProcess, draw_here


@pytest.fixture(scope="module")
def process():
    with DrawingProcess() as process:
        yield process


def test_curves_are_drawn_as_in_this_process(process):
    folds = make_folds(undefined={(0, 3)})
    assert process.draw("curves", curves_dict(folds)) == curves_png(folds)


@pytest.mark.parametrize("sizes", [(4,), (3, 4), (5, 3, 4)], ids=["one query", "queries by keys", "over time"])
def test_maps_are_drawn_as_in_this_process(process, sizes):
    there = (np.arange(sizes[0]) > 0).reshape(-1, *[1] * (len(sizes) - 1))  # a place that no row has
    summary = summarise(make_map(*sizes, there=there), make_groups())
    assert process.draw("attention", attention_dict(summary)) == attention_png(summary)


@pytest.mark.slow
def test_a_figure_is_drawn_here_when_the_pipe_was_closed_meanwhile():
    folds, process = make_folds(), DrawingProcess()
    process.draw("curves", curves_dict(folds))
    process._process.stdin.close()
    assert process.draw("curves", curves_dict(folds)) == draw_here("curves", curves_dict(folds))
    process._process.wait(timeout=30)


@pytest.mark.slow
def test_a_figure_is_drawn_here_when_the_process_was_killed():
    folds = make_folds()
    with DrawingProcess() as process:
        process.draw("curves", curves_dict(folds))
        os.kill(process._process.pid, signal.SIGKILL)
        process._process.wait(timeout=30)
        assert process.draw("curves", curves_dict(folds)) == draw_here("curves", curves_dict(folds))


@pytest.mark.slow
def test_the_process_ends_with_its_input():
    process = DrawingProcess()
    process.draw("curves", curves_dict(make_folds()))
    child: subprocess.Popen = process._process
    process.close()
    assert child.returncode == 0
