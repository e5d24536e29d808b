"""Readers: three formats say the same, and whatever is wrong with a file is told with its place."""

import hashlib

import h5py
import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fusion_lab.contracts import DataError
from fusion_lab.data.readers import Table, as_text, cell_text, data_folder, file_sha256, read_ids, read_table

FRAME = pd.DataFrame({"id": [3, 1, 2], "age": [1.5, np.nan, -2.0], "word": ["b", "a", "ä"]})


def write(path, frame=FRAME):
    """The same table as CSV, parquet or HDF5."""
    if path.suffix == ".csv":
        frame.to_csv(path, index=False)
    elif path.suffix == ".parquet":
        frame.to_parquet(path)
    else:
        with h5py.File(path, "w") as file:
            for column in frame:
                values = frame[column].to_numpy()
                file[column] = values if values.dtype.kind in "if" else values.astype(object)


def refusal(*arguments, **named):
    with pytest.raises(DataError) as refused:
        read_table(*arguments, **named)
    message = str(refused.value)
    assert "\n" not in message
    return message


@pytest.mark.parametrize("suffix", [".csv", ".parquet", ".h5"])
def test_formats_agree(tmp_path, suffix):
    write(tmp_path / f"t{suffix}")
    table = read_table(tmp_path, f"t{suffix}")
    assert sorted(table.frame.columns) == ["age", "id", "word"]
    assert read_ids(table, "id").tolist() == ["3", "1", "2"]
    assert as_text(table.frame["age"]).tolist() == ["1.5", None, "-2"]
    assert as_text(table.frame["word"]).tolist() == ["b", "a", "ä"]
    assert file_sha256(table.file) == hashlib.sha256((tmp_path / f"t{suffix}").read_bytes()).hexdigest()


def test_parquet_keeps_an_index_as_a_column(tmp_path):
    FRAME.set_index("id").to_parquet(tmp_path / "t.parquet")
    assert read_ids(read_table(tmp_path, "t.parquet"), "id").tolist() == ["3", "1", "2"]


@given(st.integers(-(10**9), 10**9), st.text(" \t", max_size=3))
def test_whole_numbers_are_one_id_however_written(number, space):
    texts = {
        cell_text(v) for v in (number, float(number), np.float64(number), str(number), f"{space}{number}.0{space}")
    }
    assert texts == {str(number)}


def test_ids_written_with_leading_zeros_stay():
    assert cell_text("007") == "007"


def test_lines_count_blank_lines_and_breaks_inside_quotes(tmp_path):
    (tmp_path / "t.csv").write_text('id,word\n1,"two\nlines"\n\n2,x\n')
    table = read_table(tmp_path, "t.csv")
    assert table.frame.index.tolist() == [2, 5]
    assert table.place(1, "word") == f"{tmp_path / 't.csv'}: line 5, column 'word'"


def test_a_column_name_is_one_line(tmp_path):
    (tmp_path / "t.csv").write_text('id,"age\n[years] "\n1,2\n')
    assert read_table(tmp_path, "t.csv").frame.columns.tolist() == ["id", "age [years]"]


def test_byte_order_mark_and_tabs(tmp_path):
    (tmp_path / "t.tsv").write_bytes("\ufeffid\tx\n1\t2\n".encode())
    assert read_table(tmp_path, "t.tsv").frame.columns.tolist() == ["id", "x"]


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (b"", ["expected a table", "found an empty file"]),
        (b"\n\n", ["found an empty file"]),
        (b"id,age\n", ["expected rows below the header", "found none"]),
        (b"id,age\n1,2\n3\n", ["line 3", "expected 2 cells", "found 1"]),
        (b"id,age\n1,2\n3,4,5\n", ["line 3", "expected 2 cells", "found 3"]),
        (b'id,age\n1,"2\n', ["expected well-formed CSV", "unexpected end of data"]),
        (b"id,age\n1,2\n\xe4,3\n", ["line 3", "expected UTF-8", "found byte 0xe4"]),
        (b"id,age,id\n1,2,3\n", ["line 1", "expected each column once", "found 'id' again"]),
        (b"id,,age\n1,2,3\n", ["line 1", "expected a name", "found none for column 2"]),
    ],
)
def test_bad_csv(tmp_path, content, told):
    (tmp_path / "t.csv").write_bytes(content)
    message = refusal(tmp_path, "t.csv")
    assert message.startswith(str(tmp_path / "t.csv"))
    assert all(part in message for part in told), message


