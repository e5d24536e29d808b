"""Typed, frozen settings: read from YAML, overridden by dotted paths, refused with the nearest known key."""

from __future__ import annotations

import difflib
import json
import re
from collections.abc import Hashable, Mapping
from pathlib import Path
from typing import Any, TypeVar

import yaml
from pydantic import BaseModel, ConfigDict, ValidationError
from yaml.constructor import ConstructorError

from fusion_lab.contracts import ConfigError


class Config(BaseModel):
    """A frozen section of settings. Unknown keys, wrong types and values out of range are errors."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)


C = TypeVar("C", bound=BaseModel)


class _Loader(yaml.SafeLoader):
    """YAML with 1e-4 as a number, and a key given twice as an error."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen: set[Any] = set()
        for key_node, _ in node.value if isinstance(node, yaml.MappingNode) else ():
            if key_node.tag == "tag:yaml.org,2002:merge":
                continue
            key = self.construct_object(key_node, deep=True)
            if not isinstance(key, Hashable):
                raise ConstructorError(None, None, "a key that is no single value", key_node.start_mark)
            if key in seen:
                raise ConstructorError(None, None, f"key {key!r} given twice", key_node.start_mark)
            seen.add(key)
        return super().construct_mapping(node, deep=deep)


# "Input should be a valid integer", "Dictionary should have at least 1 item"
_WORDING = re.compile(r"^\w+ should (be |have )?")
_EXPONENT = re.compile(r"^[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)$")
_Loader.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in resolvers if tag != "tag:yaml.org,2002:timestamp"]
    for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
_Loader.add_implicit_resolver("tag:yaml.org,2002:float", _EXPONENT, list("-+0123456789."))


class _Dumper(yaml.SafeDumper):
    """Quotes the texts that :class:`_Loader` would take for numbers; repeats what is there twice, without anchors."""

    def ignore_aliases(self, data: Any) -> bool:
        return True


def _text(dumper: yaml.SafeDumper, text: str) -> yaml.ScalarNode:
    # Line breaks beside \n survive in double quotes only: elsewhere PyYAML writes them as they are and reads a space.
    style = '"' if any(mark in text for mark in "\x85\u2028\u2029") else None
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style=style)


_Dumper.add_representer(str, _text)
_Dumper.add_implicit_resolver("tag:yaml.org,2002:float", _EXPONENT, list("-+0123456789."))


def parse_yaml(text: str, source: str) -> Any:
    """A YAML text as Python values; ``source`` names it in errors.

    >>> parse_yaml("{lr: 1e-4}", "here")
    {'lr': 0.0001}
    """
    try:
        return yaml.load(text, Loader=_Loader)  # noqa: S506 - a SafeLoader underneath
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark
        where = f"{source}:{mark.line + 1}:{mark.column + 1}" if mark else source
        raise ConfigError(f"{where}: expected valid YAML, found: {error.problem}") from None
    except yaml.YAMLError as error:
        raise ConfigError(f"{source}: expected valid YAML, found: {' '.join(str(error).split())}") from None
    except ValueError as error:  # a tag that its value does not fit, such as !!int x
        raise ConfigError(f"{source}: expected valid YAML, found: {error}") from None


