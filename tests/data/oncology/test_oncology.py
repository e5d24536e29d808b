"""The domain of cancer patients' embeddings: its rows against the cohort that was written, its notes, new patients."""

from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory

import h5py
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from oncology_material import WIDTHS, change, cohort, refusal, write_file, write_layout

from fusion_lab.contracts import DataError
from fusion_lab.data.oncology import OncologyConfig, load, records, spec
from fusion_lab.data.oncology.settings import FileConfig, OutcomeConfig
from fusion_lab.data.raw import encode
from fusion_lab.data.readers import file_sha256

widths = st.dictionaries(st.sampled_from([*WIDTHS, "genes"]), st.integers(1, 9), min_size=1, max_size=4).map(
    lambda drawn: {"clinical": 3, **drawn}
)
shares = st.floats(0, 0.7)


def config(folder: Path | str, **more) -> OncologyConfig:
    return OncologyConfig(root=str(folder), **more)


def notes(folder: Path, **more) -> str:
    return "\n".join(load(config(folder, **more)).provenance.notes)


def assert_is(dataset, made, slides=1):
    """The rows of the data set are the cohort; means over slides as near as 32 bits allow."""
    batch = dataset.gather(torch.arange(len(dataset)))
    assert dataset.ids.tolist() == made.ids.tolist()
    assert {m.name for m in dataset.spec.modalities} == set(made.embeddings)
    for name, values in made.embeddings.items():
        near = 1e-5 if slides > 1 and name == "spatial" else 0.0
        np.testing.assert_allclose(batch.inputs[name], values, rtol=0, atol=near)
        np.testing.assert_array_equal(batch.observed[name], made.observed[name])
        np.testing.assert_array_equal(batch.valid[name], made.present[name])
        np.testing.assert_allclose(batch.quality[name], made.quality[name], rtol=0, atol=near)
        gaps = (~made.observed[name] & made.present[name][:, None]).any(axis=0)
        assert [f.gaps for f in dataset.spec.modality(name).features] == gaps.tolist()
    for task, label in made.labels.items():
        np.testing.assert_array_equal(batch.known[task], label >= 0)
        np.testing.assert_array_equal(batch.targets[task], np.maximum(label, 0))


@settings(max_examples=15)
@given(widths, shares, shares, st.integers(8, 40), st.integers(1, 3), st.integers(0, 99))
def test_what_is_written_is_what_is_gathered(widths, missing, gaps, rows, slides, seed):
    """Whatever is missing, in whatever order the other files have the patients, however they write their ids."""
    with TemporaryDirectory() as folder:
        made = write_layout(Path(folder), rows, widths, missing, seed, gaps=gaps, slides=slides)
        assert_is(load(config(folder)), made, slides)


@settings(max_examples=6)
@given(st.integers(0, 99), st.permutations(range(12)))
def test_the_patients_files_order_is_the_rows_order_and_no_other_files_is(seed, order):
    made = cohort(12, seed=seed)
    turned = replace(
        made,
        ids=made.ids[order],
        **{
            part: {name: values[order] for name, values in getattr(made, part).items()}
            for part in ("embeddings", "observed", "present", "quality", "labels")
        },
    )
    with TemporaryDirectory() as one, TemporaryDirectory() as other:
        write_layout(Path(one), made=made, seed=seed)
        write_layout(Path(other), made=turned, seed=seed + 1)
        first, second = load(config(one)), load(config(other))
    rows = torch.tensor(order)
    assert second.ids.tolist() == first.ids[order].tolist()
    for left, right in zip(first.gather(rows)[:6], second.gather(torch.arange(12))[:6], strict=True):
        assert set(left) == set(right)
        assert all(torch.equal(left[name], right[name]) for name in left)


def test_modalities_come_in_the_references_order_then_by_name(tmp_path):
    write_layout(tmp_path, widths={"clinical": 2, "spatial": 2, "temporal": 3, "genes": 2, "beta": 4})
    order = ["clinical", "temporal", "spatial", "beta", "genes"]
    assert [m.name for m in spec(config(tmp_path)).modalities] == order
    kept = spec(config(tmp_path, modalities=("genes", "temporal"))).modalities
    assert [(m.name, m.width) for m in kept] == [("temporal", 3), ("genes", 2)]


