"""A row of input to show how one looks: made of typical values, so that nobody's own row leaves with a model."""

from __future__ import annotations

from typing import Any

from fusion_lab.contracts import UNKNOWN, Feature, Modality, Spec
from fusion_lab.data.scaling import Scaler

STEPS = 2
"""Positions of a sequence or bag that are shown."""


def example_row(spec: Spec, scaler: Scaler) -> dict[str, Any]:
    """A row as :func:`fusion_lab.serving.intake.read_rows` takes it: of a number the first member's mean, of a category
    its first word.
    """
    return {modality.name: _content(modality, scaler) for modality in spec.modalities}


def _content(modality: Modality, scaler: Scaler) -> Any:
    typical = scaler.fold(0).modalities[modality.name].shift.tolist()
    line: dict[str, Any] = {}
    for feature, value in zip(modality.features, typical, strict=True):
        if feature.kind != "indicator":
            line.setdefault(feature.column, _cell(feature, value))
    if modality.length is None:
        return line
    return [line] * min(STEPS, modality.length)


def _cell(feature: Feature, value: float) -> Any:
    if feature.kind == "category":
        return None if feature.category == UNKNOWN else feature.category
    if feature.kind == "binary":
        return feature.other if feature.other is not None else 0
    return float(f"{value:.4g}")
