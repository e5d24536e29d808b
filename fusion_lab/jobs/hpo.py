"""``hpo``: a study over cross-validation folds. Baselines first, then trials, then the best configuration as a file."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
from optuna.trial import FrozenTrial, TrialState

from fusion_lab.config import dump_yaml, load_yaml, nearest, parse_overrides
from fusion_lab.contracts import ConfigError
from fusion_lab.evaluation.predictions import load_predictions, save_predictions
from fusion_lab.experiment import Experiment, Materials, find, read_experiment
from fusion_lab.jobs.baselines import cross_validate_baselines, log_baselines, score_baselines
from fusion_lab.jobs.best import keep_best, log_best
from fusion_lab.jobs.progress import Progress, duration
from fusion_lab.jobs.results import Scored, headline_metric, table
from fusion_lab.jobs.session import STUDY, Session, session
from fusion_lab.jobs.tell import data_lines, view_lines
from fusion_lab.report.study import Study as StudyFigures
from fusion_lab.report.study import comparison_png, history_png, parameters_png
from fusion_lab.report.study_page import study_html
from fusion_lab.search.study import REASON, RUN, Clock, Study, StudyConfig, Suggestion, read_study
from fusion_lab.tracking.descriptions import Scores, data_facts, describe, protocol_sentence
from fusion_lab.tracking.provenance import dataset_input, environment
from fusion_lab.tracking.trial import Outcome, log_cross_validation
from fusion_lab.tracking.views import save_view, table as view_table
from fusion_lab.training import CONTINUE, Decision, Evaluation, OnEval, cross_validate
from fusion_lab.training.folds import Diverged

STUDIES = Path("studies")
BEST_SHOWN = 5
MOST_FAILURES = 3
"""Failures in a row that end the command: by then it is the set-up, not the configuration."""
STATES = {TrialState.COMPLETE: "complete", TrialState.PRUNED: "pruned", TrialState.FAIL: "failed"}


def run(
    experiment: str,
    space: str | None = None,
    trials: int | None = None,
    timeout: float | None = None,
    data: str | None = None,
    seed: int | None = None,
    set: str = "",
    tracking_uri: str | None = None,
) -> Study:
    """Runs, or continues, the study of an experiment over a space until it has ``trials`` trials in all."""
    overrides: dict[str, Any] = parse_overrides(set)
    if seed is not None:
        overrides["seed"] = seed
    base = read_experiment(experiment, overrides, data)
    source = find_space(space, experiment, base)
    changes = {"budget.trials": trials, "budget.timeout": timeout}
    config = read_study(source, {path: value for path, value in changes.items() if value is not None})
    progress = Progress()
    with session(base.name, "study", f"study {base.name}", tracking_uri) as place:
        materials = Materials.load(base)
        progress.line("\n".join(data_lines(base.name, materials)))
        study = Study(config, base, materials, STUDIES, str(source))
        options = {"experiment": experiment, "space": space, "data": data, "seed": seed, "set": f"'{set}'" if set else None}
        again = "fusion-lab hpo " + " ".join(f"--{k} {v}" for k, v in options.items() if v is not None)
        with study.locked():
            _Search(study, config, materials, place, progress, again).run()
        return study


def find_space(space: str | None, experiment: str, base: Experiment) -> Path:
    """The file of the search space: the one named, else the experiment's own, else that of its model family."""
    if space:
        return find("hpo", space)
    names = [Path(experiment).stem, base.name, base.model.family]
    for name in names:
        try:
            return find("hpo", name)
        except ConfigError:
            continue
    raise ConfigError(f"hpo: expected a search space named one of {', '.join(names)}, found none; name one with space=")


