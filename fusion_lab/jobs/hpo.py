"""``hpo``: a study over cross-validation folds. Baselines first, then trials, then the best configuration as a file."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from optuna.trial import TrialState

from fusion_lab.config import dump_yaml, parse_overrides
from fusion_lab.contracts import ConfigError
from fusion_lab.evaluation.predictions import save_predictions
from fusion_lab.experiment import Experiment, Materials, find, read_experiment
from fusion_lab.jobs.baselines import cross_validate_baselines, log_baselines, score_baselines
from fusion_lab.jobs.best import keep_best
from fusion_lab.jobs.progress import Progress, duration
from fusion_lab.jobs.results import Scored, headline_metric, table
from fusion_lab.jobs.session import STUDY, Session, session
from fusion_lab.jobs.study_report import predictions_file, report_study, save_study_view
from fusion_lab.jobs.tell import command_line, data_lines
from fusion_lab.report.drawing import Draw, DrawingProcess
from fusion_lab.search.space import check_space, parse_space
from fusion_lab.search.study import REASON, RUN, Clock, Study, StudyConfig, Suggestion, read_study
from fusion_lab.tracking.provenance import dataset_input, environment
from fusion_lab.tracking.runs import Run
from fusion_lab.tracking.sweep import STATE
from fusion_lab.tracking.trial import Outcome, log_cross_validation, log_figures
from fusion_lab.training import CONTINUE, CrossValidation, Decision, Diverged, Evaluation, OnEval, cross_validate

STUDIES = Path("studies")
BASELINES_SHOWN = 5
MOST_FAILURES = 3
"""Failures in a row that end the command: by then it is the set-up, not the configuration."""


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
    check_space(parse_space(config.space, str(source)), base.resolved(), str(source))
    again = command_line("hpo", experiment=experiment, space=space, trials=trials, data=data, seed=seed, set=set)
    progress = Progress()
    materials = Materials.load(base)
    progress.line("\n".join(data_lines(base.name, materials)))
    with session(base.name, "study", f"study {base.name}", tracking_uri) as place:
        study = Study(config, base, materials, STUDIES, str(source))
        with study.locked(), DrawingProcess() as process:
            _Search(study, config, materials, place, progress, again, process.draw).run()
        return study


def find_space(space: str | None, experiment: str, base: Experiment) -> Path:
    """The file of the search space: the one named, else the experiment's own, else that of its model family."""
    if space:
        return find("hpo", space)
    names = list(dict.fromkeys([Path(experiment).stem, base.name, base.model.family]))
    for name in names:
        try:
            return find("hpo", name)
        except ConfigError:
            continue
    raise ConfigError(f"hpo/: expected a space named {' or '.join(names)}, found none; name one with space=")