def test_survivors_are_the_positive_class_unless_said_otherwise(tmp_path):
    made = write_layout(tmp_path)
    first = load(config(tmp_path))
    assert [(t.name, t.classes) for t in first.spec.tasks] == [
        ("survival", ("dead within 5 years", "alive at 5 years")),
        ("recurrence", ("free of recurrence at 2 years", "recurrence within 2 years")),
    ]
    turned = load(config(tmp_path, tasks={"death": OutcomeConfig(label="surv_5yr_label", positive=0)}))
    (task,) = turned.spec.tasks
    assert (task.name, task.positive) == ("death", "dead within 5 years")
    known = made.labels["survival"] >= 0
    assert torch.equal(turned.targets["death"][known], 1 - first.targets["survival"][known])
    assert torch.equal(turned.known["death"], first.known["survival"])


def test_a_group_is_what_the_patients_file_says(tmp_path):
    write_layout(tmp_path, groups=4)
    assert load(config(tmp_path)).group is None
    group = load(config(tmp_path, group="site")).group
    assert group is not None
    assert group.tolist() == [f"site {row % 4}" for row in range(60)]


def test_sources_are_the_files_that_were_read(tmp_path):
    write_layout(tmp_path, slides=2)
    for names in (tuple(WIDTHS), ("temporal",)):
        sources = {s.name: s for s in load(config(tmp_path, modalities=names)).provenance.sources}
        assert set(sources) == {f"{name}.h5" for name in {"clinical", *names}}
        for name, source in sources.items():
            with h5py.File(tmp_path / name) as file:
                assert (source.sha256, source.rows) == (file_sha256(tmp_path / name), len(file["patient_id"]))


def test_the_notes_count_what_was_made_of_the_files(tmp_path):
    made = write_layout(tmp_path, slides=2)
    with h5py.File(tmp_path / "temporal.h5") as file:
        had, values, quality = len(file["patient_id"]), file["embedding_512"][()], file["quality_score"][()]
        ids = file["patient_id"].asstr()[()]
    strangers = ["100001", "100002"]
    more = {"embedding_512": [*values, *values[:2]], "quality_score": [*quality, *quality[:2]]}
    change(tmp_path / "temporal.h5", patient_id=[*ids, *strangers], **more)
    told = notes(tmp_path)
    assert f"temporal: 2 of {had + 2} patients left out: not in clinical.h5" in told
    slides = int(made.present["spatial"].sum())
    assert f"spatial: {2 * slides} rows of {slides} patients, means weighted by the number of patches" in told
    alive, dead, unknown = (int((made.labels["survival"] == code).sum()) for code in (1, 0, -1))
    counts = f"{alive} of the positive class 'alive at 5 years', {dead} 'dead within 5 years', {unknown} unknown"
    assert f"survival: {counts}" in told
    assert f"spatial {slides}" in told


@pytest.mark.parametrize(
    ("encoder", "noted"),
    [("none fitted", False), ("pca, unsupervised, fitted on all 610 patients (transductive)", True)],
)
def test_an_encoder_that_saw_test_patients_is_noted(tmp_path, encoder, noted):
    write_layout(tmp_path)
    with h5py.File(tmp_path / "semantic.h5", "r+") as file:
        file.attrs["encoder"] = encoder
    assert (f"semantic: made by an encoder that has seen test patients: {encoder}" in notes(tmp_path)) == noted


def test_columns_named_after_an_outcome_are_noted_whether_they_are_features_or_what_these_were_made_of(tmp_path):
    write_layout(tmp_path, widths={"clinical": 3, "temporal": 2})
    change(tmp_path / "clinical.h5", feature_names=["age", "days_to_recurrence", "primarily_metastasis"])
    change(tmp_path / "temporal.h5", orig_feature_names=["progress_1", "crp", "hb"])
    told = notes(tmp_path)
    assert "clinical: named after an outcome: days_to_recurrence: known before it?" in told
    assert "temporal: was made from columns whose names speak of an outcome: progress_1" in told
    spared = {"clinical": FileConfig(ignore=("days_to_recurrence",))}
    assert "named after" not in notes(tmp_path, files=spared)
    assert [f.name for f in spec(config(tmp_path, files=spared)).modality("clinical").features] == [
        "age",
        "primarily_metastasis",
    ]


