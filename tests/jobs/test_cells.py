"""A finished cell is left whole or not at all, whatever was in its place before."""

import numpy as np
import pytest
from comparison_material import made_entry

from fusion_lab.jobs.cells import PREDICTIONS, RESULT, Done, is_finished, load_cell, save_cell


def done(fingerprint, seed=0):
    numbers = {"parameters": 3, "seconds": 1.5, "best_epoch": 2}
    return Done(made_entry("a", seed=seed).predictions, {"fingerprint": fingerprint, "run": "r", **numbers})


def test_what_was_saved_is_loaded_where_it_is_of_this_configuration(tmp_path):
    save_cell(tmp_path, done("mine"))
    found = load_cell(tmp_path, "mine")
    assert found.numbers == {"parameters": 3.0, "seconds": 1.5, "best_epoch": 2.0}
    np.testing.assert_array_equal(found.predictions.score["activity"], done("mine").predictions.score["activity"])
    assert load_cell(tmp_path, "another") is None and load_cell(tmp_path / "nowhere", "mine") is None


@pytest.mark.parametrize("step", ["save_predictions", "json.dumps"])
def test_a_kill_leaves_no_result_beside_the_predictions_of_another(tmp_path, monkeypatch, step):
    save_cell(tmp_path, done("old"))

    def killed(*args):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(f"fusion_lab.jobs.cells.{step}", killed)
        with pytest.raises(KeyboardInterrupt):
            save_cell(tmp_path, done("new", seed=1))
    assert not is_finished(tmp_path, "new") and load_cell(tmp_path, "old") is None
    save_cell(tmp_path, done("new", seed=1))
    assert is_finished(tmp_path, "new") and not list(tmp_path.glob("*.part"))


def test_a_cell_that_lost_its_predictions_is_not_finished(tmp_path):
    save_cell(tmp_path, done("mine"))
    assert (tmp_path / RESULT).is_file()
    (tmp_path / PREDICTIONS).unlink()
    assert not is_finished(tmp_path, "mine") and load_cell(tmp_path, "mine") is None
