"""Feature tables and archives that cannot be used: one line, with the file, the place, what was expected and found."""

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from molecules_material import (
    BITS,
    GEOMETRY,
    QUANTUM,
    arrays_of,
    config,
    frames_of,
    made,
    refusal,
    write_archive,
    write_tables,
)

from fusion_lab.contracts import DataError
from fusion_lab.data.molecules import load
from fusion_lab.data.molecules.archive import USUAL
from fusion_lab.data.molecules.columns import read_columns

ROWS = 30
MADE = made(ROWS)
ARRAYS = arrays_of(MADE)
FRAMES = frames_of(MADE)
K = len(ARRAYS["x3d"])


def changed(name, place, value):
    array = ARRAYS[name].copy()
    array[place] = value
    return {name: array}


ARCHIVES = {
    "no ids": ({"ID": None}, "expected an array 'ID' of the molecules' ids, found none"),
    "ids of two dimensions": ({"ID": np.zeros((3, 2))}, "array 'ID': expected one id per molecule, found shape (3, 2)"),
    "an id twice": (changed("ID", 4, 7), "row 5, column 'ID': expected each id once, found '7' again"),
    "unpacked bits": ({"fp_packed": MADE.bits}, f"array 'fp_packed': expected uint8 of shape ({ROWS}, bits / 8)"),
    "too few bits": ({"fp_packed": ARRAYS["fp_packed"][1:]}, f"array 'fp_packed': expected uint8 of shape ({ROWS}"),
    "too few vectors": ({"desc2d": ARRAYS["desc2d"][1:]}, f"array 'desc2d': expected numbers of shape ({ROWS}, feat"),
    "a vector of words": ({"desc2d": np.full((ROWS, 2), "x")}, "array 'desc2d': expected numbers"),
    "a gap": (
        changed("desc2d", (3, 1), np.nan),
        "array 'desc2d': row 4, column 2: expected a finite number, found nan",
    ),
    "infinity": (changed("x3d", (0, 2), np.inf), "array 'x3d': row 1, column 3: expected a finite number, found inf"),
    "offsets of fewer": (
        {"bag_offset": ARRAYS["bag_offset"][1:]},
        "array 'bag_offset': expected whole numbers of shape",
    ),
    "fractions": ({"bag_offset": ARRAYS["bag_offset"] / 1}, "array 'bag_offset': expected whole numbers of shape"),
    "offsets too far": (changed("bag_offset", -1, K + 1), f"expected offsets from 0 to the {K} rows of 'x3d', found 0"),
    "offsets that fall": (changed("bag_offset", 5, K), "expected offsets that never fall, found"),
    "no offsets": ({"bag_offset": None}, "expected an array 'bag_offset' beside 'x3d', found none"),
    "nothing": (dict.fromkeys(("fp_packed", "desc2d", "x3d", "bag_offset")), "expected arrays of fingerprint, descr"),
    "names of fewer": ({"desc2d_names": np.array(["a"])}, "array 'desc2d_names': expected 3 different texts"),
    "a name twice": ({"desc2d_names": np.array(["a", "b", "b"])}, "a name of its own for each column, found 'b' 2 tim"),
    "a name of nothing": ({"desc2d_names": np.array([b"a", b"b", b""])}, "a name of its own for each column, found ''"),
    "no instances": (
        {"x3d": ARRAYS["x3d"][:0], "bag_offset": 0 * ARRAYS["bag_offset"]},
        "array 'x3d': modality 'conformers': expected rows that have it, found none of 30",
    ),
    "no molecules": ({"ID": ARRAYS["ID"][:0]}, "array 'ID': expected one id per molecule, found shape (0,)"),
    "pickled ids": ({"ID": ARRAYS["ID"].astype(object)}, "array 'ID': expected numbers or text, found Python objects"),
    "offsets below 0": (changed("bag_offset", 3, -5), "expected offsets that never fall, found -5 after"),
    "other molecules": ({"ID": ARRAYS["ID"] + 1000}, "expected molecules of"),
}


