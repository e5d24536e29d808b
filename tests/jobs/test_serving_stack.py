"""From a search to a served champion, through a tracking server with artifact proxy, for every kind of modality."""

import json
import shutil
from subprocess import CompletedProcess

import numpy as np
import pandas as pd
import pytest
from jobs_stage import SPACE, Stage, run_command
from mlflow import MlflowClient
from servers import ask, served_model, tracking_server

from fusion_lab.cli import main

pytestmark = pytest.mark.slow

LENIENT = [
    {"rule": "better_than_champion"},
    {"rule": "not_worse_than_baseline", "margin": 1.0},
    {"rule": "not_worse_than_single", "margin": 1.0},
    {"rule": "answers_as_trained"},
]
SMALL = {
    "model": {"d_model": 8, "nhead": 2},
    "training": {"epochs": 3, "patience": 3, "batch_size": 32},
    "folds": {"k": 3},
    "promotion": {"gates": LENIENT},
}
VECTOR, SEQUENCE, BAG = (
    {"width": 3},
    {"kind": "sequence", "width": 3, "length": 6},
    {"kind": "bag", "width": 3, "length": 5},
)
EXPERIMENTS = {
    "sequence": {"data": {"modalities": {"left": VECTOR, "walk": SEQUENCE}}, "final": "refit"},
    "bag": {
        "data": {
            "modalities": {"left": VECTOR, "cells": BAG},
            "tasks": {"grade": {"kind": "multiclass"}, "dose": {"kind": "regression"}},
        }
    },
    "steps": {
        "data": {
            "modalities": {"left": VECTOR, "walk": SEQUENCE},
            "tasks": {"moving": {"per_step": True}},
            "planted": "additive",
        }
    },
}
ROWS = {
    "sequence": [{"left": [0.1, 0.2, 0.3], "walk": [[1, 2, 3], [4, 5, 6]]}, {"walk": [[1, 2, 3]]}],
    "bag": [{"cells": [[1, 2, 3]] * 5}, {"left": [1, 2, 3]}],
    "steps": [{"left": [1, 2, 3], "walk": [[1, 2, 3]] * 4}, {"walk": [[1, 2, 3]] * 6}],
}


@pytest.mark.parametrize("kind", list(EXPERIMENTS))
def test_from_a_search_to_a_served_champion(kind, tmp_path, empty_store, monkeypatch, capsys):
    """Each command is a process of its own for one kind; for the others they run in this one."""
    stage = Stage.set_up(tmp_path / "work", empty_store)
    shutil.copy(empty_store / "mlflow.db", tmp_path / "server.db")
    if kind != "sequence":
        stage.enter(monkeypatch)

    def command(*words) -> CompletedProcess[str]:
        if kind == "sequence":
            return run_command(stage, *words)
        return CompletedProcess(words, main(list(words)), *capsys.readouterr())

    tree = {**SMALL, **EXPERIMENTS[kind]}
    stage.experiment(kind, {**tree, "data": {"domain": "synthetic", "rows": 90, **tree["data"]}})
    stage.yaml(f"hpo/{kind}.yaml", {**SPACE, "budget": {"trials": 2}})
    with tracking_server(tmp_path) as tracking:
        where = f"--tracking-uri={tracking}"

        def run(verb, *more):
            return command(verb, f"--experiment={kind}", where, *more)

        searched = run("hpo")
        assert searched.returncode == 0, searched.stderr
        assert f"registered {kind} version 1 as challenger" in searched.stdout
        client = MlflowClient(tracking)
        if kind == "sequence":
            check_dry_run(run, client, kind)
        promoted = run("promote")
        assert promoted.returncode == 0, promoted.stdout + promoted.stderr
        assert client.get_registered_model(kind).aliases == {"champion": "1"}
        if kind == "sequence":
            check_refusal(run, client, kind)
        with served_model(tmp_path, f"{kind}@champion", tracking) as address:
            status, answer = ask(address, {"dataframe_records": [{"record": row} for row in ROWS[kind]]})
            assert status == 200, answer
            check_answers(kind, answer["predictions"])
            status, answer = ask(
                address, {"dataframe_records": [{"record": ROWS[kind][0]}], "params": {"attention": True}}
            )
            assert status == 200, answer
            for shown in answer["predictions"][0]["attention"].values():
                assert [len(labels) for _, labels in shown["axes"]] == list(np.shape(shown["weights"]))
            for bad, said in bad_rows(kind):
                status, answer = ask(address, {"dataframe_records": [{"record": bad}]})
                assert status == 400, (bad, answer)
                assert said in answer["message"], answer["message"]

        lines = "\n".join(json.dumps(row) for row in ROWS[kind])
        stage.text("rows.jsonl", lines)
        done = command("predict", f"--model={kind}", "--input=rows.jsonl", "--output=out.parquet", where)
        assert done.returncode == 0, done.stderr
        frame = pd.read_parquet(stage.folder / "out.parquet")
        assert len(frame) == 2 and frame["id"].tolist() == ["1", "2"]


def check_dry_run(run, client, kind):
    dry = run("promote", "--dry-run")
    assert (dry.returncode, "would be promoted" in dry.stdout) == (0, True), dry.stdout + dry.stderr
    assert client.get_registered_model(kind).aliases == {"challenger": "1"}
    assert "fusion_lab.decisions" not in client.get_model_version(kind, "1").tags


def check_refusal(run, client, kind):
    """Another seed is no better than the champion beyond any doubt."""
    trained = run("train", "--seed=7")
    assert f"registered {kind} version 2 as challenger" in trained.stdout, trained.stderr
    strict = json.dumps([{"rule": "better_than_champion", "alpha": 1e-9}])
    refused = run("promote", f"--set=promotion.gates={strict}")
    assert refused.returncode == 1, refused.stdout + refused.stderr
    assert "REFUSED  better_than_champion" in refused.stdout
    assert client.get_registered_model(kind).aliases == {"champion": "1", "challenger": "2"}
    decided = json.loads(client.get_model_version(kind, "2").tags["fusion_lab.decisions"])
    assert [one["action"] for one in decided] == ["refused"]


def check_answers(kind, answers):
    first, second = answers
    if kind == "sequence":
        assert first["outcome"] in ("no", "yes")
        assert first["outcome.probability.no"] + first["outcome.probability.yes"] == pytest.approx(1)
        assert first["outcome.spread"] is None  # one model, nothing to differ from
    elif kind == "bag":
        total = sum(value for name, value in first.items() if name.startswith("grade.probability."))
        assert total == pytest.approx(1)
        assert first["dose.spread"] > 0 and isinstance(second["dose"], float)
    else:
        assert (len(first["moving"]), len(second["moving"])) == (4, 6)
        assert all(word in ("no", "yes") for word in second["moving"])
        assert all(0 <= p <= 1 for p in second["moving.probability.yes"])


def bad_rows(kind):
    yield {"lft": [1, 2, 3]}, "lft"
    yield {"left": [1, 2]}, "expected 3 cells, found 2"
    yield {"left": [1, 2, "x"]}, "expected a number, found 'x'"
    yield {"left": [1, 2, None]}, "expected a value"
    yield {"left": {"left 0": 1, "left 1": 2, "right 2": 3}}, "unknown column 'right 2'"
    if kind == "bag":
        yield {"cells": [[1, 2, 3]] * 6}, "expected at most 5 entries, found 6"
