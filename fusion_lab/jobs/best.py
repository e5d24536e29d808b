"""The best trial's weights and interactive pages: kept with the study as it goes, given to the study's run at its
end.
"""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

from safetensors.torch import save_file

from fusion_lab.report.attention import attention_html, panels
from fusion_lab.report.curves import curves_html
from fusion_lab.tracking.names import safe_parts
from fusion_lab.tracking.runs import Run
from fusion_lab.tracking.trial import Outcome, checkpoint_dict, row_labels


def keep_best(folder: Path, outcome: Outcome) -> None:
    """Replaces ``folder`` by the weights, curves and maps of a new best configuration, whole or not at all."""
    half = folder.with_name(f"{folder.name}.part")
    shutil.rmtree(half, ignore_errors=True)
    for name in ("checkpoints", "attention"):
        (half / name).mkdir(parents=True)
    for fold in outcome.result.folds:
        save_file(fold.weights, half / "checkpoints" / f"fold{fold.fold}.safetensors")
        (half / "checkpoints" / f"fold{fold.fold}.json").write_text(json.dumps(checkpoint_dict(fold)))
    (half / "curves.html").write_text(curves_html(outcome.result.folds))
    names = safe_parts(m.name for m in outcome.result.maps)
    for weights in outcome.result.maps:
        shown = panels(weights, row_labels(weights, outcome.result.predictions.of("val"), outcome.spec))
        (half / "attention" / f"{names[weights.name]}.html").write_text(
            attention_html(weights, shown, by=outcome.spec.tasks[0].name)
        )
    shutil.rmtree(folder, ignore_errors=True)
    os.replace(half, folder)


def log_best(run: Run, folder: Path) -> None:
    """Gives the run all that :func:`keep_best` kept, under ``best/``."""
    for file in sorted(p for p in folder.rglob("*") if p.is_file()):
        run.file(file, str(Path("best") / file.parent.relative_to(folder)))
