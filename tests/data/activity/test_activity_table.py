"""Tables of sensor recordings: names of columns, subjects, and what cannot be used."""

import numpy as np
import pandas as pd
import pytest
from activity_material import assert_same_samples, recorded, refusal, sessions, write_parquet

from fusion_lab.data.activity.settings import ACTIVITY, HEART_RATE_BPM, SUBJECT, TIME

FILE = "subject_101.parquet"


@pytest.fixture
def folder(tmp_path):
    write_parquet(tmp_path, subjects=("101", "102"), rows=30)
    return tmp_path


def change(folder, spoil, file=FILE):
    frame = pd.read_parquet(folder / file)
    spoil(frame).to_parquet(folder / file, index=False)


def put(column, row, value):
    def spoil(frame):
        frame = frame.astype({column: float} if isinstance(value, float) else {})
        frame.loc[row, column] = value
        return frame

    return spoil


CASES = {
    "no subject column": (lambda f: f.drop(columns=SUBJECT), "expected a column 'subject_id', found none"),
    "no time": (lambda f: f.drop(columns=TIME), "expected a column 'timestamp_s'"),
    "no activity": (lambda f: f.rename(columns={ACTIVITY: "activity"}), "(did you mean 'activity'?)"),
    "needed channel": (
        lambda f: f.rename(columns={"chest_mag_z_ut": "chest_mag_z"}),
        "expected a column 'chest_mag_z_ut', found none (did you mean 'chest_mag_z'?)",
    ),
    "empty subject": (put(SUBJECT, 4, None), "expected a subject in every row, found an empty cell"),
    "unknown activity": (put(ACTIVITY, 7, 8.0), "row 8, column 'activity_id': expected one of the activities 0, 1"),
    "no time in a row": (put(TIME, 7, float("nan")), "row 8, column 'timestamp_s': expected a time in seconds"),
    "time goes back": (put(TIME, 7, 0.5), "row 8, column 'timestamp_s': expected time to go on from"),
    "infinite": (put("hand_temp_c", 7, float("inf")), "row 8, column 'hand_temp_c': expected a number or NaN"),
    "words": (lambda f: f.assign(hand_mag_x_ut="x"), "column 'hand_mag_x_ut': expected numbers, found type"),
    "dates": (lambda f: f.assign(**{TIME: pd.Timestamp(0)}), "column 'timestamp_s': expected numbers, found type"),
    "no rows": (lambda f: f.iloc[:0], "expected a subject in every row, found no row"),
    "no activity at all": (lambda f: f.assign(**{ACTIVITY: 0}), "subject 101: expected samples of at least one"),
}


@pytest.mark.parametrize("case", CASES)
def test_tables_that_cannot_be_used(folder, case):
    spoil, told = CASES[case]
    change(folder, spoil)
    message = refusal(folder)
    assert message.startswith(FILE)
    assert told in message


@pytest.mark.parametrize("ending", ["csv", "tsv"])
@pytest.mark.parametrize("case", sorted({*CASES} - {"dates", "no rows"}))
def test_text_tables_that_cannot_be_used(folder, case, ending):
    spoil, told = CASES[case]
    frame = spoil(pd.read_parquet(folder / FILE))
    (folder / FILE).unlink()
    frame.to_csv(folder / f"a.{ending}", index=False, sep="," if ending == "csv" else "\t")
    message = refusal(folder)
    assert message.startswith(f"a.{ending}")
    told = told.replace("row 8", "line 9")  # below the header
    told = "line 2, column 'hand_mag_x_ut': expected a number or NaN, found 'x'" if case == "words" else told
    assert told in message


@pytest.mark.parametrize("content", [b"", b"PAR1", b"nothing of the kind"])
def test_files_that_are_no_parquet(folder, content):
    (folder / FILE).write_bytes(content)
    assert refusal(folder).startswith(f"{FILE}: expected a ")


