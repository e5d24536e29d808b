"""What a person is told while a job works: what stands in the rows, and what is written where there is no terminal."""

import io
import signal
import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fusion_lab.jobs.progress import (
    FOLDS_SHOWN,
    SECONDS_BETWEEN_LINES,
    Flow,
    Line,
    Part,
    Progress,
    duration,
    fold_cells,
    shown,
    writable,
)
from fusion_lab.training import CONTINUE, Evaluation

SCORES = st.floats(-1.0, 1.0) | st.just(float("nan"))


class Terminal(io.StringIO):
    """A stream that says it is a terminal."""

    def isatty(self) -> bool:
        return True


class Clock:
    def __init__(self) -> None:
        self.time = 0.0

    def __call__(self) -> float:
        return self.time


@pytest.fixture(autouse=True)
def _able_terminal(monkeypatch):
    monkeypatch.setenv("TERM", "xterm-256color")


def evaluation(epoch: int = 4, seconds: float = 2.0, scores=(0.7, 0.8), running=(0,)) -> Evaluation:
    return Evaluation(epoch, 10, 0.75, tuple(scores), tuple(running), seconds)


def texts(progress: Progress) -> list[list[str]]:
    """The words of every row."""
    rows = progress.rows()
    lines = [[p.text for p in row.parts if isinstance(p, Part)] for row in rows if isinstance(row, Line)]
    flows = [[row.head, *(cell.text for cell in row.cells)] for row in rows if isinstance(row, Flow)]
    return [[text for text in row if text] for row in lines + flows]


STEPS = st.lists(
    st.tuples(st.sampled_from(["line", "now", "track", "watch", "study"]), st.text(max_size=30), st.floats(0.0, 40.0)),
    max_size=40,
)


def work(progress: Progress, clock: Clock, steps: list[tuple[str, str, float]]) -> None:
    """Tells of some made-up work, each step at its time."""
    for what, text, seconds in steps:
        clock.time += seconds
        if what == "track":
            progress.track(text, 5)(2)
        elif what == "watch":
            progress.watch(text, lambda text=text: text)(evaluation())
        elif what == "study":
            progress.study(1, 3, text, text)
        else:
            getattr(progress, what)(text)


@given(STEPS)
def test_without_a_terminal_there_is_no_control_character(steps):
    stream, clock = io.StringIO(newline=""), Clock()
    with Progress(stream, clock) as progress:
        work(progress, clock, steps)
    written = stream.getvalue()
    assert not [c for c in written if unicodedata.category(c) == "Cc" and c != "\n"]
    assert written == "" or written.endswith("\n")


@given(STEPS)
def test_without_a_terminal_lines_are_seldom_but_for_those_that_stay(steps):
    times = []

    class Timed(io.StringIO):
        def write(self, text: str) -> int:
            times.append(clock.time)
            return super().write(text)

    meanwhile = [step for step in steps if step[0] != "line"]
    clock = Clock()
    work(Progress(Timed(), clock), clock, meanwhile)
    assert all(later - earlier >= SECONDS_BETWEEN_LINES for earlier, later in zip([0.0, *times], times, strict=False))


@given(st.lists(st.text(st.characters(categories=["L", "N", "P"]), min_size=1)), st.booleans())
def test_lines_that_stay_are_written_as_they_are(lines, terminal):
    stream = Terminal() if terminal else io.StringIO()
    progress = Progress(stream)
    for text in lines:
        progress.now("something else")
        progress.line(text)
    assert stream.getvalue() == "".join(f"{text}\n" for text in lines)


def test_after_a_while_the_work_at_hand_has_its_line():
    stream, clock = io.StringIO(), Clock()
    progress = Progress(stream, clock)
    tell = progress.watch("trial 3", lambda: "  best 0.800 (trial 1)")
    clock.time = SECONDS_BETWEEN_LINES - 1
    assert tell(evaluation()) == CONTINUE and stream.getvalue() == ""
    clock.time = SECONDS_BETWEEN_LINES
    assert tell(evaluation(epoch=4, seconds=2.0)) == CONTINUE
    folds = "folds 0.70 0.80 (1 running)"
    line = f"trial 3  epoch 4/10  score 0.750  {folds}  at most 3 s left  best 0.800 (trial 1)\n"
    assert stream.getvalue() == line
    advance = progress.track("rows checked", 40)
    clock.time += SECONDS_BETWEEN_LINES
    advance(10)
    assert stream.getvalue() == f"{line}rows checked  10/40  about {duration(3 * SECONDS_BETWEEN_LINES)} left\n"


def test_nobody_is_asked_for_what_is_not_written():
    clock = Clock()
    tell = Progress(io.StringIO(), clock).watch("trial 0", lambda: pytest.fail("asked"))
    clock.time = SECONDS_BETWEEN_LINES / 2
    tell(evaluation())


@pytest.mark.parametrize("kind", ["", "dumb", "unknown"])
def test_a_terminal_that_can_do_nothing_gets_lines(kind, monkeypatch):
    monkeypatch.setenv("TERM", kind)
    stream, clock = Terminal(), Clock()
    with Progress(stream, clock) as progress:
        work(progress, clock, [("now", "first", 1.0), ("now", "second", SECONDS_BETWEEN_LINES), ("line", "third", 0.0)])
    assert stream.getvalue() == "second\nthird\n"


def test_nothing_changes_in_a_terminal_before_it_is_entered_and_after_it_is_left():
    stream = Terminal()
    progress = Progress(stream)
    progress.now("too early")
    assert stream.getvalue() == ""
    with progress:
        progress.now("in time")
    left = stream.getvalue()
    assert "in time" in left
    progress.now("too late")
    progress.line("stays")
    assert stream.getvalue() == f"{left}stays\n"


