"""``sweep``: every cell of a sweep file cross-validated, one after the other, and all of them compared on one page."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from fusion_lab.config import dump_yaml, parse_overrides
from fusion_lab.contracts import ConfigError, Predictions, UserError, content_hash
from fusion_lab.evaluation.entries import Entry
from fusion_lab.experiment import Experiment, Materials
from fusion_lab.jobs.baselines import cross_validate_baselines, log_baselines, score_baselines
from fusion_lab.jobs.cells import (
    CELL,
    CELL_TAG,
    GROUP_TAG,
    REFERENCE_TAG,
    SAME_TAG,
    Done,
    Shelf,
    best_cell,
    cell_description,
    is_finished,
    load_cell,
    save_cell,
    sweep_metrics,
)
from fusion_lab.jobs.comparing import FILES, log_report, made_report, save_report
from fusion_lab.jobs.crossval import SPLITS, cross_validate_in, log_configuration, log_known, names_and_folds
from fusion_lab.jobs.progress import Progress, duration, shown
from fusion_lab.jobs.results import Headline, Scored
from fusion_lab.jobs.session import STUDY, Session, session
from fusion_lab.jobs.tell import closed_lines, command_line, data_lines, run_lines
from fusion_lab.report.comparison import OPTIMISTIC, Line, Report, note_lines, table_lines
from fusion_lab.report.drawing import Draw, DrawingProcess
from fusion_lab.search.lock import locked
from fusion_lab.search.sweep import Cell, SweepConfig, make_cells, named, read_settings, sweep_name
from fusion_lab.tracking.descriptions import data_facts, describe, protocol_sentence
from fusion_lab.tracking.errors import told as store_told
from fusion_lab.tracking.provenance import dataset_input, environment
from fusion_lab.tracking.runs import Run
from fusion_lab.tracking.stale import STATE
from fusion_lab.tracking.trial import log_figures
from fusion_lab.training import Diverged
from fusion_lab.training.plan import Goal

STUDIES = Path("studies")
BASELINES = "baselines"
BEST_TAG = "fusion_lab.best_cell"
ROWS_TAG = "fusion_lab.rows"
"""Tag of a baseline's run: which data and folds it is of, for those of a sweep may change."""
MISSING = 1


@dataclass(frozen=True)
class Result:
    """What came of a sweep; ``exit_code`` is 1 where cells are missing."""

    report: Report
    missing: tuple[str, ...]

    @property
    def exit_code(self) -> int:
        return MISSING if self.missing else 0


def run(
    experiment: str | None = None,
    sweep: str | None = None,
    data: str | None = None,
    seed: int | None = None,
    set: str = "",
    tracking_uri: str | None = None,
) -> Result:
    """Computes the cells of a sweep that are not finished yet, and compares all of them.

    ``sweep`` is a name in ``experiments/sweeps/`` or a path, by default the experiment's name; ``experiment`` stands in
    place of the one that the sweep's file names. Lists in place of single values, in the experiment's file or in
    ``set``, are a sweep by themselves: the product of them.
    """
    overrides: dict[str, Any] = parse_overrides(set)
    if seed is not None:
        overrides["seed"] = seed
    base, config, source = read_settings(experiment, sweep, data, overrides)
    cells = make_cells(config, base, str(source))
    again = command_line("sweep", experiment=experiment, sweep=sweep, data=data, seed=seed, set=set)
    progress, name = Progress(), sweep_name(source, base)
    shelf = Shelf([base, *(cell.experiment for cell in cells)])
    fingerprints = _checked(base, cells, shelf, str(source), progress)
    with progress, session(base.name, "sweep", f"sweep {source.stem}", tracking_uri) as place:
        progress.line("\n".join(closed_lines(place)))
        with locked(STUDIES / name / ".lock", f"sweep {name}"), DrawingProcess() as process:
            job = _Sweep(name, config, base, cells, fingerprints, shelf, place, progress, again, process.draw)
            try:
                return job.run(str(source))
            finally:
                place.store.flush()  # figures of what is finished are still being drawn, by a process that ends here