def test_a_parquet_file_cut_in_half(folder):
    whole = (folder / FILE).read_bytes()
    (folder / FILE).write_bytes(whole[: len(whole) // 2])
    assert "expected a readable parquet file, found: " in refusal(folder)


def test_a_damaged_page(folder):
    whole = bytearray((folder / FILE).read_bytes())
    whole[100:2000] = bytes(1900)
    (folder / FILE).write_bytes(whole)
    assert refusal(folder).startswith(f"{FILE}: ")


@pytest.mark.parametrize("header", [b"", b"\n", b"a,,b\n1,2,3\n", b"a,b,a\n1,2,3\n", b"\xff\xfe\n"])
def test_text_without_a_header_of_names(tmp_path, header):
    (tmp_path / "a.csv").write_bytes(header)
    assert refusal(tmp_path, layout="table").startswith("a.csv: ")


def test_a_text_line_of_another_length(folder):
    frame = pd.read_parquet(folder / FILE)
    lines = frame.to_csv(index=False).splitlines()
    lines[20] = lines[20].rpartition(",")[0]
    (folder / FILE).unlink()
    (folder / "a.csv").write_text("\n".join(lines))
    width = frame.shape[1]
    assert refusal(folder) == f"a.csv: line 21: expected {width} cells, found {width - 1}"


def test_a_subject_in_two_files(folder):
    change(folder, lambda frame: frame.assign(**{SUBJECT: "101"}), "subject_102.parquet")
    first = folder / FILE
    told = f"expected each subject in one file, found '101' again (first in {first})"
    assert refusal(folder) == f"subject_102.parquet: {told}"


def test_text_and_parquet_are_the_same(folder, tmp_path):
    (tmp_path / "text").mkdir()
    for file in folder.glob("*.parquet"):
        pd.read_parquet(file).to_csv(tmp_path / "text" / f"{file.stem}.csv", index=False)
    assert_same_samples(recorded(folder), recorded(tmp_path / "text"))


def test_columns_may_be_called_otherwise(folder):
    reference = recorded(folder)
    renamed = {SUBJECT: "who", TIME: "t", ACTIVITY: "what", HEART_RATE_BPM: "pulse", "hand_acc16_x_ms2": "ax"}
    for file in ("subject_101.parquet", "subject_102.parquet"):
        change(folder, lambda frame: frame.rename(columns=renamed), file)
    read = recorded(folder, columns=renamed)
    assert read.columns == reference.columns
    assert_same_samples(reference, read)
    change(folder, put("ax", 3, float("inf")))
    assert "row 4, column 'ax'" in refusal(folder, columns=renamed)
    assert "expected a column 'ay', found none" in refusal(folder, columns=renamed | {"hand_acc16_y_ms2": "ay"})


@pytest.mark.parametrize("subjects", [(101, 102), (101.0, 102.0), (" 101", "102 ")])
def test_subjects_are_text(folder, subjects):
    reference = recorded(folder)
    for subject, file in zip(subjects, ("subject_101.parquet", "subject_102.parquet"), strict=True):
        change(folder, lambda frame, subject=subject: frame.assign(**{SUBJECT: subject}), file)
    assert_same_samples(reference, recorded(folder))


def test_subjects_of_one_file_may_take_turns(folder, tmp_path):
    """Rows in time order as a whole; and in groups of few rows, of which some are of one subject alone."""
    parts = [pd.read_parquet(folder / f"subject_{subject}.parquet") for subject in ("101", "102")]
    (tmp_path / "turns").mkdir()
    together = pd.concat(parts).sort_values(TIME, kind="stable")
    together.to_parquet(tmp_path / "turns" / "all.parquet", index=False, row_group_size=7)
    assert_same_samples(recorded(folder), recorded(tmp_path / "turns"))
    together.loc[:, "hand_temp_c"] = np.where(np.arange(len(together)) == 100, np.inf, together["hand_temp_c"])
    together.to_parquet(tmp_path / "turns" / "all.parquet", index=False, row_group_size=7)
    assert "all.parquet: row 101, column 'hand_temp_c'" in refusal(tmp_path / "turns")


def test_columns_that_only_some_files_have_are_left_out(folder):
    change(folder, lambda frame: frame.drop(columns=["chest_temp_c", "hand_acc6_x_ms2"]))
    read = recorded(folder)
    assert not {"chest_temp_c", "hand_acc6_x_ms2"} & set(read.columns)
    assert read.notes == ("columns that only some files have are left out: hand_acc6_x_ms2, chest_temp_c",)
    assert "expected a column 'chest_temp_c'" in refusal(folder, channels=("temp",))


def test_modalities_that_are_not_used_need_no_columns(folder):
    for file in ("subject_101.parquet", "subject_102.parquet"):
        change(folder, lambda frame: frame.drop(columns=[n for n in frame if n.startswith(("chest", "heart"))]), file)
    assert "expected a column 'chest_" in refusal(folder)
    read = recorded(folder, modalities=("hand", "ankle"))
    assert {name.split("_")[0] for name in read.columns} == {"hand", "ankle"}


def test_whole_numbers_and_empty_columns(folder):
    """A column without any value is one of missing cells, one of whole numbers is one of numbers."""
    for file in ("subject_101.parquet", "subject_102.parquet"):
        change(folder, lambda frame: frame.assign(hand_temp_c=None, chest_temp_c=np.arange(len(frame))), file)
    read = recorded(folder)
    values = read.subjects[0].values
    assert np.isnan(values[:, read.columns.index("hand_temp_c")]).all()
    assert values[:, read.columns.index("chest_temp_c")].tolist() == list(range(len(values)))


def test_sessions_differ_between_subjects():
    first, second = sessions(subjects=("101", "102"), rows=5).values()
    assert not first.equals(second)


@pytest.mark.parametrize(
    ("value", "told"),
    [
        (lambda n: [["101"]] * n, "column 'subject_id': expected a subject in every row, found type list<"),
        (lambda n: [{"id": 101}] * n, "column 'subject_id': expected a subject in every row, found type struct<"),
        (lambda n: ["10\n1"] * n, "column 'subject_id': expected names in one line, found '10\\n1'"),
    ],
)
def test_subjects_that_are_no_names(folder, value, told):
    change(folder, lambda frame: frame.assign(**{SUBJECT: value(len(frame))}))
    assert told in refusal(folder)


def test_a_cell_of_blanks_and_a_quote_left_open(folder):
    frame = pd.read_parquet(folder / FILE)
    for path in folder.glob("*.parquet"):
        path.unlink()
    lines = frame.to_csv(index=False).splitlines()
    cells = lines[7].split(",")
    place = list(frame.columns).index("hand_gyro_x_rads")
    for cell, told in (
        ("  ", ", column 'hand_gyro_x_rads': expected a number or NaN, found '  '"),
        ('"1', ": expected "),
    ):
        changed = ",".join([*cells[:place], cell, *cells[place + 1 :]])
        (folder / "a.csv").write_text("\n".join([*lines[:7], changed, *lines[8:]]) + "\n")
        assert refusal(folder).startswith(f"a.csv: line 8{told}")


def test_a_table_of_other_columns_is_told_in_short(folder):
    for path in folder.glob("*.parquet"):
        path.unlink()
    (folder / "a.csv").write_text(";".join(map(str, range(1000))) + "\n")
    assert len(refusal(folder)) < 120


def test_names_of_columns_that_are_no_text(folder):
    file = folder / FILE
    file.write_bytes(file.read_bytes().replace(b"hand_temp_c", b"hand_temp_\xff"))
    assert refusal(folder).startswith(f"{FILE}: expected a readable parquet file, found: 'utf-8' codec can't decode")
