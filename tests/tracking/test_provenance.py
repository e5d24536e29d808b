import json
import subprocess
from dataclasses import replace

import numpy as np
import pytest
import torch

from fusion_lab.contracts import Feature, Modality, Provenance, Source, Spec, Task
from fusion_lab.data import portions
from fusion_lab.data.arrays import ArrayDataset
from fusion_lab.tracking.descriptions import data_facts
from fusion_lab.tracking.provenance import (
    class_table,
    dataset_digest,
    dataset_input,
    environment,
    git_commit,
    modality_table,
)


@pytest.fixture
def dataset() -> ArrayDataset:
    target = torch.tensor([0.0, 1.0, 1.0, 0.0, 1.0])
    known = torch.tensor([True, True, True, True, False])
    valid = torch.tensor([True, True, True, False, False])
    modality = Modality("blood", "vector", (Feature("hb"), Feature("crp")))
    return ArrayDataset.checked(
        spec=Spec((modality,), (Task("death", "binary", ("alive", "died")), Task("days", "regression"))),
        ids=np.array(list("abcde")),
        inputs={"blood": torch.ones(5, 2)},
        valid={"blood": valid},
        observed={"blood": torch.ones(5, 2, dtype=torch.bool)},
        quality={"blood": torch.ones(5)},
        targets={"death": target, "days": target * 100},
        known={"death": known, "days": known},
        provenance=Provenance((Source("blood.csv", "ab" * 32, 3), Source("targets.csv", "cd" * 32, 5)), ("One note.",)),
        group=np.array(["g1", "g1", "g2", "g2", "g3"]),
    )


def test_rows_and_groups_per_class(dataset):
    assert class_table(dataset).values.tolist() == [
        ["death", "alive", 2, 2],
        ["death", "died", 2, 2],
        ["death", "(unknown)", 1, 1],
        ["days", "known", 4, 2],
        ["days", "(unknown)", 1, 1],
    ]


def test_missing_modalities_are_counted(dataset):
    assert modality_table(dataset).values.tolist() == [["blood", "vector", 2, 3, 2]]
    assert data_facts(dataset).notes == ("One note.",)


def test_modalities_are_counted_some_rows_at_a_time(dataset, monkeypatch):
    monkeypatch.setattr(portions, "CELLS", 2 * 2)
    asked = []

    class Watched:
        def __len__(self):
            return len(dataset)

        def __getattr__(self, name):
            return getattr(dataset, name)

        def gather(self, rows):
            asked.append(len(rows))
            return dataset.gather(rows)

    assert modality_table(Watched()).equals(modality_table(dataset))
    assert class_table(Watched()).equals(class_table(dataset))
    assert asked == [2, 2, 1]


def test_a_run_shows_its_data_set(store, experiment, dataset):
    with store.start_run(experiment, "data") as run:
        run.inputs([dataset_input("made", dataset, "search")])
    store.flush()
    (found,) = store.client.get_run(run.id).inputs.dataset_inputs
    assert (found.dataset.name, found.dataset.digest) == ("made", dataset_digest(dataset)[:32])
    assert json.loads(found.dataset.source)["sources"][0] == {"name": "blood.csv", "sha256": "ab" * 32, "rows": 3}
    assert json.loads(found.dataset.profile)["num_rows"] == 5
    assert [(tag.key, tag.value) for tag in found.tags] == [("mlflow.data.context", "search")]


def test_a_data_set_is_known_by_sources_rows_and_columns(dataset):
    (modality,), tasks = dataset.spec.modalities, dataset.spec.tasks
    renamed = replace(dataset, ids=np.array(list("abcdf")))
    source = Source("blood.csv", "ef" * 32, 3)
    others = [
        renamed,
        replace(dataset, provenance=Provenance((source,))),
        replace(dataset, spec=Spec((replace(modality, name="serum"),), tasks)),
        replace(dataset, spec=Spec((replace(modality, features=modality.features[:1]),), tasks)),
        replace(dataset, spec=Spec((replace(modality, kind="sequence", length=4),), tasks)),
        replace(dataset, spec=Spec((modality,), tasks[:1])),
    ]
    digests = [dataset_digest(one) for one in (dataset, *others)]
    assert len(set(digests)) == len(digests)
    assert dataset_digest(replace(renamed, ids=dataset.ids.astype(object))) == digests[0]
    assert data_facts(renamed).digest != data_facts(dataset).digest


def test_the_environment_is_plain_values():
    found = environment()
    assert json.loads(json.dumps(found)) == found
    assert found["packages"]["torch"] == torch.__version__


def test_commit_and_changes_of_a_checkout(tmp_path):
    def git(*arguments):
        name = ("-c", "user.name=a", "-c", "user.email=a@b.c")
        subprocess.run(["git", *name, *arguments], cwd=tmp_path, check=True, capture_output=True)

    git("init")
    (tmp_path / "a.py").write_text("a = 1\n")
    git("add", "a.py")
    git("commit", "-m", "a")
    commit, dirty = git_commit(tmp_path)
    assert commit is not None
    assert (len(commit), dirty) == (40, False)
    (tmp_path / "a.py").write_text("a = 2\n")
    assert git_commit(tmp_path) == (commit, True)


def test_without_git_or_a_checkout_there_is_no_commit(tmp_path, monkeypatch):
    assert git_commit(tmp_path / "nowhere") == (None, False)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert git_commit() == (None, False)
