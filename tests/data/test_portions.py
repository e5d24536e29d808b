"""Portions of a data set: every row once, in order, and never more cells at once than said."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fusion_lab.data import portions, synthetic
from fusion_lab.data.portions import in_portions, targets_of
from fusion_lab.data.subset import Subset

DATA = synthetic.load(synthetic.SyntheticConfig(rows=30))
WEIGHED = replace(DATA, emphasis={"outcome": torch.linspace(0, 1, 30)})
WIDTH = sum(int(np.prod(m.shape)) for m in DATA.spec.modalities)


@given(st.lists(st.integers(0, 29), max_size=40), st.integers(1, 20 * WIDTH))
def test_every_row_comes_once_and_in_order(chosen, cells):
    rows = np.array(chosen, dtype=int)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(portions, "CELLS", cells)
        parts = list(in_portions(DATA, rows))
    assert [row for part, _ in parts for row in part.tolist()] == chosen
    for part, batch in parts:
        assert len(part) == 1 or len(part) * WIDTH <= cells
        whole = DATA.gather(torch.from_numpy(part))
        assert all(torch.equal(leaf, whole.inputs[name]) for name, leaf in batch.inputs.items())


def test_all_rows_are_meant_unless_said_otherwise():
    assert [row for part, _ in in_portions(DATA) for row in part.tolist()] == list(range(30))


class Laid:
    """A data set that does not give targets by themselves, and keeps how many rows it was asked for at once."""

    def __init__(self, of):
        self.spec, self.of, self.asked = of.spec, of, []

    def __len__(self):
        return len(self.of)

    def gather(self, rows):
        self.asked.append(len(rows))
        return self.of.gather(rows)


@settings(max_examples=40, deadline=None)
@given(st.lists(st.integers(0, 29), max_size=40), st.integers(1, 20 * WIDTH), st.integers(0, 2**32 - 1))
def test_targets_by_themselves_are_those_of_whole_rows(chosen, cells, seed):
    """Whether a data set gives them or they are taken from portions, of all rows or of some, of a part of it too."""
    rows, laid = np.array(chosen, dtype=int), Laid(WEIGHED)
    some = np.random.default_rng(seed).permutation(30)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(portions, "CELLS", cells)
        whole = WEIGHED.gather(torch.from_numpy(rows))
        for found in (targets_of(WEIGHED, rows), targets_of(laid, rows)):
            assert not any((found.inputs, found.valid, found.observed, found.quality))
            assert_same_targets(found, whole)
        assert all(count == 1 or count * WIDTH <= cells for count in laid.asked)
        for of in (WEIGHED, laid):
            part = Subset(of, some, "some")
            assert_same_targets(targets_of(part, rows), part.gather(torch.from_numpy(rows)))
            assert_same_targets(targets_of(part), part.gather(torch.arange(30)))


def assert_same_targets(found, whole):
    for one, other in zip(found[4:], whole[4:], strict=True):
        assert isinstance(one, dict) == isinstance(other, dict)
        leaves = (one, other) if isinstance(one, dict) else ({"": one}, {"": other})
        assert leaves[0].keys() == leaves[1].keys()
        assert all(torch.equal(leaf, leaves[1][name]) for name, leaf in leaves[0].items())
