"""What a person sees while a job works."""

import io

from hypothesis import given
from hypothesis import strategies as st

from fusion_lab.jobs.progress import SECONDS_BETWEEN_LINES, Progress, duration
from fusion_lab.training import CONTINUE, Evaluation


class Terminal(io.StringIO):
    """A stream that says it is a terminal; :meth:`screen` is what stands on it."""

    def isatty(self) -> bool:
        return True

    def screen(self) -> list[str]:
        lines = []
        for text in self.getvalue().split("\n"):
            shown: list[str] = []
            for part in text.split("\r"):
                shown[: len(part)] = part
            lines.append("".join(shown).rstrip())
        return lines


class Clock:
    def __init__(self) -> None:
        self.time = 0.0

    def __call__(self) -> float:
        return self.time


def evaluation(epoch: int, seconds: float = 2.0) -> Evaluation:
    return Evaluation(epoch, 10, 0.75, (0.7, 0.8), (0,), seconds)


def test_a_terminal_has_one_line_that_changes():
    stream = Terminal()
    progress = Progress(stream)
    progress.now("a long line of what happens now")
    progress.now("short")
    assert stream.screen() == ["short"]
    progress.line("stays")
    assert stream.screen() == ["stays", ""]
    progress.now("again")
    assert stream.screen() == ["stays", "again"]


@given(st.lists(st.tuples(st.booleans(), st.text(st.characters(categories=["L", "N"]), min_size=1, max_size=200))))
def test_on_a_terminal_lines_stay_and_the_last_moment_stands_below(steps):
    stream = Terminal()
    progress = Progress(stream)
    for stays, text in steps:
        (progress.line if stays else progress.now)(text)
    kept = [text for stays, text in steps if stays]
    last = steps[-1][1][:120] if steps and not steps[-1][0] else ""
    assert stream.screen() == [*kept, last]


def test_elsewhere_there_are_lines_only_and_not_too_many():
    stream, clock = io.StringIO(), Clock()
    progress = Progress(stream, clock)
    for _ in range(100):
        clock.time += SECONDS_BETWEEN_LINES / 10
        progress.now(f"{clock.time:.0f}")
    assert "\r" not in stream.getvalue()
    lines = stream.getvalue().splitlines()
    assert 8 <= len(lines) <= 10 and all(lines)
    progress.line("stays")
    assert stream.getvalue().splitlines()[-1] == "stays"


def test_watching_tells_epoch_folds_score_and_time_left():
    stream = Terminal()
    tell = Progress(stream).watch("trial 3", lambda: "  best 0.800 (trial 1)")
    assert tell(evaluation(epoch=4, seconds=2.0)) == CONTINUE
    (line,) = stream.screen()
    folds = "folds 0.70 0.80 (1 running)"
    assert line == f"trial 3  epoch 4/10  score 0.750  {folds}  at most 3 s left  best 0.800 (trial 1)"


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
