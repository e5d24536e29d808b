"""Arrays of items: shapes, types and labels that cannot be used; nothing in them is ever unpickled."""

import numpy as np
import pytest
from activity_material import recorded, refusal, write_arrays

from fusion_lab.data.activity.settings import ACTIVITIES, HEART_RATE_BPM, TRANSIENT

STEPS = 25


@pytest.fixture
def folder(tmp_path):
    write_arrays(tmp_path, subjects=("101", "102", "103", "104"), rows=50, steps=STEPS)
    return tmp_path


def load(folder, name):
    return np.load(folder / f"{name}.npy")


def item_count(folder):
    return sum(len(load(folder, f"{split}/labels")) for split in ("train", "val", "test"))


def item_count_of(folder):
    return len(load(folder, "train/imu_hand"))


def test_labels_are_activities_and_folders_are_splits(folder):
    (samples,) = recorded(folder).subjects
    expected = [(int(a), s) for s in ("train", "val", "test") for a in load(folder, f"{s}/labels")]
    assert [(r.activity, r.split) for r in samples.recordings] == expected
    assert [r.start for r in samples.recordings] == [STEPS * item for item in range(len(expected))]


def test_both_names_of_a_modality_are_known(folder):
    reference = recorded(folder)
    for split in ("train", "val", "test"):
        (folder / split / "imu_chest.npy").rename(folder / split / "chest.npy")
    np.testing.assert_array_equal(reference.subjects[0].values, recorded(folder).subjects[0].values)


def test_items_between_activities_are_left_out(folder):
    items = item_count(folder)
    labels = load(folder, "val/labels")
    labels[2] = TRANSIENT
    np.save(folder / "val/labels.npy", labels)
    read = recorded(folder)
    assert len(read.subjects[0].recordings) == items - 1
    assert len(read.subjects[0].values) == (items - 1) * STEPS
    assert read.notes == (f"{STEPS} samples between activities are left out",)


def test_without_labels(folder):
    labelled = recorded(folder)
    for split in ("train", "val", "test"):
        (folder / split / "labels.npy").unlink()
    read = recorded(folder, labelled=False)
    assert {r.activity for r in read.subjects[0].recordings} == {None}
    np.testing.assert_array_equal(read.subjects[0].values, labelled.subjects[0].values)
    assert (
        refusal(folder)
        == f"train/labels.npy: expected {item_count_of(folder)} labels, one per item, found: No such file or directory"
    )


def test_a_split_may_be_absent_and_a_modality_too(folder):
    for path in (folder / "val").iterdir():
        path.unlink()
    for split in ("train", "test"):
        (folder / split / "imu_ankle.npy").unlink()
    read = recorded(folder, modalities=("hand", "heart_rate"))
    assert {r.split for r in read.subjects[0].recordings} == {"train", "test"}
    assert not [name for name in read.columns if name.startswith("ankle")]
    assert refusal(folder).startswith("train: expected an array imu_ankle.npy, found imu_hand.npy, imu_chest.npy")


def test_missing_cells_stay_and_the_heart_rate_is_carried_within_an_item(folder):
    pulse = np.full((len(load(folder, "train/labels")), STEPS, 1), np.nan, np.float32)
    pulse[:, 7] = np.arange(len(pulse))[:, None]
    np.save(folder / "train/heart_rate.npy", pulse)
    read = recorded(folder)
    values = read.subjects[0].values[: len(pulse) * STEPS, read.columns.index(HEART_RATE_BPM)].reshape(-1, STEPS)
    assert np.isnan(values[:, :7]).all()
    np.testing.assert_array_equal(values[:, 7:], np.repeat(pulse[:, 7], STEPS - 7, axis=1))


def spoil(name, change):
    def spoiled(folder):
        np.save(folder / name, change(np.load(folder / name)), allow_pickle=True)

    return name, spoiled


def set_at(place, value):
    def change(array):
        array[place] = value
        return array

    return change