def _checked(
    base: Experiment, cells: Sequence[Cell], shelf: Shelf, source: str, progress: Progress
) -> dict[tuple[str, str], str]:
    """Loads what is needed and finds what is wrong with a cell before the first one is trained; their fingerprints."""
    materials = shelf.get(base)
    progress.line("\n".join(data_lines(base.name, materials)))
    tasks = [(task.name, task.kind) for task in materials.spec.tasks]
    fingerprints = {}
    for number, cell in enumerate(cells, 1):
        progress.now(f"checks cell {number}/{len(cells)} {cell.label}")
        try:
            own = shelf.get(cell.experiment)
            own.check(cell.experiment)
            found = [(task.name, task.kind) for task in own.spec.tasks]
            if found != tasks:
                told = ", ".join(name for name, _ in found)
                raise ConfigError(f"expected the tasks of {base.name}, found {told}")
        except UserError as error:
            raise type(error)(f"{source}: {cell.where}: {error}") from None
        fingerprints[cell.group, cell.name] = own.fingerprint(cell.experiment)
    return fingerprints


@dataclass
class _Sweep:
    name: str
    config: SweepConfig
    base: Experiment
    cells: Sequence[Cell]
    fingerprints: Mapping[tuple[str, str], str]
    shelf: Shelf
    place: Session
    progress: Progress
    again: str
    draw: Draw
    lines: list[Line] = field(default_factory=list)
    entries: dict[str, Entry] = field(default_factory=dict)  # by fingerprint
    done: dict[str, Done] = field(default_factory=dict)  # by fingerprint
    failed: dict[str, str] = field(default_factory=dict)  # why, by fingerprint
    seconds: float = 0.0  # that cells of this command took
    trained: int = 0

    @property
    def folder(self) -> Path:
        return STUDIES / self.name

    @property
    def goal(self) -> Goal:
        return self.base.training.goal

    def run(self, source: str) -> Result:
        """Baselines, cells in the order of the file, and the page that compares them; ``source`` is the sweep's file.
        A cell whose training diverges leaves a gap, and the others go on.
        """
        self._begin(source)
        materials = self.shelf.get(self.base)
        fingerprint = materials.fingerprint(self.base)
        facts, seed = data_facts(materials.dataset), self.base.folds.seed
        protocol = protocol_sentence(materials.folds, seed, self.base.training.restore)
        baselines = self._run_baselines(materials)
        self.shelf.release(self.base)
        del materials
        for number, cell in enumerate(self.cells, 1):
            self._cell(cell, number)
            self.shelf.release(cell.experiment)
        self.progress.now("the comparison")
        report = self._report(source, baselines, fingerprint)
        what = f"Sweep {source}: {len(self.cells)} configurations of {self.base.name} on the same folds."
        best = best_cell(report)
        self.place.run.metrics(sweep_metrics(report))
        self.place.run.tags({BEST_TAG: best} if best else {})
        what += f" The best by validation rows is {best}; metrics are its." if best else ""
        self.place.run.describe(describe(what, facts, protocol, self.again, notes=[OPTIMISTIC, *report.notes]))
        log_report(self.place.run, report)
        page, *_ = save_report(report, self.folder / FILES[0])
        self.progress.line("\n".join(["", *table_lines(report), "", *note_lines(report)]))
        self.progress.line("\n".join([f"the page: {page}", *run_lines(self.place)]))
        return Result(report, self._missing())

    def _begin(self, source: str) -> None:
        run = self.place.run
        first = self.folder / ".first_run"
        if first.exists():
            run.tags({"fusion_lab.continues": first.read_text().strip()})
        else:
            first.write_text(run.id)
        run.tags({STUDY: self.name})
        run.params({"sweep": source, "cells": len(self.cells), "experiment": self.base.name})
        run.json("environment.json", environment())
        run.text("sweep.yaml", dump_yaml(self.config.model_dump(mode="json")))
        run.text("base.yaml", dump_yaml(self.base.resolved()))
        run.inputs([dataset_input(self.base.name, self.shelf.get(self.base).dataset)])
        finished = sum(self._is_finished(cell) for cell in self.cells)
        state = f"continues after {finished} cells" if finished else "starts"
        self.progress.line(f"sweep {self.name} {state}: {len(self.cells)} cells in all, in {self.folder}/")

    def _run_baselines(self, materials: Materials) -> list[Entry]:
        if not self.base.baselines:
            return []
        self.progress.now("baselines on the same folds")
        identity = _identity(materials)
        predictions = cross_validate_baselines(materials, self.folder / f".baselines-{identity}", self.progress.now)
        scored = score_baselines(predictions, materials, self.goal)
        tags, seed = {STUDY: self.name, ROWS_TAG: identity}, self.base.folds.seed
        runs = {f"baseline {row.label('val')}": row for row in scored}
        untold = [row for name, row in runs.items() if not self.place.has("baseline", {**tags, "mlflow.runName": name})]
        log_baselines(self.place, untold, predictions, materials, SPLITS, tags, seed)
        found = [_entry(row.name, self.base, materials, predictions[row.name], "baseline") for row in scored]
        labels = {cell.label for cell in self.cells}
        return [e if e.name not in labels else _renamed(e, f"baseline {e.name}") for e in found]

    def _cell(self, cell: Cell, number: int) -> None:
        """Computes a cell, or takes it from where it was computed before; its line of the table."""
        key = self.fingerprints[cell.group, cell.name]
        what = f"cell {number}/{len(self.cells)} {cell.label}"
        if key in self.failed:
            same = f"as {self._first(key).label}: {self.failed[key]}"
            self.lines.append(Line(cell.group, cell.label, "", missing=same))
            self.progress.line(f"{what}: failed {same}")
            return
        same = self._first(key) if key in self.done else None
        done = self._known(cell, same, what) or self._train(cell, what)
        if done is None:
            self.lines.append(Line(cell.group, cell.label, "", missing=self.failed[key]))
            return
        if same is None:
            self.done[key] = done
            materials = self.shelf.get(cell.experiment)
            self.entries[key] = _entry(cell.label, cell.experiment, materials, done.predictions)
        numbers = done.numbers
        line = Line(
            cell.group, cell.label, self.entries[key].name, CELL, int(numbers["parameters"]), numbers["seconds"]
        )
        self.lines.append(line)

    def _known(self, cell: Cell, same: Cell | None, what: str) -> Done | None:
        """A cell that was computed before, by an earlier command or as another cell; its run is made if it has none."""
        done = self._finished(cell)
        if done is None and same is not None:
            done = self.done[self.fingerprints[same.group, same.name]]
        if done is None:
            return None
        told = f"same configuration as {same.label}" if same else "finished before"
        if not self._is_finished(cell) or not self._is_logged(str(done.facts["run"])):
            materials = self.shelf.get(cell.experiment)
            scored = Scored.of(cell.label, CELL, done.predictions, materials, self.goal)
            with self._child(cell) as run:
                run.tags({SAME_TAG: same.label} if same else {})
                self._describe(run, cell, scored, same)
                log_known(run, cell.experiment, materials, done.predictions, scored, done.numbers)
                run.flush()
            done = Done(done.predictions, {**done.facts, "run": run.id})
            save_cell(self.folder / cell.folder, done)
        self.progress.line(f"{what}: {told}")
        return done

    def _train(self, cell: Cell, what: str) -> Done | None:
        """Cross-validates a cell; ``None`` where it fails. An interrupted one is continued from its checkpoint."""
        materials, folder = self.shelf.get(cell.experiment), self.folder / cell.folder
        key = self.fingerprints[cell.group, cell.name]
        folder.mkdir(parents=True, exist_ok=True)
        started = time.monotonic()
        with self._child(cell) as run:
            checkpoint = folder / f"training-{key[:8]}.safetensors"
            try:
                result = cross_validate_in(run, cell.experiment, materials, what, self.progress, checkpoint)
            except Diverged as error:
                self._fail(key, run, what, str(error))
                return None
            best = sorted(fold.best_epoch for fold in result.folds)[len(result.folds) // 2]
            numbers = {"parameters": result.parameters, "seconds": result.seconds, "best_epoch": best}
            done = Done(result.predictions, {"fingerprint": key, "run": run.id, **numbers})
            save_cell(self.folder / cell.folder, done)
            scored = Scored.of(cell.label, CELL, result.predictions, materials, self.goal)
            outcome = log_configuration(run, cell.experiment, materials, result, scored)
            self._describe(run, cell, scored)
            run.flush()
            run.tags({STATE: "complete"})
            run.flush()  # not behind the figures: a kill while they are drawn leaves the run of a cell that counts
            log_figures(run, outcome, self.draw)
        self.seconds += time.monotonic() - started
        self.trained += 1
        self._tell(cell, what, scored, result.seconds)
        return done

    def _describe(self, run: Run, cell: Cell, scored: Scored, same: Cell | None = None) -> None:
        materials, twin = self.shelf.get(cell.experiment), same.label if same else ""
        run.describe(cell_description(cell, self.name, materials, scored, self.again, twin))

    def _tell(self, cell: Cell, what: str, scored: Scored, seconds: float) -> None:
        keys = {self.fingerprints[c.group, c.name] for c in self.cells if not self._is_finished(c)}
        left = len(keys - set(self.done) - set(self.failed) - {self.fingerprints[cell.group, cell.name]})
        about = f"  about {duration(self.seconds / self.trained * left)} left" if left else ""
        test, val = scored.headlines["test"], scored.headlines["val"]
        told = f"val {val.name} {_number(val)}  test {_number(test)}  test folds {shown(test.folds.tolist())}"
        self.progress.line(f"{what}  {told}  {duration(seconds)}{about}")

    def _fail(self, key: str, run: Run, what: str, why: str) -> None:
        run.tags({STATE: "failed", "failure": why})
        run.close("FAILED")
        self.failed[key] = why
        self.progress.line(f"{what} failed: {why}")

    def _child(self, cell: Cell) -> Run:
        tags = {STUDY: self.name, GROUP_TAG: cell.group, CELL_TAG: cell.name}
        return self.place.child(cell.label, CELL, tags)

    def _first(self, key: str) -> Cell:
        """The first cell of this fingerprint."""
        return next(cell for cell in self.cells if self.fingerprints[cell.group, cell.name] == key)

    def _is_logged(self, run_id: str) -> bool:
        """Whether the store has the run, finished and not deleted."""
        store = self.place.store
        if not store.has_run(run_id):
            return False
        with store_told(f"run {run_id}: expected to look it up in {store.uri}"):
            info = store.client.get_run(run_id).info
        return (info.status, info.lifecycle_stage) == ("FINISHED", "active")

    def _is_finished(self, cell: Cell) -> bool:
        return is_finished(self.folder / cell.folder, self.fingerprints[cell.group, cell.name])

    def _finished(self, cell: Cell) -> Done | None:
        return load_cell(self.folder / cell.folder, self.fingerprints[cell.group, cell.name])

    def _reference(self, source: str, fingerprint: str) -> tuple[str, list[str]]:
        """The name of the entry that others are held against, and what is to be said of it."""
        keys = [self.fingerprints[cell.group, cell.name] for cell in self.cells]
        wanted = fingerprint if fingerprint in keys else keys[0]
        if self.config.reference is not None:
            cell = named(self.cells, self.config.reference, source)
            wanted = self.fingerprints[cell.group, cell.name]
        if wanted in self.entries:
            return self.entries[wanted].name, []
        first = next(iter(self.entries.values())).name
        return first, [
            f"{self._first(wanted).label}, which was to be the reference, is missing: {first} took its place."
        ]

    def _report(self, source: str, baselines: Sequence[Entry], fingerprint: str) -> Report:
        title = f"{self.base.name}: sweep {Path(source).stem}"
        lines = [*self.lines, *(Line(BASELINES, entry.name, entry.name, "baseline") for entry in baselines)]
        if not self.entries:
            lines = [line for line in lines if not line.entry]
            return made_report(title, lines, [], "", self.goal, [])
        reference, notes = self._reference(source, fingerprint)
        self._mark(reference)
        if self.base.selected:
            notes.append(
                f"{self.base.name} was chosen by study {self.base.selected} on these folds: test scores of cells that"
                " are like it are optimistic, and so is their advantage over others."
            )
        return made_report(title, lines, [*self.entries.values(), *baselines], reference, self.goal, notes)

    def _mark(self, reference: str) -> None:
        """Tells the runs of the cells which one is the reference; an earlier command may have had another."""
        for key, entry in self.entries.items():
            run = self.place.store.run(self.done[key].facts["run"], self.place.experiment_id)
            run.tags({REFERENCE_TAG: entry.name == reference})
            run.flush()

    def _missing(self) -> tuple[str, ...]:
        missing = tuple(f"{line.group}: {line.name}" for line in self.lines if not line.entry)
        if missing:
            told = f"missing {len(missing)} of {len(self.cells)} cells: {'; '.join(missing)}"
            self.progress.line(f"{told}; the same command tries them again")
            self.place.run.tags({"failure": told})
            self.place.run.close("FAILED")
        return missing


def _number(headline: Headline) -> str:
    return f"{'pooled ' if headline.undefined else ''}{headline.value:.3f}"


def _identity(materials: Materials) -> str:
    """What baselines depend on, in a sweep whose base experiment is known by its folder."""
    dataset = materials.dataset
    return content_hash([dataset.provenance.digest, materials.folds.digest, dataset.ids.tolist()])[:8]


def _entry(
    name: str, experiment: Experiment, materials: Materials, predictions: Predictions, kind: str = "model"
) -> Entry:
    names, facts = names_and_folds(experiment, materials)
    tasks = materials.spec.tasks
    return Entry(name, tasks, predictions, names.ids, names.group, names.recording, facts, kind)


def _renamed(entry: Entry, name: str) -> Entry:
    parts = entry.tasks, entry.predictions, entry.ids, entry.group, entry.recording, entry.folds, entry.kind
    return Entry(name, *parts)
