"""Answers to files and folders of rows: the same whatever way the rows come in, and none where a row cannot be used."""

import json

import numpy as np
import pandas as pd
import pytest
from jobs_stage import Stage

from fusion_lab.cli import main
from fusion_lab.serving import files

COHORT = {
    "data": {
        "domain": "table",
        "root": "data",
        "id": "id",
        "targets": {"file": "targets.csv", "tasks": {"outcome": {"column": "label", "positive": "yes"}}},
        "modalities": {
            "clinic": {"file": "clinic.csv", "kinds": {"sex": "binary", "stage": "category"}},
            "walk": {"file": "walk.csv", "kind": "sequence", "time": "second"},
        },
    },
    "model": {"d_model": 8, "nhead": 2},
    "training": {"epochs": 2, "mode": "loop"},
    "folds": {"k": 3},
    "baselines": False,
}
ROWS = 60


def write_tables(folder, rows=ROWS, seed=0):
    rng = np.random.default_rng(seed)
    folder.mkdir(parents=True, exist_ok=True)
    ids = [f"p{i}" for i in range(rows)]
    clinic = pd.DataFrame({"id": ids, "age": rng.normal(60, 9, rows).round(1), "hb": rng.normal(13, 2, rows).round(2)})
    clinic.loc[3, "hb"] = np.nan
    clinic["sex"] = rng.choice(["f", "m"], rows)
    clinic["stage"] = rng.choice(["I", "II", "III"], rows)
    clinic.to_csv(folder / "clinic.csv", index=False)
    steps = [(i, t, *rng.normal(size=2).round(3)) for i in ids[5:] for t in range(1 + int(rng.integers(4)))]
    pd.DataFrame(steps, columns=["id", "second", "x", "y"]).to_csv(folder / "walk.csv", index=False)
    pd.DataFrame({"id": ids, "label": rng.choice(["no", "yes"], rows)}).to_csv(folder / "targets.csv", index=False)


@pytest.fixture(scope="module")
def cohort(tmp_path_factory, empty_store):
    """A stage with a registered model of two modalities."""
    stage = Stage.set_up(tmp_path_factory.mktemp("predict") / "work", empty_store)
    stage.experiment("cohort", COHORT)
    write_tables(stage.folder / "data")
    with pytest.MonkeyPatch.context() as patch:
        stage.enter(patch)
        assert main(["train", "--experiment=cohort"]) == 0
        stage.client.set_registered_model_alias("cohort", "champion", "1")
        yield stage


@pytest.fixture
def stage(cohort, monkeypatch):
    cohort.enter(monkeypatch)
    return cohort


def answers(stage, source: str, output: str, *more: str) -> pd.DataFrame:
    assert main(["predict", "--model=cohort", f"--input={source}", f"--output={output}", *more]) == 0
    path = stage.folder / output
    if output.endswith(".parquet"):
        return pd.read_parquet(path)
    return pd.read_json(path, lines=True) if output.endswith(".jsonl") else pd.read_csv(path)


def as_records(stage) -> list[dict]:
    """The rows of the folder's files as a caller would write them."""
    clinic = pd.read_csv(stage.folder / "data/clinic.csv").astype(object)
    walk = pd.read_csv(stage.folder / "data/walk.csv")
    rows = []
    for line in clinic.where(clinic.notna(), None).to_dict("records"):
        steps = walk[walk["id"] == line["id"]].sort_values("second")[["x", "y"]]
        row = {"id": line.pop("id"), "clinic": line}
        rows.append({**row, "walk": steps.to_numpy().tolist()} if len(steps) else row)
    return rows


@pytest.mark.slow
def test_folder_records_and_training_data_get_the_same_answers(stage):
    stage.text("rows.jsonl", "\n".join(json.dumps(row) for row in as_records(stage)))
    of_folder, of_records = answers(stage, "data", "a.parquet"), answers(stage, "rows.jsonl", "b.parquet")
    pd.testing.assert_frame_equal(of_folder, of_records)
    assert of_folder["id"].tolist() == [f"p{i}" for i in range(ROWS)]
    totals = of_folder["outcome.probability.no"] + of_folder["outcome.probability.yes"]
    np.testing.assert_allclose(totals, 1)


