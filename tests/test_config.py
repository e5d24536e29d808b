"""Laws of settings: what is written is what is read, and every mistake is told once, in one line, where it is."""

from __future__ import annotations

from typing import Annotated, Literal

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import Field, ValidationError, model_validator

from fusion_lab.config import (
    Config,
    assign,
    dump_yaml,
    flatten,
    load_yaml,
    nearest,
    parse_overrides,
    parse_yaml,
    validate,
)
from fusion_lab.contracts import ConfigError


class Narrow(Config):
    kind: Literal["narrow"] = "narrow"
    width: int = 1


class Deep(Config):
    kind: Literal["deep"] = "deep"
    depth: int = Field(1, ge=1)
    names: dict[str, int | Literal["all"]] = {}

    @model_validator(mode="after")
    def _even(self) -> Deep:
        if self.depth == 7:
            raise ValueError(f"depth: expected none of seven, found {self.depth}")
        return self


class Section(Config):
    width: int = 3
    clip: float | None = None

    @model_validator(mode="after")
    def _odd(self) -> Section:
        if self.width % 2 == 0:
            raise ValueError(f"expected an odd width, found {self.width}")
        return self


class Settings(Config):
    model: Annotated[Narrow | Deep, Field(discriminator="kind")] = Narrow()
    sections: dict[str, Section] = {}
    row: list[Section] = []
    maybe: Section | None = None
    rate: float = 1.0
    count: int = 1
    flag: bool = False
    name: str = "x"
    method: Literal["mean", "median"] = "mean"
    needed: int
    scalar: str | int | bool = "x"
    some: list[int] = Field([1], min_length=1)
    words: dict[str, int] = Field({"a": 1}, min_length=1)
    code: str = Field("a1", pattern="^[a-z][0-9]$")


def settings_of(text: str) -> Settings:
    return validate(Settings, {"needed": 1, **parse_yaml(text, "f.yaml")}, "f.yaml")


FAULTS = {
    "cuont: 1": "cuont: unknown key (did you mean 'count'?)",
    "zzz: 1": "zzz: unknown key (known: model, sections,",
    "maybe: {widht: 1}": "maybe.widht: unknown key (did you mean 'width'?)",
    "sections: {a: {widht: 1}}": "sections.a.widht: unknown key (did you mean 'width'?)",
    "row: [{width: 1}, {widht: 1}]": "row.1.widht: unknown key (did you mean 'width'?)",
    "model: {kind: deep, detph: 3}": "model.detph: unknown key (did you mean 'depth'?)",
    "model: {kind: deep, width: 3}": "model.width: unknown key (did you mean 'depth'?)",
    "model: {kind: depe}": "model.kind: unknown 'depe' (did you mean 'deep'?)",
    "model: {width: 3}": "model: expected a key 'kind', found none",
    "model: {kind: deep, depth: 0}": "model.depth: expected greater than or equal to 1, found 0",
    "model: {kind: deep, depth: x}": 'model.depth: expected a valid integer, found "x"',
    "model: {kind: deep, depth: 7}": "model: depth: expected none of seven, found 7",
    "model: {kind: deep, names: {deep: x}}": "model.names.deep: expected a valid integer or 'all', found \"x\"",
    "model: {kind: deep, names: {1: x}}": "model.names.1: expected a valid integer or 'all', found \"x\"",
    "scalar: [1]": "scalar: expected a valid string or a valid integer or a valid boolean, found [1]",
    "some: []": "some: expected at least 1 item, found []",
    "words: {}": "words: expected at least 1 item, found {}",
    "code: a": "code: expected a match of pattern '^[a-z][0-9]$', found \"a\"",
    "model: 3": "model: expected an object, found 3",
    "maybe: {width: 2}": "maybe: expected an odd width, found 2",
    "maybe: {width: 1.5}": "maybe.width: expected a valid integer, found 1.5",
    "rate: '1'": 'rate: expected a valid number, found "1"',
    "rate: .inf": "rate: expected a finite number, found Infinity",
    "rate: .nan": "rate: expected a finite number, found NaN",
    "count: 1.0": "count: expected a valid integer, found 1.0",
    "count: true": "count: expected a valid integer, found true",
    "flag: 1": "flag: expected a valid boolean, found 1",
    "name: 1": "name: expected a valid string, found 1",
    "method: mode": "method: expected 'mean' or 'median', found \"mode\"",
    "needed: null": "needed: expected a valid integer, found null",
    "row: {a: 1}": "row: expected a valid array, found",
    "name: !!binary aGk=": "expected plain YAML values, found b'hi'",
    "row: !!set {a}": "expected plain YAML values, found {'a'}",
}


