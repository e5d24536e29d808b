"""The table of every test row, from a trained configuration to the file of its run."""

from __future__ import annotations

import io
from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd
import pytest
from evaluation_material import CONFIG, TASKS, evaluated, made
from imputing_model import Imputing
from jobs_stage import BLANK, Stage
from PIL import Image

from fusion_lab.jobs import rows_table
from fusion_lab.jobs.rows_table import imputation_lines, table_file
from fusion_lab.report.drawing import draw_here
from fusion_lab.zoo import FAMILIES

MISSING = {"data.missing_modalities": 0.4}


@pytest.fixture(scope="module")
def imputing(tmp_path_factory, empty_store):
    """What is left of an evaluation of a model that imputes, and what was evaluated."""
    stage = Stage.set_up(tmp_path_factory.mktemp("imputing") / "work", empty_store)
    with pytest.MonkeyPatch.context() as patch:
        stage.enter(patch)
        patch.setitem(FAMILIES, "token_fusion", Imputing)
        trained, materials = made(MISSING)
        config = CONFIG.model_copy(update={"most_subsets": 1})
        return evaluated(stage, trained, materials, config, draw_confidence), trained, materials


def draw_confidence(kind: str, payload: Mapping[str, Any]) -> bytes:
    """No other figure."""
    return draw_here(kind, payload) if kind == "confidence" else BLANK


def read(left) -> pd.DataFrame:
    return pd.read_csv(left.folder / "rows.csv")


def test_the_file_holds_every_test_row_as_it_was_predicted(imputing):
    left, trained, materials = imputing
    table, test = read(left), trained.predictions.of("test")
    assert table["id"].tolist() == materials.dataset.ids[test.row].tolist()
    assert table["fold"].tolist() == test.fold.tolist()
    for column, name in (("recording", "recording"), ("group", "group")):
        assert table[column].tolist() == getattr(materials.dataset, name)[test.row].tolist()
    for task in materials.spec.tasks:
        score = test.score[task.name]
        if task.kind == "multiclass":
            columns = [f"{task.name}/probability of {c}" for c in task.classes]
        else:
            columns = [f"{task.name}/probability of {task.positive}" if task.positive else f"{task.name}/predicted"]
        np.testing.assert_array_equal(table[columns].to_numpy().astype(score.dtype).reshape(score.shape), score)
        assert table[f"{task.name}/target"].notna().tolist() == test.known[task.name].tolist()


def test_accuracy_of_the_file_is_that_of_the_results(imputing):
    left, results = imputing[0], imputing[0].json("results.json")["tasks"]
    table = read(left)
    for task in ("outcome", "grade"):
        known = table[table[f"{task}/target"].notna()]
        right = known[f"{task}/target"] == known[f"{task}/predicted"]
        assert right.mean() == pytest.approx(results[task]["accuracy"])


def test_uncertainty_is_that_of_the_passes(imputing):
    left, passes = read(imputing[0]), pd.read_parquet(imputing[0].folder / "uncertainty.parquet")
    for task in TASKS:
        own = passes[passes["task"] == task]
        assert own["id"].tolist() == left["id"].tolist()
        for kind, column in (("std", "std"), ("entropy", "entropy"), ("mutual_information", "mutual information")):
            if own[kind].notna().any():
                np.testing.assert_array_equal(left[f"{task}/{column}"], own[kind])
            else:
                assert f"{task}/{column}" not in left


def test_what_is_given_and_what_is_imputed(imputing):
    left, trained, materials = imputing
    table, row = read(left), trained.predictions.of("test").row
    numbers = left.json("results.json")["imputation"]
    names = [modality.name for modality in materials.spec.modalities]
    for name in names:
        given = materials.dataset.valid[name].numpy()[row]
        assert (table[f"{name}/given"] == "yes").tolist() == given.tolist()
        assert (table[f"{name}/confidence"][given] == 1).all()
        assert (table[f"{name}/imputed"] == "yes").tolist() == (~given & (name != names[-1])).tolist()
        confidence = table[f"{name}/confidence"][table[f"{name}/imputed"] == "yes"]
        assert (numbers[name]["missing"], numbers[name]["imputed"]) == ((~given).sum(), len(confidence))
        if len(confidence):
            assert numbers[name]["confidence"]["median"] == pytest.approx(confidence.median())
    for task in TASKS:
        weights = table[[f"{name}/attention for {task}" for name in names]].sum(axis=1)
        assert (np.isclose(weights, 1) | np.isclose(weights, 0)).all()
    picture = np.asarray(Image.open(left.folder / "confidence.png").convert("L"))
    assert (picture < 200).sum() > 500
    (line,) = [line for line in left.lines if line.startswith("imputed")]
    assert names[0] in line and names[-1] not in line


def test_a_model_that_imputes_nothing_has_neither_figure_nor_columns(stage):
    left = evaluated(stage, *made(MISSING, recordings=False), CONFIG.model_copy(update={"mc_samples": 0}))
    assert "confidence.png" not in left.files and "imputation" not in left.json("results.json")
    table = read(left)
    kinds = {column.rpartition("/")[2] for column in table.columns}
    assert not kinds & {"confidence", "imputed", "group", "recording"}
    assert {"given", "quality", "std", "entropy"} <= kinds
    assert table["outcome/std"].isna().all()


def test_a_large_table_is_a_parquet_file_of_the_same_content(monkeypatch):
    table = pd.DataFrame(
        {"id": ["a", "b"], "dose/predicted": np.array([0.1, 2.0], np.float32), "t/target": ["x", None]}
    )
    path, content = table_file("rows", table)
    assert path == "rows.csv"
    small = pd.read_csv(io.BytesIO(content()))
    monkeypatch.setattr(rows_table, "MOST_CELLS", table.size - 1)
    path, content = table_file("rows", table)
    assert path == "rows.parquet"
    pd.testing.assert_frame_equal(pd.read_parquet(io.BytesIO(content())), small, check_dtype=False)


def test_modalities_that_were_not_imputed_are_not_told_of():
    def of(imputed):
        return {"missing": 4, "imputed": imputed, "confidence": {"median": 0.5}}

    (line,) = imputation_lines({"rows": 9, "modalities": {"blood": of(0), "text": of(3)}})
    assert "text 3 of 4" in line and "blood" not in line
    assert imputation_lines({"rows": 9, "modalities": {"blood": of(0)}}) == []
