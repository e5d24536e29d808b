"""The model behind MLflow's interface: saved, loaded without pickle, asked with records."""

import json
import os
import subprocess
import sys

import mlflow
import numpy as np
import pandas as pd
import pytest
from mlflow.exceptions import MlflowException
from mlflow.models import convert_input_example_to_serving_input, get_model_info, validate_serving_input
from serving_material import final, materials, records

from fusion_lab.serving.answers import ATTENTION, predict
from fusion_lab.serving.example import example_row
from fusion_lab.serving.intake import read_rows
from fusion_lab.serving.pyfunc import RECORD, save

SPEC = materials().spec
ROW = {"left": [1, 2, 3], "walk": [[0.1, 0.2]] * 3, "cells": [[1, 2]]}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    made = tmp_path_factory.mktemp("pyfunc") / "model"
    package = final().package
    save(package, made, example_row(SPEC, package.members.scaler), {"data": "hash"})
    return made


@pytest.fixture(scope="module")
def loaded(folder):
    return mlflow.pyfunc.load_model(str(folder))


def ask(model, *rows, **options):
    return model.predict(pd.DataFrame({RECORD: list(rows)}), **options)


def test_loaded_it_answers_what_the_package_answers(loaded):
    rows = [ROW, {"left": [4, 5, 6]}, {"cells": [[1, 2]]}]
    expected = predict(final().package, read_rows(rows, SPEC))
    pd.testing.assert_frame_equal(ask(loaded, *rows), expected)


def test_the_signature_names_modalities_answers_and_the_parameter(folder):
    info = get_model_info(str(folder))
    (record,) = info.signature.inputs.to_dict()
    assert set(record["properties"]) == {"left", "walk", "cells", "id", "quality"}
    assert not any(p["required"] for p in record["properties"].values())
    assert info.signature.outputs.input_names() == [*predict(final().package, records()).columns, ATTENTION]
    assert info.signature.params.to_dict()[0]["name"] == ATTENTION
    assert info.metadata == {"data": "hash"}


def test_the_example_can_be_sent_as_it_is_and_is_nobodys_row(folder, loaded):
    example = json.loads((folder / "serving_input_example.json").read_text())
    answer = validate_serving_input(str(folder), convert_input_example_to_serving_input(pd.DataFrame({RECORD: [ROW]})))
    assert len(answer) == 1
    (row,) = (line[0] for line in example["dataframe_split"]["data"])
    assert ask(loaded, row).shape[0] == 1
    left = materials().dataset.inputs["left"].numpy()
    shown = [row["left"][name] for name in SPEC.modality("left").columns]
    assert not np.isclose(left, shown, rtol=1e-3).all(1).any()


def test_attention_comes_on_request(loaded):
    assert ATTENTION not in ask(loaded, ROW)
    assert "modalities" in ask(loaded, ROW, params={ATTENTION: True})[ATTENTION][0]


@pytest.mark.parametrize(
    ("row", "said"),
    [({"lft": []}, "lft"), ({"left": [1]}, "expected 3 cells, found 1"), ({"left": [1, 2, float("inf")]}, "finite")],
)
def test_what_cannot_be_used_is_a_bad_request(loaded, row, said):
    with pytest.raises(MlflowException) as refused:
        ask(loaded, row)
    assert said in str(refused.value)
    assert refused.value.get_http_status_code() in (400, 500)


def test_our_own_refusals_are_http_400(loaded):
    with pytest.raises(MlflowException) as refused:
        ask(loaded, {"left": [1]})
    assert refused.value.get_http_status_code() == 400


@pytest.mark.slow
def test_it_loads_in_a_fresh_process_from_its_own_code_with_unpickling_forbidden(folder, tmp_path):
    script = (
        "import sys, mlflow, pandas as pd\n"
        "model = mlflow.pyfunc.load_model(sys.argv[1])\n"
        "import fusion_lab\n"
        "print(fusion_lab.__file__)\n"
        "print(model.predict(pd.DataFrame({'record': [{'left': [1, 2, 3]}]})).shape)\n"
    )
    env = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    env |= {"MLFLOW_ALLOW_PICKLE_DESERIALIZATION": "false", "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, "-c", script, str(folder)], env=env, capture_output=True, text=True, cwd=tmp_path, check=False
    )
    assert done.returncode == 0, done.stderr[-2000:]
    where, shape = done.stdout.splitlines()[-2:]
    assert where.startswith(str(folder / "code"))
    assert shape == str((1, len(predict(final().package, records()).columns)))


def test_no_file_of_it_is_a_pickle(folder):
    suffixes = {file.suffix for file in folder.rglob("*") if file.is_file()}
    assert not suffixes & {".pkl", ".pickle", ".pt", ".pth", ".joblib"}
