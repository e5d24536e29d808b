"""Arrays as lines: NPZ and HDF5 say the same, and what is wrong is told with the array's name, the id and position."""

import h5py
import numpy as np
import pytest

from fusion_lab.contracts import DataError
from fusion_lab.data.array_files import ArrayPlace, holds_array, read_features, read_labels

R, T, F = 4, 3, 2
IDS = np.array(["p3", "p1", "p2", "p0"])
VALUES = np.arange(R * T * F, dtype=np.float32).reshape(R, T, F)
VALID = np.array([[1, 1, 0], [0, 1, 1], [1, 1, 1], [0, 0, 0]], dtype=bool)


@pytest.fixture(params=["a.npz", "a.h5"])
def file(request, tmp_path):
    """The same arrays in both kinds of file."""
    return write(tmp_path / request.param)


def write(path, **changed):
    arrays = {
        "x": VALUES,
        "ids": IDS,
        "real": VALID,
        "names": np.array(["hr", "bp"]),
        "y": VALUES[..., 0],
        "good": np.linspace(0, 1, R),
        **changed,
    }
    if path.suffix == ".npz":
        np.savez(path, **arrays)
    else:
        with h5py.File(path, "w") as opened:
            for name, array in arrays.items():
                opened[f"vitals/{name}"] = array.astype(object) if array.dtype.kind == "U" else array
    return path


def place(file, key="x", **named):
    return ArrayPlace(file.name, key if file.suffix == ".npz" else f"vitals/{key}", "ids", **named)


def read(file, dims=3, **named):
    return read_features(file.parent, place(file, **named), dims)


def test_a_line_per_valid_position(file):
    table, ids, position = read(file, valid="real", columns="names", companions=("good",))
    row, at = np.nonzero(VALID)
    assert ids.tolist() == IDS[row].tolist()
    assert position.tolist() == at.tolist()
    np.testing.assert_array_equal(table.frame[["hr", "bp"]], VALUES[row, at])
    np.testing.assert_array_equal(table.frame["good"], np.linspace(0, 1, R)[row])
    assert table.place(1, "hr").endswith(f"#{place(file).key}: row p3, position 2, column 'hr'")


def test_without_valid_a_position_of_empty_cells_is_not_there(tmp_path):
    values = VALUES.copy()
    values[~VALID] = np.nan
    values[0, 0, 1] = np.nan
    table, ids, position = read(write(tmp_path / "a.npz", x=values))
    assert [ids.tolist(), position.tolist()] == [IDS[np.nonzero(VALID)[0]].tolist(), np.nonzero(VALID)[1].tolist()]
    assert table.frame.columns.tolist() == ["x_0", "x_1"]
    assert table.frame["x_1"].isna().tolist() == [True, *[False] * (VALID.sum() - 1)]


def test_an_array_beside_it_may_not_be_named_as_a_column_is(tmp_path):
    file = write(tmp_path / "a.npz", x_1=np.linspace(0, 1, R))
    told = "array 'x': expected names of columns other than of the arrays used, found 'x_1'"
    with pytest.raises(DataError, match=told):
        read(file, companions=("x_1",))


def test_whole_numbers_are_all_there(tmp_path):
    assert len(read(write(tmp_path / "a.npz", x=VALUES.astype(int))).ids) == R * T


def test_an_array_of_vectors(tmp_path):
    table, ids, position = read(write(tmp_path / "a.npz", x=VALUES[:, 0]), dims=2)
    assert position is None
    assert ids.tolist() == IDS.tolist()
    np.testing.assert_array_equal(table.frame, VALUES[:, 0])
    assert table.place(1, "x_0").endswith("a.npz#x: row p1, column 'x_0'")


def test_labels_are_lines_of_one_column(file):
    table, ids, position = read_labels(file.parent, place(file, "y", valid="real"), "state")
    assert table.frame["state"].tolist() == VALUES[..., 0][VALID].tolist()
    assert ids.tolist() == IDS[np.nonzero(VALID)[0]].tolist()
    assert position.tolist() == np.nonzero(VALID)[1].tolist()


