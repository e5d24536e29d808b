"""A finished cell is left whole or not at all, whatever was in its place before."""

import numpy as np
import pytest
from comparison_material import ACCURACY, F1, made_entry

from fusion_lab.evaluation.comparison import compare
from fusion_lab.jobs.cells import (
    PREDICTIONS,
    RESULT,
    Done,
    best_cell,
    is_finished,
    load_cell,
    save_cell,
    sweep_metrics,
)
from fusion_lab.report.comparison import Line, Report


def done(fingerprint, seed=0):
    numbers = {"parameters": 3, "seconds": 1.5, "best_epoch": 2}
    return Done(made_entry("a", seed=seed).predictions, {"fingerprint": fingerprint, "run": "r", **numbers})


def test_what_was_saved_is_loaded_where_it_is_of_this_configuration(tmp_path):
    save_cell(tmp_path, done("mine"))
    found = load_cell(tmp_path, "mine")
    assert found.numbers == {"parameters": 3.0, "seconds": 1.5, "best_epoch": 2.0}
    np.testing.assert_array_equal(found.predictions.score["activity"], done("mine").predictions.score["activity"])
    assert load_cell(tmp_path, "another") is None and load_cell(tmp_path / "nowhere", "mine") is None


@pytest.mark.parametrize("step", ["save_predictions", "json.dumps"])
def test_a_kill_leaves_no_result_beside_the_predictions_of_another(tmp_path, monkeypatch, step):
    save_cell(tmp_path, done("old"))

    def killed(*args):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(f"fusion_lab.jobs.cells.{step}", killed)
        with pytest.raises(KeyboardInterrupt):
            save_cell(tmp_path, done("new", seed=1))
    assert not is_finished(tmp_path, "new") and load_cell(tmp_path, "old") is None
    save_cell(tmp_path, done("new", seed=1))
    assert is_finished(tmp_path, "new") and not list(tmp_path.glob("*.part"))


def test_a_cell_that_lost_its_predictions_is_not_finished(tmp_path):
    save_cell(tmp_path, done("mine"))
    assert (tmp_path / RESULT).is_file()
    (tmp_path / PREDICTIONS).unlink()
    assert not is_finished(tmp_path, "mine") and load_cell(tmp_path, "mine") is None


def report_of(*strengths: float) -> Report:
    """Cells of these strengths, one that is missing, and a baseline that is better than all."""
    cells = [made_entry(f"x={place}", strength, place) for place, strength in enumerate(strengths)]
    baseline = made_entry("trees", 9.0, len(cells), kind="baseline")
    lines = [Line("x", cell.name, cell.name) for cell in cells]
    lines += [Line("x", "x=lost", "", missing="it diverged"), Line("baselines", "trees", "trees", "baseline")]
    found = compare([*cells, baseline], [F1, ACCURACY], "x=0") if cells else None
    return Report("A sweep", tuple(lines), found, {}, ())


def test_the_best_cell_is_chosen_by_validation_rows_among_cells():
    report = report_of(0.2, 1.0, 0.5)
    values = {f"x={place}": report.comparison.standing(f"x={place}", "f1", "val").value for place in range(3)}
    best = best_cell(report)
    assert values[best] == max(values.values()) < report.comparison.standing("trees", "f1", "val").value
    metrics = sweep_metrics(report)
    assert (metrics["cells_finished"], metrics["cells_missing"]) == (3, 1)
    assert metrics["objective"] == metrics["val/f1"] == values[best]
    assert metrics["test_selected/accuracy"] == report.comparison.standing(best, "accuracy").value
    assert not any(name.startswith("test/") for name in metrics)  # what was selected is not told as if it had not been


def test_a_sweep_without_a_finished_cell_has_counts_alone():
    assert best_cell(report_of()) == ""
    assert sweep_metrics(report_of()) == {"cells_finished": 0, "cells_missing": 1}
