"""The best trial's weights and interactive pages: kept with the study as it goes, given to the study's run at its
end.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Sequence
from pathlib import Path

from safetensors.torch import save_file

from fusion_lab.jobs.summary import SUMMARY, training_summary
from fusion_lab.report.curves import curves_html
from fusion_lab.tracking.attention import PAGE, attention_bytes, attention_html, drawn_maps
from fusion_lab.tracking.runs import Run, json_bytes
from fusion_lab.tracking.trial import Outcome, checkpoint_files


def kept_folder(study: Path, number: int) -> Path:
    """Where a trial's weights and pages are kept."""
    return study / "kept" / f"{number:04d}"


def how_many(keep: str) -> int:
    """How many trials are kept with the study; ``all`` gives each trial's run its weights besides.

    >>> [how_many(keep) for keep in ("none", "best", "top-3", "all")]
    [0, 1, 3, 1]
    """
    return {"none": 0, "best": 1, "all": 1}.get(keep) or (int(keep[4:]) if keep.startswith("top-") else 0)


def keep_trial(folder: Path, outcome: Outcome) -> None:
    """Makes ``folder`` of a trial: weights, summary, curves and maps, with every row's attention, whole or not at
    all.
    """
    half = folder.with_name(f"{folder.name}.part")
    shutil.rmtree(half, ignore_errors=True)
    for file in checkpoint_files(outcome.result.folds):
        (half / file.path).parent.mkdir(parents=True, exist_ok=True)
        save_file(file.weights, half / f"{file.path}.safetensors")
        (half / f"{file.path}.json").write_bytes(json_bytes(file.told))
    (half / SUMMARY).write_bytes(json_bytes(training_summary(outcome)))
    (half / "curves.html").write_text(curves_html(outcome.result.folds))
    _save_maps(half, outcome)
    shutil.rmtree(folder, ignore_errors=True)
    os.replace(half, folder)


def _save_maps(folder: Path, outcome: Outcome) -> None:
    maps = drawn_maps(outcome.result)
    for path, weights in maps.items():
        (folder / path).parent.mkdir(exist_ok=True)
        (folder / f"{path}.parquet").write_bytes(attention_bytes(weights, outcome.ids))
    if maps:
        (folder / PAGE).write_text(attention_html(outcome.result, outcome.spec, outcome.ids))


def drop_others(study: Path, numbers: Sequence[int]) -> None:
    """Leaves what is kept of the trials ``numbers`` and nothing else."""
    stay = {kept_folder(study, number) for number in numbers}
    for folder in (study / "kept").glob("*"):
        if folder not in stay:
            shutil.rmtree(folder)


def log_kept(run: Run, folder: Path, under: str, part: str = "") -> None:
    """Gives a run what :func:`keep_trial` kept, or its subfolder ``part``, under a folder of its artifacts."""
    for file in sorted(p for p in (folder / part).rglob("*") if p.is_file()):
        run.file(file, str(Path(under) / file.parent.relative_to(folder)))
