"""Sentences that jobs share: what the data is, and where to look at the results."""

from __future__ import annotations

import shlex

from fusion_lab.experiment import Materials
from fusion_lab.jobs.session import Session
from fusion_lab.tracking.views import run_link, runs_link

LOCAL = "http://127.0.0.1:5000"
"""Where ``make ui`` shows a store that has no server."""


def data_lines(name: str, materials: Materials) -> list[str]:
    """What was read and how it is split."""
    spec, folds = materials.spec, materials.folds
    modalities = ", ".join(f"{m.name} ({m.width})" for m in spec.modalities[:8])
    more = f" and {len(spec.modalities) - 8} more" if len(spec.modalities) > 8 else ""
    lines = [
        f"{name}: {len(materials.dataset)} rows, {len(spec.modalities)} modalities: {modalities}{more}",
        f"tasks: {', '.join(t.name for t in spec.tasks)}; {len(folds)} folds, {folds.protocol}",
    ]
    return lines + [f"note: {note}" for note in materials.notes]


def command_line(verb: str, **options: object) -> str:
    """What to type to do it again.

    >>> command_line("train", experiment="demo", seed=None, set="model.d_model=8; seed=1")
    "fusion-lab train --experiment demo --set 'model.d_model=8; seed=1'"
    """
    given = (f"--{name.replace('_', '-')} {shlex.quote(str(v))}" for name, v in options.items() if v not in (None, ""))
    return f"fusion-lab {verb} {' '.join(given)}"


def closed_lines(place: Session) -> list[str]:
    """What the sweep found."""
    count = len(place.closed)
    return [f"closed {count} runs that a kill had left running"] if count else []


def run_lines(place: Session) -> list[str]:
    """How to open this job's run."""
    return _lines(place, run_link(place.store.web or LOCAL, place.experiment_id, place.run.id))


def view_lines(place: Session, key: str) -> list[str]:
    """How to open a study's saved view."""
    return _lines(place, runs_link(place.store.web or LOCAL, place.experiment_id, key))


def _lines(place: Session, link: str) -> list[str]:
    start = [] if place.store.web else ["see it: make ui (or: mlflow ui), then open"]
    return [*start, f"  {link}"]
