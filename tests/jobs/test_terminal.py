"""The changing lines at the foot of a terminal, in a process with a terminal of its own: what stands on the screen in
the end, meanwhile, and after something went wrong.
"""

import os
import re
import signal
import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st
from jobs_stage import PROJECT, SECONDS, Stage
from pseudo_terminal import Terminal

from fusion_lab.jobs.progress import FOLDS_SHOWN, Bar, Flow, Line, Part, Progress
from fusion_lab.jobs.terminal import MOST_FLOW_LINES, WIDEST, laid_out
from fusion_lab.training import Evaluation

COLOUR = re.compile(r"\x1b\[[\d;]+m")
ROWS_AT_MOST = 8

# A search that costs nothing, and what it does once its second trial has begun. The training's module is a stand-in
# with the names that are asked of it: the real one takes two seconds to import.
FAKE = """
import os, signal, subprocess, sys, types
from collections import namedtuple
training = types.ModuleType("fusion_lab.training")
training.CONTINUE, training.Decision = None, object
training.Evaluation = namedtuple("Evaluation", "epoch epochs value fold_scores running seconds")
sys.modules["fusion_lab.training"] = training
from fusion_lab.jobs.progress import Progress

progress = Progress()
progress.line("data: 400 rows")

def search(meanwhile):
    before = sys.stdout
    with progress:
        for number in range(3):
            progress.study(number, 3, "best 0.812 (trial 0)" if number else "", "best baseline 0.654 (trees)")
            tell = progress.watch(f"trial {number}")
            for epoch in range(1, 11):
                tell(training.Evaluation(epoch, 10, 0.7 + epoch / 1000, (0.7, 0.71, 0.72), (0, 2), 1.0))
            if number == 1:
                meanwhile()
            progress.line(f"trial {number} ended at epoch 10")
    assert sys.stdout is before

def wait():
    while True:
        signal.pause()

def fail():
    raise ValueError("a mistake")

def interrupt():
    raise KeyboardInterrupt

def interrupt_twice():
    progress._region._live.stop = interrupt
    interrupt()
"""


def fake(meanwhile: str, columns: int = 100, **environment: str) -> Terminal:
    """The search, which calls ``meanwhile`` in its second trial."""
    return Terminal([sys.executable, "-c", f"{FAKE}\nsearch({meanwhile})"], columns, **environment)


def last_painted(sent: str) -> list[str]:
    """The rows that were painted last, as far as they were."""
    return COLOUR.sub("", sent.rpartition("\x1b[2K")[2]).split("\r\n")


TRIALS = [f"trial {number} ended at epoch 10" for number in range(3)]


def test_a_search_leaves_its_lines_and_a_visible_cursor():
    with fake("int") as terminal:
        assert terminal.end() == 0
        terminal.check_clean()
        assert terminal.screen.text == ["data: 400 rows", *TRIALS]


def test_what_stands_below_the_lines_meanwhile():
    with fake("wait") as terminal:
        terminal.until("trial 1  ", "10/10 epochs", "folds")
        *lines, study, best, trial, folds = terminal.screen.text
        assert lines == ["data: 400 rows", TRIALS[0]]
        assert re.fullmatch(r"trials  ━+─+  1/3  at most \d s left", study)
        assert best == "best 0.812 (trial 0)  best baseline 0.654 (trees)"
        assert re.fullmatch(r"trial 1  ━+  10/10 epochs  score 0.710  at most 0 s left", trial)
        assert folds == "folds, 2 of 3 running*  0.70*  0.71  0.72*"
        assert not terminal.screen.cursor
        assert COLOUR.search(terminal.sent)


@pytest.mark.parametrize("how", ["ctrl-c", "sigterm"])
def test_who_ends_it_gets_a_clean_terminal(how):
    with fake("wait") as terminal:
        terminal.until("trial 1  ", "10/10 epochs")
        if how == "ctrl-c":
            terminal.type(b"\x03")
        else:
            terminal.process.send_signal(signal.SIGTERM)
        assert terminal.end() in (1, -signal.SIGINT)
        terminal.check_clean()
        assert terminal.screen.text[:2] == ["data: 400 rows", TRIALS[0]]
        assert terminal.screen.text[-1].startswith("KeyboardInterrupt")


def test_who_is_impatient_gets_the_cursor_back_too():
    """Interrupted once more while the lines are being taken away."""
    with fake("interrupt_twice") as terminal:
        assert terminal.end() == -signal.SIGINT
        terminal.check_clean()


def test_an_exception_leaves_a_clean_terminal_and_is_told_below_the_lines():
    with fake("fail") as terminal:
        assert terminal.end() == 1
        terminal.check_clean()
        assert terminal.screen.text[:3] == ["data: 400 rows", TRIALS[0], "Traceback (most recent call last):"]
        assert terminal.screen.text[-1] == "ValueError: a mistake"


def test_no_color_is_heeded():
    with fake("wait", NO_COLOR="1") as terminal:
        terminal.until("10/10 epochs")
        assert not COLOUR.search(terminal.sent)


def test_a_dumb_terminal_gets_lines():
    with fake("int", TERM="dumb") as terminal:
        assert terminal.end() == 0
        assert "\x1b" not in terminal.sent
        assert terminal.screen.text == ["data: 400 rows", *TRIALS]


def test_a_terminal_that_becomes_narrow():
    """What COLUMNS says is not asked: it stays what it was."""
    with fake("wait", columns=100, COLUMNS="100") as terminal:
        terminal.until("10/10 epochs", "score 0.710  at most")
        terminal.resize(40)
        while max(map(len, rows := last_painted(terminal.sent))) >= 40 or len(rows) < 5:
            assert terminal.read()
        assert [row.split("  ")[0] for row in rows[:3]] == ["trials", "best 0.812 (trial 0)", "trial 1"]
        terminal.process.send_signal(signal.SIGTERM)
        terminal.end()
        assert terminal.screen.cursor