@pytest.mark.parametrize("case", ARCHIVES)
def test_an_archive_that_does_not_fit_is_refused(tmp_path, case):
    arrays, expected = ARCHIVES[case]
    write_archive(tmp_path, MADE, **arrays)
    told = refusal(tmp_path)
    assert "conformer_bags.npz: " in told and expected in told


@pytest.mark.parametrize("damage", [lambda content: content[:200], lambda content: content[:-99], lambda _: b"hello"])
def test_a_damaged_archive_is_refused(tmp_path, damage):
    write_archive(tmp_path, MADE)
    path = tmp_path / "conformer_bags.npz"
    path.write_bytes(damage(path.read_bytes()))
    assert "conformer_bags.npz: expected a readable NPZ file" in refusal(tmp_path)


@pytest.mark.parametrize("file", ["labels.csv", "feat2d_scaled.csv", "conformer_bags.npz"])
def test_a_folder_in_the_place_of_a_file_is_told(tmp_path, file):
    write_tables(tmp_path, MADE)
    (tmp_path / file).unlink(missing_ok=True)
    (tmp_path / file).mkdir()
    told = refusal(tmp_path, source="archive") if file.endswith("npz") else refusal(tmp_path)
    assert f"{file}: expected a data file, found a folder" in told


def test_columns_have_the_names_that_structures_give_them():
    chunk = pytest.importorskip("fusion_lab.data.molecules.chemistry_chunk")
    assert USUAL == {"desc2d": chunk.DESCRIPTORS, "x3d": chunk.CONFORMERS}


def frame(name, **columns):
    made_of = FRAMES[name].copy().astype({c: object for c in columns if c in FRAMES[name]})
    for column, change in columns.items():
        made_of[column] = (
            change
            if not isinstance(change, dict)
            else made_of[column].where(~made_of.index.isin(list(change)), list(change.values())[0])
        )
    return {name: made_of}


TABLES = {
    "no ids": (
        {"feat2d_scaled": FRAMES["feat2d_scaled"].rename(columns={"ID": "Id"})},
        "expected a column 'ID', found",
    ),
    "no conformer ids": (
        {"feat3d_scaled": FRAMES["feat3d_scaled"].drop(columns="conf_id")},
        "expected a column 'conf_id'",
    ),
    "no features": (
        {"feat2d_scaled": FRAMES["feat2d_scaled"][["ID", "split"]]},
        "expected columns of numbers beside ID",
    ),
    "a gap": (frame("feat2d_scaled", d1={3: ""}), "line 5, column 'd1': expected a finite number, found an empty cell"),
    "a word": (frame("feat3d_scaled", g2={6: "high"}), "line 8, column 'g2': expected a number, found 'high'"),
    "infinity": (frame("feat3d_qm_scaled", q1={2: "inf"}), "line 4, column 'q1': expected a finite number, found a"),
    "an empty id": (frame("feat3d_scaled", ID={1: ""}), "line 3, column 'ID': expected an id, found an empty cell"),
    "all failed": (frame("feat3d_qm_scaled", status="failed"), "expected a line with status ok and without an error"),
    "all in error": (frame("feat3d_qm_scaled", error="x"), "expected a line with status ok and without an error"),
    "nothing in common": (frame("feat3d_qm_scaled", conf_id="z"), "expected conformers that both describe, found none"),
    "other molecules": (frame("feat2d_scaled", ID=np.arange(ROWS) + 9000), "expected molecules of"),
    "no lines": ({"feat2d_scaled": FRAMES["feat2d_scaled"].iloc[:0]}, "expected rows below the header, found none"),
}


@pytest.mark.parametrize("case", TABLES)
def test_a_table_that_does_not_fit_is_refused(tmp_path, case):
    frames, expected = TABLES[case]
    write_tables(tmp_path, MADE, **frames)
    told = refusal(tmp_path)
    assert f"{next(iter(frames))}.csv" in told and expected in told


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", "expected a table, found an empty file"),
        ("ID,d0,d0\n1,2,3\n", "line 1: expected a name of its own for each column, found 'd0'"),
        ("ID,d0\n7,2\n10,3,4\n", "line 3: expected 2 cells as in the header, found 3"),
        ("\n\nID,d0\n7,2\n\n10,x\n", "line 6, column 'd0': expected a number, found 'x'"),
        ('"ID\n",d0\n"7\n",2\n10,\n', "line 5, column 'd0': expected a finite number, found an empty cell"),
        ("ID,d0\n7,1e99\n", "line 2, column 'd0': expected a finite number, found a number beyond 32 bits"),
        ("ID,d0\n\xff,1\n", "line 2: expected UTF-8 text, found byte 0xff"),
        ("\xff\xfeI\0D\0", "line 1: expected UTF-8 text, found byte 0xff"),
    ],
)
def test_a_fault_is_found_on_its_line(tmp_path, text, expected):
    write_tables(tmp_path, MADE)
    (tmp_path / "feat2d_scaled.csv").write_bytes(text.encode("latin-1"))
    assert expected in refusal(tmp_path)


