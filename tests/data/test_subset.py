"""A subsample is the rows it names, with the whole's shares of every label, and groups are never torn apart."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from fusion_lab.contracts import DataError
from fusion_lab.data import synthetic
from fusion_lab.data.splits import FoldsConfig, make_folds
from fusion_lab.data.subset import Subset, sampled
from fusion_lab.data.synthetic import SyntheticConfig, SyntheticTask


def whole(rows=120, groups=None, **more):
    return synthetic.load(SyntheticConfig(rows=rows, groups=groups, **more))


@given(rows=st.integers(1, 119), seed=st.integers(0, 20), grouped=st.booleans())
def test_a_subsample_gathers_the_rows_of_the_whole(rows, seed, grouped):
    data = whole(groups=30 if grouped else None)
    some = sampled(data, rows, seed)
    assert sorted(set(some.rows.tolist())) == some.rows.tolist()
    index = torch.arange(len(some)).flip(0)
    there, here = data.gather(torch.from_numpy(some.rows)[index]), some.gather(index)
    for name, leaf in here.inputs.items():
        assert torch.equal(leaf, there.inputs[name])
    assert np.array_equal(some.ids, data.ids[some.rows])
    if grouped:
        assert not set(some.group.tolist()) & set(np.delete(data.group, some.rows).tolist())
    else:
        assert len(some) == rows


def test_labels_keep_their_shares():
    data = whole(2000, tasks={"rare": SyntheticTask(prevalence=0.05), "common": SyntheticTask(prevalence=0.4)})
    some = sampled(data, 500, 0)
    for task in ("rare", "common"):
        assert abs(data.targets[task][some.rows].mean() - data.targets[task].mean()) < 2 / 500


def test_the_same_seed_takes_the_same_rows_and_their_choice_is_part_of_the_data_s_identity():
    data = whole()
    assert np.array_equal(sampled(data, 50, 3).rows, sampled(data, 50, 3).rows)
    digests = {some.provenance.digest for some in (sampled(data, 50, 3), sampled(data, 50, 4), sampled(data, 51, 3))}
    assert len(digests | {data.provenance.digest}) == 4


def test_folds_can_be_made_of_a_subsample():
    folds = make_folds(FoldsConfig(), sampled(whole(groups=40), 60, 0))
    assert folds.test.any(axis=0).all()


def test_columns_that_the_whole_lacks_are_lacking():
    some = Subset(whole(), np.arange(10), "why")
    assert (some.group, some.order, some.recording, some.given_split, some.given_fold) == (None,) * 5


@pytest.mark.parametrize("rows", [120, 500])
def test_a_sample_of_everything_is_refused(rows):
    with pytest.raises(DataError, match=f"below that of all rows, 120, found {rows}"):
        sampled(whole(), rows, 0)
