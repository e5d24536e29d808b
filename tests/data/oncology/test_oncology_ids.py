"""Ids as they are compared: the first number counts."""

from hypothesis import given
from hypothesis import strategies as st

from fusion_lab.data.oncology.ids import normalised

words = st.text(st.characters(exclude_categories=["Nd", "Cs"]))


@given(st.integers(0), st.integers(0, 9), words, words)
def test_only_the_first_number_counts_whatever_stands_around_it(number, zeros, before, after):
    assert normalised(f"{before}{'0' * zeros}{number}{after}") == str(number)


@given(words)
def test_an_id_without_a_number_stays(word):
    assert normalised(word) == word


@given(st.text())
def test_normalising_twice_changes_nothing(text):
    assert normalised(normalised(text)) == normalised(text)
