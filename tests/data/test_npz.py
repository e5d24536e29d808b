"""NPZ files: what NumPy saved comes back, and nothing is unpickled."""

import io
import zipfile

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays

from fusion_lab.contracts import DataError
from fusion_lab.data.npz import npz_arrays, npz_names, npz_shapes
from fusion_lab.data.readers import read_ids, read_table


class Bomb:
    """Unpickling it leaves a mark."""

    touched = False

    def __reduce__(self):
        return setattr, (Bomb, "touched", True)


def refusal(path, names=("x",)):
    with pytest.raises(DataError) as refused:
        npz_arrays(path, names)
    message = str(refused.value)
    assert message.startswith(str(path))
    assert "\n" not in message
    return message


@settings(max_examples=40)
@given(
    values=st.sampled_from(["i4", "u1", "f4", "f8", "?", "U5"]).flatmap(
        lambda kind: arrays(np.dtype(kind), array_shapes(max_dims=3, max_side=4))
    ),
    compressed=st.booleans(),
)
def test_arrays_come_back(tmp_path_factory, values, compressed):
    path = tmp_path_factory.mktemp("npz") / "a.npz"
    (np.savez_compressed if compressed else np.savez)(path, x=values, y=np.arange(3))
    assert npz_names(path) == ["x", "y"]
    assert npz_shapes(path) == {"x": values.shape, "y": (3,)}
    np.testing.assert_array_equal(npz_arrays(path, ["x"])["x"], values)


def test_half_precision_becomes_single(tmp_path):
    np.savez(tmp_path / "a.npz", x=np.ones(3, np.float16))
    assert npz_arrays(tmp_path / "a.npz", ["x"])["x"].dtype == np.float32


def test_python_objects_are_refused_and_never_unpickled(tmp_path):
    np.savez(tmp_path / "a.npz", x=np.array([Bomb(), "text"], dtype=object), y=np.arange(2))
    message = refusal(tmp_path / "a.npz")
    assert "array 'x': expected numbers or text, found Python objects, which are never unpickled" in message
    assert npz_arrays(tmp_path / "a.npz", ["y"])["y"].tolist() == [0, 1]
    with pytest.raises(DataError, match="found Python objects"):
        read_table(tmp_path, "a.npz")
    assert not Bomb.touched


def test_arrays_of_no_use(tmp_path):
    np.savez(tmp_path / "a.npz", x=np.zeros(2, np.complex64), z=np.zeros(2, [("a", "f4")]), t=np.zeros(2, "M8[s]"))
    for name in "xzt":
        assert f"array {name!r}: expected numbers or text, found " in refusal(tmp_path / "a.npz", [name])


def test_a_header_that_promises_more_than_the_file_holds(tmp_path):
    header = io.BytesIO()
    np.lib.format.write_array_header_1_0(header, {"descr": "<f8", "fortran_order": False, "shape": (10**9, 10**6)})
    with zipfile.ZipFile(tmp_path / "a.npz", "w") as file:
        file.writestr("x.npy", header.getvalue())
    assert "array 'x': expected an array that fits the file, found shape (1000000000, 1000000)" in refusal(
        tmp_path / "a.npz"
    )


@settings(max_examples=150)
@given(data=st.data(), compressed=st.booleans())
def test_damaged_files_are_read_or_refused(tmp_path_factory, data, compressed):
    path = tmp_path_factory.mktemp("npz") / "a.npz"
    (np.savez_compressed if compressed else np.savez)(path, id=np.array(["a", "b"]), x=np.arange(6.0).reshape(2, 3))
    content = bytearray(path.read_bytes())
    at = data.draw(st.integers(0, len(content) - 1))
    content[at] = data.draw(st.integers(0, 255))
    path.write_bytes(content[: data.draw(st.integers(at, len(content)) | st.just(len(content)))])
    try:
        assert set(npz_arrays(path, ["id", "x"])) == {"id", "x"}
        npz_shapes(path)
    except DataError as error:
        assert str(error).startswith(str(path))
        assert "\n" not in str(error)


def test_as_a_table_it_has_the_columns_as_long_as_the_ids(tmp_path):
    np.savez(tmp_path / "a.npz", names=np.array(["u", "v", "w"]), x=np.zeros((2, 3)), id=[4, 5], age=[1.5, 2.5])
    frame = read_table(tmp_path, "a.npz", companions=["id"]).frame
    pd.testing.assert_frame_equal(
        frame, pd.DataFrame({"id": [4, 5], "age": [1.5, 2.5]}, index=pd.RangeIndex(1, 3)), check_column_type=False
    )
    for name, shape in (("x", "(2, 3)"), ("names", "(3,)")):
        with pytest.raises(DataError) as refused:
            read_table(tmp_path, "a.npz", companions=["id"]).require([name], "task 'y'")
        expected = f"array {name!r} (task 'y'): expected one value per row, 2 in all, found shape {shape}"
        assert str(refused.value).endswith(f"a.npz: {expected}")
    np.savez(tmp_path / "c.npz", id=np.array("a"), age=[1.5, 2.5])
    with pytest.raises(
        DataError, match=r"array 'id' \(the ids\): expected one value per row, 2 in all, found shape \(\)"
    ):
        read_ids(read_table(tmp_path, "c.npz", companions=["id"]), "id")
    np.savez(tmp_path / "b.npz", x=np.zeros((2, 3)))
    with pytest.raises(DataError, match="b.npz: expected one-dimensional arrays, one per column, found none"):
        read_table(tmp_path, "b.npz")