@dataclass
class _Search:
    study: Study
    config: StudyConfig
    materials: Materials
    place: Session
    progress: Progress
    again: str

    def __post_init__(self) -> None:
        self.tags = {STUDY: self.study.name}
        self.clock = Clock(self.config.budget.timeout)

    def run(self) -> None:
        self._begin()
        self.baselines = self._baselines()
        for number in self.study.recover():
            self.progress.line(f"trial {number} was interrupted: it is run again")
        failures = 0
        try:
            while len(self.study.ended()) < self.config.budget.trials and not self.clock.is_over():
                failed = self._trial(self.study.ask())
                failures = failures + 1 if failed else 0
                if failures == MOST_FAILURES:
                    self.progress.line(f"{failures} trials failed in a row: the study stops here")
                    break
        finally:
            self._end()

    def _begin(self) -> None:
        run, trials = self.place.run, self.study.trials()
        run.tags({**self.tags, "mlflow.runName": f"study {self.study.name}"})
        first = self.study.folder / "first_run"
        if first.exists():
            run.tags({"fusion_lab.continues": first.read_text().strip()})
        else:
            first.write_text(run.id)
        run.params({"study": self.study.name, "trials": self.config.budget.trials, "searched": ", ".join(self.study.space.names())})
        run.json("environment.json", environment())
        run.text("space.yaml", dump_yaml(self.config.model_dump(mode="json")))
        run.text("base.yaml", dump_yaml(self.study.base.resolved()))
        run.inputs([dataset_input(self.study.base.name, self.materials.dataset)])
        state = f"continues after {len(self.study.ended())} trials" if trials else "starts"
        self.progress.line(f"study {self.study.name} {state}; {self.config.budget.trials} trials in all, kept in {self.study.folder}")
        self._save_view()

    def _baselines(self) -> list[Scored]:
        if not self.study.base.baselines:
            return []
        self.progress.now("baselines on the same folds")
        folder = self.study.folder / "baselines"
        predictions, new = cross_validate_baselines(self.materials, folder, self.progress.now)
        scored = score_baselines(predictions, self.materials)
        if new:
            log_baselines(self.place, scored, predictions, self.materials, ("val",), self.tags)
        self.progress.line("\n".join(["baselines, mean over tasks and folds:", *table(scored[:BEST_SHOWN], "val")]))
        return scored

    def _trial(self, suggestion: Suggestion) -> bool:
        """Runs one trial to its end; whether it failed."""
        number = suggestion.number
        run = self.place.child(f"trial {number:03d}", "trial", {**self.tags, "fusion_lab.trial": str(number)})
        suggestion.trial.set_user_attr(RUN, run.id)
        with run:
            run.params({f"{name}": value for name, value in suggestion.trial.params.items()})
            try:
                result = cross_validate(self.materials.plan(suggestion.experiment), self._on_eval(suggestion))
            except Diverged as error:
                return self._failed(suggestion, run, str(error))
            pruned = any(fold.ending == "pruned" for fold in result.folds)
            scored = Scored.of(f"trial {number}", "trial", result.predictions, self.materials)
            config = suggestion.experiment.resolved()
            outcome = Outcome(result, self.materials.spec, scored.scores.table, scored.summary, config, self.materials.dataset.ids)
            keep = self.config.keep == "all" and not pruned
            log_cross_validation(run, outcome, ("val",), keep_checkpoints=keep)
            run.metrics({"objective": self.value})
            run.tags({"fusion_lab.state": "pruned" if pruned else "complete"})
            save_predictions(result.predictions, self._predictions(number))
            best = self.study.best()
            is_best = not pruned and (best is None or self.value > best.value)
            if is_best and self.config.keep != "none":
                keep_best(self.study.folder / "best", outcome)
            run.flush()
        self.study.tell(suggestion, self.value, TrialState.PRUNED if pruned else TrialState.COMPLETE)
        self._tell(suggestion, scored, result.seconds, pruned, is_best)
        return False

    def _on_eval(self, suggestion: Suggestion) -> OnEval:
        show = self.progress.watch(f"trial {suggestion.number}", self._best_so_far)

        def on_eval(evaluation: Evaluation) -> Decision:
            show(evaluation)
            self.value = evaluation.value
            suggestion.trial.report(evaluation.value, evaluation.epoch)
            prune = bool(evaluation.running) and suggestion.trial.should_prune()
            return Decision(prune=True) if prune else CONTINUE

        return on_eval

    def _failed(self, suggestion: Suggestion, run, why: str) -> bool:
        run.tags({"fusion_lab.state": "failed", "failure": why})
        run.close("FAILED")
        suggestion.trial.set_user_attr(REASON, why)
        self.study.tell(suggestion, None, TrialState.FAIL)
        self.progress.line(f"trial {suggestion.number} failed: {why}")
        return True

    def _tell(self, suggestion: Suggestion, scored: Scored, seconds: float, pruned: bool, is_best: bool) -> None:
        metric = headline_metric(scored)
        folds = scored.scores.table
        own = folds[(folds["split"] == "val") & (folds["task"] == "") & (folds["metric"] == metric)]["value"]
        shown = " ".join(f"{value:.2f}" if math.isfinite(value) else "-" for value in own)
        state = "pruned" if pruned else "best so far" if is_best else ""
        self.place.run.metrics({"study/value": self.value} if not pruned else {}, step=suggestion.number)
        best = self.study.best()
        if best is not None and best.value is not None:
            self.place.run.metrics({"study/best": best.value}, step=suggestion.number)
        done, total = len(self.study.ended()), self.config.budget.trials
        self.progress.line(
            f"trial {suggestion.number:3d} ({done}/{total})  {self.value:.3f}  folds {shown}  {duration(seconds)}  {state}".rstrip()
        )

    def _best_so_far(self) -> str:
        best = self.study.best()
        return "" if best is None else f"  best {best.value:.3f} (trial {best.number})"

    def _predictions(self, number: int) -> Path:
        return self.study.folder / "predictions" / f"{number:04d}.npz"

    def _scored(self, trial: FrozenTrial) -> Scored:
        return Scored.of(f"trial {trial.number}", "trial", load_predictions(self._predictions(trial.number)), self.materials)

    def _end(self) -> None:
        """Everything that is told of a study, however far it came."""
        best = self.study.best()
        if best is None:
            self.progress.line("no trial is complete yet: run the same command again to continue")
            return
        experiment = self.study.experiment_of(best)
        text = dump_yaml(experiment.resolved())
        best_file = self.study.folder / "best.yaml"
        best_file.write_text(text)
        complete = [t for t in self.study.trials() if t.state == TrialState.COMPLETE]
        ranked = sorted(complete, key=lambda t: (-(t.value or -math.inf), t.number))[:BEST_SHOWN]
        trials = [self._scored(trial) for trial in ranked]
        self._log_study(trials, best, text)
        chosen = Scored(f"trial {best.number} (selected)", "trial", trials[0].scores, trials[0].summary)
        rows = sorted([*trials, *self.baselines], key=lambda row: -_or_lowest(row.value("val", headline_metric(row))))
        lines = [
            "",
            "validation scores, mean over tasks and folds (trials were selected by them):",
            *table(rows, "val"),
            "",
            "out-of-fold test scores of the chosen configuration beside the baselines (selected: chosen on the same folds):",
            *table([chosen, *self.baselines], "test"),
            "",
            *self.materials.notes,
            f"best configuration: {best_file}",
            f"reproduce it: fusion-lab train --experiment {best_file}",
            *view_lines(self.place, self.study.name),
        ]
        self.progress.line("\n".join(lines))

    def _log_study(self, trials: list[Scored], best: FrozenTrial, text: str) -> None:
        run, name = self.place.run, self.study.name
        log_best(run, self.study.folder / "best")
        run.text("best.yaml", text)
        winner = trials[0]
        for split, prefix in (("val", "val"), ("test", "selected/test")):
            for metric in ("auroc", "ap", "f1", "r2"):
                line = winner.line(split, metric)
                if line is not None:
                    parts = {"": "mean", "_ci_low": "ci_low", "_ci_high": "ci_high", "_std": "std"}
                    run.metrics({f"{prefix}/{metric}{suffix}": float(line[part]) for suffix, part in parts.items()})
        run.metrics({"objective": float(best.value or math.nan), "best_trial": best.number})
        for row in self.baselines:
            line = row.line("val", headline_metric(row))
            if line is not None:
                run.metrics({f"baseline/{row.name}": float(line["mean"])})
        figures = self._figures(trials)
        run.bytes("study/history.png", lambda: history_png(figures))
        run.bytes("study/comparison.png", lambda: comparison_png(figures))
        run.bytes("study/parameters.png", lambda: parameters_png(figures))
        run.bytes("study/study.html", lambda: study_html(figures, self.materials.notes).encode())
        facts = data_facts(self.materials.dataset)
        base = self.study.base
        what = base.description or f"Search of {base.name}."
        what += f"\n\n{len(self.study.ended())} trials over {', '.join(f'`{n}`' for n in self.study.space.names())}; best: trial {best.number}."
        beside = Scores(self.baselines[0].name, self.baselines[0].summary) if self.baselines else None
        protocol = protocol_sentence(self.materials.folds, base.folds.seed)
        notes = [*self.materials.folds.notes, "The best of several trials is optimistic: its scores are selected."]
        run.describe(describe(what, facts, protocol, self.again, Scores(winner.name, winner.summary), beside, "val", notes))
        run.flush()

    def _figures(self, trials: list[Scored]) -> StudyFigures:
        ended = [t for t in self.study.trials() if t.state in STATES and t.user_attrs.get(REASON) != "interrupted"]
        numbers = [t.number for t in ended]
        values = [_last_value(t) for t in ended]
        rows = []
        for scored in [*trials, *self.baselines]:
            line = scored.line("val", headline_metric(scored))
            if line is not None:
                rows.append({"name": scored.name, "kind": scored.kind, **line[["mean", "ci_low", "ci_high"]].to_dict()})
        return StudyFigures(
            name=self.study.name,
            metric=self.study.base.training.monitor,
            trials=pd.DataFrame({"number": numbers, "value": values, "state": [STATES[t.state] for t in ended]}),
            params=pd.DataFrame([t.params for t in ended]),
            scores=pd.DataFrame(rows),
            importance=pd.Series(self.study.importance(), dtype=float),
        )

    def _save_view(self) -> None:
        """The link that a person gets: trials and baselines sorted by score, with what was searched."""
        monitor = self.study.base.training.monitor
        metric = "objective" if monitor == "loss" else f"val/{monitor}"
        metrics = [metric, f"{metric}_ci_low", f"{metric}_ci_high", "val/ap", "val/f1"]
        names = sorted({name.split("@")[0] for name in self.study.space.names()})
        state = view_table(list(dict.fromkeys(metrics)), ["model.family", *names], metric, search=f"tags.`{STUDY}` = '{self.study.name}'")
        save_view(self.place.store, self.place.experiment_id, self.study.name, f"study {self.study.name}", state)


def _last_value(trial: FrozenTrial) -> float:
    if trial.value is not None:
        return float(trial.value)
    return float(trial.intermediate_values[max(trial.intermediate_values)]) if trial.intermediate_values else math.nan


def _or_lowest(value: float) -> float:
    return value if math.isfinite(value) else -math.inf
