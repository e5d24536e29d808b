"""What docs/data.md shows can be used as it stands."""

import re
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from fusion_lab.config import parse_yaml, validate
from fusion_lab.data import DOMAINS
from fusion_lab.data.encoding import ModalityConfig
from fusion_lab.data.labels import TaskConfig
from fusion_lab.data.table import TableConfig, load

PAGE = (Path(__file__).parents[2] / "docs" / "data.md").read_text(encoding="utf-8")
SECTIONS = {part.splitlines()[0].strip("# "): part for part in re.split(r"^(?=#)", PAGE, flags=re.MULTILINE) if part}
BLOCKS = [
    (title, text) for title, part in SECTIONS.items() for text in re.findall(r"```yaml\n(.*?)```", part, re.DOTALL)
]
ROWS = 40


def config(text):
    tree = parse_yaml(text, "docs/data.md")["data"]
    return validate(DOMAINS[tree["domain"]].config, tree, "docs/data.md")


@pytest.mark.parametrize(("title", "text"), BLOCKS, ids=[f"{title} {i}" for i, (title, _) in enumerate(BLOCKS)])
def test_an_example_is_a_valid_configuration(title, text):
    assert config(text).domain in DOMAINS


def test_every_kind_of_modality_and_of_task_has_an_example():
    made = [config(text) for _, text in BLOCKS]
    tables = [one for one in made if isinstance(one, TableConfig)]
    assert {m.kind for one in tables for m in one.modalities.values()} == {"vector", "sequence", "bag"}
    assert {Path(m.file).suffix for one in tables for m in one.modalities.values()} == {
        ".csv",
        ".parquet",
        ".h5",
        ".npz",
    }
    assert any(task.steps for one in tables for task in one.targets.tasks.values())


@pytest.mark.parametrize("settings", [ModalityConfig, TaskConfig])
def test_every_setting_is_told(settings):
    for name in settings.model_fields:
        assert f"`{name}`" in PAGE or f"{name}:" in PAGE, name


@pytest.mark.parametrize("title", ["Sequences", "Bags", "Tasks per step"])
def test_the_examples_of_long_tables_load(tmp_path, title):
    write_files(tmp_path)
    for text in [text for found, text in BLOCKS if found == title]:
        made = config(text)
        assert isinstance(made, TableConfig)
        dataset = load(made.model_copy(update={"root": str(tmp_path)}))
        assert len(dataset) == ROWS
        for name, modality in made.modalities.items():
            assert dataset.spec.modality(name).kind == modality.kind


def write_files(folder):
    rng = np.random.default_rng(0)
    ids = np.arange(ROWS)
    pd.DataFrame({"patient": ids, "relapse_90d": rng.choice(["yes", "no"], ROWS)}).to_csv(
        folder / "outcome.csv", index=False
    )
    pd.DataFrame({"patient": ids, "age": rng.normal(60, 9, ROWS)}).to_csv(folder / "clinical.csv", index=False)
    long = pd.DataFrame({"patient": np.repeat(ids, 4), "hour": np.tile(np.arange(4), ROWS)})
    long["hr"] = rng.normal(80, 9, len(long))
    columns = {"ventilated": rng.integers(0, 2, len(long)), "sepsis": rng.integers(0, 2, len(long))}
    long.assign(**columns, site=long["patient"] % 3).to_csv(folder / "vitals.csv", index=False)
    long.rename(columns={"hour": "drawn_at", "hr": "crp"}).to_csv(folder / "blood.csv", index=False)
    stages = long.assign(stage=rng.choice(["I", "II", "III"], len(long))).rename(columns={"hour": "noted_at"})
    stages.to_csv(folder / "stages.csv", index=False)
    long.rename(columns={"hour": "cell_id", "hr": "area"}).to_parquet(folder / "cells.parquet")
