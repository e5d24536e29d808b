"""Whatever stands in place of a data set or of a file is refused in one line; nothing outside the file is read."""

import os

import h5py
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from oncology_material import change, refusal, write_file, write_layout

from fusion_lab.contracts import DataError
from fusion_lab.data.oncology import OncologyConfig, load

NAME = "embedding_512"


@pytest.fixture
def folder(tmp_path):
    write_layout(tmp_path / "data", rows=30)
    return tmp_path / "data"


def put(folder, make) -> str:
    """What is said after ``make(file)`` has put something else in the embedding's place."""
    with h5py.File(folder / "temporal.h5", "r+") as file:
        values = file[NAME][()]
        del file[NAME]
        make(file, values)
    message = refusal(folder)
    assert message.startswith("temporal.h5: "), message
    return message


def outside(folder, values):
    path = folder.parent / "outside.h5"
    write_file(path, {NAME: values})
    return path


def test_links_are_not_followed(folder):
    def external(file, values):
        file[NAME] = h5py.ExternalLink(str(outside(folder, values)), NAME)

    expected = f"expected a data set {NAME!r}, found a link, which is not followed"
    assert expected in put(folder, external)
    for target in (f"/{NAME}", "/nowhere", "/quality_score"):  # itself, nothing, something
        change(folder / "temporal.h5", **{NAME: np.zeros(1)})

        def soft(file, values, target=target):
            file[NAME] = h5py.SoftLink(target)

        assert expected in put(folder, soft)


def test_values_in_other_files_are_not_read(folder):
    def stored_outside(file, values):
        raw = folder.parent / "raw.bin"
        raw.write_bytes(values.tobytes())
        file.create_dataset(NAME, values.shape, values.dtype, external=[(str(raw), 0, h5py.h5f.UNLIMITED)])

    def virtual(file, values):
        layout = h5py.VirtualLayout(values.shape, values.dtype)
        layout[:] = h5py.VirtualSource(str(outside(folder, values)), NAME, values.shape)
        file.create_virtual_dataset(NAME, layout)

    expected = f"data set {NAME!r}: expected its values in this file, found them in another one"
    assert expected in put(folder, stored_outside)
    change(folder / "temporal.h5", **{NAME: np.zeros((1, 1))})
    assert expected in put(folder, virtual)


def test_groups_and_odd_types_are_no_data_sets(folder):
    assert f"expected a data set {NAME!r}, found a group" in put(folder, lambda file, _: file.create_group(NAME))
    kinds = {
        "expected values, found none": lambda file, _: file.create_dataset(NAME, data=h5py.Empty("f4")),
        "expected numbers or text, found type": lambda file, v: file.create_dataset(
            NAME, data=np.zeros(v.shape, [("a", "f4"), ("b", "f4")])
        ),
        "expected an array that fits the file": lambda file, _: file.create_dataset(
            NAME, (10**7, 10**5), "f4", chunks=(1, 1000)
        ),
        "found shape ()": lambda file, _: file.create_dataset(NAME, data=1.0),
    }
    for expected, make in kinds.items():
        change(folder / "temporal.h5", **{NAME: np.zeros((1, 1))})
        assert expected in put(folder, make)


def test_huge_texts_are_not_read(folder):
    with h5py.File(folder / "temporal.h5", "r+") as file:
        del file["patient_id"]
        file.create_dataset("patient_id", (10**12,), h5py.string_dtype(), chunks=(1000,))
    assert "expected an array that fits the file, found shape (1000000000000,)" in refusal(folder)


def replaced(path, what):
    """Something else in a file's place."""
    path.unlink()
    if what == "pipe":
        os.mkfifo(path)
    elif what == "folder":
        path.mkdir()
    elif what == "dangling link":
        path.symlink_to("nowhere.h5")
    else:
        path.write_bytes({"nothing": b"", "text": b"patient_id,x\n1,2\n", "zeros": bytes(5000)}[what])


@pytest.mark.parametrize("name", ["clinical", "temporal"])
@pytest.mark.parametrize(
    ("what", "found"),
    [
        ("pipe", "expected an HDF5 file, found no regular file"),
        ("folder", "expected an HDF5 file, found a folder"),
        ("dangling link", "expected an HDF5 file, found no such file"),
        ("nothing", "expected an HDF5 file, found an empty one"),
        ("text", "expected a readable HDF5 file, found: "),
        ("zeros", "expected a readable HDF5 file, found: "),
    ],
)
def test_a_file_that_is_none(folder, name, what, found):
    replaced(folder / f"{name}.h5", what)
    assert refusal(folder).startswith(f"{name}.h5: {found}")


def test_names_that_are_no_text_in_one_line_are_passed_over(folder):
    with h5py.File(folder / "temporal.h5", "r+") as file:
        for name in (b"\xff\xfe", b"two\nlines"):
            file[name] = np.ones(3)
    assert "temporal" in load(OncologyConfig(root=str(folder))).inputs
    change(folder / "temporal.h5", patient_id=None)
    assert "found 'embedding_512', 'quality_score' (name it" in refusal(folder)


@pytest.fixture(scope="module")
def sound(tmp_path_factory):
    folder = tmp_path_factory.mktemp("sound")
    write_layout(folder, rows=30, widths={"clinical": 3, "temporal": 4})
    return folder, (folder / "temporal.h5").read_bytes()


@settings(max_examples=40)
@given(data=st.data())
def test_a_damaged_file_is_refused_in_one_line_or_still_sound(sound, data):
    """A cut anywhere, or some bytes changed."""
    folder, content = sound
    cut = data.draw(st.integers(0, len(content)), "cut")
    damaged = bytearray(content[:cut] if data.draw(st.booleans(), "shorter") else content)
    for at in data.draw(st.lists(st.integers(0, max(len(damaged) - 1, 0)), max_size=4), "changed"):
        if damaged:
            damaged[at] ^= data.draw(st.integers(1, 255))
    (folder / "temporal.h5").write_bytes(damaged)
    try:
        dataset = load(OncologyConfig(root=str(folder)))
    except DataError as error:
        assert len(str(error).splitlines()) == 1
    else:
        assert np.isfinite(dataset.inputs["temporal"].numpy()).all()
