"""Raw files that cannot be used: the line is named, whatever is wrong with it and wherever it is."""

import os

import numpy as np
import pandas as pd
import pytest
from activity_material import recorded, refusal, sessions, write_dat
from hypothesis import given, settings
from hypothesis import strategies as st

from fusion_lab.data.activity import pieces
from fusion_lab.data.activity.settings import ACTIVITIES, ACTIVITY, COLUMNS, HEART_RATE_BPM, TIME, TRANSIENT

ROWS = 60
FILE = "subject101.dat"


@pytest.fixture(scope="module")
def lines(tmp_path_factory):
    folder = tmp_path_factory.mktemp("raw")
    write_dat(folder, subjects=("101",), activities=(1, 4), rows=ROWS, transient=5)
    return (folder / FILE).read_text().splitlines()


@pytest.fixture(params=[1 << 20, 4096], ids=["at once", "in pieces"], autouse=True)
def cut(request, monkeypatch):
    """The file is parsed whole, or a few lines at a time."""
    monkeypatch.setattr(pieces, "BYTES_AT_ONCE", request.param)


def spoiled(folder, lines, number, change):
    """Line ``number`` changed, from 1; what the file is refused with."""
    cells = lines[number - 1].split(" ")
    folder.mkdir(exist_ok=True)
    (folder / FILE).write_text("\n".join([*lines[: number - 1], " ".join(change(cells)), *lines[number:]]) + "\n")
    return refusal(folder)


def cell(column, value):
    def change(cells):
        cells = list(cells)
        cells[COLUMNS.index(column)] = value
        return cells

    return change


CASES = {
    "too few": (lambda cells: cells[:-1], "expected 54 cells, found 53"),
    "too many": (lambda cells: [*cells, "1.0"], "expected 54 cells, found 55"),
    "one": (lambda cells: cells[:1], "expected 54 cells, found 1"),
    "space at the end": (lambda cells: [*cells, ""], "expected 54 cells, found 55"),
    "two spaces": (lambda cells: [cells[0], "", *cells[1:]], "expected 54 cells, found 55"),
    "word": (cell("chest_temp_c", "warm"), "column 'chest_temp_c': expected a number or NaN, found 'warm'"),
    "empty cell": (cell("chest_temp_c", ""), "column 'chest_temp_c': expected a number or NaN, found ''"),
    "comma": (cell("hand_mag_x_ut", "1,5"), "column 'hand_mag_x_ut': expected a number or NaN, found '1,5'"),
    "underscore": (cell("hand_mag_x_ut", "1_5"), "column 'hand_mag_x_ut': expected a number or NaN, found '1_5'"),
    "word as time": (cell(TIME, "noon"), f"column {TIME!r}: expected a number or NaN, found 'noon'"),
    "no time": (cell(TIME, "NaN"), f"column {TIME!r}: expected a time in seconds, found nan"),
    "infinite time": (cell(TIME, "inf"), f"column {TIME!r}: expected a time in seconds, found inf"),
    "unknown activity": (cell(ACTIVITY, "8"), f"column {ACTIVITY!r}: expected one of the activities 0, 1, 2"),
    "half an activity": (cell(ACTIVITY, "1.5"), f"column {ACTIVITY!r}: expected one of the activities 0, 1, 2"),
    "no activity": (cell(ACTIVITY, "NaN"), f"column {ACTIVITY!r}: expected one of the activities 0, 1, 2"),
    "infinite": (cell("ankle_gyro_y_rads", "-inf"), "column 'ankle_gyro_y_rads': expected a number or NaN, found -inf"),
    "too large": (cell("ankle_gyro_y_rads", "1e300"), "column 'ankle_gyro_y_rads': expected a number or NaN, found "),
}


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("number", [1, 66, 135], ids=["first", "middle", "last"])
def test_a_line_that_cannot_be_read_is_named(tmp_path, lines, case, number):
    assert len(lines) == 135
    change, told = CASES[case]
    message = spoiled(tmp_path, lines, number, change)
    assert message.startswith(f"{FILE}: line {number}")
    assert told in message


@settings(max_examples=25, deadline=None)
@given(number=st.integers(1, 135), count=st.integers(1, 60).filter(lambda n: n != len(COLUMNS)))
def test_no_wrong_number_of_cells_gets_through(tmp_path_factory, lines, number, count):
    """Pandas fills short lines up with NaN; here no line is taken for what it is not."""
    message = spoiled(tmp_path_factory.mktemp("cells"), lines, number, lambda cells: (cells * 2)[:count])
    assert f"line {number}: expected 54 cells, found {count}" in message


@pytest.mark.parametrize("number", [2, 40, 135])
def test_time_that_goes_back(tmp_path, lines, number):
    before = float(lines[number - 2].split(" ")[0])
    message = spoiled(tmp_path, lines, number, cell(TIME, f"{before - 0.01:.2f}"))
    place = f"{FILE}: line {number}, column {TIME!r}"
    assert message == f"{place}: expected time to go on from {before:g} s, found {before - 0.01:g} s"


def test_two_samples_of_one_time_stay(tmp_path, lines):
    doubled = [line for line in lines for _ in range(2)]
    (tmp_path / FILE).write_text("\n".join(doubled))
    (samples,) = recorded(tmp_path).subjects
    assert [recording.rows for recording in samples.recordings] == [2 * ROWS, 2 * ROWS]


