"""``compare``: runs of the store held against each other on the same folds, without their data."""

from __future__ import annotations

import json
import re
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath
from typing import Any

from mlflow.entities import Run as StoredRun
from mlflow.exceptions import MlflowException

from fusion_lab.config import nearest
from fusion_lab.contracts import DataError, Spec, UserError
from fusion_lab.evaluation.entries import Entry, FoldFacts, common_ground
from fusion_lab.experiment import BESIDE
from fusion_lab.jobs.cells import GROUP_TAG, REFERENCE_TAG, SAME_TAG
from fusion_lab.jobs.comparing import made_report, save_report
from fusion_lab.jobs.evaluation import MISSING_MODALITY
from fusion_lab.jobs.progress import Progress
from fusion_lab.jobs.session import KIND, STUDY
from fusion_lab.report.beside import Beside, gains_of, losses_of
from fusion_lab.report.comparison import Line, Report, note_lines, table_lines
from fusion_lab.tracking.errors import told
from fusion_lab.tracking.predictions import predictions_from_table, read_predictions, row_names, tasks_of
from fusion_lab.tracking.split import FILE, read_facts
from fusion_lab.tracking.store import Store
from fusion_lab.tracking.trial import PREDICTIONS
from fusion_lab.training.plan import Goal

TOLD = ("curves.json", MISSING_MODALITY)
"""What a run tells of itself beside its predictions."""
SWEEP = "sweep:"
SHORTEST = 4
"""Characters of a run's id that are taken for the beginning of one."""
MOST_TOLD, LONGEST_TOLD = 2, 48
"""Settings, and characters of them all, by which runs of one name are told apart."""


@dataclass(frozen=True)
class Compared:
    """A run with what was read from it: its predictions, the curves of its training and what its modalities add, as
    far as it has them.
    """

    run: StoredRun
    entry: Entry
    curves: Mapping[str, Any] | None = None
    subsets: Mapping[str, Any] | None = None

    @property
    def study(self) -> str:
        """The sweep or study that it belongs to, "" without one."""
        return self.run.data.tags.get(STUDY, "")


def run(runs: str, output: str = "comparison.html", tracking_uri: str | None = None) -> Report:
    """Compares runs that hold predictions, and writes the page ``output``, picture and tables beside it.

    ``runs``: separated by commas, each an id, the beginning of one, a name, or ``sweep:NAME``. A run that has no
    predictions of its own, as that of a sweep, stands for the runs below it. The first is what the others are held
    against; of a sweep, the cell that was its reference.
    """
    page = _page(output)
    progress = Progress()
    with progress, Store.open(tracking_uri, existing=True) as store:
        progress.now("looks for the runs")
        found, first = _Found(store).all(runs)
        compared = []
        for number, each in enumerate(found, 1):
            progress.now(f"reads the predictions of run {number}/{len(found)}")
            entry = _entry(store, each, _names(found)[each.info.run_id])
            compared += [Compared(each, entry, *(_json(store, each, path) for path in TOLD))] if entry else []
        if len(compared) < 2:
            raise UserError(f"runs: expected at least two runs with predictions, found {len(compared)} in {runs!r}")
        of_first = [c for c in compared if c.run.info.run_id in first]
        tagged = (c for c in of_first if c.run.data.tags.get(REFERENCE_TAG) == "true" and len(of_first) > 1)
        reference = next(tagged, (of_first or compared)[0])
        _refuse_strangers(compared, reference)
        progress.now(f"compares {len(compared)} runs, {len(reference.entry.ids):,} rows")
        report = _report(compared, reference)
    files = save_report(report, page)
    progress.line("\n".join([*table_lines(report), "", *note_lines(report)]))
    progress.line(f"written: {', '.join(map(str, files))}")
    return report


def _page(output: str) -> Path:
    page = Path(output)
    if page.suffix != ".html":
        raise UserError(f"output: expected a file that ends in .html, found {output!r}")
    if not page.parent.is_dir():
        raise UserError(f"output: expected a folder that exists, found none at {page.parent}")
    return page