@pytest.mark.parametrize("text", FAULTS)
def test_a_fault_is_told_with_its_path_and_what_was_found(text):
    with pytest.raises(ConfigError) as error:
        settings_of(text)
    assert str(error.value).startswith(f"f.yaml: {FAULTS[text]}")
    assert "\n" not in str(error.value)


def test_what_is_missing_is_told():
    with pytest.raises(ConfigError, match="^f.yaml: needed: expected a value, found none$"):
        validate(Settings, {}, "f.yaml")


def test_an_unknown_key_is_told_before_a_wrong_value():
    with pytest.raises(ConfigError, match="nmae: unknown key"):
        settings_of("{count: x, nmae: y}")


NOT_YAML = {
    "a: [1": "f.yaml:1:6: expected valid YAML",
    "a: 1\na: 2": "f.yaml:2:1: expected valid YAML, found: key 'a' given twice",
    "b: {a: 1, a: 2}": "f.yaml:1:11: expected valid YAML, found: key 'a' given twice",
    "{1: a, 1: b}": "f.yaml:1:8: expected valid YAML, found: key 1 given twice",
    "? [a]\n: 1": "f.yaml:1:3: expected valid YAML, found: a key that is no single value",
    "!!map [a]": "f.yaml:1:1: expected valid YAML",
    "!!int x": "f.yaml: expected valid YAML",
    "a: !!python/object:os.system x": "f.yaml:1:4: expected valid YAML",
    "a: \tb: c": "f.yaml:1:4: expected valid YAML",
    "a: *b": "f.yaml:1:4: expected valid YAML, found: found undefined alias",
    "a: \x00": "f.yaml: expected valid YAML",
}


@pytest.mark.parametrize("text", NOT_YAML)
def test_what_is_no_yaml_is_told_with_its_line(text):
    with pytest.raises(ConfigError) as error:
        parse_yaml(text, "f.yaml")
    assert str(error.value).startswith(NOT_YAML[text])
    assert "\n" not in str(error.value)


@settings(max_examples=200, deadline=None)
@given(st.text(alphabet="ab1.:-{}[],&*!?|>#'\"% \n\t<=~e+", max_size=30))
def test_any_text_is_settings_or_a_fault_in_one_line(text):
    try:
        tree = parse_yaml(text, "f.yaml")
        validate(Settings, {"needed": 1, "maybe": tree, "sections": {"x": tree}}, "f.yaml")
    except ConfigError as error:
        assert "\n" not in str(error)


def test_settings_that_hold_themselves_are_refused():
    with pytest.raises(ConfigError, match="expected settings that do not contain themselves"):
        validate(Settings, parse_yaml("maybe: &a {width: *a}", "f.yaml"), "f.yaml")
    with pytest.raises(ConfigError, match="expected keys that are texts or numbers"):
        validate(Settings, parse_yaml("!!binary aGk=: 1", "f.yaml"), "f.yaml")


def test_numbers_are_read_as_numbers_and_dates_as_texts():
    text = "[1e-4, 1E3, -2e5, .5e1, +1.e2, 1.5, 3, 2020-01-01, 1e, e4, 1e-4x]"
    expected = [1e-4, 1000.0, -2e5, 5.0, 100.0, 1.5, 3, "2020-01-01", "1e", "e4", "1e-4x"]
    found = parse_yaml(text, "f.yaml")
    assert found == expected
    assert [type(value) for value in found] == [type(value) for value in expected]


def test_merge_keys_and_anchors_are_read():
    tree = parse_yaml("{base: &b {width: 1, clip: 2.0}, maybe: {<<: *b, width: 3}}", "f.yaml")
    assert tree["maybe"] == {"width": 3, "clip": 2.0}


