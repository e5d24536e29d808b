"""A data set that is written is the data set that is read; nothing half-written is read; what was written stays."""

from pathlib import Path

import h5py
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.decomposition import PCA
from sklearn.preprocessing import StandardScaler

from fusion_lab.contracts import DataError, Feature, Modality, Provenance, Spec, Task, UserError
from fusion_lab.data.arrays import ArrayDataset
from fusion_lab.data.oncology.domain import load
from fusion_lab.data.oncology.settings import OncologyConfig
from fusion_lab.data.oncology.writing import write

ROWS = 40
WIDTHS = {"clinical": 3, "blood": 5, "slides": 12}
TASKS = (Task("death", "binary", ("alive", "dead")), Task("recurrence", "binary", ("free", "recurred")))


def cohort(seed=0, widths=WIDTHS, ids=None, cells=0.1, absent=0.2, scored=("blood",), tasks=TASKS, **changes):
    """Random values with gaps; all have the modality clinical."""
    rng = np.random.default_rng(seed)
    valid, observed, inputs, given = {}, {}, {}, {}
    for name, width in widths.items():
        valid[name] = torch.from_numpy(rng.random(ROWS) >= (absent if name != "clinical" else 0))
        observed[name] = torch.from_numpy(rng.random((ROWS, width)) >= cells)
        observed[name][:, 0] = True  # who has a modality has a part of it
        inputs[name] = torch.from_numpy(rng.normal(3, 2, (ROWS, width)).astype(np.float32))
        drawn = torch.from_numpy(rng.random(ROWS).astype(np.float32))
        given[name] = torch.where(valid[name], drawn, 1.0) if name in scored else torch.ones(ROWS)
    features = {name: tuple(Feature(f"{name} {i}", gaps=cells > 0) for i in range(n)) for name, n in widths.items()}
    parts = {
        "spec": Spec(tuple(Modality(name, "vector", features[name]) for name in widths), tasks),
        "ids": np.array([str(i) for i in rng.permutation(ROWS)]) if ids is None else np.array(ids),
        "inputs": inputs,
        "valid": valid,
        "observed": observed,
        "quality": given,
        "targets": {task.name: torch.from_numpy(rng.integers(0, 2, ROWS).astype(np.float32)) for task in tasks},
        "known": {task.name: torch.from_numpy(rng.random(ROWS) > 0.3) for task in tasks},
        "provenance": Provenance(()),
    }
    return ArrayDataset.checked(**{**parts, **changes})


@pytest.fixture
def output(tmp_path):
    return tmp_path / "written"


def told(dataset, output, encoder="none", **options):
    lines = []
    write(dataset, output, encoder, lines.append, **options)
    return lines


def refused(dataset, output, encoder="none", **options):
    with pytest.raises(UserError) as error:
        told(dataset, output, encoder, **options)
    message = str(error.value)
    assert "\n" not in message
    return message


def assert_same(one, other):
    """The same rows and the same values, whatever the order of the modalities."""
    assert other.ids.tolist() == one.ids.tolist()
    assert other.spec.tasks == one.spec.tasks
    for modality in one.spec.modalities:
        names = [feature.name for feature in modality.features]
        assert [feature.name for feature in other.spec.modality(modality.name).features] == names
    for part in ("inputs", "observed", "quality", "targets", "known"):
        ours, theirs = getattr(one, part), getattr(other, part)
        assert ours.keys() == theirs.keys()
        for name, leaf in ours.items():
            assert torch.equal(theirs[name], leaf), (part, name)
    for name, valid in one.valid.items():
        assert torch.equal(other.valid[name], valid), name


