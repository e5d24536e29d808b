"""Mini-batches that share a step of the optimiser against one large batch of all their rows."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from small_plans import OWN, make_plan

from fusion_lab.training import Plan, cross_validate
from fusion_lab.training.accumulation import Accumulation
from fusion_lab.training.stack import Part

EXACT = torch.float64
STILL = {"model.dropout": 0.0, "augmentation.modality_dropout": 0.0, "training.epochs": 3, "optimiser.lr": 0.003}
WAYS = [("stacked", None), ("stacked", 2), ("loop", None)]


def plan(size: int, accumulate: int, mode: str, stack_size: int | None, **changes) -> Plan:
    """Four folds of 24, 30, 11 and 30 training rows: some end an epoch before others do."""
    chosen = {"training.batch_size": size, "training.accumulate": accumulate, "training.mode": mode}
    return make_plan({**STILL, **chosen, "training.stack_size": stack_size, **changes}, dtype=EXACT, optimisers=OWN[:4])


def assert_same(one, other) -> None:
    for a, b in zip(one.folds, other.folds, strict=True):
        for name, leaf in a.weights.items():
            torch.testing.assert_close(leaf, b.weights[name], rtol=0, atol=1e-9)
        for row, same in zip(a.history, b.history, strict=True):
            assert row["val/loss"] == pytest.approx(same["val/loss"], abs=1e-9)


@pytest.mark.parametrize(("mode", "stack_size"), WAYS)
@pytest.mark.parametrize(
    ("size", "batches"),
    [pytest.param(4, 3, marks=pytest.mark.slow), (7, 2), pytest.param(5, 20, marks=pytest.mark.slow)],
)
def test_accumulated_mini_batches_are_one_large_batch(mode, stack_size, size, batches):
    accumulated = cross_validate(plan(size, batches, mode, stack_size))
    large = cross_validate(plan(size * batches, 1, mode, stack_size))
    assert_same(accumulated, large)
    assert any(
        not torch.allclose(a.weights[name], b.weights[name])
        for a, b in zip(large.folds, cross_validate(plan(size, 1, mode, stack_size)).folds, strict=True)
        for name in a.weights
    )


def test_accumulation_stacked_equals_the_loop_with_dropout_and_masks():
    changes = {"model.dropout": 0.3, "data.unknown_labels": 0.2, "augmentation.modality_dropout": 0.3}
    stacked, loop = (cross_validate(plan(4, 3, mode, None, **changes)) for mode in ("stacked", "loop"))
    assert_same(stacked, loop)


def test_taking_up_a_training_changes_nothing(tmp_path):
    class Kill(Exception):  # noqa: N818 - a kill, not an error
        pass

    def stop(evaluation):
        raise Kill

    made = plan(4, 3, "stacked", None)
    made = dataclasses.replace(made, fingerprint="one")
    with pytest.raises(Kill):
        cross_validate(made, stop, tmp_path / "state")
    assert_same(cross_validate(made, checkpoint=tmp_path / "state"), cross_validate(made))


class Recorder:
    """Takes the steps down."""

    def __init__(self) -> None:
        self.steps: list[tuple[slice, dict[str, torch.Tensor], list[bool]]] = []

    def step(self, folds, gradients, active, rates) -> None:
        self.steps.append((folds, {name: leaf.clone() for name, leaf in gradients.items()}, list(active)))


@settings(max_examples=40, deadline=None)
@given(
    seed=st.integers(0, 1000),
    batches=st.integers(2, 4),
    rows=st.lists(st.tuples(st.integers(0, 5), st.integers(0, 5), st.integers(0, 5)), min_size=1, max_size=9),
)
def test_a_step_takes_the_mean_weighted_by_rows_of_the_folds_that_have_some(seed, batches, rows):
    rng = np.random.default_rng(seed)
    recorder = Recorder()
    taken = Accumulation(recorder, batches, [0.1] * 3)
    given_gradients = rng.normal(size=(len(rows), 3, 2))
    for counts, gradient in zip(rows, given_gradients, strict=True):
        counted = torch.tensor(counts).float()
        for folds in (slice(0, 2), slice(2, 3)):
            if not counted[folds].any():
                continue  # as a stack leaves them out
            leaf = torch.from_numpy(gradient[folds].copy())
            leaf[counted[folds] == 0] = torch.nan  # worthless
            taken.add(Part(folds, torch.zeros(folds.stop - folds.start), {"w": leaf}, {}), counted)
        taken.end_batch(counted)
    taken.end_epoch()
    windows = [slice(start, start + batches) for start in range(0, len(rows), batches)]
    counts = np.array(rows, dtype=float)
    expected = [w for w in windows if counts[: w.stop].any()]  # before any row there is nothing to step by
    assert len(recorder.steps) == len(expected)
    for window, (folds, gradients, active) in zip(expected, recorder.steps, strict=True):
        own = counts[window].sum(0)
        assert folds == slice(0, 3)
        assert active == (own > 0).tolist()
        mean = (given_gradients[window] * counts[window, :, None]).sum(0)[own > 0] / own[own > 0, None]
        np.testing.assert_allclose(gradients["w"].numpy()[own > 0], mean, atol=1e-12)


def test_one_batch_a_step_hands_the_gradients_on_as_they_are():
    recorder = Recorder()
    taken, leaf = Accumulation(recorder, 1, [0.1] * 2), torch.ones(1, 3)
    taken.add(Part(slice(1, 2), torch.zeros(1), {"w": leaf}, {}), torch.tensor([0.0, 4.0]))
    taken.end_batch(torch.tensor([0.0, 4.0]))
    taken.end_epoch()
    ((folds, gradients, active),) = recorder.steps
    assert (folds, active) == (slice(1, 2), [False, True])
    assert torch.equal(gradients["w"], leaf)
