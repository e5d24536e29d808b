"""Times of day are read as the standard library reads them; what is none is refused with its row."""

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fusion_lab.contracts import DataError
from fusion_lab.data.relapse.clock import seconds_of_day

pytestmark = pytest.mark.filterwarnings("error")


def seconds(of):
    return of.hour * 3600 + of.minute * 60 + of.second + of.microsecond / 1e6


def refused(times, first=1):
    with pytest.raises(DataError) as error:
        seconds_of_day(times, "hrm.parquet", "time", first)
    message = str(error.value)
    assert "\n" not in message
    return message


@given(times=st.lists(st.times(), max_size=30))
def test_text_and_times_are_the_same_seconds(times):
    expected = [seconds(of) for of in times]
    for kind in (pa.string(), pa.large_string()):
        texts = pa.array([of.isoformat() for of in times], kind)  # with microseconds, or without where there are none
        np.testing.assert_allclose(seconds_of_day(texts, "", ""), expected, rtol=0, atol=1e-9)
    for unit in ("us", "ns"):
        np.testing.assert_allclose(seconds_of_day(pa.array(times, pa.time64(unit)), "", ""), expected, atol=1e-9)


@given(times=st.lists(st.times(), min_size=2, max_size=30))
def test_a_slice_is_read_from_its_beginning(times):
    texts = pa.array([of.isoformat() for of in times])
    np.testing.assert_array_equal(seconds_of_day(texts[1:], "", ""), seconds_of_day(texts, "", "")[1:])
    assert seconds_of_day(texts.dictionary_encode(), "", "").tolist() == seconds_of_day(texts, "", "").tolist()


@pytest.mark.parametrize("digits", range(1, 10))
def test_one_to_nine_digits_after_the_point(digits):
    (found,) = seconds_of_day(pa.array([f"00:00:01.{'7' * digits}"]), "", "")
    assert found == pytest.approx(float(f"1.{'7' * digits}"), abs=1e-12)


@pytest.mark.parametrize(
    "wrong",
    ["24:00:00", "12:60:00", "12:00:60", "1:02:03", "12-00-00", "noon", "12:00:00.", "12:00:0x", "12:00", "é2:00:00"],
)
def test_a_text_that_is_no_time_is_refused_with_its_row(wrong):
    message = refused(pa.array(["00:00:00", "00:00:01.5", wrong]), first=100)
    assert message.startswith("hrm.parquet: row 102, column 'time': expected a time of day")
    assert message.endswith(f"found {wrong!r}")


@pytest.mark.parametrize("kind", [pa.string(), pa.time64("us"), pa.time32("s")])
def test_an_empty_cell_is_refused_with_its_row(kind):
    assert "row 1, column 'time'" in refused(pa.array([None], kind)) and "an empty cell" in refused(
        pa.array([None], kind)
    )


def test_numbers_are_no_times():
    assert "expected times of day, found type double" in refused(pa.array([0.5]))