def test_what_is_read_as_arrays(tmp_path):
    write(tmp_path / "a.npz")
    write(tmp_path / "a.h5")
    (tmp_path / "broken.h5").write_bytes(b"nothing")
    assert holds_array(tmp_path, "a.npz", "x", 3)
    assert holds_array(tmp_path, "a.h5", "vitals/x", 3)
    assert holds_array(tmp_path, "a.h5", "vitals/y", 2)
    others = [("a.h5", "vitals/y", 3), ("a.h5", "vitals", 3), ("a.h5", None, 3), ("a.h5", "z", 3), ("t.csv", "x", 3)]
    others += [("broken.h5", "x", 3), ("none.h5", "x", 3)]
    assert not any(holds_array(tmp_path, *other) for other in others)


@pytest.mark.parametrize("suffix", [".npz", ".h5"])
@pytest.mark.parametrize(
    ("changed", "named", "told"),
    [
        ({"x": VALUES[0]}, {}, "expected rows x positions x features, found shape (3, 2)"),
        ({"x": VALUES[:, :0]}, {}, "expected rows x positions x features, found shape (4, 0, 2)"),
        ({"x": VALUES[1:]}, {}, "expected 4 rows as in 'ids', found 3"),
        ({"ids": IDS[:, None]}, {}, "array 'ids': expected one id per row, found shape (4, 1)"),
        ({"ids": np.array(["a", "b", "a", "c"])}, {}, "row 3, column 'ids': expected each id once, found 'a' again"),
        ({"ids": np.array(["a", "", "b", "c"])}, {}, "row 2, column 'ids': expected an id, found an empty cell"),
        ({"real": VALID[:, 1:]}, {"valid": "real"}, "expected bool of shape (4, 3), found bool of shape (4, 2)"),
        ({"real": VALUES[..., 0]}, {"valid": "real"}, "expected bool of shape (4, 3), found float32 of shape (4, 3)"),
        ({"real": VALID & False}, {"valid": "real"}, "expected at least one position that is there, found none"),
        ({"names": np.array(["hr"])}, {"columns": "names"}, "expected 2 names of columns, found "),
        (
            {"names": np.array(["hr", "hr"])},
            {"columns": "names"},
            "array 'names': expected each column once, found 'hr' again",
        ),
        ({"names": np.array(["hr", " "])}, {"columns": "names"}, "array 'names': expected a name in one line for each"),
        ({"names": np.array(["b\nc", "hr"])}, {"columns": "names"}, "found 'b\\nc' for column 1"),
        (
            {"names": np.array(["hr", "ids"])},
            {"columns": "names"},
            "array 'names': expected names of columns other than of the arrays used, found 'ids'",
        ),
        (
            {"names": np.array(["good", "hr"])},
            {"columns": "names", "companions": ("good",)},
            "array 'names': expected names of columns other than of the arrays used, found 'good'",
        ),
        ({"good": VALID[0]}, {"companions": ("good",)}, "array 'good': expected shape (4,), found (3,)"),
        ({}, {"valid": "reel"}, "'reel'"),
    ],
)
def test_bad_arrays(tmp_path, suffix, changed, named, told):
    file = write(tmp_path / f"a{suffix}", **changed)
    with pytest.raises(DataError) as refused:
        read(file, **named)
    message = str(refused.value)
    assert message.startswith(str(file))
    assert told in message
    assert "\n" not in message


def test_an_array_that_is_not_there_suggests_the_nearest(tmp_path):
    file = write(tmp_path / "a.npz")
    with pytest.raises(DataError, match=r"a.npz: expected an array 'idx', found none \(did you mean 'ids'\?\)"):
        read_features(tmp_path, ArrayPlace(file.name, "x", "idx"), 3)
