"""Pieces of a file hold whole rows and together the file; work on them keeps their order and ends with its threads."""

import csv
import io
import threading

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fusion_lab.data.activity import pieces

CELLS = st.text("ab,\n\"' 1", max_size=6)


@pytest.fixture(params=[1, 7, 40], autouse=True, scope="module")
def bytes_at_once(request):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pieces, "BYTES_AT_ONCE", request.param)
        yield


@pytest.fixture(scope="module")
def file(tmp_path_factory):
    return tmp_path_factory.mktemp("pieces") / "rows.csv"


@given(rows=st.lists(st.lists(CELLS, min_size=2, max_size=3), max_size=8), ending=st.sampled_from(["\n", "\r\n"]))
def test_a_piece_holds_whole_rows_even_where_a_cell_goes_over_lines(rows, ending, file):
    text = io.StringIO()
    csv.writer(text, lineterminator=ending).writerows(rows)
    file.write_bytes(text.getvalue().encode())
    found = list(pieces.pieces(file, quoting=True))
    assert b"".join(found) == file.read_bytes()
    read = [row for piece in found for row in csv.reader(io.StringIO(piece.decode(), newline=""))]
    assert read == rows


@given(lines=st.lists(st.text("ab \"'", max_size=9), max_size=8), last=st.booleans())
def test_without_quoting_every_piece_ends_with_a_line(lines, last, file):
    file.write_text("\n".join(lines) + "\n" * last)
    found = list(pieces.pieces(file, quoting=False))
    assert b"".join(found) == file.read_bytes()
    assert all(piece.endswith(b"\n") for piece in found[:-1])
    assert all(piece.count(b"\n") <= 1 + pieces.BYTES_AT_ONCE for piece in found)


@given(st.lists(st.integers(), max_size=60))
def test_what_is_done_side_by_side_comes_back_in_order(numbers):
    assert pieces.side_by_side(lambda number: -number, iter(numbers)) == [-number for number in numbers]


def test_a_failure_is_the_first_in_order_and_leaves_no_thread_behind():
    before = threading.active_count()
    taken = []

    def items():
        for number in range(1000):
            taken.append(number)
            yield number

    with pytest.raises(ZeroDivisionError):
        pieces.side_by_side(lambda number: 1 // (5 - number), items())
    assert threading.active_count() == before
    assert len(taken) < 1000, "what follows is not begun"
