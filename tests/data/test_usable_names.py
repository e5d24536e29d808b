"""Names of modalities and tasks: parts of paths, and of what a served model takes and answers."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fusion_lab.config import validate
from fusion_lab.contracts import ConfigError
from fusion_lab.data import DOMAINS
from fusion_lab.data.names import RESERVED, usable_names
from fusion_lab.serving.answers import ATTENTION
from fusion_lab.serving.intake import ID, QUALITY


@given(st.from_regex(r"[A-Za-z][A-Za-z0-9_-]{0,9}", fullmatch=True))
def test_plain_words_are_names_unless_reserved(name):
    if name in RESERVED:
        with pytest.raises(ValueError, match="reserved"):
            usable_names({name: 1})
    else:
        assert usable_names({name: 1}) == {name: 1}


@pytest.mark.parametrize("name", ["", "1st", "a.b", "a/b", "ä", "a b", "a\n"])
def test_other_words_are_none(name):
    with pytest.raises(ValueError, match="expected names of letters, digits, _ and -, a letter first"):
        usable_names({name: 1})


def test_what_served_rows_and_answers_hold_is_reserved():
    assert {ID, QUALITY, ATTENTION} <= set(RESERVED)


@pytest.mark.parametrize("name", RESERVED)
def test_no_domain_takes_a_reserved_name(name):
    task, modality = {"column": "y", "positive": 1}, {"file": "a.csv"}
    trees = {
        "targets.tasks": (
            "table",
            {"id": "p", "targets": {"file": "t.csv", "tasks": {name: task}}, "modalities": {"a": modality}},
        ),
        "modalities": (
            "table",
            {"id": "p", "targets": {"file": "t.csv", "tasks": {"y": task}}, "modalities": {name: modality}},
        ),
        "tasks": ("synthetic", {"tasks": {name: {}}}),
    }
    for path, (domain, tree) in trees.items():
        with pytest.raises(ConfigError) as refused:
            validate(DOMAINS[domain].config, tree, "data")
        told = f"expected none of the reserved names {', '.join(RESERVED)}, found {name!r}: choose another"
        assert str(refused.value) == f"data: {path}: {told}"