class _Found:
    """Runs of a store by what a person calls them."""

    def __init__(self, store: Store) -> None:
        self._store = store
        with told(f"runs: expected to search {store.uri}"):
            places = [e.experiment_id for e in store.client.search_experiments()]
            self._every = [run for run in _pages(store, places) if run.info.lifecycle_stage == "active"]

    def all(self, runs: str) -> tuple[list[StoredRun], set[str]]:
        """The runs named, those below a run without predictions in its place, each once; ids of what the first name
        stands for.
        """
        names = [name.strip() for name in runs.split(",") if name.strip()]
        if not names:
            raise UserError("runs: expected ids or names of runs, separated by commas, found none")
        first, *others = (self._named(name) for name in names)
        every = [run for part in (first, *others) for run in part]
        return list({run.info.run_id: run for run in every}.values()), {run.info.run_id for run in first}

    def _named(self, name: str) -> list[StoredRun]:
        if name.startswith(SWEEP):
            return self._cells(name.removeprefix(SWEEP))
        found = [r for r in self._every if r.info.run_id == name]
        if not found and len(name) >= SHORTEST and re.fullmatch(r"[0-9a-f]+", name):
            found = [r for r in self._every if r.info.run_id.startswith(name)]
        found = found or [r for r in self._every if r.info.run_name == name]
        if not found:
            known = (
                nearest(name, sorted({str(r.info.run_name) for r in self._every})) if len(self._every) < 1000 else ""
            )
            raise UserError(f"runs: expected the id or name of a run, found {name!r}{known}")
        if len(found) > 1:
            ids = ", ".join(r.info.run_id[:8] for r in found[:5])
            raise UserError(f"runs: expected one run, found {len(found)} called {name!r}: {ids}")
        return self._opened(found[0])

    def _opened(self, run: StoredRun) -> list[StoredRun]:
        kind = run.data.tags.get(KIND)
        if kind == "sweep":
            return self._cells(run.data.tags.get(STUDY, ""))
        if kind == "study":  # whose trials may be those of several commands
            study = run.data.params.get("study", "")
            return [*self._of(study, "trial"), *self._of(study, "baseline")]
        return [run]

    def _cells(self, name: str) -> list[StoredRun]:
        """Cells and baselines of a sweep, known by its file's name or its folder's."""
        every = {r.data.tags[STUDY] for r in self._every if r.data.tags.get(KIND) == "cell" and STUDY in r.data.tags}
        found = sorted(s for s in every if name == s or re.fullmatch(rf"sweep-{re.escape(name)}-[0-9a-f]{{8}}", s))
        if not found:
            known = nearest(name, sorted(every))
            raise UserError(f"runs: expected a sweep with finished cells, found {name!r}{known}")
        if len(found) > 1:
            raise UserError(f"runs: expected one sweep, found {len(found)} called {name!r}: {', '.join(found)}")
        return [*self._of(found[0], "cell"), *self._of(found[0], "baseline")]

    def _of(self, study: str, kind: str) -> list[StoredRun]:
        """Finished runs of a study, of equal ones the latest, in the order in which they were first begun."""
        latest: dict[tuple[str | None, ...], StoredRun] = {}
        for run in self._every:
            tags = run.data.tags
            if (tags.get(STUDY), tags.get(KIND), run.info.status) == (study, kind, "FINISHED"):
                latest[tags.get(GROUP_TAG), run.info.run_name] = run
        return list(latest.values())


def _pages(store: Store, places: Sequence[str]):
    """All runs, the oldest first."""
    token: str | None = None
    while places:
        page = store.client.search_runs(
            list(places), max_results=1000, order_by=["attributes.start_time ASC"], page_token=token
        )
        yield from page
        token = page.token
        if not token:
            return


def _names(runs: Sequence[StoredRun]) -> dict[str, str]:
    """What each run is called here: its name, with what tells it apart where two have the same."""
    names = {}
    for run in runs:
        same = [other for other in runs if other.info.run_name == run.info.run_name]
        name = str(run.info.run_name)
        names[run.info.run_id] = f"{name} ({_apart(run, same)})" if len(same) > 1 else name
    return names


def _apart(run: StoredRun, same: Sequence[StoredRun]) -> str:
    """The values of the settings in which runs of one name differ, if these are few and short and tell all of them
    apart, or else the beginning of the run's id.
    """
    settings = [
        {k: v for k, v in other.data.params.items() if _is_setting(k) and k.partition(".")[0] not in BESIDE}
        for other in same
    ]
    every = dict.fromkeys(key for of in settings for key in of)
    keys = [key for key in every if len({of.get(key) for of in settings}) > 1]
    told = [", ".join(f"{key}={of.get(key)}" for key in keys).replace('"', "") for of in settings]
    if 0 < len(keys) <= MOST_TOLD and len(set(told)) == len(same) and max(map(len, told)) <= LONGEST_TOLD:
        return told[same.index(run)]
    return run.info.run_id[:8]


def _is_setting(name: str) -> bool:
    """Whether a parameter of a run is a setting of the experiment, and no fact about the run."""
    return "." in name or name in ("seed", "trial")


def _entry(store: Store, run: StoredRun, name: str) -> Entry | None:
    """What a run predicted; ``None`` for one that holds no predictions."""
    content = _artifact(store, run, PREDICTIONS)
    if content is None:
        return None
    try:
        table = read_predictions(content)
        tasks, names = tasks_of(table), row_names(table)
        predictions = predictions_from_table(table, Spec((), tasks), names.ids)
    except DataError as error:
        raise DataError(f"run {name}: {error}") from None
    facts = _artifact(store, run, FILE)
    folds = FoldFacts() if facts is None else read_facts(facts)
    kind = "baseline" if run.data.tags.get(KIND) == "baseline" else "model"
    return Entry(name, tasks, predictions, names.ids, names.group, names.recording, folds, kind)


