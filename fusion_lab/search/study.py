"""A study: trials drawn from a space, kept in a journal, continued by the same command, never run twice at once."""

from __future__ import annotations

import json
import os
import time
import warnings
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import optuna
from optuna.trial import FrozenTrial, TrialState
from pydantic import Field

from fusion_lab.blocks.randomness import key
from fusion_lab.config import Config, load_yaml, validate
from fusion_lab.contracts import ConfigError, UserError, content_hash
from fusion_lab.experiment import Experiment, Materials, override, resolve
from fusion_lab.search.journal import open_study
from fusion_lab.search.lock import locked
from fusion_lab.search.space import Space, check_space, parse_space
from fusion_lab.training.plan import Execution

STREAM, RUN, REASON, AGAIN = "stream", "mlflow_run", "reason", "again"
"""Attributes of a trial: its stream of randomness, its run in MLflow, why it failed, which trial it repeats."""
EXECUTION = "execution.json"
"""The file of a study's folder that says how the folds of its trials are computed."""
INTERRUPTED = "interrupted"
"""The reason of a trial that a kill ended: it counts for nothing, its configuration is asked again."""


class SamplerConfig(Config):
    """``tpe``: tree-structured Parzen estimator (Bergstra et al., 2011), random for the first ``startup_trials``."""

    name: Literal["tpe", "random"] = "tpe"
    startup_trials: int = Field(8, ge=1)


class PrunerConfig(Config):
    """When a trial is given up: ``median`` below the median of earlier trials at the same epoch, after
    ``warmup_epochs`` and once ``startup_trials`` have finished; ``hyperband`` by brackets (Li et al., 2018) from
    ``warmup_epochs`` on.
    """

    name: Literal["median", "hyperband", "none"] = "median"
    startup_trials: int = Field(5, ge=1)
    warmup_epochs: int = Field(5, ge=0)
    reduction_factor: int = Field(3, ge=2)


class BudgetConfig(Config):
    """``trials`` is the total of the study, over all the times its command was run; ``timeout`` seconds bound one run
    of the command.

    ``rows``: the trials see a subsample of about so many rows, the same in all, with the whole's shares of every label
    and whole groups. A cheap first look where rows are many: what wins there is still to be trained on all rows.
    """

    trials: int = Field(20, ge=1)
    timeout: float | None = Field(None, gt=0.0)
    rows: int | None = Field(None, ge=1)


class StudyConfig(Config):
    """One file in ``hpo/``: a base experiment and what is searched over it.

    ``keep`` says which trials' checkpoints stay: ``best``, ``top-3``, ``all`` or ``none``. ``start`` says whether the
    first trial is the ``base`` experiment as it is, where its settings lie in the space: what a search finds is then at
    least as good, by its own measure, as what it began with.
    """

    experiment: str | None = None  # searched where the command names none
    space: dict[str, Any]
    sampler: SamplerConfig = SamplerConfig()
    pruner: PrunerConfig = PrunerConfig()
    budget: BudgetConfig = BudgetConfig()
    start: Literal["base", "drawn"] = "base"
    keep: str = Field("best", pattern=r"^(best|all|none|top-[1-9][0-9]?)$")


def read_study(path: Path, changes: Mapping[str, Any] | None = None) -> StudyConfig:
    """A file in ``hpo/`` with the command line's ``{dotted path: value}`` over it."""
    tree = override(load_yaml(path), changes or {})
    config = validate(StudyConfig, tree, str(path))
    if not config.space:
        raise ConfigError(f"{path}: space: expected at least one setting to search, found none")
    # as YAML has it: on its way through the validation an option such as 16 or true would become a text
    return config.model_copy(update={"space": tree["space"]})


@dataclass(frozen=True)
class Suggestion:
    """A configuration to be tried, and what it is known by."""

    trial: optuna.Trial
    experiment: Experiment
    number: int
    again: int | None  # the number of the interrupted trial that this one repeats