@pytest.mark.parametrize("suffix", [".parquet", ".h5"])
@pytest.mark.parametrize("keep", [0, 10, 200])
def test_truncated_binary_files(tmp_path, suffix, keep):
    path = tmp_path / f"t{suffix}"
    write(path)
    path.write_bytes(path.read_bytes()[:keep])
    message = refusal(tmp_path, path.name)
    assert message.startswith(str(path))
    assert "expected" in message
    assert "found" in message


@pytest.mark.parametrize("suffix", [".csv", ".parquet", ".h5"])
@settings(max_examples=60)
@given(data=st.data())
def test_damaged_files_are_read_or_refused(tmp_path_factory, suffix, data):
    """Whatever byte is changed or cut: a table comes back or one line does."""
    folder = tmp_path_factory.mktemp("damaged")
    path = folder / f"t{suffix}"
    write(path, FRAME)
    content = bytearray(path.read_bytes())
    at = data.draw(st.integers(0, len(content) - 1))
    content[at] = data.draw(st.integers(0, 255))
    path.write_bytes(content[: data.draw(st.integers(at, len(content)))])
    try:
        table = read_table(folder, path.name)
        read_ids(table, "id")
    except DataError as error:
        assert str(error).startswith(str(path))
        assert "\n" not in str(error)
    else:
        assert isinstance(table, Table)


def test_missing_folder_says_how_to_give_one(tmp_path):
    message = refusal(tmp_path / "nowhere", "t.csv")
    assert "expected a folder of data files, found no such folder" in message
    assert "data=FOLDER" in message


def test_missing_file_suggests_the_nearest(tmp_path):
    write(tmp_path / "targets.csv")
    message = refusal(tmp_path, "target.csv")
    assert (
        message == f"{tmp_path / 'target.csv'}: expected a data file, found no such file (did you mean 'targets.csv'?)"
    )


def test_folder_and_unknown_ending(tmp_path):
    (tmp_path / "t.csv").mkdir()
    (tmp_path / "t.xlsx").write_text("x")
    assert "found a folder" in refusal(tmp_path, "t.csv")
    assert "expected a file ending in .csv" in refusal(tmp_path, "t.xlsx")
    write(tmp_path / "u.csv")
    assert "expected an HDF5 file where a key is given, found key 'k'" in refusal(tmp_path, "u.csv", "k")


def test_a_name_that_the_file_system_refuses(tmp_path):
    name = "x" * 300 + ".csv"
    assert refusal(tmp_path, name).startswith(f"{tmp_path / name}: expected a data file, found: ")
    assert "expected a data file, found: " in refusal(tmp_path / ("x" * 300), "t.csv")


def test_the_home_of_an_unknown_user():
    with pytest.raises(DataError, match="^~nosuchuser/x: expected a folder of data files, found a user without"):
        data_folder("~nosuchuser/x")


def test_hdf5_link_that_leads_nowhere(tmp_path):
    with h5py.File(tmp_path / "t.h5", "w") as file:
        file["CD3/id"] = np.arange(3)
        file["CD3/age"] = h5py.SoftLink("/gone")
        file["CD8/age"] = h5py.ExternalLink("gone.h5", "/age")
    expected = "expected datasets and groups, found a link 'age' that leads nowhere"
    for key in ("CD3", "CD8"):
        assert refusal(tmp_path, "t.h5", key, ["id"]) == f"{tmp_path / 't.h5'}#{key}: {expected}"


def test_hdf5_group_and_dataset_keys_agree(tmp_path):
    embedding = np.arange(6, dtype=np.float16).reshape(3, 2)
    with h5py.File(tmp_path / "t.h5", "w") as file:
        file["CD3/id"] = np.array([1, 2, 3], dtype=np.int32)
        file["CD3/embedding"] = embedding
        file["CD3/other"] = np.zeros(3)
    group = read_table(tmp_path, "t.h5", "CD3", ["id"])
    dataset = read_table(tmp_path, "t.h5", "CD3/embedding", ["id"])
    assert group.frame.columns.tolist() == ["embedding_0", "embedding_1", "id", "other"]
    assert dataset.frame.columns.tolist() == ["id", "embedding_0", "embedding_1"]
    for table in (group, dataset):
        np.testing.assert_array_equal(table.frame[["embedding_0", "embedding_1"]], embedding)
    assert dataset.name == "t.h5#CD3/embedding"