def test_faults_of_parquet_files_name_the_row(tmp_path):
    gap = FRAMES["feat2d_scaled"].copy()
    gap.loc[3, "d1"] = np.nan
    write_tables(tmp_path, MADE, ".parquet", feat2d_scaled=gap)
    assert "feat2d_scaled.parquet: row 4, column 'd1': expected a finite number" in refusal(tmp_path)
    write_tables(tmp_path, MADE, ".parquet", **frame("feat2d_scaled", d1="word"))
    assert "column 'd1': expected numbers, found type" in refusal(tmp_path)
    (tmp_path / "feat2d_scaled.parquet").write_bytes(b"PAR1")
    assert "expected a readable parquet file" in refusal(tmp_path)


def test_columns_of_words_may_be_left_out(tmp_path):
    write_tables(tmp_path, MADE, feat2d_scaled=FRAMES["feat2d_scaled"].assign(name="water"))
    assert "(leave the column out with data.ignore)" in refusal(tmp_path)
    assert load(config(tmp_path, ignore=["name"])).spec.modality("descriptors").width == 3


def test_what_a_failed_calculation_left_empty_is_no_fault(tmp_path):
    quantum = FRAMES["feat3d_qm_scaled"].copy()
    quantum.loc[1, ["q0", "q1"]] = np.nan
    quantum.loc[1, "error"] = "did not converge"
    write_tables(tmp_path, MADE, feat3d_qm_scaled=quantum)
    assert load(config(tmp_path)).spec.modality("conformers").width == GEOMETRY + QUANTUM


def test_features_that_are_not_there_are_asked_for(tmp_path):
    MADE.table.to_csv(tmp_path / "labels.csv", index=False)
    assert "expected features, feat2d_scaled" in refusal(tmp_path)
    write_archive(tmp_path, MADE, x3d=None, bag_offset=None)
    (tmp_path / "compounds.csv").unlink()
    assert "expected arrays of conformers" in refusal(tmp_path, modalities=["conformers"])
    assert "expected features, feat2d_scaled" in refusal(tmp_path, source="tables")
    assert load(config(tmp_path)).spec.modality("fingerprint").width == BITS


@settings(max_examples=30, deadline=None)
@given(
    st.lists(st.lists(st.floats(width=32, allow_nan=False, allow_infinity=False), min_size=2, max_size=2), min_size=1),
    st.sampled_from([".csv", ".tsv", ".parquet"]),
)
def test_numbers_are_read_as_they_are(tmp_path_factory, cells, ending):
    folder = tmp_path_factory.mktemp("numbers")
    frame = pd.DataFrame(np.array(cells, np.float32).astype(float), columns=["a", "b"])
    frame.insert(1, "ID", [f"m{i}" for i in range(len(cells))])
    file = f"t{ending}"
    if ending == ".parquet":
        frame.to_parquet(folder / file)
    else:
        frame.to_csv(folder / file, index=False, sep="\t" if ending == ".tsv" else ",")
    found = read_columns(folder, file, ["ID"])
    assert found.names == ("a", "b") and found.words["ID"].tolist() == frame["ID"].tolist()
    np.testing.assert_array_equal(found.values, np.array(cells, np.float32))


def test_only_tables_are_read_as_columns(tmp_path):
    (tmp_path / "x.h5").write_bytes(b"x")
    with pytest.raises(DataError, match="expected a CSV or parquet file"):
        read_columns(tmp_path, "x.h5", ["ID"])
