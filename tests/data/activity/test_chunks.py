"""Chunks against a plain loop over the samples of a recording."""

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from fusion_lab.data.activity.chunks import Cutting, chunks_of, cut, held, inside
from fusion_lab.data.activity.samples import Recorded, Recording, Samples

COLUMNS = ("a", "b", "c", "d")


@st.composite
def recordings(draw) -> Recorded:
    """Subjects with recordings of any length between samples of none; a quarter of the cells is missing."""
    rng = np.random.default_rng(draw(st.integers(0, 1000)))
    subjects = []
    for name in "xyz"[: draw(st.integers(0, 3))]:
        made, end = [], 0
        for rows in draw(st.lists(st.integers(1, 40), max_size=4)):
            start = end + draw(st.integers(0, 5))
            made.append(Recording(start, rows, float(start), draw(st.sampled_from([None, 1, 4]))))
            end = start + rows
        values = rng.normal(size=(end, len(COLUMNS))).astype(np.float32)
        values[rng.random(values.shape) < 0.25] = np.nan
        subjects.append(Samples(name, values, tuple(made)))
    return Recorded(COLUMNS, tuple(subjects), ())


@st.composite
def cuttings(draw) -> Cutting:
    chunk = draw(st.integers(1, 15))
    stride = draw(st.one_of(st.none(), st.integers(1, 20)))
    return Cutting.of(chunk, stride, draw(st.floats(0.05, 1.0)))


def plain(recorded: Recorded, cutting: Cutting) -> list[tuple[int, int, list[int]]]:
    """Subject, recording and samples of each chunk, sample by sample."""
    chunks = []
    for s, samples in enumerate(recorded.subjects):
        for r, recording in enumerate(samples.recordings):
            seen: set[int] = set()
            for offset in range(0, recording.rows, cutting.stride):
                taken = [recording.start + offset + i for i in range(cutting.length) if offset + i < recording.rows]
                last = len(taken) < cutting.length
                if not last or (len(taken) >= cutting.least and not set(taken) <= seen):
                    chunks.append((s, r, taken))
                    seen |= set(taken)
                if last:
                    break
    return chunks


@given(recorded=recordings(), cutting=cuttings())
@settings(deadline=None)
def test_chunks_are_those_of_a_plain_loop_and_cross_no_recording(recorded, cutting):
    chunks = chunks_of(recorded, cutting)
    spans = zip(chunks.start, chunks.rows, strict=True)
    found = [list(range(start, start + rows)) for start, rows in spans]
    expected = plain(recorded, cutting)
    assert list(zip(chunks.subject, chunks.recording, found, strict=True)) == expected
    for s, r, activity, samples in zip(chunks.subject, chunks.recording, chunks.activity, found, strict=True):
        recording = recorded.subjects[s].recordings[r]
        assert recording.start <= samples[0] <= samples[-1] < recording.start + recording.rows
        assert activity == (-1 if recording.activity is None else recording.activity)
    assert held(chunks, cutting) == len({(s, sample) for s, _, samples in expected for sample in samples})


@given(rows=st.integers(1, 200), chunk=st.integers(1, 30), shortest=st.floats(0.05, 1.0))
def test_without_overlap_each_sample_is_in_one_chunk_but_for_a_rest_that_is_too_short(rows, chunk, shortest):
    cutting = Cutting.of(chunk, None, shortest)
    offset, taken = inside(rows, cutting)
    samples = [int(o) + i for o, n in zip(offset, taken, strict=True) for i in range(n)]
    assert samples == list(range(len(samples)))
    assert 0 <= rows - len(samples) < cutting.least
    assert all(cutting.least <= n <= chunk for n in taken)


@given(recorded=recordings(), cutting=cuttings(), width=st.integers(1, 4))
@settings(deadline=None)
def test_a_cut_holds_the_samples_it_comes_from_at_its_end(recorded, cutting, width):
    columns = COLUMNS[::-1][:width]
    made = cut(recorded, chunks_of(recorded, cutting), columns, cutting.length)
    expected = plain(recorded, cutting)
    assert made.inputs.shape == (len(expected), cutting.length, width)
    for row, (s, _, samples) in enumerate(expected):
        cells = recorded.subjects[s].values[samples][:, [COLUMNS.index(name) for name in columns]]
        padding, filled = cutting.length - len(samples), ~np.isnan(cells)
        np.testing.assert_array_equal(made.inputs[row, padding:], np.nan_to_num(cells))
        np.testing.assert_array_equal(made.observed[row, padding:], filled)
        np.testing.assert_array_equal(made.valid[row, padding:], filled.any(axis=1))
        for part in made:
            assert not part[row, :padding].any()


@given(recorded=recordings(), cutting=cuttings())
@settings(deadline=None)
def test_some_of_the_chunks_are_cut_as_they_are_among_all(recorded, cutting):
    chunks = chunks_of(recorded, cutting)
    keep = chunks.activity == 4
    for some, every in zip(
        cut(recorded, chunks.where(keep), COLUMNS, cutting.length),
        cut(recorded, chunks, COLUMNS, cutting.length),
        strict=True,
    ):
        np.testing.assert_array_equal(some, every[keep])