def _json(store: Store, run: StoredRun, path: str) -> Mapping[str, Any] | None:
    """A file that a run may have."""
    content = _artifact(store, run, path)
    return None if content is None else json.loads(content)


def _beside(compared: Sequence[Compared]) -> Beside:
    losses = {c.entry.name: losses_of(c.curves) for c in compared if c.curves is not None}
    told = {c.entry.name: gains_of(c.subsets) for c in compared if c.subsets is not None}
    metrics: dict[str, str] = {}
    for _, of in told.values():
        metrics = {**of, **metrics}
    gains = {  # those of another score, as of runs of earlier versions, do not stand in one column with the first's
        name: {task: gain for task, gain in of.items() if metric[task] == metrics[task]}
        for name, (of, metric) in told.items()
    }
    return Beside({name: of for name, of in losses.items() if of}, gains, metrics)


def _artifact(store: Store, run: StoredRun, path: str) -> bytes | None:
    """One of a run's files, ``None`` where it has none of this name."""
    with told(f"run {run.info.run_id}: expected to list its files"):
        folder = str(PurePosixPath(path).parent) if "/" in path else None
        there = {file.path for file in store.client.list_artifacts(run.info.run_id, folder)}
    if path not in there:
        return None
    with tempfile.TemporaryDirectory(prefix="fusion_lab-") as folder, told(f"run {run.info.run_id}: expected {path}"):
        try:
            return Path(store.client.download_artifacts(run.info.run_id, path, folder)).read_bytes()
        except MlflowException as error:
            raise OSError(str(error)) from error


def _refuse_strangers(compared: Sequence[Compared], reference: Compared) -> None:
    """Runs of other data, tasks or folds. Cells of one sweep may differ: their comparison says where they do."""
    for each in compared:
        if each is reference or (each.study and each.study == reference.study):
            continue
        ours, other = each.entry, reference.entry
        if ours.folds.data and other.folds.data and ours.folds.data != other.folds.data:
            found = f"{ours.name} ({ours.folds.data[:12]}) and {other.name} ({other.folds.data[:12]})"
            raise DataError(f"runs: expected runs of the same data, found {found}")
        ground = common_ground(ours, other)
        if isinstance(ground, str):
            raise DataError(f"runs: expected runs on the same folds, found {ours.name} and {other.name}: {ground}")
    tasks = [(t.name, t.kind) for t in reference.entry.tasks]
    for each in compared:
        if [(t.name, t.kind) for t in each.entry.tasks] != tasks:
            raise DataError(f"runs: expected runs of the same tasks, found {each.entry.name} with others")


def _report(compared: Sequence[Compared], reference: Compared) -> Report:
    labels = {(c.study, c.run.info.run_name): c.entry.name for c in compared if SAME_TAG not in c.run.data.tags}
    lines, entries = [], []
    for each in compared:
        tags, metrics = each.run.data.tags, each.run.data.metrics
        same = labels.get((each.study, tags.get(SAME_TAG)))
        kind = "baseline" if each.entry.kind == "baseline" else str(tags.get(KIND, "run"))
        group = tags.get(GROUP_TAG) or {"baseline": "baselines", "trial": "trials"}.get(kind, "runs")
        parameters = int(metrics["parameters"]) if "parameters" in metrics else None
        entry = same or each.entry.name
        lines.append(Line(group, each.entry.name, entry, kind, parameters, metrics.get("seconds")))
        entries += [] if same else [each.entry]
    base = next(line.entry for line in lines if line.name == reference.entry.name)
    asked = (c.run.data.params for c in [reference, *compared])
    goal = next((_goal(p) for p in asked if p.get("training.monitor")), Goal("auroc"))
    without = [c.entry.name for c in compared if not c.entry.folds.data]
    notes = [f"{name}: an earlier version's run, which does not say how its rows were split." for name in without]
    notes += [told for each in compared for told in _selection(each)]
    report = made_report("Comparison of runs", lines, entries, base, goal, notes)
    return replace(report, beside=_beside(compared))


def _goal(params: Mapping[str, str]) -> Goal:
    """What a run was judged by."""
    return Goal.read({name: params.get(f"training.{name}") for name in ("monitor", "min_weight")})


def _selection(compared: Compared) -> list[str]:
    """Of a configuration that a search chose; that a study's own trials are to be chosen from is said of all."""
    study = compared.run.data.params.get("selected", "null")
    if study == "null" or compared.run.data.tags.get(KIND) == "trial":
        return []
    return [
        f"{compared.entry.name} was chosen by study {study}: where that was on these folds, its test score is"
        " optimistic, and so is its advantage over others."
    ]
