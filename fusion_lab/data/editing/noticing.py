"""What a reader of the scores should know of the recordings, one plain sentence each."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from torch import Tensor

from fusion_lab.contracts import DataError
from fusion_lab.data.cells import listed
from fusion_lab.data.editing.dataset import Answer, WindowDataset
from fusion_lab.data.editing.packing import Packed
from fusion_lab.data.editing.settings import TracksConfig
from fusion_lab.data.editing.tracks import Filled, ranges
from fusion_lab.data.summaries import look

MOST_WARNINGS = 8
"""Warnings of one stream that are told; the rest is counted."""


def stream_notes(name: str, packed: Packed) -> Iterator[str]:
    """How many files there were, what is in them, how well they cover the clocks, and what was odd."""
    survey = packed.survey
    there = [of for of in survey if of.there]
    without = [of.video for of in survey if not of.there]
    yield f"{name}: loaded for {len(there)} of {len(survey)} videos, {sum(of.rows for of in there):,} samples" + (
        f"; videos without {name}: {listed(without)}" if without else ""
    )
    steps = sum(of.coverage.steps for of in there)
    matched, interpolated, masked, cells = (
        sum(getattr(of.coverage, part) for of in there)
        for part in ("matched", "interpolated", "masked", "missing_cells")
    )
    gaps = sum(len(of.coverage.gaps) for of in there)
    longest = max((of.coverage.max_gap for of in there), default=0.0)
    yield (
        f"{name}: coverage {_share(matched, steps)} of {steps:,} steps, interpolated {_share(interpolated, steps)}, "
        f"masked {_share(masked, steps)}; {gaps} gaps are reported, the longest without a sample {longest:.3g} s"
        + (f"; {cells:,} missing cells" if cells else "")
    )
    columns = [f.name for f in packed.modality.features]
    told = [f"{c} {a:.4g} to {b:.4g}" for c, a, b in zip(columns, packed.low, packed.high, strict=False) if a <= b]
    if told:
        yield f"{name}: ranges: {', '.join(told)}"
    warnings = [warning for of in there for warning in of.coverage.warnings]
    yield from warnings[:MOST_WARNINGS]
    if len(warnings) > MOST_WARNINGS:
        yield f"{name}: {len(warnings) - MOST_WARNINGS} more warnings of this kind"


def unused_notes(packed: Mapping[str, Packed]) -> Iterator[str]:
    """Columns of files that no stream uses; of a file that several streams share those that none of them does."""
    used = {feature.name for p in packed.values() for feature in p.modality.features}
    for name, p in packed.items():
        others = [column for column in p.unused if column not in used]
        if others:
            yield f"{name}: columns that are not used: {listed(others)}"


def track_notes(tracks: TracksConfig, filled: Filled, repeated: int) -> Iterator[str]:
    """What is in the archives."""
    told = (f"{name} {low:.4g} to {high:.4g}" for name, (low, high) in ranges(tracks, filled).items())
    yield f"tracks: ranges: {', '.join(told)}"
    if filled.missing:
        yield f"tracks: {filled.missing:,} missing cells (NaN): they are masked, and their answers unknown"
    if filled.odd_assets:
        yield (
            f"tracks: assets of inactive tracks that are none of the {tracks.asset_classes} classes "
            f"(tracks.asset_classes): {filled.odd_assets:,}; these answers are unknown"
        )
    if repeated:
        yield f"tracks: {repeated:,} steps are in several windows: the last one in the archives counts"


def varies(answer: Answer, ahead: Tensor) -> bool:
    """Whether any two of the answers that are known, at the steps ``ahead``, differ."""
    known = answer.known[ahead]
    codes = answer.values[ahead][known]
    return bool(len(codes)) and bool((codes != codes[0]).any())


def labels_noticed(dataset: WindowDataset) -> Iterator[str]:
    """How many of the tracks' answers are known."""
    tasks = [task for task in dataset.spec.tasks if task.units]
    about = dataset.ahead[dataset.ahead < len(dataset.times)]
    counts = [f"{task.name} {int(dataset.answers[task.name].known[about].sum()):,}" for task in tasks]
    if counts:
        yield f"known answers, of {len(about):,} steps x {len(tasks[0].units)} tracks: {', '.join(counts)}"


def inputs_noticed(dataset: WindowDataset) -> Iterator[str]:
    """Rows that have each modality, and features that never vary, categories aside: as other data sets are told of."""
    seen, _ = look(dataset)
    has = {name: int((of.there > 0).sum()) for name, of in seen.items()}
    yield f"rows that have each modality, of {len(dataset)}: " + ", ".join(f"{n} {count}" for n, count in has.items())
    for modality in dataset.spec.modalities:
        of = seen[modality.name]
        if not of.there.any():
            expected = "expected steps that have it, found none (videos that do not overlap their streams?)"
            raise DataError(f"data: modality {modality.name!r}: {expected}")
        same = of.low >= of.high
        constant = [f.name for f, never in zip(modality.features, same, strict=True) if never and f.kind != "category"]
        if constant:
            yield f"{modality.name}: never varies in the rows used: {listed(constant)}"


def _share(part: int, whole: int) -> str:
    return f"{100 * part / max(whole, 1):.2f} %"
