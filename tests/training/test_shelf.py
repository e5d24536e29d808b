"""Laws of kept weights: in memory or in a file, they are what was put by, and each is there once."""

from __future__ import annotations

import gc
import os
import threading

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file, save
from small_plans import TWO_TASKS, make_plan

from fusion_lab.contracts import DataError
from fusion_lab.training import CONTINUE, cross_validate, execution, shelf
from fusion_lab.training.execution import settle
from fusion_lab.training.safetensors_stream import Entry, write_stream
from fusion_lab.training.shelf import Filed, Shelf

ALL = {**TWO_TASKS, "training.checkpoints": "all", "training.epochs": 5, "training.patience": 2}
SHAPES = st.lists(st.lists(st.integers(0, 4), max_size=3), max_size=5)
TYPES = st.sampled_from([torch.float16, torch.bfloat16, torch.float32, torch.float64])


class Kill(Exception):  # noqa: N818 - a kill, not an error
    pass


def made(shapes, dtype) -> dict[str, torch.Tensor]:
    return {f"leaf {place}": torch.randn(shape).to(dtype) for place, shape in enumerate(shapes)}


@given(shapes=SHAPES, dtype=TYPES, in_files=st.booleans())
def test_what_is_put_by_is_found_again_whatever_becomes_of_the_weights(shapes, dtype, in_files):
    weights, kept = made(shapes, dtype), Shelf(in_files)
    before = {name: leaf.clone() for name, leaf in weights.items()}
    kept.put((2, 7), weights)
    for leaf in weights.values():
        leaf.add_(1.0)
    found = kept.get((2, 7))
    assert list(found) == list(before) and found.keys() == before.keys() and len(found) == len(before)
    for name, leaf in found.items():
        assert leaf.dtype == dtype and leaf.shape == before[name].shape and torch.equal(leaf, before[name])


@pytest.mark.parametrize("in_files", [False, True])
def test_a_slot_is_written_once_and_others_are_forgotten(in_files):
    kept, first, second = Shelf(in_files), {"w": torch.zeros(3)}, {"w": torch.ones(3)}
    kept.put((0, 1), first)
    kept.put((0, 1), second)
    kept.put((1, 1), second)
    stacked = kept.stacked([(0, 1), (1, 1)], torch.device("cpu"))
    assert torch.equal(stacked["w"], torch.stack([first["w"], second["w"]]))
    kept.retain({(1, 1), (5, 5)})
    assert list(kept) == [(1, 1)] and (0, 1) not in kept


def test_weights_in_a_file_are_a_dict_of_tensors_to_whoever_reads_them():
    weights = made([[2, 3], [], [0, 2], *[[4096]] * 20], torch.float32)
    kept = Shelf(in_files=True)
    kept.put((0, 1), weights)
    found = kept.get((0, 1))
    copies = (dict(found), {**found}, {name: found.get(name) for name in found}, dict(found.items()))
    for copy in (*copies, dict(zip(found, found.values(), strict=True))):
        assert all(torch.equal(leaf, weights[name]) for name, leaf in copy.items())
    assert found.get("no such leaf") is None
    assert save(found) == save(weights)


def test_a_file_has_no_name_and_goes_with_the_last_that_refers_to_it(tmp_path):
    kept = Shelf(in_files=True, folder=tmp_path)
    kept.put((0, 1), {"w": torch.ones(2)})
    found = kept.get((0, 1))
    descriptor = found._file.fileno()
    del kept
    gc.collect()
    assert os.listdir(tmp_path) == [] and torch.equal(found["w"], torch.ones(2))
    del found
    gc.collect()
    with pytest.raises(OSError):
        os.fstat(descriptor)


def test_a_folder_that_takes_no_files_is_told_in_one_line(tmp_path):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(DataError, match="expected room for 0 MB of weights, found: ") as error:
        Shelf(in_files=True, folder=tmp_path / "file").put((0, 1), {"w": torch.ones(2)})
    assert str(error.value).startswith(f"{tmp_path / 'file'}: ")