def test_bad_hdf5_content(tmp_path):
    with h5py.File(tmp_path / "t.h5", "w") as file:
        file["CD3/id"] = np.arange(3)
        file["CD3/embedding"] = np.zeros((4, 2))
        file["deep/x"] = np.zeros((2, 2, 2))
        file["mixed/x"] = np.zeros(2, dtype=[("a", "f4"), ("b", "i4")])
        file["void"] = h5py.Empty("f4")
    uneven = refusal(tmp_path, "t.h5", "CD3", ["id"])
    assert "t.h5#CD3: dataset 'embedding': expected 3 rows as in 'id', found 4" in uneven
    assert "expected a group or dataset 'CD4', found none (did you mean 'CD3'?)" in refusal(tmp_path, "t.h5", "CD4")
    assert "expected one or two dimensions, found shape (2, 2, 2)" in refusal(tmp_path, "t.h5", "deep")
    assert "expected numbers or text, found type" in refusal(tmp_path, "t.h5", "mixed")
    assert "expected one or two dimensions" in refusal(tmp_path, "t.h5", "void")


def test_hdf5_array_larger_than_its_file_can_hold(tmp_path):
    with h5py.File(tmp_path / "t.h5", "w") as file:
        file.create_dataset("x", shape=(10**9, 10**3), dtype="f4", chunks=(1, 1))
    assert "found shape (1000000000, 1000) (a damaged file)" in refusal(tmp_path, "t.h5")


@pytest.mark.parametrize("dtype", ["f4", h5py.string_dtype()], ids=["numbers", "text"])
def test_hdf5_larger_than_its_file_is_not_read(tmp_path, dtype):
    with h5py.File(tmp_path / "t.h5", "w") as file:
        file.create_dataset("id", (10**12,), dtype, chunks=(1000,))
    assert "dataset 'id': expected an array that fits the file, found shape (1000000000000,)" in refusal(
        tmp_path, "t.h5"
    )


def test_hdf5_text_is_utf_8_whatever_its_length_is_called(tmp_path):
    with h5py.File(tmp_path / "t.h5", "w") as file:
        file["id"] = np.array(["ä".encode(), b"b"])
    assert read_ids(read_table(tmp_path, "t.h5"), "id").tolist() == ["ä", "b"]
    with h5py.File(tmp_path / "t.h5", "w") as file:
        file["id"] = np.array(["ä".encode("latin-1"), b"b"])
    assert refusal(tmp_path, "t.h5").endswith("dataset 'id': expected UTF-8 text, found byte 0xe4")


def test_hdf5_of_groups_asks_for_a_key(tmp_path):
    with h5py.File(tmp_path / "t.h5", "w") as file:
        file["CD3/id"] = np.arange(3)
    assert "expected datasets, found CD3 (name a group with key)" in refusal(tmp_path, "t.h5")


@pytest.mark.parametrize(
    ("ids", "told"),
    [
        (["1", "2", "1.0"], ["line 4", "expected each id once", "found '1' again", "first in line 2"]),
        (["1", " ", "3"], ["line 3", "column 'id'", "expected an id", "found an empty cell"]),
    ],
)
def test_bad_ids(tmp_path, ids, told):
    pd.DataFrame({"id": ids, "x": 1}).to_csv(tmp_path / "t.csv", index=False)
    with pytest.raises(DataError) as refused:
        read_ids(read_table(tmp_path, "t.csv"), "id")
    assert all(part in str(refused.value) for part in told), refused.value


def test_fractional_ids_and_missing_id_column(tmp_path):
    pd.DataFrame({"patient_id": [1.0, 2.5]}).to_parquet(tmp_path / "t.parquet")
    table = read_table(tmp_path, "t.parquet")
    with pytest.raises(
        DataError, match=r"row 2, column 'patient_id': expected a whole number or text as id, found 2.5"
    ):
        read_ids(table, "patient_id")
    with pytest.raises(DataError, match=r"expected a column 'patientid' .*found none \(did you mean 'patient_id'\?\)"):
        read_ids(table, "patientid")