def test_a_missing_file_is_told_with_its_neighbour(tmp_path):
    (tmp_path / "demo.yaml").write_text("a: 1")
    (tmp_path / "demo.txt").write_text("a: 1")
    with pytest.raises(ConfigError, match=r"dmeo.yaml: expected a YAML file, .*\(did you mean 'demo.yaml'\?\)"):
        load_yaml(tmp_path / "dmeo.yaml")
    with pytest.raises(ConfigError, match=r"x.yaml: expected a YAML file, found no such file$"):
        load_yaml(tmp_path / "nowhere" / "x.yaml")


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (b"name: caf\xe9", "expected a readable UTF-8 text"),
        (b"\x89HDF\r\n\x1a\n", "expected a readable UTF-8 text"),
        (b"", "expected a mapping of settings, found NoneType"),
        (b"- a\n- b", "expected a mapping of settings, found list"),
        (b"just a text", "expected a mapping of settings, found str"),
    ],
)
def test_a_file_that_holds_no_settings_is_refused(tmp_path, content, told):
    file = tmp_path / "x.yaml"
    file.write_bytes(content)
    with pytest.raises(ConfigError, match=told) as error:
        load_yaml(file)
    assert str(error.value).startswith(str(file))
    assert "\n" not in str(error.value)


def test_a_folder_is_no_file(tmp_path):
    with pytest.raises(ConfigError, match="expected a readable UTF-8 text"):
        load_yaml(tmp_path)


scalars = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.floats(allow_nan=False, allow_infinity=False),
    st.text(max_size=20),
    st.sampled_from(["1e-4", "1E5", ".5e1", "2020-01-01", "yes", "null", "~", "<<", "=", "0x1f", "1_000", "12:30:00"]),
)
trees = st.dictionaries(
    st.text(min_size=1, max_size=8),
    st.recursive(
        scalars,
        lambda v: st.one_of(st.lists(v, max_size=3), st.dictionaries(st.text(max_size=5), v, max_size=3)),
        max_leaves=6,
    ),
    max_size=4,
)


@settings(max_examples=80, deadline=None)
@given(trees)
def test_settings_written_read_back_the_same(tree):
    text = dump_yaml(tree)
    assert parse_yaml(text, "f.yaml") == tree
    assert list(parse_yaml(text, "f.yaml")) == list(tree), "in their order"
    assert yaml.safe_load(text) == tree, "for other readers of YAML too"


def test_what_is_there_twice_is_written_twice():
    shared = {"width": 1}
    assert "&" not in dump_yaml({"a": shared, "b": shared})


def test_overrides_are_yaml_scalars_at_dotted_paths():
    assert parse_overrides(" model.d_model = 32;optimiser.lr=1e-3 ; ;a=[1, x]; b=; c.d=true;e='a=b'") == {
        "model.d_model": 32,
        "optimiser.lr": 1e-3,
        "a": [1, "x"],
        "b": None,
        "c.d": True,
        "e": "a=b",
    }
    assert parse_overrides("") == {}


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("model.d_model", "set: expected path=value, found 'model.d_model'"),
        ("=3", "set: expected path=value, found '=3'"),
        ("a=1; b", "set: expected path=value, found 'b'"),
        ("a=[1", "set: a:1:3: expected valid YAML"),
    ],
)
def test_an_override_that_is_none_is_told(text, told):
    with pytest.raises(ConfigError) as error:
        parse_overrides(text)
    assert str(error.value).startswith(told)


def test_assigning_makes_the_way_and_merges_mappings():
    tree = {"model": {"d_model": 8, "nhead": 2}, "seed": 0}
    assign(tree, "model.d_model", 16)
    assign(tree, "model", {"dropout": 0.1})
    assign(tree, "a.b.c", 1)
    assign(tree, "seed.x", 2)
    assert tree == {
        "model": {"d_model": 16, "nhead": 2, "dropout": 0.1},
        "seed": {"x": 2},
        "a": {"b": {"c": 1}},
    }


paths = st.dictionaries(st.text("abc", min_size=1, max_size=3), st.integers(), max_size=3)


@given(st.dictionaries(st.text("abc", min_size=1, max_size=3), st.one_of(st.integers(), paths)))
def test_flattening_is_undone_by_assigning(tree):
    rebuilt: dict = {}
    for path, value in flatten(tree).items():
        assign(rebuilt, path, value)
    assert rebuilt == tree


def test_the_nearest_name_is_suggested_or_all_are_told():
    assert nearest("trian", ["train", "hpo"]) == " (did you mean 'train'?)"
    assert nearest("zzz", ["train", "hpo"]) == " (known: train, hpo)"
    assert nearest("zzz", []) == ""


def test_settings_are_frozen():
    with pytest.raises(ValidationError, match="frozen"):
        settings_of("{}").count = 2  # ty: ignore[invalid-assignment] - that is the point