CASES = {
    "objects": (*spoil("train/imu_hand.npy", lambda a: a.astype(object)), "Python objects"),
    "words": (*spoil("train/imu_hand.npy", lambda a: a.astype("U8")), "expected numbers of shape (items, samples, 17)"),
    "other width": (
        *spoil("train/imu_hand.npy", lambda a: a[..., :13]),
        "(items, samples, 17), found float32 of shape",
    ),
    "wide heart rate": (
        *spoil("val/heart_rate.npy", lambda a: a.repeat(2, 2)),
        "expected numbers of shape (items, sam",
    ),
    "two dimensions": (*spoil("train/imu_hand.npy", lambda a: a[0]), "expected numbers of shape (items, samples, 17)"),
    "no samples": (*spoil("train/imu_hand.npy", lambda a: a[:, :0]), "expected numbers of shape (items, samples, 17)"),
    "fewer items": (*spoil("test/imu_chest.npy", lambda a: a[1:]), "items and samples as in imu_hand.npy, found"),
    "fewer samples": (*spoil("test/imu_chest.npy", lambda a: a[:, 1:]), "items and samples as in imu_hand.npy, found"),
    "infinite": (
        *spoil("val/imu_ankle.npy", set_at((2, 3, 4), np.inf)),
        "item 3, sample 4, column 'ankle_acc6_x_ms2': expected a number or NaN, found inf",
    ),
    "fewer labels": (*spoil("val/labels.npy", lambda a: a[1:]), "whole numbers, one per item, found int64 of shape"),
    "labels with fractions": (*spoil("val/labels.npy", lambda a: a + 0.5), "one per item, found float64"),
    "labels as objects": (*spoil("val/labels.npy", lambda a: a.astype(object)), "Python objects"),
    "unknown label": (*spoil("val/labels.npy", set_at(3, 8)), "item 4: expected one of the activities 0, 1, 2"),
}


@pytest.mark.parametrize("case", CASES)
def test_arrays_that_cannot_be_used(folder, case):
    name, spoiled, told = CASES[case]
    spoiled(folder)
    message = refusal(folder)
    assert message.startswith(f"{name}: ")
    assert told in message


def npy(header):
    """A file with this header and no content."""
    return b"\x93NUMPY\x01\x00" + (118).to_bytes(2, "little") + header.encode().ljust(117) + b"\n"


@pytest.mark.parametrize(
    "content",
    [
        *(b"", b"\x93NUMPY", b"nothing of the kind", b"PK\x03\x04 no archive either", npy("(((("), npy("\xff")),
        *(npy(f"{{'descr': '<f4', 'fortran_order': False, 'shape': ({n}, 25, 17)}}") for n in (-1, 10**9, 10**40)),
    ],
)
def test_files_that_are_no_arrays(folder, content):
    (folder / "train/imu_hand.npy").write_bytes(content)
    assert refusal(folder).startswith("train/imu_hand.npy: expected an array of numbers, found: ")
    assert "unsafe" not in refusal(folder)  # what NumPy advises


def test_an_array_cut_off(folder):
    file = folder / "train/imu_hand.npy"
    file.write_bytes(file.read_bytes()[:-1])
    assert refusal(folder).startswith("train/imu_hand.npy: expected an array of numbers, found: ")


def test_an_archive_of_arrays(folder):
    np.savez(folder / "train" / "a.npz", x=np.zeros(3))
    (folder / "train" / "a.npz").rename(folder / "train" / "imu_hand.npy")
    assert refusal(folder).startswith("train/imu_hand.npy: expected an array of numbers, found: the magic string")


def test_two_arrays_of_a_modality_and_arrays_of_none(folder):
    np.save(folder / "val" / "imu_head.npy", np.zeros(3))
    assert recorded(folder).notes == ("arrays of no known modality are not read: 'imu_head.npy'",)
    np.save(folder / "val" / "hand.npy", np.zeros(3))
    assert refusal(folder) == "val: expected one array of each modality, found imu_hand.npy and hand.npy"


def test_splits_of_different_modalities(folder):
    (folder / "val" / "heart_rate.npy").unlink()
    assert refusal(folder).startswith("val: expected the arrays that ")


def test_nothing_but_items_between_activities(folder):
    for split in ("train", "val", "test"):
        np.save(folder / split / "labels.npy", 0 * load(folder, f"{split}/labels"))
    assert refusal(folder).endswith("expected items of at least one activity, found none")


def test_labels_of_every_activity(folder):
    labels = load(folder, "train/labels")
    every = np.resize(list(ACTIVITIES), len(labels))
    np.save(folder / "train/labels.npy", every.astype(np.uint8))
    found = [r.activity for r in recorded(folder).subjects[0].recordings if r.split == "train"]
    assert found == every.tolist()