def contents(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def inodes(folder):
    """Which files are still those that they were."""
    return {path.name: path.stat().st_ino for path in folder.iterdir()}


def embedding(folder, name):
    with h5py.File(folder / f"{name}.h5", "r") as file:
        return file["embedding"][:]


def encoder_of(folder, name):
    with h5py.File(folder / f"{name}.h5", "r") as file:
        return file.attrs["encoder"]


class StoppedError(Exception):
    pass


def stopped_after(files, dataset, output):
    """A run that ends once it has told of so many files."""

    def tell(text):
        lines.append(text)
        if len(lines) == files:
            raise StoppedError

    lines = []
    with pytest.raises(StoppedError):
        write(dataset, output, "none", tell)


# what is written


def test_progress_is_told_modality_by_modality_the_patients_last(output):
    dataset = cohort()
    blood, slides = (int(dataset.valid[name].sum()) for name in ("blood", "slides"))
    assert told(dataset, output) == [
        f"blood: {blood} patients, 5 features (1 of 3)",
        f"slides: {slides} patients, 12 features (2 of 3)",
        f"clinical: {ROWS} patients, 3 features (3 of 3)",
    ]


def test_a_file_holds_the_patients_who_have_the_modality(output):
    dataset = cohort()
    told(dataset, output)
    there = dataset.valid["blood"].numpy()
    with h5py.File(output / "blood.h5") as file:
        assert file["patient_id"].asstr()[:].tolist() == dataset.ids[there].tolist()
        np.testing.assert_array_equal(file["embedding"][:], dataset.inputs["blood"].numpy()[there])
        np.testing.assert_array_equal(file["observed"][:], dataset.observed["blood"].numpy()[there])
        np.testing.assert_array_equal(file["quality_score"][:], dataset.quality["blood"].numpy()[there])
        assert file["feature_names"].asstr()[:].tolist() == [f.name for f in dataset.spec.modality("blood").features]
        assert file.attrs["encoder"] == "none fitted"
        assert not [name for name in file if name.endswith("_label")]


def test_labels_lie_in_the_patients_file(output):
    dataset = cohort()
    told(dataset, output)
    with h5py.File(output / "clinical.h5") as file:
        for task in TASKS:
            label = file[f"{task.name}_label"]
            known = dataset.known[task.name].numpy()
            assert label.dtype == np.int8
            np.testing.assert_array_equal(label[:] == -1, ~known)
            np.testing.assert_array_equal(label[:][known], dataset.targets[task.name].numpy()[known])
            assert label.attrs["task"] == task.name
            assert tuple(label.attrs["classes"]) == task.classes


def test_what_is_the_same_everywhere_is_left_out(output):
    """Masks of what is all there, and qualities that nobody gave."""
    told(cohort(cells=0.0, scored=()), output)
    for path in output.iterdir():
        with h5py.File(path) as file:
            assert "observed" not in file
            assert "quality_score" not in file


@pytest.mark.parametrize("kind", ["binary", "category", "indicator"])
def test_columns_of_zeros_and_ones_are_told_from_measurements(output, kind):
    """They are not scaled."""
    spec = cohort().spec
    features = (Feature("sex", kind), *spec.modality("clinical").features[1:])
    modalities = tuple(m if m.name != "clinical" else Modality("clinical", "vector", features) for m in spec.modalities)
    told(cohort(spec=Spec(modalities, spec.tasks)), output)
    with h5py.File(output / "clinical.h5") as file:
        assert file["feature_kinds"].asstr()[:].tolist() == ["binary", "numeric", "numeric"]


# what is read


@given(seed=st.integers(0, 999), cells=st.sampled_from([0.0, 0.3]), absent=st.sampled_from([0.0, 0.5]))
@settings(max_examples=10)
def test_it_is_read_as_it_was(tmp_path_factory, seed, cells, absent):
    dataset = cohort(seed, cells=cells, absent=absent)
    output = tmp_path_factory.mktemp("written")
    told(dataset, output)
    assert_same(dataset, load(OncologyConfig(root=str(output))))


def test_groups_are_read_where_they_are_asked_for(output):
    group = np.repeat(["north", "south"], ROWS // 2)
    note, *_ = told(cohort(group=group), output)
    assert note == "note: groups are kept together where data.group=group is set"
    np.testing.assert_array_equal(load(OncologyConfig(root=str(output), group="group")).group, group)


def test_patients_are_read_by_their_numbers(output):
    note, *_ = told(cohort(ids=[f"P-{i:03d}" for i in range(ROWS)]), output)
    assert note == "note: patients are read by their numbers, 'P-000' as '0'"
    assert load(OncologyConfig(root=str(output))).ids.tolist() == [str(i) for i in range(ROWS)]
    assert load(OncologyConfig(root=str(output), normalise_ids=False)).ids[7] == "P-007"


def test_components_are_read_with_what_is_to_be_said_of_them(output):
    told(cohort(), output, "pca", width=2)
    dataset = load(OncologyConfig(root=str(output)))
    assert {m.name: m.width for m in dataset.spec.modalities} == dict.fromkeys(WIDTHS, 2)
    assert {name for name in WIDTHS if any("transductive" in n and name in n for n in dataset.provenance.notes)} == {
        *WIDTHS
    }


@pytest.mark.parametrize("files", [1, 2])
def test_what_is_not_finished_is_not_read(output, files):
    stopped_after(files, cohort(), output)
    with pytest.raises(DataError, match="expected a file clinical.h5"):
        load(OncologyConfig(root=str(output)))


# principal components


def test_components_are_those_of_scikit_learn(output):
    """Missing cells become means, and standardised columns weigh the same."""
    dataset = cohort()
    told(dataset, output, "pca", width=4)
    there = dataset.valid["slides"].numpy()
    cells, observed = (leaf["slides"].numpy()[there] for leaf in (dataset.inputs, dataset.observed))
    means = np.nanmean(np.where(observed, cells, np.nan).astype(np.float64), axis=0)
    scaled = StandardScaler().fit_transform(np.where(observed, cells, means))
    expected = PCA(4, svd_solver="full").fit_transform(scaled)
    np.testing.assert_allclose(embedding(output, "slides"), expected, rtol=1e-4, atol=1e-5)


def test_components_are_declared_as_fitted_on_everybody(output):
    dataset = cohort()
    warning, *progress = told(dataset, output, "pca")
    assert warning.startswith("warning: ")
    assert "transductive" in warning
    assert len(progress) == len(WIDTHS)
    for name, valid in dataset.valid.items():
        count = int(valid.sum())
        assert encoder_of(output, name) == f"pca, unsupervised, fitted on all {count} patients (transductive)"


def test_labels_move_no_component(tmp_path):
    dataset = cohort()
    other = cohort(targets={task.name: 1 - dataset.targets[task.name] for task in TASKS}, known=dataset.known)
    for folder, labelled in (("one", dataset), ("other", other)):
        told(labelled, tmp_path / folder, "pca")
    for name in WIDTHS:
        np.testing.assert_array_equal(embedding(tmp_path / "one", name), embedding(tmp_path / "other", name))


@given(width=st.integers(1, 20), seed=st.integers(0, 99))
@settings(max_examples=10)
def test_components_are_at_most_so_many_and_vary(tmp_path_factory, width, seed):
    """A column that is another's copy, and one that never varies, add none that rounding alone makes."""
    dataset = cohort(seed, cells=0.0, absent=0.0)
    inputs = {**dataset.inputs, "slides": dataset.inputs["slides"].clone()}
    inputs["slides"][:, 6:11] = inputs["slides"][:, :5]
    inputs["slides"][:, 11] = 7.0
    output = tmp_path_factory.mktemp("written")
    told(cohort(seed, cells=0.0, absent=0.0, inputs=inputs), output, "pca", width=width)
    made = embedding(output, "slides")
    assert made.shape[1] == min(width, 6)
    assert (made.std(axis=0) > 1e-2).all()


def test_nothing_to_fit_components_on(output):
    dataset = cohort(cells=0.0)
    inputs = {**dataset.inputs, "blood": torch.ones_like(dataset.inputs["blood"])}
    message = refused(cohort(cells=0.0, inputs=inputs), output, "pca")
    assert message.startswith("modality 'blood': expected features that vary, to fit a PCA on, found none in ")


# runs that end early, and others


def test_what_is_written_is_not_written_again(output):
    told(cohort(), output)
    before = inodes(output)
    assert told(cohort(), output) == [f"{output}: all 3 modalities are written already"]
    assert inodes(output) == before


@pytest.mark.parametrize("files", [1, 2, 3])
def test_an_interrupted_run_goes_on(tmp_path, output, files):
    told(cohort(), tmp_path / "at once")
    stopped_after(files, cohort(), output)
    before = inodes(output)
    assert ("clinical.h5" in before) == (files == 3)
    if files < 3:
        assert sum("written already" in line for line in told(cohort(), output)) == files
    assert before.items() <= inodes(output).items()
    assert contents(output) == contents(tmp_path / "at once")


def test_a_kill_while_a_file_is_written(tmp_path, output):
    told(cohort(), tmp_path / "at once")
    output.mkdir()
    (output / "blood.h5.part").write_bytes(b"half")
    told(cohort(), output)
    assert contents(output) == contents(tmp_path / "at once")


def test_a_failure_while_a_file_is_written_leaves_nothing_of_it(output, monkeypatch):
    def fail(self, content):
        self.touch()
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", fail)
    message = refused(cohort(), output)
    assert message == f"{output}/blood.h5: expected a place with room to write, found: No space left on device"
    assert not contents(output)


def test_other_content_is_written_anew_and_the_rest_kept(tmp_path, output):
    """The patients' file goes before anything changes, so that no mixture is read."""
    told(cohort(), output)
    dataset = cohort()
    changed = cohort(inputs={**dataset.inputs, "slides": dataset.inputs["slides"] + 1})
    before = inodes(output)
    stopped_after(1, changed, output)
    assert set(inodes(output)) == {"blood.h5"}
    told(changed, output)
    told(changed, tmp_path / "at once")
    assert inodes(output)["blood.h5"] == before["blood.h5"]
    assert contents(output) == contents(tmp_path / "at once")


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ({"encoder": "none"}, {"encoder": "pca"}),
        ({"encoder": "pca", "width": 2}, {"encoder": "pca", "width": 3}),
    ],
)
def test_another_encoder_starts_anew(tmp_path, output, before, after):
    told(cohort(), output, **before)
    told(cohort(), output, **after)
    told(cohort(), tmp_path / "at once", **after)
    assert contents(output) == contents(tmp_path / "at once")


