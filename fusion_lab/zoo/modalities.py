"""Modalities on their way into a model: which of them share a grouped encoder, their inputs side by side, and what the
maps over their positions are called.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping

import torch
from torch import Tensor

from fusion_lab.blocks.encoders import Asked
from fusion_lab.contracts import Axis, Modality

Group = tuple[Modality, ...]
"""Modalities of one grouped encoder, the widest first."""


def group_modalities(
    modalities: tuple[Modality, ...],
    asked: Mapping[str, Asked],
    widths: Mapping[str, int] | None = None,
    narrow: int = 64,
) -> tuple[Group, ...]:
    """Modalities that share one grouped encoder: of one kind and length, asked for the same, and of widths worth
    padding to the widest.

    A narrow modality joins a wider one where that is at most ``narrow`` wide, or at most twice its own width: beyond,
    the padding costs more than the kernel it saves. ``widths`` are those of the features unless given.
    """
    width = widths or {m.name: m.width for m in modalities}
    alike: dict[tuple[str, int | None, Asked], list[Modality]] = defaultdict(list)
    for modality in sorted(modalities, key=lambda m: -width[m.name]):
        alike[modality.kind, modality.length, asked[modality.name]].append(modality)
    groups: list[list[Modality]] = []
    for members in alike.values():
        groups.append([members[0]])
        for modality in members[1:]:
            widest = width[groups[-1][0].name]
            if widest <= max(narrow, 2 * width[modality.name]):
                groups[-1].append(modality)
            else:
                groups.append([modality])
    return tuple(tuple(group) for group in groups)


def stack_group(group: Group, inputs: Mapping[str, Tensor], valid: Mapping[str, Tensor]) -> tuple[Tensor, Tensor]:
    """A group's inputs padded to the width of its first, ``[G,B,T,F]``, and their masks ``[G,B,T]``; T is 1 for
    vectors.
    """
    widest = inputs[group[0].name].shape[-1]
    padded = [
        x if x.shape[-1] == widest else torch.nn.functional.pad(x, (0, widest - x.shape[-1]))
        for x in (inputs[m.name] for m in group)
    ]
    x, there = torch.stack(padded), torch.stack([valid[m.name] for m in group])
    return (x.unsqueeze(2), there.unsqueeze(2)) if group[0].length is None else (x, there)


def present(valid: Tensor) -> Tensor:
    """bool ``[B]``: a modality of which anything is real."""
    return valid if valid.ndim == 1 else valid.any(-1)


def place_map(modality: Modality) -> str:
    """Name of a map over the positions of a sequence or bag."""
    return f"{modality.name} {'steps' if modality.kind == 'sequence' else 'instances'}"


def places(modality: Modality) -> Axis:
    """The positions of a sequence or bag."""
    return numbered(modality.place_name, modality.length or 0)


def numbered(name: str, count: int) -> Axis:
    """An axis of places without names of their own.

    >>> numbered("day", 2)
    Axis(name='day', labels=('1', '2'))
    """
    return Axis(name, tuple(str(i + 1) for i in range(count)))


def told(part: Tensor | None) -> Tensor:
    """What an encoder was asked for."""
    assert part is not None, "an encoder was not asked for what is fused"
    return part


def unit_columns(modality: Modality, units: tuple[str, ...]) -> list[list[int]]:
    """Where the features of each unit lie, ``[U,Q]``: the same quantities of every unit in the same order, -1 where a
    unit has none of it; empty lists where no feature is of any of them.

    >>> from fusion_lab.contracts import Feature
    >>> names = (("a", "x"), ("b", "x"), ("b", "y"), ("", ""))
    >>> features = tuple(Feature(f"{unit} {quantity}", unit=unit, quantity=quantity) for unit, quantity in names)
    >>> unit_columns(Modality("track", "sequence", features, 5), ("b", "a"))
    [[1, 2], [0, -1]]
    """
    kinds = (((f.quantity or f.name, f.kind, f.category), f.unit) for f in modality.features)
    of = {(kind, unit): place for place, (kind, unit) in enumerate(kinds) if unit in units}
    quantities = dict.fromkeys(kind for kind, _ in of)
    return [[of.get((kind, unit), -1) for kind in quantities] for unit in units]


def shared_columns(modality: Modality) -> list[int]:
    """Where the features lie that are of no unit."""
    return [place for place, feature in enumerate(modality.features) if not feature.unit]