def test_threads_read_one_file_at_the_same_time():
    weights = {str(number): torch.full((1000,), float(number)) for number in range(20)}
    kept = Shelf(in_files=True)
    kept.put((0, 1), weights)
    found, wrong = kept.get((0, 1)), []

    def read() -> None:
        wrong.extend(name for _ in range(20) for name, leaf in found.items() if not torch.equal(leaf, weights[name]))

    threads = [threading.Thread(target=read) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []


@given(shapes=SHAPES, dtype=TYPES)
def test_a_file_written_tensor_by_tensor_is_one_that_safetensors_reads(tmp_path_factory, shapes, dtype):
    path, weights = tmp_path_factory.mktemp("stream") / "file.safetensors", made(shapes, dtype)
    write_stream(path, {name: Entry.of(leaf) for name, leaf in weights.items()}, {"told": "yes"})
    found = load_file(path)
    assert found.keys() == weights.keys()
    assert all(leaf.dtype == dtype and torch.equal(leaf, weights[name]) for name, leaf in found.items())


@pytest.mark.parametrize("restore", ["best", "last"])
def test_a_training_whose_weights_go_to_files_gives_what_one_in_memory_gives(tmp_path, monkeypatch, restore):
    """Also where it is interrupted, and goes on."""
    plan, path = make_plan({**ALL, "training.restore": restore}), tmp_path / "state.safetensors"
    expected = cross_validate(plan)
    monkeypatch.setattr(shelf, "IN_MEMORY", 0)

    def kill(evaluation):
        if evaluation.epoch == 3:
            raise Kill
        return CONTINUE

    with pytest.raises(Kill):
        cross_validate(plan, kill, path)
    for result in (cross_validate(plan), cross_validate(plan, checkpoint=path)):
        for one, other in zip(result.folds, expected.folds, strict=True):
            assert one.history == other.history and one.checkpoints.keys() == other.checkpoints.keys()
            pairs = [(one.weights, other.weights)]
            for name, checkpoint in one.checkpoints.items():
                assert checkpoint.epoch == other.checkpoints[name].epoch
                pairs.append((checkpoint.weights, other.checkpoints[name].weights))
            for weights, same in pairs:
                assert isinstance(weights, Filed) and not isinstance(same, Filed)
                assert list(weights) == list(same)
                assert all(torch.equal(leaf, same[name]) for name, leaf in weights.items())
        assert all(r.equal(torch.as_tensor(expected.predictions.score[t])) for t, r in _scores(result))


def _scores(result):
    return [(task, torch.as_tensor(scores)) for task, scores in result.predictions.score.items()]


def test_weights_that_are_the_best_of_several_kinds_are_there_once():
    result = cross_validate(make_plan({**ALL, "training.epochs": 1}))
    for fold in result.folds:
        assert {c.epoch for c in fold.checkpoints.values()} == {1}
        places = {name: {c.weights[name].data_ptr() for c in fold.checkpoints.values()} for name in fold.weights}
        assert all(len(of_leaf) == 1 for of_leaf in places.values())


@pytest.mark.parametrize(("most", "mode", "size"), [(1.9, "loop", None), (2.0, "stacked", 2), (100.0, "stacked", None)])
def test_folds_share_a_step_only_as_far_as_their_gradients_fit(monkeypatch, most, mode, size):
    plan = make_plan({"training.mode": "auto"})
    one = sum(p.numel() * p.element_size() for p in plan.initial_weights(0).parameters())
    asked = []
    monkeypatch.setattr(execution, "MOST_BYTES", int(most * one))
    monkeypatch.setattr(execution._Trial, "times", lambda trial, *s: asked.extend(s) or [1.0, 2.0])
    settled = settle(plan)
    assert (settled.mode, settled.size) == (mode, size)
    assert [s.mode for s in asked] == ([] if mode == "loop" else ["stacked", "loop"])