class Study:
    """The trials of one (space, experiment, data, folds, seed); its folder holds the journal, the lock and the best
    configuration.
    """

    def __init__(self, config: StudyConfig, base: Experiment, materials: Materials, folder: Path, source: str) -> None:
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        self.config = config
        self.base = base
        self.space: Space = parse_space(config.space, source)
        self.source = source
        self.execution: Execution | None = None  # see settle
        check_space(self.space, base.resolved(), source)
        # where the first trial lies: nowhere in particular if the base experiment lies outside of the space
        self.start = self.space.point(base.resolved()) if config.start == "base" else None
        self._pruner = make_pruner(config.pruner, base.training.epochs, source)
        self.name = f"{base.name}-{self._identity(materials)[:8]}"
        self.folder = folder / self.name

    @cached_property
    def _study(self) -> optuna.Study:
        """Opened, and its folder made, when it is first needed: what is wrong with a study is found before."""
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise UserError(f"{self.folder}: expected a folder for the study, found: {error.strerror}") from None
        return open_study(self.folder / "journal.log", self.name, self._pruner)

    def _identity(self, materials: Materials) -> str:
        kept = self.config.model_dump(mode="json", include={"sampler", "pruner", "start"})
        space = json.dumps(self.config.space)  # in its order, by which settings are drawn
        return content_hash([space, kept, materials.fingerprint(self.base)])

    def locked(self) -> AbstractContextManager[None]:
        """Holds the study; a second process is refused. The lock goes with the process, however it ends."""
        return locked(self.folder / "lock", f"study {self.name}")

    def settle(self, choose: Callable[[], Execution]) -> Execution:
        """How the folds of all trials are computed: what the base experiment says or, where that is ``auto``, what
        ``choose`` says the first time. To be called under the lock.
        """
        kept = self.folder / EXECUTION
        if self.base.training.mode == "auto" and kept.exists():
            self.execution = Execution(**json.loads(kept.read_text()))
        else:
            self.execution = choose()
            half = kept.with_suffix(".part")
            half.write_text(json.dumps(self.execution._asdict()))
            os.replace(half, kept)
        return self.execution

    def recover(self) -> list[int]:
        """Puts trials that a kill interrupted back into the queue; their numbers. To be called under the lock."""
        interrupted = [t for t in self.trials() if t.state == TrialState.RUNNING]
        for trial in interrupted:
            self.requeue(trial)
        return [t.number for t in interrupted]

    def requeue(self, trial: FrozenTrial) -> None:
        """Ends a trial as interrupted and lets the next :meth:`ask` give the same configuration and stream again."""
        # Queued before it is ended, and only once: a second kill, in between, neither loses nor doubles it.
        if trial.params and all(t.user_attrs.get(AGAIN) != trial.number for t in self.trials()):
            attributes = {STREAM: trial.user_attrs[STREAM], AGAIN: trial.number}
            self._study.enqueue_trial(trial.params, user_attrs=attributes)
        optuna.Trial(self._study, trial._trial_id).set_user_attr(REASON, INTERRUPTED)  # noqa: SLF001
        self._study.tell(trial.number, state=TrialState.FAIL)

    def ask(self) -> Suggestion:
        """The next configuration. It depends on the trials before it, interrupted ones not counted, and not on the
        process: a study that was killed and continued goes through the configurations of one that never was.

        Raises:
            ConfigError: the point drawn is no experiment; the trial has failed.
        """
        if self.start is not None and not any(t.params or t.state == TrialState.WAITING for t in self.trials()):
            self._study.enqueue_trial(self.start)
        place = sum(_counts(t) for t in self.trials())
        self._study.sampler = make_sampler(self.config.sampler, key(self.base.seed, "sampler", place), self.space)
        trial = self._study.ask()
        trial.set_user_attr(STREAM, trial.user_attrs.get(STREAM, place))
        try:
            experiment = self._experiment(self.space.sample(trial), trial.user_attrs[STREAM], trial.number)
        except ConfigError as error:
            trial.set_user_attr(REASON, str(error))
            self._study.tell(trial, state=TrialState.FAIL)
            raise
        return Suggestion(trial, experiment, trial.number, trial.user_attrs.get(AGAIN))

    def _experiment(self, drawn: Mapping[str, Any], stream: int, number: int) -> Experiment:
        settings = override(self.base.resolved(), drawn)
        settings |= {"trial": stream, "selected": self.name}
        if self.execution is not None and settings["training"]["mode"] == "auto":
            # written down, so that the configuration gives the same bits elsewhere
            settings["training"] |= {"mode": self.execution.mode, "stack_size": self.execution.size}
        return resolve(settings, f"{self.source}: trial {number}")

    def tell(self, suggestion: Suggestion, value: float | None, state: TrialState = TrialState.COMPLETE) -> None:
        """Ends a trial."""
        self._study.tell(suggestion.trial, value if state == TrialState.COMPLETE else None, state=state)

    def trials(self) -> list[FrozenTrial]:
        """All trials, the waiting ones included, in the order of their numbers."""
        return self._study.get_trials(deepcopy=False)

    def ended(self) -> list[FrozenTrial]:
        """Trials that count towards the budget: complete, pruned, or failed for a reason of their own."""
        states = (TrialState.COMPLETE, TrialState.PRUNED, TrialState.FAIL)
        return [t for t in self.trials() if t.state in states and t.user_attrs.get(REASON) != INTERRUPTED]

    def best(self) -> FrozenTrial | None:
        """The complete trial with the highest value; the first of equals."""
        return next(iter(self.ranked()), None)

    def ranked(self) -> list[FrozenTrial]:
        """The complete trials, the best first."""
        complete = [t for t in self.trials() if t.state == TrialState.COMPLETE and t.value is not None]
        return sorted(complete, key=lambda t: (-float(t.value or 0.0), t.number))

    def experiment_of(self, trial: FrozenTrial) -> Experiment:
        """The complete configuration of a finished trial."""
        sampled = self.space.sample(optuna.trial.FixedTrial(trial.params))
        return self._experiment(sampled, trial.user_attrs[STREAM], trial.number)

    def importance(self) -> dict[str, float]:
        """Share of each searched setting in the spread of values (PED-ANOVA, Watanabe et al., 2023); empty below 4
        complete trials.
        """
        complete = [t for t in self.trials() if t.state == TrialState.COMPLETE]
        if len(complete) < 4 or len({t.value for t in complete}) < 2:
            return {}
        evaluator = optuna.importance.PedAnovaImportanceEvaluator()
        return optuna.importance.get_param_importances(self._study, evaluator=evaluator)