def test_a_table_of_vectors_answers_as_records_without_the_rest(stage):
    rows = [{k: v for k, v in row.items() if k != "walk"} for row in as_records(stage)]
    stage.text("rows.jsonl", "\n".join(json.dumps(row) for row in rows))
    clinic = pd.read_csv(stage.folder / "data/clinic.csv")
    flat = clinic.rename(columns={name: f"clinic.{name}" for name in clinic.columns if name != "id"})
    flat.to_csv(stage.folder / "flat.csv", index=False)
    flat.to_parquet(stage.folder / "flat.parquet", index=False)
    expected = answers(stage, "rows.jsonl", "a.parquet")
    for name in ("flat.csv", "flat.parquet"):
        pd.testing.assert_frame_equal(answers(stage, name, "b.parquet"), expected)


@pytest.mark.parametrize("output", ["out.csv", "out.parquet", "out.jsonl"])
def test_every_kind_of_output_holds_the_same(stage, output):
    expected = answers(stage, "data", "a.parquet", "--attention")
    found = answers(stage, "data", output, "--attention")
    assert list(found.columns) == list(expected.columns)
    np.testing.assert_allclose(found["outcome.probability.yes"], expected["outcome.probability.yes"])
    shown = found["attention"][0]
    assert "modalities" in (json.loads(shown) if isinstance(shown, str) else shown)
    assert stage.halves() == []


def test_new_rows_need_neither_targets_nor_every_modality(stage, tmp_path):
    write_tables(tmp_path, rows=12, seed=1)
    (tmp_path / "targets.csv").unlink()
    both = answers(stage, str(tmp_path), "a.parquet")
    (tmp_path / "walk.csv").unlink()
    one = answers(stage, str(tmp_path), "b.parquet")
    assert both["id"].tolist() == one["id"].tolist() == [f"p{i}" for i in range(12)]
    changed = both["outcome.probability.yes"] != one["outcome.probability.yes"]
    assert not changed[:5].any() and changed[5:].all()  # the first five have no steps in either


def broken(stage, tmp_path, file, change):
    write_tables(tmp_path, rows=12, seed=1)
    (tmp_path / "targets.csv").unlink()
    table = pd.read_csv(tmp_path / file).astype(object)
    change(table).to_csv(tmp_path / file, index=False)
    return str(tmp_path)


def set_cell(row, column, value):
    def change(table):
        table.loc[row, column] = value
        return table

    return change


@pytest.mark.parametrize(
    ("file", "change", "says"),
    [
        ("clinic.csv", set_cell(2, "stage", "IV"), ("clinic.csv", "line 4", "'stage'", "'IV'")),
        ("clinic.csv", set_cell(2, "age", "old"), ("clinic.csv", "line 4", "'age'", "'old'")),
        ("clinic.csv", set_cell(2, "age", None), ("clinic.csv", "line 4", "'age'", "expected a value")),
        ("walk.csv", set_cell(0, "x", "inf"), ("walk.csv", "line 2", "'x'", "finite")),
        ("walk.csv", set_cell(0, "second", None), ("walk.csv", "line 2", "'second'")),
        ("clinic.csv", lambda table: table.drop(columns="hb"), ("clinic.csv", "'hb'")),
    ],
)
def test_a_cell_that_cannot_be_used_is_named_and_nothing_is_written(stage, tmp_path, capsys, file, change, says):
    with pytest.raises(SystemExit) as stopped:
        main(["predict", "--model=cohort", f"--input={broken(stage, tmp_path, file, change)}", "--output=never.csv"])
    err = capsys.readouterr().err
    assert stopped.value.code == 2 and len(err.splitlines()) == 1
    assert all(part in err for part in says), err
    assert not (stage.folder / "never.csv").exists() and stage.halves() == []


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--model=cohrt", "--input=data"], ("'cohrt'", "did you mean 'cohort'")),
        (["--model=cohort@best", "--input=data"], ("alias 'best'", "champion (version 1)")),
        (["--model=cohort/9", "--input=data"], ("version 9",)),
        (["--model=cohort", "--input=nowhere.csv"], ("nowhere.csv",)),
        (["--model=cohort", "--input=data", "--output=out.txt"], ("out.txt", "'.txt'")),
        (
            ["--model=cohort", "--input=flat.csv", "--output=flat.csv"],
            ("flat.csv", "expected an output that is no input"),
        ),
        (["--model=cohort", "--input=data", "--output=data/clinic.csv"], ("data/clinic.csv", "no input")),
        (["--model=cohort", "--input=data", "--output=no/such/out.csv"], ("no/such",)),
    ],
)
def test_what_is_not_there_is_said(stage, capsys, arguments, says):
    with pytest.raises(SystemExit) as stopped:
        main(["predict", *arguments])
    err = capsys.readouterr().err
    assert stopped.value.code == 2 and len(err.splitlines()) == 1
    assert all(part in err for part in says), err


