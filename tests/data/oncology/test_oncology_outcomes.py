"""Labels of the patients' file: their names, classes and values, and what is wrong with them."""

import h5py
import numpy as np
import pytest
from oncology_material import change, refusal, write_layout

from fusion_lab.data.oncology import OncologyConfig, load
from fusion_lab.data.oncology.settings import OutcomeConfig

ROWS = 30


@pytest.fixture
def folder(tmp_path):
    write_layout(tmp_path, rows=ROWS)
    return tmp_path


def tasks(folder, **more):
    return {t.name: t.classes for t in load(OncologyConfig(root=str(folder), **more)).spec.tasks}


def label(*first, dtype=np.int8):
    return np.array([*first, *[0, 1] * ROWS][:ROWS], dtype)


def test_a_label_names_itself_unless_its_attributes_do(folder):
    change(folder / "clinical.h5", toxicity_label=label(), wound_label=label())
    with h5py.File(folder / "clinical.h5", "r+") as file:
        file["wound_label"].attrs["task"] = "wound_infection"
        file["wound_label"].attrs["classes"] = ["none", "infected wound"]
    found = tasks(folder)
    assert list(found) == ["survival", "recurrence", "toxicity", "wound_infection"]
    assert found["toxicity"] == ("0", "1")
    assert found["wound_infection"] == ("none", "infected wound")
    chosen = tasks(folder, tasks={"wound_infection": OutcomeConfig(classes=("dry", "wet"), positive=0)})
    assert chosen == {"wound_infection": ("wet", "dry")}


def test_nan_and_minus_1_are_unknown(folder):
    values = label(np.nan, -1, 1, 0, dtype=np.float32)
    change(folder / "clinical.h5", surv_5yr_label=values, surv_known_mask=None)
    dataset = load(OncologyConfig(root=str(folder)))
    assert dataset.known["survival"].tolist() == np.isin(values, (0, 1)).tolist()
    assert dataset.targets["survival"][:4].tolist() == [0, 0, 1, 0]


CASES = {
    "a third value": ({"surv_5yr_label": label(2)}, "row 1 (patient '{}'): expected 0, 1 or -1 for unknown, found 2"),
    "half a label": ({"surv_5yr_label": label(0, 0.5, dtype=float)}, "expected 0, 1 or -1 for unknown, found 0.5"),
    "infinite": ({"rec_2yr_label": label(np.inf, dtype=float)}, "expected 0, 1 or -1 for unknown, found inf"),
    "words": ({"rec_2yr_label": ["yes"] * ROWS}, "data set 'rec_2yr_label': expected numbers, found text"),
    "too few": (
        {"rec_2yr_label": label()[:-1]},
        "data set 'rec_2yr_label': expected 30 rows as there are ids, found 29",
    ),
    "one class": ({"rec_2yr_label": np.ones(ROWS), "rec_known_mask": None}, "expected two or more classes"),
    "none known": (
        {"rec_2yr_label": -np.ones(ROWS), "rec_known_mask": None},
        "expected known labels, found none in 30",
    ),
    "mask": ({"rec_known_mask": np.zeros(ROWS)}, "expected known as 'rec_2yr_label' says, found 0.0"),
    "own mask": (
        {"rec_2yr_known_mask": np.ones(3)},
        "'rec_2yr_known_mask': expected 30 rows as there are ids, found 3",
    ),
    "no labels": ({"rec_2yr_label": None, "surv_5yr_label": None}, "expected labels, data sets ..._label, found "),
    "reserved name": ({"record_label": label()}, "data set 'record_label': task: expected none of the reserved names"),
    "impossible name": ({"5yr_label": label()}, "data set '5yr_label': task: expected names of letters"),
    "a task twice": ({"survival_label": label()}, "task 'survival', found 'surv_5yr_label' and 'survival_label'"),
}


@pytest.mark.parametrize("case", CASES)
def test_what_is_wrong_is_told_in_one_line(folder, case):
    arrays, expected = CASES[case]
    change(folder / "clinical.h5", **arrays)
    first = (
        load(OncologyConfig(root=str(folder), tasks={"recurrence": OutcomeConfig()})).ids[0] if "{}" in expected else ""
    )
    message = refusal(folder)
    assert message.startswith("clinical.h5: ")
    assert expected.format(first) in message


def test_a_mask_that_knows_more_than_the_label_is_refused(folder):
    change(folder / "clinical.h5", surv_5yr_label=label(-1), surv_known_mask=np.ones(ROWS, bool))
    assert "expected unknown as 'surv_5yr_label' says, found True" in refusal(folder)


@pytest.mark.parametrize("classes", [["one"], ["same", "same"], ["a", "b", "c"]])
def test_classes_are_two_different_names(folder, classes):
    with h5py.File(folder / "clinical.h5", "r+") as file:
        file["surv_5yr_label"].attrs["classes"] = classes
    assert "attribute 'classes': expected the names of 0 and of 1, found" in refusal(folder)


def test_a_task_of_the_settings_needs_a_label(folder):
    message = refusal(folder, tasks={"relapse": OutcomeConfig()})
    assert (
        "found survival (surv_5yr_label), recurrence (rec_2yr_label) (name it with data.tasks.relapse.label)" in message
    )
    message = refusal(folder, tasks={"relapse": OutcomeConfig(label="rec_2y_label")})
    assert message.endswith("(did you mean 'rec_2yr_label'?)")


@pytest.mark.parametrize("label_name", ["5yr_label", "survival_label"])
def test_a_label_whose_own_name_is_no_tasks_can_be_named(folder, label_name):
    change(folder / "clinical.h5", **{label_name: label()})
    assert "data.tasks)" in refusal(folder)
    assert list(tasks(folder, tasks={"alive": OutcomeConfig(label=label_name)})) == ["alive"]


def test_groups_are_named_for_every_patient(folder):
    assert "expected a data set 'site' (the groups: data.group), found none" in refusal(folder, group="site")
    change(folder / "clinical.h5", site=["A"] * (ROWS - 1))
    assert "data set 'site': expected 30 rows as there are ids, found 29" in refusal(folder, group="site")
    change(folder / "clinical.h5", site=["A"] * (ROWS - 1) + [" "])
    assert "data set 'site': row 30" in refusal(folder, group="site")


def test_the_patients_file_has_each_patient_once(folder):
    with h5py.File(folder / "clinical.h5") as file:
        ids = file["patient_id"].asstr()[()].tolist()
    change(folder / "clinical.h5", patient_id=[*ids[:-1], ids[0]], n_patches=[1] * ROWS)
    assert "row 30: expected each patient once" in refusal(folder)
