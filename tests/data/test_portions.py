"""Portions of a data set: every row once, in order, and never more cells at once than said."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from fusion_lab.data import portions, synthetic
from fusion_lab.data.portions import in_portions

DATA = synthetic.load(synthetic.SyntheticConfig(rows=30))
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