def test_blank_lines_are_counted_as_lines_and_not_as_samples(tmp_path, lines):
    spaced = [lines[0], "", *lines[1:30], "", "", *lines[30:], ""]
    (tmp_path / FILE).write_text("\n".join(spaced))
    assert len(recorded(tmp_path).subjects[0].values) == 2 * ROWS
    assert spoiled(tmp_path, spaced, 40, cell(ACTIVITY, "8")).startswith(f"{FILE}: line 40, column")
    assert spoiled(tmp_path, spaced, 50, lambda cells: cells[1:]).startswith(f"{FILE}: line 50: expected 54 cells")


def test_lines_may_end_as_on_windows(tmp_path, lines):
    (tmp_path / "unix").mkdir()
    (tmp_path / "unix" / FILE).write_bytes("\n".join(lines).encode())
    (tmp_path / FILE).write_bytes("\r\n".join([*lines, ""]).encode())
    np.testing.assert_array_equal(recorded(tmp_path).subjects[0].values, recorded(tmp_path / "unix").subjects[0].values)


def test_values_are_what_pandas_reads(tmp_path, lines):
    (tmp_path / FILE).write_text("\n".join(lines))
    frame = pd.read_csv(tmp_path / FILE, sep=" ", header=None, names=list(COLUMNS), engine="c", dtype=np.float32)
    (samples,) = recorded(tmp_path).subjects
    kept = frame[frame[ACTIVITY] != TRANSIENT].drop(columns=[TIME, ACTIVITY, HEART_RATE_BPM])
    np.testing.assert_array_equal(samples.values[:, 1:], kept)


def test_a_subject_that_does_nothing(tmp_path):
    frames = sessions(subjects=("101", "102"), rows=20)
    frames["102"] = frames["102"].assign(**{ACTIVITY: TRANSIENT})
    write_dat(tmp_path, frames)
    count = len(frames["102"])
    told = f"subject102.dat: expected samples of at least one activity, found {count} samples of none"
    assert refusal(tmp_path) == told


@pytest.mark.parametrize("content", [b"", b"\n\n", b" \n"])
def test_files_without_content(tmp_path, content):
    (tmp_path / FILE).write_bytes(content)
    assert refusal(tmp_path).startswith(f"{FILE}: ")


def test_an_empty_file_is_called_so(tmp_path):
    (tmp_path / FILE).touch()
    assert refusal(tmp_path) == f"{FILE}: expected lines of 54 cells, found an empty file"


def test_bytes_that_are_no_text(tmp_path):
    (tmp_path / FILE).write_bytes(np.random.default_rng(0).bytes(20_000))
    assert refusal(tmp_path).startswith(f"{FILE}: ")


def test_a_file_of_another_name(tmp_path, lines):
    (tmp_path / "subject 101.dat").write_text("\n".join(lines))
    assert "expected a name like subject101.dat" in refusal(tmp_path)


def test_optional_sessions_are_noted(tmp_path):
    write_dat(tmp_path / "Protocol", subjects=("101",), rows=20, transient=0)
    write_dat(tmp_path / "Optional", subjects=("101",), rows=20, transient=0, seed=1)
    read = recorded(tmp_path)
    assert len(read.subjects[0].values) == 3 * 20
    assert [note for note in read.notes if "Optional" in note]


def test_every_activity_of_the_data_set_is_known(tmp_path):
    write_dat(tmp_path, subjects=("101",), activities=tuple(ACTIVITIES), rows=3, transient=3)
    (samples,) = recorded(tmp_path).subjects
    assert sorted(recording.activity for recording in samples.recordings) == sorted(ACTIVITIES)


@pytest.mark.parametrize("end", ["\n", "\r\n", "\r", "\n\n"])
@pytest.mark.parametrize("value", ["x", "inf"])
def test_lines_are_counted_whatever_ends_them(tmp_path, lines, end, value):
    """A mark of UTF-8 at the beginning and signs before numbers are nothing odd."""
    changed = [cell(TIME, "+" + lines[0].split(" ")[0])(lines[0].split(" ")), *(line.split(" ") for line in lines[1:])]
    changed[6] = cell("hand_temp_c", value)(changed[6])
    text_of = end.join(" ".join(cells) for cells in changed)
    (tmp_path / FILE).write_bytes(b"\xef\xbb\xbf" + text_of.encode())
    number = 13 if end == "\n\n" else 7
    assert f"line {number}, column 'hand_temp_c': expected a number or NaN, found " in refusal(tmp_path)


@pytest.mark.filterwarnings("error")
def test_a_time_beyond_32_bits(tmp_path, lines):
    message = spoiled(tmp_path, lines, len(lines), cell(TIME, "1e300"))
    assert message.startswith(f"{FILE}: expected times that tell a gap of 0.02 s, found numbers rounded to ")


def test_a_digit_of_another_alphabet(tmp_path, lines):
    told = "line 5, column 'hand_temp_c': expected a number or NaN, found '٣'"
    assert told in spoiled(tmp_path, lines, 5, cell("hand_temp_c", "٣"))


def test_what_is_no_file(tmp_path, lines):
    (tmp_path / FILE).mkdir()
    assert refusal(tmp_path) == f"{FILE}: expected a readable file, found a folder"
    (tmp_path / FILE).rmdir()
    os.mkfifo(tmp_path / FILE)  # who opens it waits for ever
    assert refusal(tmp_path) == f"{FILE}: expected a readable file, found none"
