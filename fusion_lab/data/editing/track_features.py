"""The columns of tracks as features of one modality."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch.nn.functional import one_hot

from fusion_lab.contracts import UNKNOWN, Feature, Modality
from fusion_lab.data.editing.dataset import Steps
from fusion_lab.data.editing.packing import PLACE
from fusion_lab.data.editing.settings import ACTIVE, ASSET, TASK_OF, TRACK, TracksConfig
from fusion_lab.data.editing.tracks import is_asset


def track_modality(tracks: TracksConfig, length: int) -> Modality:
    """The tracks' columns, track after track; a quantity is called as its task is."""
    features = (
        feature for unit in tracks.units for c in tracks.columns for feature in _track_features(tracks, unit, c)
    )
    return Modality(TRACK, "sequence", tuple(features), length, PLACE)


def _track_features(tracks: TracksConfig, unit: str, column: str) -> list[Feature]:
    name, quantity = f"{unit} {column}", TASK_OF.get(column, column)
    if column == ASSET and tracks.assets == "category":
        words = (*tracks.asset_names, UNKNOWN)
        return [Feature(f"{name}={word}", "category", name, word, unit=unit, quantity=quantity) for word in words]
    return [Feature(name, "binary" if column == ACTIVE else "numeric", unit=unit, quantity=quantity)]


def track_steps(tracks: TracksConfig, cells: Steps) -> Steps:
    """The tracks' cells as the features of :func:`track_modality`. An asset that is missing or none of the classes is
    the last category, the unknown one, and observed as that wherever anything of the step is.
    """
    if ASSET not in tracks.columns or tracks.assets == "number":
        return cells
    steps, columns, classes = len(cells.values), len(tracks.columns), tracks.asset_classes
    at = tracks.columns.index(ASSET)
    values, observed = (part.reshape(steps, tracks.count, columns) for part in (cells.values, cells.observed.clone()))
    real = observed[..., at] & torch.from_numpy(is_asset(values[..., at].numpy(), classes))
    observed[..., at] = real  # an asset that is none is no sign that the step is there
    code = torch.where(real, values[..., at], float(classes)).long()
    there = observed.flatten(1).any(dim=1).reshape(-1, 1, 1)
    one = one_hot(code, classes + 1) * there
    wide = [
        torch.cat([of[..., :at], own, of[..., at + 1 :]], dim=-1).reshape(steps, -1)
        for of, own in ((values, one.float()), (observed, there.expand_as(one)))
    ]
    return replace(cells, values=wide[0], observed=wide[1])


def with_unknown(modality: Modality, steps: Steps) -> Modality:
    """The modality, the features of categories marked that some step has the unknown one: its cell is missing."""
    unknown = {
        f.column for f, own in zip(modality.features, steps.values.T, strict=True) if _is_unknown(f) and own.any()
    }
    features = (replace(f, gaps=True) if f.column in unknown else f for f in modality.features)
    return replace(modality, features=tuple(features))


def _is_unknown(feature: Feature) -> bool:
    return feature.kind == "category" and feature.category == UNKNOWN
