"""Windows on the clocks of videos, against plain loops."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from fusion_lab.data.editing.windows import ahead_of, runs_of, windows_of

clocks = st.lists(st.lists(st.sampled_from([0.08, 0.1, 0.12, 0.3]), max_size=12), min_size=1, max_size=4)


def laid_out(videos):
    times = [np.cumsum([0.0, *steps]) for steps in videos]
    return np.repeat(np.arange(len(times)), [len(t) for t in times]), np.concatenate(times)


@given(clocks)
def test_a_run_ends_with_its_video_and_where_steps_are_missing(videos):
    video, time = laid_out(videos)
    run = runs_of(video, time, 10.0)
    for step in range(1, len(run)):
        follows = video[step] == video[step - 1] and time[step] - time[step - 1] < 0.15
        assert run[step] == run[step - 1] + (not follows)


@given(clocks, st.integers(1, 6), st.integers(1, 8))
def test_windows_hold_the_steps_of_one_run_and_all_of_them_where_none_is_skipped(videos, length, stride):
    video, time = laid_out(videos)
    run = runs_of(video, time, 10.0)
    windows = windows_of(video, run, length, stride)
    held: dict[int, set[int]] = {}
    for start, rows in zip(windows.start, windows.rows, strict=True):
        own = range(start, start + rows)
        assert 1 <= rows <= length and len(set(run[own])) == 1
        fresh = set(own) - held.get(video[start], set())
        assert fresh, "a window of nothing but steps that others hold"
        held.setdefault(video[start], set()).update(own)
        assert rows == length or own[-1] + 1 == len(run) or run[own[-1] + 1] != run[start]
    assert sum(map(len, held.values())) == len(run) or stride > length
    for code in set(video.tolist()):
        assert windows.number[video[windows.start] == code].tolist() == list(
            range((video[windows.start] == code).sum())
        )
    assert (np.diff(windows.start) > 0).all()


@given(clocks, st.integers(0, 5))
def test_the_step_ahead_is_of_the_same_run(videos, horizon):
    video, time = laid_out(videos)
    run = runs_of(video, time, 10.0)
    for step, later in enumerate(ahead_of(run, horizon)):
        inside = step + horizon < len(run) and run[step + horizon] == run[step]
        assert later == (step + horizon if inside else len(run))