@dataclass
class _Search:
    study: Study
    config: StudyConfig
    materials: Materials
    place: Session
    progress: Progress
    again: str
    draw: Draw
    value: float = math.nan  # of the trial at hand, as last reported
    baselines: list[Scored] = field(default_factory=list)

    @property
    def tags(self) -> dict[str, str]:
        return {STUDY: self.study.name}

    def run(self) -> None:
        """Trials until the budget is used up; what is there is told in any case, also when it is interrupted."""
        clock = Clock(self.config.budget.timeout)
        self._begin()
        self._run_baselines()
        for number in self.study.recover():
            self.progress.line(f"trial {number} was interrupted: it is run again")
        failures = 0
        try:
            while len(self.study.ended()) < self.config.budget.trials and not clock.is_over():
                failures = failures + 1 if self._trial(self.study.ask()) else 0
                if failures == MOST_FAILURES:
                    self.progress.line(f"{failures} trials failed in a row: the study stops here")
                    break
        finally:
            lines = report_study(self.study, self.materials, self.baselines, self.place, self.again)
            self.progress.line("\n".join(lines))

    def _begin(self) -> None:
        run, study = self.place.run, self.study
        run.tags({"mlflow.runName": f"study {study.name}"})
        first = study.folder / "first_run"
        if first.exists():
            run.tags({"fusion_lab.continues": first.read_text().strip()})
        else:
            first.write_text(run.id)
        searched = ", ".join(study.space.names())
        run.params({"study": study.name, "trials": self.config.budget.trials, "searched": searched})
        run.json("environment.json", environment())
        run.text("space.yaml", dump_yaml(self.config.model_dump(mode="json")))
        run.text("base.yaml", dump_yaml(study.base.resolved()))
        run.inputs([dataset_input(study.base.name, self.materials.dataset)])
        done = len(study.ended())
        state = f"continues after {done} trials" if done else "starts"
        self.progress.line(f"study {study.name} {state}: {self.config.budget.trials} trials in all, in {study.folder}/")
        save_study_view(study, self.place)

    def _run_baselines(self) -> None:
        if not self.study.base.baselines:
            return
        self.progress.now("baselines on the same folds")
        folder = self.study.folder / "baselines"
        predictions, new = cross_validate_baselines(self.materials, folder, self.progress.now)
        self.baselines = score_baselines(predictions, self.materials)
        if new:
            log_baselines(self.place, self.baselines, predictions, self.materials, ("val",), self.tags)
        shown = table(self.baselines[:BASELINES_SHOWN], "val")
        self.progress.line("\n".join(["", "the best baselines, mean over tasks and folds:", *shown, ""]))

    def _trial(self, suggestion: Suggestion) -> bool:
        """Runs one trial to its end; whether it failed."""
        number = suggestion.number
        tags = {**self.tags, "fusion_lab.trial": str(number)}
        run = self.place.child(f"trial {number:03d}", "trial", tags)
        suggestion.trial.set_user_attr(RUN, run.id)
        with run:
            # first, so that they stand under the names that the space gives them
            run.params(suggestion.trial.params)
            try:
                result = cross_validate(self.materials.plan(suggestion.experiment), self._on_eval(suggestion))
            except Diverged as error:
                self._fail(suggestion, run, str(error))
                return True
            pruned = any(fold.ending == "pruned" for fold in result.folds)
            best = self.study.best()
            is_best = not pruned and (best is None or best.value is None or self.value > best.value)
            scored, outcome = self._log(suggestion, run, result, pruned, is_best)
            if not pruned:
                self._carry_forward(suggestion, max(fold.epochs for fold in result.folds))
            # the trial counts once its numbers are in the store; its figures are drawn while the next one trains
            run.flush()
            self.study.tell(suggestion, self.value, TrialState.PRUNED if pruned else TrialState.COMPLETE)
            run.tags({STATE: "pruned" if pruned else "complete"})
            run.flush()  # not behind the figures: a kill while they are drawn leaves the run of a trial that counts
            log_figures(run, outcome, self.draw)
        self._tell(suggestion, scored, result.seconds, "pruned" if pruned else "best so far" if is_best else "")
        return False

    def _on_eval(self, suggestion: Suggestion) -> OnEval:
        show = self.progress.watch(f"trial {suggestion.number}", self._best_so_far)

        def on_eval(evaluation: Evaluation) -> Decision:
            show(evaluation)
            self.value = evaluation.value
            suggestion.trial.report(evaluation.value, evaluation.epoch)
            return Decision(prune=True) if evaluation.running and suggestion.trial.should_prune() else CONTINUE

        return on_eval

    def _carry_forward(self, suggestion: Suggestion, last: int) -> None:
        """A trial that stopped early stands at what it reached, for the pruner that compares others with it later."""
        for epoch in range(last + 1, suggestion.experiment.training.epochs + 1):
            suggestion.trial.report(self.value, epoch)

    def _log(
        self, suggestion: Suggestion, run: Run, result: CrossValidation, pruned: bool, is_best: bool
    ) -> tuple[Scored, Outcome]:
        materials, folder = self.materials, self.study.folder
        scored = Scored.of(f"trial {suggestion.number}", "trial", result.predictions, materials)
        config = suggestion.experiment.resolved()
        table, ids = scored.scores.table, materials.dataset.ids
        outcome = Outcome(result, materials.spec, table, scored.summary, config, ids)
        log_cross_validation(run, outcome, ("val",), keep_checkpoints=self.config.keep == "all" and not pruned)
        run.metrics({"objective": self.value})
        save_predictions(result.predictions, predictions_file(self.study, suggestion.number))
        if is_best and self.config.keep != "none":
            keep_best(folder / "best", outcome)
        return scored, outcome

    def _fail(self, suggestion: Suggestion, run: Run, why: str) -> None:
        run.tags({STATE: "failed", "failure": why})
        run.close("FAILED")
        suggestion.trial.set_user_attr(REASON, why)
        self.study.tell(suggestion, None, TrialState.FAIL)
        self.progress.line(f"trial {suggestion.number} failed: {why}")

    def _tell(self, suggestion: Suggestion, scored: Scored, seconds: float, state: str) -> None:
        scores = scored.scores.table
        of = (scores["split"] == "val") & (scores["task"] == "") & (scores["metric"] == headline_metric(scored))
        folds = " ".join(f"{value:.2f}" if math.isfinite(value) else "-" for value in scores[of]["value"])
        self._log_progress(suggestion.number, state)
        done = f"({len(self.study.ended())}/{self.config.budget.trials})"
        line = f"trial {suggestion.number:3d} {done}  {self.value:.3f}  folds {folds}  {duration(seconds)}  {state}"
        self.progress.line(line.rstrip())

    def _log_progress(self, number: int, state: str) -> None:
        """The parent's own curves, for MLflow's charts do not look into collapsed children."""
        best = self.study.best()
        curves = {} if state == "pruned" else {"study/value": self.value}
        if best is not None and best.value is not None:
            curves["study/best"] = best.value
        if self.baselines:
            curves["study/best_baseline"] = self.baselines[0].value("val", headline_metric(self.baselines[0]))
        self.place.run.metrics(curves, step=number)

    def _best_so_far(self) -> str:
        best = self.study.best()
        return "" if best is None else f"  best {best.value:.3f} (trial {best.number})"