def test_a_feature_that_is_the_label_is_refused_and_one_that_nearly_is_noted(tmp_path):
    made = write_layout(tmp_path, seed=2)
    label = made.labels["survival"]
    leak = made.embeddings["clinical"].copy()
    leak[:, 1] = label + 0.01 * leak[:, 1]
    change(tmp_path / "clinical.h5", embedding_512=leak)
    assert "clinical: e1 alone tells class 'alive at 5 years' of task survival" in notes(tmp_path)
    leak[:, 1] = label
    change(tmp_path / "clinical.h5", embedding_512=leak)
    assert "found the values of task 'survival'" in refusal(tmp_path)


def test_a_patient_of_whom_a_file_holds_nothing_does_not_have_the_modality(tmp_path):
    made = write_layout(tmp_path, gaps=0.3)
    observed = made.observed["clinical"].copy()
    observed[7] = False
    change(tmp_path / "clinical.h5", observed=observed)
    dataset = load(config(tmp_path))
    assert dataset.valid["clinical"].logical_not().nonzero().tolist() == [[7]]
    assert "clinical: 1 patients have nothing but missing cells and count as without it" in dataset.provenance.notes


def test_a_modality_of_nobodys_is_refused(tmp_path):
    write_layout(tmp_path)
    with h5py.File(tmp_path / "temporal.h5") as file:
        count = len(file["patient_id"])
    change(tmp_path / "temporal.h5", patient_id=[str(10**6 + i) for i in range(count)])
    told = refusal(tmp_path)
    assert told.startswith("temporal.h5: modality 'temporal': expected patients of ")
    assert told.endswith("found none of them but '1000000', '1000001', '1000002'")


def test_two_modalities_may_share_a_file(tmp_path):
    made = write_layout(tmp_path)
    own = made.embeddings["clinical"][:, :2] + 1
    change(tmp_path / "clinical.h5", reports_embedding=own)
    files = {"reports": FileConfig(file="clinical.h5", embedding="reports_embedding"), "clinical": FileConfig()}
    dataset = load(config(tmp_path, files=files, modalities=("reports", "clinical")))
    np.testing.assert_array_equal(dataset.inputs["reports"], own)
    np.testing.assert_array_equal(dataset.inputs["clinical"], made.embeddings["clinical"])
    assert [source.name for source in dataset.provenance.sources] == ["clinical.h5"]


def test_new_patients_are_those_of_all_files_and_need_no_labels(tmp_path):
    made = write_layout(tmp_path / "old", rows=50, seed=1, gaps=0.1)
    trained = spec(config(tmp_path / "old"))
    new = write_layout(tmp_path / "new", rows=20, seed=2, gaps=0.1, labelled=False)
    (tmp_path / "new" / "semantic.h5").unlink()
    found = records(config(tmp_path / "new"), labelled=False, spec=trained)
    assert found.ids.tolist() == new.ids.tolist()
    assert set(found.modalities) == set(WIDTHS) - {"semantic"}
    for name, raw in found.modalities.items():
        encoded = encode(trained.modality(name), raw)
        np.testing.assert_array_equal(encoded.inputs, new.embeddings[name])
        np.testing.assert_array_equal(encoded.valid, new.present[name])
        np.testing.assert_array_equal(encoded.quality, new.quality[name])
    (tmp_path / "new" / "clinical.h5").unlink()
    others = records(config(tmp_path / "new"), labelled=False, spec=trained)
    has = np.any([new.present[name] for name in ("temporal", "pathological", "spatial")], axis=0)
    assert set(others.ids) == set(new.ids[has])
    assert made.ids.tolist() == records(config(tmp_path / "old"), labelled=True).ids.tolist()


def test_new_patients_with_other_features_than_the_models_are_refused(tmp_path):
    write_layout(tmp_path / "old")
    trained = spec(config(tmp_path / "old"))
    write_layout(tmp_path / "new", widths={"temporal": WIDTHS["temporal"] - 1}, labelled=False)
    with pytest.raises(DataError, match=r"temporal.h5: expected the 5 features .* found 4: no 'e4'$"):
        records(config(tmp_path / "new"), labelled=False, spec=trained)
    (tmp_path / "new" / "temporal.h5").unlink()
    (tmp_path / "new" / "temporal.h5").symlink_to("nowhere.h5")
    with pytest.raises(DataError, match=r"temporal.h5: expected an HDF5 file, found no such file$"):
        records(config(tmp_path / "new"), labelled=False, spec=trained)
    (tmp_path / "none").mkdir()
    write_file(tmp_path / "none" / "genes.h5", {})
    with pytest.raises(DataError, match=r"expected the file of one modality at least .* found 'genes'$"):
        records(config(tmp_path / "none"), labelled=False, spec=trained)
