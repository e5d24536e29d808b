"""Windows of calendar days: held against the plain loop over days."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from fusion_lab.contracts import Task
from fusion_lab.data.relapse.windows import Days, cut, joined, places

OF_DAYS = st.lists(st.tuples(st.integers(0, 3), st.integers(-20, 20)), min_size=1, max_size=40, unique=True).map(sorted)


def of(pairs: list[tuple[int, int]], seed: int = 0) -> Days:
    """Days of the sequences and days given, with two modalities and unknown labels."""
    rng = np.random.default_rng(seed)
    count = len(pairs)
    observed = {name: rng.random((count, width)) < 0.7 for name, width in (("a", 3), ("b", 1))}
    known = rng.random(count) < 0.6
    return Days(
        patient=np.array([f"P{code // 2}" for code, _ in pairs]),
        sequence=np.array([f"s{code % 2}" for code, _ in pairs]),
        split=np.full(count, ""),
        day=np.array([day for _, day in pairs]),
        features={"a": ("x", "y", "z"), "b": ("x",)},
        values={n: np.where(o, rng.normal(size=o.shape), 0).astype(np.float32) for n, o in observed.items()},
        observed=observed,
        tasks=(Task("t", "binary", ("no", "yes")),),
        targets={"t": np.where(known, rng.integers(0, 2, count), 0).astype(np.float32)},
        known={"t": known},
    )


@given(OF_DAYS, st.integers(1, 9))
def test_a_place_holds_the_day_of_its_sequence_that_the_calendar_says(pairs, length):
    code, day = (np.array(part) for part in zip(*pairs, strict=True))
    found = places(code, day, np.arange(len(pairs)), length)
    where = {pair: at for at, pair in enumerate(pairs)}
    for row, (own, end) in enumerate(pairs):
        expected = [where.get((own, end - before), -1) for before in reversed(range(length))]
        assert found[row].tolist() == expected


@given(OF_DAYS, st.integers(1, 9), st.booleans(), st.integers(0, 9))
def test_windows_hold_what_their_days_hold_and_nothing_else(pairs, length, context, seed):
    days = of(pairs, seed)
    ends = np.arange(len(days))[:: 1 + seed % 2]
    windows = cut(days, ends, length, context)
    at = places(days.code, days.day, ends, length)
    assert windows.length == length
    for row, end in enumerate(ends):
        for place in range(length):
            index = at[row, place]
            there = index >= 0 and (context or days.labelled[index] or place == length - 1)
            for name in days.values:
                seen = days.observed[name][index] if there else np.zeros(len(days.features[name]), bool)
                assert windows.observed[name][row, place].tolist() == seen.tolist()
                assert windows.valid[name][row, place] == seen.any()
                assert windows.inputs[name][row, place].tolist() == (days.values[name][index] * seen).tolist()
        assert (windows.targets["t"][row], windows.known["t"][row]) == (days.targets["t"][end], days.known["t"][end])
        assert windows.day[row] == days.day[end]


@given(OF_DAYS)
def test_the_code_of_a_sequence_is_its_own(pairs):
    days = of(pairs)
    names = [f"{patient}/{sequence}" for patient, sequence in zip(days.patient, days.sequence, strict=True)]
    assert len(set(zip(names, days.code.tolist(), strict=True))) == len(set(names)) == len(set(days.code.tolist()))


def test_windows_are_taken_apart_and_joined_again():
    windows = cut(of([(0, 1), (0, 2), (1, 5), (3, 1)]), np.arange(4), 3)
    again = joined(windows.take(np.arange(2)), windows.take(np.arange(2, 4)))
    assert again.ids.tolist() == windows.ids.tolist()
    for part in ("inputs", "valid", "observed", "targets", "known"):
        for name, leaf in getattr(windows, part).items():
            assert np.array_equal(leaf, getattr(again, part)[name])


def test_ids_name_person_sequence_and_day():
    days = of([(1, -3), (2, 7)])
    assert cut(days, np.arange(2), 2).ids.tolist() == ["P0/s1/-3", "P1/s0/7"]
