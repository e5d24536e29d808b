import io
import json
from dataclasses import replace

import numpy as np
import pyarrow.parquet as parquet
import pytest
import torch
from safetensors.torch import load_file

from fusion_lab.contracts import AttentionMap, Axis, Predictions, Spec, Task
from fusion_lab.evaluation.entries import FoldFacts
from fusion_lab.jobs.kept import drop_others, how_many, keep_trial, kept_folder
from fusion_lab.report.attention import NO_PROOF
from fusion_lab.tracking.attention import attention_html
from fusion_lab.tracking.predictions import RowNames
from fusion_lab.tracking.trial import Outcome
from fusion_lab.training.results import Checkpoint, CrossValidation, FoldResult

ROWS = 12


@pytest.fixture
def outcome() -> Outcome:
    """Two folds of a binary task, and two maps whose names differ in what a file's name cannot hold."""
    row, fold = np.arange(ROWS), np.arange(ROWS) % 2
    history = tuple({"epoch": e, "train/loss": 1 / e, "val/loss": 2 / e, "val/death/auroc": 0.6} for e in (1, 2))
    folds = tuple(
        FoldResult(k, f"fold {k}", 1, 2, "epochs", history, {"w": torch.full((2,), float(k))}) for k in (0, 1)
    )
    score = np.random.default_rng(0).uniform(size=ROWS)
    told = Predictions(
        fold, np.full(ROWS, "val"), row, {"death": row % 3 % 2}, {"death": np.ones(ROWS, bool)}, {"death": score}
    )
    values = np.random.default_rng(1).dirichlet([1, 1, 1], ROWS).astype(np.float32)
    axes = (Axis("modality", ("a", "b", "c")),)
    maps = tuple(AttentionMap(name, "attention", axes, fold, row, values) for name in ("a:b", "a/b"))
    result = CrossValidation(folds, told, maps, 2, 1.0, "loop")
    spec = Spec((), (Task("death", "binary", ("alive", "died")),))
    return Outcome(result, spec, None, None, {}, RowNames(np.array([f"patient {i}" for i in range(ROWS)])), FoldFacts())


def files(folder) -> set[str]:
    return {str(p.relative_to(folder)) for p in folder.rglob("*") if p.is_file()}


def test_a_kept_trial_has_weights_curves_one_page_of_all_maps_and_every_rows_weights(tmp_path, outcome):
    folder = kept_folder(tmp_path, 7)
    keep_trial(folder, outcome)
    assert files(folder) == {
        *(f"checkpoints/fold{k}.{end}" for k in (0, 1) for end in ("safetensors", "json")),
        *("curves.html", "attention/attention.html", "attention/a_b.parquet", "attention/a_b 2.parquet"),
        "training_summary.json",
    }
    for fold in outcome.result.folds:
        assert load_file(folder / f"checkpoints/fold{fold.fold}.safetensors")["w"].equal(fold.weights["w"])
    page = (folder / "attention/attention.html").read_text()
    assert page == attention_html(outcome.result, outcome.spec, outcome.ids)
    data = json.loads(page.split('id="data">')[1].split("</script>")[0])
    assert [m["name"] for m in data["maps"]] == ["a:b", "a/b"]
    assert data["caution"] == NO_PROOF
    table = parquet.read_table(io.BytesIO((folder / "attention/a_b.parquet").read_bytes())).to_pandas()
    assert np.allclose(table.groupby("id", observed=True)["weight"].sum(), 1, atol=1e-5)
    assert set(table["id"]) == set(outcome.ids)


def test_a_kept_trial_has_all_checkpoints_and_its_summary_says_where(tmp_path, outcome):
    other = {"best_death": Checkpoint(2, {"w": torch.ones(2)}), "final": Checkpoint(2, {"w": torch.zeros(2)})}
    folds = tuple(replace(fold, checkpoints=other) for fold in outcome.result.folds)
    keep_trial(tmp_path / "kept", replace(outcome, result=replace(outcome.result, folds=folds)))
    told = json.loads((tmp_path / "kept" / "training_summary.json").read_text())["checkpoints"]
    assert told.keys() == {"restored", *other}
    for name, files_of_folds in told.items():
        for fold in folds:
            file, epoch = files_of_folds[fold.name]["file"], files_of_folds[fold.name]["epoch"]
            weights = other[name].weights if name in other else fold.weights
            assert load_file(tmp_path / "kept" / file)["w"].equal(weights["w"])
            beside = json.loads((tmp_path / "kept" / file).with_suffix(".json").read_text())
            assert epoch == beside["best_epoch"] == (other[name].epoch if name in other else fold.best_epoch)


def test_a_trial_without_maps_is_kept_without_them(tmp_path, outcome):
    keep_trial(kept_folder(tmp_path, 0), replace(outcome, result=replace(outcome.result, maps=())))
    assert not any(name.startswith("attention") for name in files(tmp_path))


def test_keeping_again_replaces_all_of_it(tmp_path, outcome):
    folder = kept_folder(tmp_path, 0)
    keep_trial(folder, outcome)
    keep_trial(folder, replace(outcome, result=replace(outcome.result, maps=outcome.result.maps[:1])))
    assert "attention/a_b 2.parquet" not in files(folder)
    assert [p.name for p in folder.parent.iterdir()] == ["0000"]


def test_what_is_not_among_the_best_goes(tmp_path):
    for number in range(4):
        kept_folder(tmp_path, number).mkdir(parents=True)
    drop_others(tmp_path, [2, 0])
    assert sorted(p.name for p in (tmp_path / "kept").iterdir()) == ["0000", "0002"]


@pytest.mark.parametrize(("keep", "count"), [("none", 0), ("best", 1), ("top-12", 12), ("all", 1)])
def test_how_many_are_kept(keep, count):
    assert how_many(keep) == count