def test_a_modality_that_is_gone_leaves_nothing(output):
    told(cohort(), output)
    told(cohort(widths={"clinical": 3, "blood": 5}), output)
    assert set(contents(output)) == {"clinical.h5", "blood.h5"}


def test_two_at_once(tmp_path, output):
    """The second is told so; what the first writes stays whole."""
    heard = []

    def meanwhile(text):
        if not heard:
            heard.append(refused(cohort(), output))

    write(cohort(), output, "none", meanwhile)
    told(cohort(), tmp_path / "at once")
    assert heard == [f"{output}: expected nobody else to write there, found another prepare at it"]
    assert contents(output) == contents(tmp_path / "at once")


# what is refused


@pytest.mark.parametrize("name", ["notes.txt", "scan.h5", "blood.h5", "other.h5.part"])
def test_a_folder_of_other_things_is_left_alone(output, name):
    """HDF5 files included that prepare has not written."""
    output.mkdir()
    if name.endswith(".h5"):
        with h5py.File(output / name, "w") as file:
            file["embedding"] = np.zeros((3, 2))
    else:
        (output / name).write_text("mine")
    before = contents(output)
    assert refused(cohort(), output) == f"{output}: expected an empty folder, or one that prepare wrote, found {name!r}"
    assert contents(output) == before