def load_yaml(path: Path) -> dict[str, Any]:
    """A YAML file holding a mapping.

    Raises:
        ConfigError: the file is missing, is no text, no YAML, or no mapping.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise ConfigError(f"{path}: expected a YAML file, found no such file{_neighbours(path)}") from None
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: expected a readable UTF-8 text, found: {error}") from None
    tree = parse_yaml(text, str(path))
    if not isinstance(tree, dict):
        raise ConfigError(f"{path}: expected a mapping of settings, found {type(tree).__name__}")
    return tree


def dump_yaml(tree: Mapping[str, Any]) -> str:
    """The text of a mapping, in the order of its keys."""
    return yaml.dump(dict(tree), Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=120)


def validate(kind: type[C], tree: Mapping[str, Any], source: str) -> C:
    """The settings ``kind`` from a mapping; the first thing wrong with it is told in one line.

    Raises:
        ConfigError: with ``source``, the dotted path, what was expected and what was found.
    """
    text = as_json(tree, source)
    try:
        return kind.model_validate_json(text)
    except ValidationError as error:
        raise ConfigError(f"{source}: {_first_fault(kind, json.loads(text), error)}") from None


def as_json(tree: Mapping[str, Any], source: str) -> str:
    """A mapping as a JSON text.

    Raises:
        ConfigError: with ``source``; a value or a key that JSON has no word for, a mapping that contains itself.
    """
    try:
        return json.dumps(tree, default=_refuse(source))
    except TypeError:
        raise ConfigError(f"{source}: expected keys that are texts or numbers, found others") from None
    except ValueError as error:
        if isinstance(error, ConfigError):
            raise
        raise ConfigError(f"{source}: expected settings that do not contain themselves, found a loop") from None


def faulty_paths(kind: type[BaseModel], tree: Mapping[str, Any]) -> set[str]:
    """The dotted paths of all that is wrong with a mapping as settings of ``kind``."""
    text = json.dumps(tree, default=str)
    try:
        kind.model_validate_json(text)
    except ValidationError as error:
        return {_path(fault, json.loads(text)) for fault in error.errors(include_url=False)}
    return set()


def flatten(tree: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested mappings as dotted paths.

    >>> flatten({"model": {"d_model": 64}, "seed": 0})
    {'model.d_model': 64, 'seed': 0}
    """
    flat: dict[str, Any] = {}
    for key, value in tree.items():
        path = f"{prefix}{key}"
        if isinstance(value, Mapping) and value:
            flat.update(flatten(value, f"{path}."))
        else:
            flat[path] = value
    return flat


def parse_overrides(text: str) -> dict[str, Any]:
    """``"model.d_model=32; optimiser.lr=1e-3"`` as ``{path: value}``; values are YAML scalars or flow collections.

    >>> parse_overrides("model.d_model=32; optimiser.lr=1e-3")
    {'model.d_model': 32, 'optimiser.lr': 0.001}
    """
    overrides: dict[str, Any] = {}
    for part in filter(None, (p.strip() for p in text.split(";"))):
        path, equals, value = part.partition("=")
        if not equals or not path.strip():
            raise ConfigError(f"set: expected path=value, found {part!r}")
        overrides[path.strip()] = parse_yaml(value.strip(), f"set: {path.strip()}")
    return overrides


def assign(tree: dict[str, Any], path: str, value: Any) -> None:
    """Puts ``value`` at a dotted path, making the mappings on the way; a mapping is merged into a mapping."""
    *parents, leaf = path.split(".")
    for key in parents:
        child = tree.get(key)
        if not isinstance(child, dict):
            child = tree[key] = {}
        tree = child
    if isinstance(value, Mapping) and isinstance(tree.get(leaf), dict):
        for key, inner in value.items():
            assign(tree[leaf], key, inner)
    else:
        tree[leaf] = value


def nearest(word: str, known: list[str]) -> str:
    """``" (did you mean 'x'?)"`` or what is known, for the end of an error.

    >>> nearest("d_modle", ["d_model", "nhead"])
    " (did you mean 'd_model'?)"
    """
    close = difflib.get_close_matches(word, known, n=1, cutoff=0.6)
    if close:
        return f" (did you mean {close[0]!r}?)"
    return f" (known: {', '.join(known)})" if known else ""


def _neighbours(path: Path) -> str:
    if not path.parent.is_dir():
        return ""
    names = sorted(p.name for p in path.parent.iterdir() if p.suffix == path.suffix)
    return nearest(path.name, names)


def _refuse(source: str):
    def refuse(value: object) -> object:
        raise ConfigError(f"{source}: expected plain YAML values, found {value!r}")

    return refuse