def test_it_can_be_closed_twice():
    progress = Progress(Terminal())
    with progress:
        progress.now("something")
        progress.close()
    progress.close()


def test_sigterm_interrupts_what_is_shown_and_is_given_back():
    before = signal.getsignal(signal.SIGTERM)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    try:
        with pytest.raises(KeyboardInterrupt, match="terminated"), Progress(Terminal()) as progress:
            progress.now("something")
            signal.raise_signal(signal.SIGTERM)
        assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL
    finally:
        signal.signal(signal.SIGTERM, before)


def test_who_has_taken_sigterm_keeps_it():
    caught = []
    before = signal.signal(signal.SIGTERM, lambda number, frame: caught.append(number))
    try:
        with Progress(Terminal()):
            signal.raise_signal(signal.SIGTERM)
        assert caught == [signal.SIGTERM]
    finally:
        signal.signal(signal.SIGTERM, before)


def test_the_rows_of_a_study():
    clock = Clock()
    progress = Progress(Terminal(), clock)
    progress.study(7, 12, "best 0.812 (trial 4)", "best baseline 0.654 (trees)", left=90.0)
    progress.watch("trial 7")(evaluation(epoch=4, seconds=2.0, scores=(0.7, 0.8, float("nan")), running=(0, 2)))
    clock.time = 2.0
    assert texts(progress) == [
        ["trials", "7/12", "about 1 min 28 s left"],
        ["best 0.812 (trial 4)", "best baseline 0.654 (trees)"],
        ["trial 7", "4/10 epochs", "score 0.750", "at most 1 s left"],
        ["folds, 2 of 3 running*", "0.70*", "0.80", "-*"],
    ]


@given(st.floats(0.1, 1e3), st.integers(1, 9), st.integers(1, 50), st.floats(0.0, 1e3))
def test_before_a_trial_has_ended_the_first_one_tells_the_time_left(seconds, epoch, trials, later):
    """No more than if every trial takes as long as this one would with all its epochs."""
    clock = Clock()
    progress = Progress(Terminal(), clock)
    progress.study(0, trials)
    progress.watch("trial 0")(evaluation(epoch, seconds))
    whole = seconds / epoch * 10
    assert texts(progress)[0][-1] == f"at most {duration(whole * trials - seconds)} left"
    clock.time = later
    rest = max(0.0, whole - seconds - later) + whole * (trials - 1)
    assert texts(progress)[0][-1] == f"at most {duration(rest)} left"


@given(st.integers(1, 100), st.integers(1, 100), st.floats(0.0, 1e3))
def test_the_pace_so_far_tells_the_time_left_of_a_step(done, more, seconds):
    clock = Clock()
    progress = Progress(Terminal(), clock)
    advance = progress.track("rows", done + more)
    clock.time = seconds
    advance(done)
    left = duration(seconds / done * more)
    assert texts(progress) == [["rows", f"{done}/{done + more}", f"about {left} left"]]
    clock.time *= 1 + more / done
    assert texts(progress)[0][-1] == f"about {duration(0.0)} left"
    advance(more)
    assert texts(progress) == [["rows", f"{done + more}/{done + more}"]]


@given(st.lists(SCORES, min_size=1, max_size=3 * FOLDS_SHOWN), st.sets(st.integers(0, 3 * FOLDS_SHOWN)))
def test_every_fold_is_shown_or_counted(scores, running):
    seen = evaluation(scores=scores, running=sorted(k for k in running if k < len(scores)))
    cells = [cell.text for cell in fold_cells(seen)]
    shown_cells = [cell for cell in cells if not cell.startswith("and ")]
    assert [cell.rstrip("*") for cell in shown_cells] == [shown([score]) for score in scores[:FOLDS_SHOWN]]
    assert [cell.endswith("*") for cell in shown_cells] == [k in running for k in range(len(shown_cells))]
    hidden = len(scores) - len(shown_cells)
    assert cells[len(shown_cells) :] == ([f"and {hidden} more"] if hidden else [])


@given(st.text(), st.sampled_from(["ascii", "latin-1", "utf-8"]))
def test_what_the_stream_cannot_take_is_replaced_one_for_one(text, encoding):
    stream = io.TextIOWrapper(io.BytesIO(), encoding=encoding, newline="")
    Progress(stream).line(f"{text}.")
    stream.buffer.seek(0)
    written = stream.buffer.read().decode(encoding)
    assert len(written) == len(text) + 2
    for one, other in zip(text, written, strict=False):
        assert one == other or other in " ?"


@given(st.text(st.characters(categories=["L", "N", "P", "S", "Zs"])))
def test_words_stay_as_they_are(text):
    assert writable(text, io.StringIO()) == text


def test_every_line_is_seen_at_once():
    class Flushed(io.StringIO):
        flushed = ""

        def flush(self) -> None:
            self.flushed = self.getvalue()

    stream = Flushed()
    Progress(stream).line("now")
    assert stream.flushed == "now\n"


@given(st.floats(0, 1e7))
def test_a_duration_says_what_it_is_to_the_unit(seconds):
    words = duration(seconds).split()
    sizes = {"s": 1, "min": 60, "h": 3600}
    told = sum(int(number) * sizes[unit] for number, unit in zip(words[::2], words[1::2], strict=True))
    assert abs(told - seconds) <= (0.5 if seconds < 3599 else 60)
    assert all(int(number) < 60 for number, unit in zip(words[::2], words[1::2], strict=True) if unit != "h")
