"""``hpo``: a study over cross-validation folds. Baselines first, then trials, then the best configuration as a file."""

from __future__ import annotations

import math
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from optuna.trial import FrozenTrial, TrialState

from fusion_lab.config import dump_yaml, load_yaml, parse_overrides
from fusion_lab.contracts import ConfigError, UserError
from fusion_lab.evaluation.predictions import load_predictions, save_predictions
from fusion_lab.experiment import Experiment, Materials, find, read_experiment
from fusion_lab.jobs.baselines import cross_validate_baselines, log_baselines, score_baselines
from fusion_lab.jobs.crossval import outcome_of
from fusion_lab.jobs.evaluation import evaluate
from fusion_lab.jobs.final import Trained, enter, link_checkpoints
from fusion_lab.jobs.kept import drop_others, how_many, keep_trial, kept_folder
from fusion_lab.jobs.progress import Progress, duration, shown
from fusion_lab.jobs.results import Scored, fairest, is_pooled, table, watched_name
from fusion_lab.jobs.session import STUDY, Session, session
from fusion_lab.jobs.study_report import predictions_file, report_study, save_study_view
from fusion_lab.jobs.tell import closed_lines, command_line, data_lines
from fusion_lab.report.drawing import Draw, DrawingProcess
from fusion_lab.search.space import parse_space
from fusion_lab.search.study import REASON, RUN, Clock, Study, StudyConfig, Suggestion, read_study
from fusion_lab.tracking.provenance import dataset_input, environment
from fusion_lab.tracking.registry import Registry
from fusion_lab.tracking.runs import Run
from fusion_lab.tracking.stale import STATE
from fusion_lab.tracking.trial import EXECUTION, Outcome, log_cross_validation, log_figures
from fusion_lab.training import (
    CONTINUE,
    CrossValidation,
    Decision,
    Diverged,
    Evaluation,
    OnEval,
    cross_validate,
    settle,
)
from fusion_lab.training.plan import Goal

STUDIES = Path("studies")
DEFAULT = "relapse"
BASELINES_SHOWN = 5
MOST_FAILURES = 3
"""Failures in a row that end the command: by then it is the set-up, not the configuration."""