def _first_fault(kind: type[BaseModel], tree: Mapping[str, Any], error: ValidationError) -> str:
    """``tree`` as JSON has it, with texts as keys."""
    faults = error.errors(include_url=False)
    fault = next((f for f in faults if f["type"] == "extra_forbidden"), faults[0])
    location = [str(part) for part in fault["loc"]]
    path = _path(fault, tree)
    found = fault["input"]
    if fault["type"] == "extra_forbidden":
        known = _known_keys(kind, location[:-1])
        return f"{path}: unknown key{nearest(location[-1], known)}"
    if fault["type"] == "missing":
        return f"{path}: expected a value, found none"
    if fault["type"] == "union_tag_invalid":
        tag = fault["ctx"]["discriminator"].strip("'")
        known = [t.strip(" '") for t in fault["ctx"]["expected_tags"].split(",")]
        return f"{path}.{tag}: unknown {fault['ctx']['tag']!r}{nearest(fault['ctx']['tag'], known)}"
    if fault["type"] == "union_tag_not_found":
        return f"{path}: expected a key {fault['ctx']['discriminator']}, found none"
    if fault["type"] == "value_error":
        message = _expected(fault)
        return f"{path}: {message}" if path else message
    expected = dict.fromkeys(_expected(f) for f in faults if _path(f, tree) == path)  # one of each type of a union
    shown = json.dumps(found, default=str)
    return f"{path}: expected {' or '.join(expected)}, found {shown if len(shown) < 80 else shown[:77] + '...'}"


def _expected(fault: Mapping[str, Any]) -> str:
    """A fault's message without pydantic's names of Python types."""
    message = fault["msg"].removeprefix("Value error, ")
    if fault["type"] in ("too_short", "too_long"):
        message = message.split(" after validation")[0]
    if fault["type"] == "value_error":
        return message
    return _WORDING.sub("", message).replace("match pattern", "a match of pattern")


def _path(fault: Mapping[str, Any], tree: Any) -> str:
    """Where in a user's file a fault is. pydantic puts a union's tags, types and validators into the location; the file
    has no such levels: what is not in ``tree`` is one, but for the name of what is missing.
    """
    location = [str(part) for part in fault["loc"]]
    kept: list[str] = []
    for index, part in enumerate(location):
        if isinstance(tree, Mapping) and part in tree:
            tree = tree[part]
        elif isinstance(tree, list) and part.isdigit() and int(part) < len(tree):
            tree = tree[int(part)]
        elif fault["type"] != "missing" or index < len(location) - 1:
            continue
        kept.append(part)
    return ".".join(kept)


def _known_keys(kind: type[BaseModel], location: list[str]) -> list[str]:
    """Field names of the section at ``location``, read from the JSON schema so that unions need no special care."""
    schema = kind.model_json_schema()
    definitions = schema.get("$defs", {})

    def resolve(node: dict[str, Any]) -> dict[str, Any]:
        while "$ref" in node or "allOf" in node:
            node = definitions[node["$ref"].rsplit("/", 1)[1]] if "$ref" in node else node["allOf"][0]
        return node

    node = resolve(schema)
    for part in location:
        branches = node.get("oneOf") or node.get("anyOf") or []
        tagged = node.get("discriminator", {}).get("mapping", {})
        if part in tagged:
            node = resolve({"$ref": tagged[part]})
        elif part in node.get("properties", {}):
            node = resolve(node["properties"][part])
        elif isinstance(node.get("additionalProperties"), dict):
            node = resolve(node["additionalProperties"])
        elif "items" in node and part.isdigit():
            node = resolve(node["items"])
        else:
            options = [resolve(b) for b in branches if "$ref" in b]
            node = next((o for o in options if o.get("title") == part or part in o.get("properties", {})), {})
    if not node.get("properties"):
        objects = [resolve(b) for b in node.get("anyOf", []) if "$ref" in b]
        node = objects[0] if objects else node
    return list(node.get("properties", {}))