def test_what_others_write_stands_above_as_lines():
    """This process through Python and past it, and one that it has started; half a line waits for its other half."""
    others = """
def others():
    print("printed")
    sys.stderr.write("a warning\\n")
    os.write(2, b"past Python\\n")
    subprocess.run(["sh", "-c", "printf '10%%\\\\r90%%\\\\rfrom a child\\\\n' >&2"])
    sys.stderr.write("half")
    wait()
"""
    with Terminal([sys.executable, "-c", f"{FAKE}\n{others}\nsearch(others)"]) as terminal:
        terminal.until("from a child", "10/10 epochs", "folds")
        *lines, study, _, trial, folds = terminal.screen.text
        assert sorted(lines[2:]) == ["a warning", "from a child", "past Python", "printed"]
        assert study.startswith("trials") and trial.startswith("trial 1") and folds.startswith("folds")
        terminal.type(b"\x03")
        terminal.end()
        terminal.check_clean()
        assert any(line.startswith("half") for line in terminal.screen.text)


def test_rich_is_not_imported_without_a_terminal():
    code = f"{FAKE}\nsearch(int)\nassert not [name for name in sys.modules if name.split('.')[0] == 'rich']"
    env = {**os.environ, "PYTHONPATH": str(PROJECT)}
    done = subprocess.run(
        [sys.executable, "-c", code], env=env, capture_output=True, text=True, timeout=SECONDS, check=False
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == ["data: 400 rows", *TRIALS]


@pytest.mark.slow
@pytest.mark.parametrize(("verb", "last"), [("hpo", "the study's report"), ("train", "scores and figures")])
def test_a_job_in_a_terminal(verb, last, stage: Stage):
    command = ["-m", "fusion_lab", verb, f"--experiment={stage.folder}/experiments/tiny.yaml"]
    environment = {"MLFLOW_TRACKING_URI": stage.uri, "OMP_NUM_THREADS": "1"}
    with Terminal([sys.executable, *command], **environment) as terminal:
        assert terminal.end() == 0, terminal.screen.text
        terminal.check_clean()
        assert last in terminal.sent and last not in terminal.screen.text
    assert stage.running() == []


PARTS = st.builds(Part, st.text(max_size=30), st.sampled_from(["", "green", "bold"]))
BARS = st.builds(Bar, st.integers(0, 20), st.integers(0, 20))
LINES = st.builds(Line, st.lists(PARTS | BARS, min_size=1, max_size=6).map(tuple))
FLOWS = st.builds(Flow, st.text(max_size=30), st.lists(PARTS, max_size=20).map(tuple))


@given(st.lists(LINES | FLOWS, max_size=4), st.integers(1, 130), st.booleans())
def test_no_row_is_wider_than_the_terminal(rows, width, ascii_only):
    text = laid_out(rows, width, ascii_only)
    assert all(line.cell_len <= width for line in text.split("\n"))
    assert len(text.plain.split("\n")) <= max(1, sum(MOST_FLOW_LINES if isinstance(r, Flow) else 1 for r in rows))


WORDS = st.lists(st.text("abc", min_size=1, max_size=12), min_size=1, max_size=6)


@given(WORDS, st.integers(1, 60))
def test_what_does_not_fit_is_left_out_from_the_end(words, width):
    (line,) = laid_out([Line(tuple(map(Part, words)))], width).split("\n")
    fitting = [n for n in range(1, len(words) + 1) if len("  ".join(words[:n])) <= width]
    assert line.plain == ("  ".join(words[: max(fitting)]) if fitting else words[0][:width])


@given(st.integers(1, 200), st.integers(20, 130), st.integers(0, 300))
def test_a_study_takes_few_rows_and_the_important_ones_are_whole(folds, width, trials):
    progress = Progress()
    progress.study(trials, trials + 1, "best 0.812 (trial 4)", "best baseline 0.654 (trees)", left=4000.0)
    scores, running = tuple(k / folds for k in range(folds)), tuple(range(0, folds, 2))
    progress.watch("trial 7")(Evaluation(4, 10, 0.75, scores, running, 2.0))
    lines = laid_out(progress.rows(), width).plain.split("\n")
    assert len(lines) <= ROWS_AT_MOST
    assert re.match(rf"trials  ([━─]+  )?{trials}/{trials + 1}", lines[0])
    assert lines[1].startswith("best 0.812 (trial 4)") and re.match(r"trial 7  ([━─]+  )?4/10 epoch", lines[2])


def test_forty_columns_hold_every_fold_of_a_row_and_the_score():
    progress = Progress()
    scores = tuple(0.5 + k / 100 for k in range(FOLDS_SHOWN))
    progress.watch("trial 7")(Evaluation(4, 10, 0.75, scores, tuple(range(FOLDS_SHOWN)), 2.0))
    text = laid_out(progress.rows(), 39).plain
    assert "score 0.750" in text and all(f"{score:.2f}*" in text for score in scores)


@given(st.integers(1, 50), st.booleans())
def test_a_bar_grows_with_what_is_done(total, ascii_only):
    full, rest = "#-" if ascii_only else "━─"
    bars = [laid_out([Line((Part("a"), Bar(done, total)))], WIDEST, ascii_only).plain for done in range(total + 1)]
    counts = [bar.count(full) for bar in bars]
    assert counts == sorted(counts) and counts[0] == 0 and bars[-1].count(rest) == 0
    assert len({bar.count(full) + bar.count(rest) for bar in bars}) == 1