@pytest.mark.parametrize("writer", ["somebody", ["fusion-lab prepare", "somebody"], 3])
def test_a_file_that_names_another_writer_is_left_alone(output, writer):
    output.mkdir()
    with h5py.File(output / "blood.h5", "w") as file:
        file.attrs["written_by"] = writer
    before = contents(output)
    assert refused(cohort(), output).endswith("found 'blood.h5'")
    assert contents(output) == before


def test_places_where_nothing_can_be_written(tmp_path):
    (tmp_path / "file").touch()
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    for place in (tmp_path / "file", tmp_path / "loop", tmp_path / ("x" * 300)):
        assert refused(cohort(), place).startswith(f"{place}: expected a ")


def test_the_patients_modality_is_everybodys(output):
    assert refused(cohort(widths={"blood": 5, "slides": 12}), output) == (
        "modality 'clinical': expected it for every patient, since its file holds their list and labels, "
        "found none of that name but 'blood', 'slides'"
    )
    dataset = cohort()
    some = torch.arange(ROWS) > 1
    message = refused(cohort(valid={**dataset.valid, "clinical": some}), output)
    assert message.endswith(f"found 2 of {ROWS} without it")
    assert not output.exists()


@pytest.mark.parametrize("other", ["patient 7 (left)", "007", "7b"])
def test_ids_that_are_read_as_one(output, other):
    ids = ["p7", other, *(str(i + 100) for i in range(ROWS - 2))]
    message = refused(cohort(ids=ids), output)
    assert message == f"ids: expected ids with different numbers, found 'p7' and {other!r}, both read as '7'"


def test_sequences_have_no_place(output):
    dataset = cohort()
    leaves = {
        "inputs": torch.zeros(ROWS, 4, 1),
        "valid": torch.ones(ROWS, 4, dtype=torch.bool),
        "observed": torch.ones(ROWS, 4, 1, dtype=torch.bool),
        "quality": torch.ones(ROWS),
    }
    visits = Modality("visits", "sequence", (Feature("weight"),), 4)
    spec = Spec((*dataset.spec.modalities, visits), TASKS)
    longer = {part: {**getattr(dataset, part), "visits": leaf} for part, leaf in leaves.items()}
    message = refused(cohort(spec=spec, **longer), output)
    assert message.startswith("modality 'visits': expected a vector, ")
    assert message.endswith("found a sequence")
    assert not output.exists()


@pytest.mark.parametrize(
    "task", [Task("stage", "multiclass", ("I", "II", "III")), Task("days", "regression")], ids=lambda task: task.kind
)
def test_only_binary_labels_have_a_place(output, task):
    assert refused(cohort(tasks=(task,)), output).endswith(f"found {task.kind}")


@pytest.mark.parametrize("column", ["order", "recording", "given_split"])
def test_what_would_be_lost(output, column):
    assert refused(cohort(**{column: np.arange(ROWS).astype(str)}), output).endswith("which would be lost")


def test_encoders_that_there_are_not(output):
    assert refused(cohort(), output, "pac") == "encoder: expected one of none, pca, found 'pac' (did you mean 'pca'?)"
    assert refused(cohort(), output, "none", width=3).startswith("width: expected none ")