@pytest.mark.slow
def test_lines_of_json_are_told_by_their_numbers(stage, capsys):
    row = as_records(stage)[0]
    good = json.dumps(row)
    for content, says in (
        (f"{good}\n\n{good[:-1]}", ("rows.jsonl: line 3", "expected JSON")),
        (f"{good}\n\n" + json.dumps({**row, "clinic": {**row["clinic"], "age": "old"}}), ("line 3", "'age'", "'old'")),
        ('{"clinic": 1, "clinic": 2}', ("line 1", "key 'clinic' given twice")),
        ("[" * 100_000, ("line 1", "nested too deep")),
        ("\n\n", ("expected at least one line",)),
    ):
        stage.text("rows.jsonl", content)
        with pytest.raises(SystemExit) as stopped:
            main(["predict", "--model=cohort", "--input=rows.jsonl", "--output=never.csv"])
        err = capsys.readouterr().err
        assert stopped.value.code == 2 and all(part in err for part in says), err
    stage.text("rows.jsonl", "\ufeff" + json.dumps({**row, "id": "a\u00a0b"}) + "\n")
    assert answers(stage, "rows.jsonl", "a.parquet")["id"].tolist() == ["a\u00a0b"]


def test_what_is_interrupted_while_it_is_written_leaves_nothing(stage, monkeypatch, capsys):
    def interrupted(frame, path):
        path.write_text("half")
        raise KeyboardInterrupt

    monkeypatch.setitem(files.WRITERS, ".csv", interrupted)
    assert main(["predict", "--model=cohort", "--input=data", "--output=never.csv"]) == 130
    assert "nothing was decided or written" in capsys.readouterr().err
    assert not (stage.folder / "never.csv").exists() and stage.halves() == []


def test_absent_modalities_and_long_sequences_are_said(stage, tmp_path, capsys):
    write_tables(tmp_path, rows=12, seed=1)
    longer = pd.DataFrame({"id": ["p1"] * 9, "second": range(9), "x": 1.0, "y": 2.0})
    longer.to_csv(tmp_path / "walk.csv", index=False)
    answers(stage, str(tmp_path), "a.parquet")
    assert "note: walk: 1 rows have more positions; the last" in capsys.readouterr().out
    (tmp_path / "walk.csv").unlink()
    answers(stage, str(tmp_path), "a.parquet")
    assert "note: no row has walk" in capsys.readouterr().out


def test_a_store_that_is_not_there_is_not_made(stage, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    for uri in ([], [f"--tracking-uri=sqlite:///{tmp_path}/no.db"]):
        monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
        with pytest.raises(SystemExit):
            main(["predict", "--model=cohort", "--input=rows.csv", *uri])
        assert "found no file" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())