def run(
    experiment: str | None = None,
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
    changes = {"budget.trials": trials, "budget.timeout": timeout}
    given = {path: value for path, value in changes.items() if value is not None}
    named = experiment or (read_study(find("hpo", space)).experiment if space else None) or DEFAULT
    base = read_experiment(named, overrides, data)
    source = find_space(space, named, base)
    config = read_study(source, given)
    again = command_line("hpo", experiment=named, space=space, trials=trials, data=data, seed=seed, set=set)
    progress = Progress()
    materials = Materials.load(base)
    if config.budget.rows is not None:
        materials = materials.sampled(config.budget.rows, base.folds)
    progress.line("\n".join(data_lines(base.name, materials)))
    progress.line(space_line(source, named, base))
    materials.check(base)
    study = Study(config, base, materials, STUDIES, str(source))
    with progress, session(base.name, "study", f"study {study.name}", tracking_uri) as place:
        progress.line("\n".join(closed_lines(place)))
        with study.locked(), DrawingProcess() as process:
            promote = command_line("promote", experiment=named, data=data, set=set, tracking_uri=tracking_uri)
            _Search(study, config, materials, place, progress, again, promote, process.draw).run()
            place.run.flush()  # while there is a process that draws what is still to be written
        return study


def find_space(space: str | None, experiment: str, base: Experiment) -> Path:
    """The file of the search space: the one named, else the experiment's own, else that of its model family. Where the
    command gave the experiment another family than its file has, a space of its own is passed over if it searches
    settings that this family does not have.

    Raises:
        ConfigError: there is none.
    """
    if space:
        return find("hpo", space)
    family = base.model.family
    own = [path for path in _own_spaces(experiment, base) if not _is_of_another(path, experiment, base)]
    chosen = next(iter(own), None) or _space(family)
    if chosen is None:
        names = dict.fromkeys([Path(experiment).stem, base.name, family])
        expected = f"a space of family {family} named {' or '.join(names)}"
        raise ConfigError(f"hpo/: expected {expected}, found none; name one with space=")
    return chosen


def space_line(source: Path, experiment: str, base: Experiment) -> str:
    """Which space is searched, and why it is not the experiment's own where that has one."""
    own = _own_spaces(experiment, base)
    passed = f" ({own[0]} is not of family {base.model.family})" if own and source == _space(base.model.family) else ""
    return f"the space searched is {source}{'' if source in own else passed}"


def _own_spaces(experiment: str, base: Experiment) -> list[Path]:
    return [path for name in dict.fromkeys([Path(experiment).stem, base.name]) if (path := _space(name))]


def _space(name: str) -> Path | None:
    try:
        return find("hpo", name)
    except ConfigError:
        return None


def _is_of_another(space: Path, experiment: str, base: Experiment) -> bool:
    """Whether a space searches what the model family does not have. Where this is the family of the experiment's file,
    such a setting is a mistake in the space, to be told.
    """
    model = load_yaml(find("experiments", experiment)).get("model")
    written = model.get("family") if isinstance(model, dict) else None
    if base.model.family == (written or Experiment.model_fields["model"].default.family):
        return False
    searched = parse_space(read_study(space).space, str(space)).keys("model")
    return not searched <= type(base.model).model_fields.keys()


@dataclass
class _Search:
    study: Study
    config: StudyConfig
    materials: Materials
    place: Session
    progress: Progress
    again: str
    promote: str  # the command that promotes what this one registers
    draw: Draw
    value: float = math.nan  # of the trial at hand, as last reported
    baselines: list[Scored] = field(default_factory=list)
    started: float = 0.0  # of the first trial of this command
    done: int = 0  # trials of this command

    @property
    def goal(self) -> Goal:
        return self.study.base.training.goal

    @property
    def tags(self) -> dict[str, str]:
        return {STUDY: self.study.name}

    def run(self) -> None:
        """Trials until the budget is used up; what is there is told in any case, also when it is interrupted."""
        clock = Clock(self.config.budget.timeout)
        self._begin()
        self._settle()
        self._run_baselines()
        for number in self.study.recover():
            self.progress.line(f"trial {number} was interrupted: it is run again")
        failures = 0
        self.started = time.monotonic()
        try:
            while len(self.study.ended()) < self.config.budget.trials and not clock.is_over():
                failures = failures + 1 if self._trial(self.study.ask()) else 0
                if failures == MOST_FAILURES:
                    self.progress.line(f"{failures} trials failed in a row: the study stops here")
                    break
        finally:
            self._show("the study's report")
            lines = report_study(self.study, self.materials, self.baselines, self.place, self.again)
            self.progress.line("\n".join(lines))
        ended = self.study.ended()
        if len(ended) >= self.config.budget.trials and self.study.best() is None:
            why = ended[-1].user_attrs.get(REASON, "they were pruned")
            raise UserError(f"study {self.study.name}: expected a complete trial, found none of {len(ended)}: {why}")
        self._enter()

    def _begin(self) -> None:
        run, study = self.place.run, self.study
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
        if not done and study.start is not None:
            self.progress.line("trial 0 is the experiment as it is")
        pooled = is_pooled(self.materials, study.base.training)
        save_study_view(study, self.materials.spec, self.place, pooled)

    def _settle(self) -> None:
        """Decides once per study how folds are computed."""
        self.progress.now("timing a few steps")
        execution = self.study.settle(lambda: settle(self.materials.plan(self.study.base)))
        self.place.run.tags({EXECUTION: str(execution)})
        self.progress.line(f"folds are computed {execution}")

    def _run_baselines(self) -> None:
        if not self.study.base.baselines:
            return
        self.progress.now("baselines on the same folds")
        folder = self.study.folder / "baselines"
        predictions = cross_validate_baselines(self.materials, folder, self.progress.now)
        self.baselines = score_baselines(predictions, self.materials, self.goal)
        if not self.place.has("baseline", self.tags):
            seed = self.study.base.folds.seed
            log_baselines(self.place, self.baselines, predictions, self.materials, ("val",), self.tags, seed)
        lines = table(self.baselines[:BASELINES_SHOWN], "val", self.materials.spec, self.goal)
        self.progress.line("\n".join(["", "the best baselines, mean over tasks and folds:", *lines, ""]))

    def _trial(self, suggestion: Suggestion) -> bool:
        """Runs one trial to its end; whether it failed."""
        number = suggestion.number
        tags = {**self.tags, "fusion_lab.trial": str(number), EXECUTION: str(self.study.execution)}
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
            except UserError as error:
                self._fail(suggestion, run, str(error))
                raise
            pruned = any(fold.ending == "pruned" for fold in result.folds)
            best = self.study.best()
            is_best = not pruned and (best is None or best.value is None or self.value > best.value)
            scored, outcome = self._log(suggestion, run, result, pruned)
            if not pruned:
                self._carry_forward(suggestion, max(fold.epochs for fold in result.folds))
            # the trial counts once its numbers are in the store; its figures are drawn while the next one trains
            run.flush()
            self.study.tell(suggestion, self.value, TrialState.PRUNED if pruned else TrialState.COMPLETE)
            run.tags({STATE: "pruned" if pruned else "complete"})
            if pruned:
                run.tags({"mlflow.runName": f"trial {number:03d} (pruned)"})
            run.flush()  # not behind the figures: a kill while they are drawn leaves the run of a trial that counts
            log_figures(run, outcome, self.draw)
        drop_others(self.study.folder, [t.number for t in self._kept()])
        self._tell(suggestion, scored, result.seconds, "pruned" if pruned else "best so far" if is_best else "")
        return False

    def _on_eval(self, suggestion: Suggestion) -> OnEval:
        self._show()
        score = watched_name(self.materials.spec, self.goal)
        show = self.progress.watch(f"trial {suggestion.number}", self._best_so_far, score)

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

    def _kept(self) -> list[FrozenTrial]:
        """The trials whose weights are kept with the study, the best first."""
        return self.study.ranked()[: how_many(self.config.keep)]

    def _is_kept(self) -> bool:
        """Whether the trial at hand will be one of them."""
        places, better = how_many(self.config.keep), [t for t in self._kept() if (t.value or 0.0) >= self.value]
        return len(better) < places

    def _log(self, suggestion: Suggestion, run: Run, result: CrossValidation, pruned: bool) -> tuple[Scored, Outcome]:
        materials, number = self.materials, suggestion.number
        # validation rows alone: test rows of a trial are kept in its file, and scored for the chosen one only
        seen = result.predictions.of("val")
        scored = Scored.of(f"trial {number}", "trial", seen, materials, self.goal, ("val", "test"))
        outcome = outcome_of(suggestion.experiment, materials, result, scored.scores.table, scored.summary)
        log_cross_validation(run, outcome, ("val",), keep_checkpoints=self.config.keep == "all" and not pruned)
        run.metrics({"objective": self.value})
        save_predictions(result.predictions, predictions_file(self.study, number))
        if not pruned and self._is_kept():
            keep_trial(kept_folder(self.study.folder, number), outcome)
        return scored, outcome

    def _fail(self, suggestion: Suggestion, run: Run, why: str) -> None:
        run.tags({STATE: "failed", "failure": why})
        run.close("FAILED")
        suggestion.trial.set_user_attr(REASON, why)
        self.study.tell(suggestion, None, TrialState.FAIL)
        self.progress.line(f"trial {suggestion.number} failed: {why}")

    def _tell(self, suggestion: Suggestion, scored: Scored, seconds: float, state: str) -> None:
        self._log_progress(suggestion.number, state)
        done, total = len(self.study.ended()), self.config.budget.trials
        self.done += 1
        left = (time.monotonic() - self.started) / self.done * (total - done)
        folds = shown(scored.headlines["val"].folds.tolist())
        score = f"{watched_name(self.materials.spec, self.goal)} {self.value:.3f}"
        line = f"trial {suggestion.number:3d} ({done}/{total})  {score}  folds {folds}  {duration(seconds)}"
        best = "" if state.startswith("best") else self._best_so_far()
        about = f"  about {duration(left)} left" if done < total else ""
        self.progress.line(f"{line}{'  ' + state if state else ''}{best}{about}")

    def _show(self, what: str = "") -> None:
        """Where the study stands, and what it goes on with."""
        done, total = len(self.study.ended()), self.config.budget.trials
        left = (time.monotonic() - self.started) / self.done * (total - done) if self.done else None
        beside = fairest(self.baselines, "val") if self.goal.monitor != "loss" else None
        baseline = "" if beside is None else f"best baseline {beside.value('val'):.3f} ({beside.name})"
        self.progress.study(done, total, self._best_so_far().strip(), baseline, left)
        if what:
            self.progress.now(what)

    def _enter(self) -> None:
        """Gives the kept trials' checkpoints a place among the store's models, and registers the best trial's. What was
        trained on a subsample is no candidate for promotion.
        """
        if self.config.budget.rows is not None:
            again = command_line("train", experiment=self.study.folder / "best.yaml")
            told = f"searched on {len(self.materials.dataset)} rows alone; the best configuration on all rows: {again}"
            self.progress.line(told)
            return
        best = self.study.best()
        for trial in self._kept():
            folder = kept_folder(self.study.folder, trial.number)
            if not folder.is_dir():  # the file of the study kept fewer before
                continue
            predictions = load_predictions(predictions_file(self.study, trial.number))
            trained = Trained.kept(self.study.experiment_of(trial), folder, predictions)
            name = f"trial {trial.number}"
            scored = Scored.of(name, "trial", predictions, self.materials, self.goal, ("val", "test"))
            store, run_id = self.place.store, trial.user_attrs[RUN]
            if store.has_run(run_id):  # else the trial ran against another store
                run = store.run(run_id, self.place.experiment_id)
                link_checkpoints(Registry(store), run, trained, scored, self.materials.spec)
            if best is not None and trial.number == best.number:
                wanted = self.study.base.evaluation
                told = evaluate(trained, self.materials, wanted, self.place.run, self.progress, self.draw)
                self.progress.line("\n".join(["", f"trial {best.number} on test rows, selected:", *told, ""]))
                lines = enter(trained, self.materials, self.place, scored, self.progress, self.promote)
                self.progress.line("\n".join(lines))
                best = None
        if best is not None:
            again = command_line("train", experiment=self.study.folder / "best.yaml")
            self.progress.line(f"nothing is registered, for the best trial's weights were not kept; {again} does it")

    def _log_progress(self, number: int, state: str) -> None:
        """The parent's own curves, for MLflow's charts do not look into collapsed children."""
        best = self.study.best()
        curves = {} if state == "pruned" else {"study/value": self.value}
        if best is not None and best.value is not None:
            curves["study/best"] = best.value
        beside = fairest(self.baselines, "val")
        if beside is not None and self.goal.monitor != "loss":
            curves["study/best_baseline"] = beside.value("val")
        self.place.run.metrics(curves, step=number)

    def _best_so_far(self) -> str:
        best = self.study.best()
        return "" if best is None else f"  best {best.value:.3f} (trial {best.number})"