def _counts(trial: FrozenTrial) -> bool:
    """Whether a trial has a place in the order of suggestions: not one that was interrupted, which another repeats, nor
    the first one while it waits.
    """
    repeats = AGAIN in trial.user_attrs
    return trial.user_attrs.get(REASON) != INTERRUPTED and (repeats or trial.state != TrialState.WAITING)


def make_sampler(config: SamplerConfig, seed: int, space: Space) -> optuna.samplers.BaseSampler:
    """A sampler seeded for one trial."""
    positive = seed & 0x7FFFFFFF
    if config.name == "random":
        return optuna.samplers.RandomSampler(seed=positive)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)  # group, which a conditional space needs
        return optuna.samplers.TPESampler(
            seed=positive, n_startup_trials=config.startup_trials, multivariate=True, group=space.is_conditional()
        )


def make_pruner(config: PrunerConfig, epochs: int, source: str) -> optuna.pruners.BasePruner:
    """A pruner that compares trials at the same epoch; ``source`` names the file in errors."""
    if config.name == "median":
        return optuna.pruners.MedianPruner(n_startup_trials=config.startup_trials, n_warmup_steps=config.warmup_epochs)
    if config.name == "hyperband":
        least = max(1, config.warmup_epochs)
        if least > epochs:
            expected = f"expected at most training.epochs ({epochs})"
            raise ConfigError(f"{source}: pruner.warmup_epochs: {expected}, found {least}")
        return optuna.pruners.HyperbandPruner(least, epochs, config.reduction_factor)
    return optuna.pruners.NopPruner()


class Clock:
    """Time left of a run of the command."""

    def __init__(self, timeout: float | None) -> None:
        self.timeout = timeout
        self.start = time.monotonic()

    def is_over(self) -> bool:
        return self.timeout is not None and time.monotonic() - self.start > self.timeout
