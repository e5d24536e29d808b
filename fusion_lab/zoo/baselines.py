"""What a fusion model has to beat: scikit-learn on the same rows, fitted on training rows only.

``prevalence``, ``logistic`` (ridge for a regression task), ``trees``, each modality alone (``single:<modality>``), the
best of these (``best_single``, chosen on validation rows) and the mean of their answers (``late_average``).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
from sklearn.ensemble import HistGradientBoostingClassifier, HistGradientBoostingRegressor
from sklearn.metrics import roc_auc_score
from threadpoolctl import threadpool_limits
from torch import Tensor

from fusion_lab.config import nearest
from fusion_lab.contracts import Batch, ConfigError, Folds, Predictions, Spec, Task, fold_rows
from fusion_lab.zoo import linear, tabular

Answers = dict[str, np.ndarray]
"""{task: probability [B], class probabilities [B,C] or value [B]}."""

SINGLE = "single:"

_NARROW = 64  # columns of a modality that is not screened: what matters to trees need not correlate
_TREES: dict[str, Any] = {
    "max_iter": 100,
    "learning_rate": 0.05,
    "max_leaf_nodes": 8,
    "min_samples_leaf": 10,
    "l2_regularization": 1.0,
    "max_bins": 64,
    "early_stopping": False,
    "random_state": 0,
}


class Baseline(Protocol):
    """A fitted baseline: answers for rows scaled as its training rows were."""

    def predict(self, batch: Batch) -> Answers: ...


class Prevalence:
    """The same answer for every row: the weighted mean of the training rows' targets, class by class."""

    def fit(self, batch: Batch, spec: Spec) -> Prevalence:
        self._answers = {task.name: _prevalence(task, *tabular.labelled(batch, task)[1:]) for task in spec.tasks}
        return self

    def predict(self, batch: Batch) -> Answers:
        rows = len(batch.weight)
        return {name: np.tile(answer, (rows, *[1] * answer.ndim)) for name, answer in self._answers.items()}


class _View:
    """Columns times a factor each and, where there are more of them than training rows, in these rows' space."""

    def __init__(self, scale: np.ndarray, training: np.ndarray) -> None:
        self._scale = scale
        self._basis = tabular.row_space(training * scale)

    def __call__(self, columns: np.ndarray) -> np.ndarray:
        scaled = columns * self._scale
        return scaled if self._basis is None else scaled @ self._basis

    def unscaled(self, weights: np.ndarray) -> np.ndarray:
        """A model's weights in this view as weights of the columns themselves, ``[..., columns]``."""
        return (weights if self._basis is None else weights @ self._basis.T) * self._scale


class Logistic:
    """Linear model on all columns of its modalities and one indicator per absent modality.

    Logistic regression with an L2 penalty chosen by three-fold likelihood inside the training rows; for a regression
    task, ridge regression with a penalty chosen by leave-one-out error. With the penalty is chosen by which power of
    its width a modality's columns are divided: 0, 1/2 or 1, so that wide modalities need not drown narrow ones. A
    missing cell is 0. A task of which the training rows hold less than two classes, or less than two rows, gets no
    answer.
    """

    def __init__(self, *modalities: str) -> None:
        self._names = modalities

    def fit(self, batch: Batch, spec: Spec) -> Logistic:
        self._spec = spec
        self._modalities = tuple(m for m in spec.modalities if not self._names or m.name in self._names)
        weight = tabular.array(batch.weight)
        columns = np.nan_to_num(tabular.columns(batch, self._modalities))
        scales = linear.scales(tabular.block_widths(self._modalities))
        self._views = [_View(scale, columns[weight > 0]) for scale in scales]
        reduced = [view(columns) for view in self._views]
        self._models: dict[str, linear.Chosen] = {}
        for task in spec.tasks:
            rows, target, weights = tabular.labelled(batch, task)
            if tabular.learnable(task, target):
                self._models[task.name] = linear.fit(task, [r[rows] for r in reduced], target, weights)
        return self

    def predict(self, batch: Batch) -> Answers:
        columns = np.nan_to_num(tabular.columns(batch, self._modalities))
        reduced = {view: self._views[view](columns) for view in {view for view, _ in self._models.values()}}
        fitted = self._models.items()
        return {name: _answer(self._spec.task(name), model, reduced[view]) for name, (view, model) in fitted}

    def coefficients(self, task: str) -> np.ndarray:
        """Weights of the columns, ``[1 or C, columns]``."""
        view, model = self._models[task]
        return self._views[view].unscaled(np.atleast_2d(model.coef_))


class Trees:
    """Gradient-boosted trees on all columns, missing cells left missing.

    Of very many columns, those of narrow modalities and those that correlate best with the target on the training rows.
    """

    def fit(self, batch: Batch, spec: Spec) -> Trees:
        self._spec = spec
        parts = [tabular.columns(batch, (modality,)) for modality in spec.modalities]
        spared = np.concatenate([np.full(part.shape[1], part.shape[1] <= _NARROW) for part in parts])
        columns = np.concatenate(parts, axis=1)
        self._models: dict[str, tuple[np.ndarray, Any]] = {}
        for task in spec.tasks:
            rows, target, weight = tabular.labelled(batch, task)
            kept = tabular.screen(columns[rows], tabular.one_hot(task, target), weight, spared)
            kind = HistGradientBoostingRegressor if task.kind == "regression" else HistGradientBoostingClassifier
            # weighted bins take scikit-learn twenty times as long: equal weights are better left out
            weights = None if (weight == weight[0]).all() else weight
            model = kind(**_TREES).fit(columns[np.ix_(rows, kept)], tabular.codes(task, target), sample_weight=weights)
            self._models[task.name] = kept, model
        return self

    def predict(self, batch: Batch) -> Answers:
        columns = tabular.columns(batch, self._spec.modalities)
        fitted = self._models.items()
        return {name: _answer(self._spec.task(name), model, columns[:, kept]) for name, (kept, model) in fitted}


class Single:
    """:class:`Logistic` on one modality, fitted where it is present; other rows get the training prevalence."""

    def __init__(self, modality: str) -> None:
        self.modality = modality

    def fit(self, batch: Batch, spec: Spec) -> Single:
        self._prevalence = Prevalence().fit(batch, spec)
        here = batch.weight * self.present(batch).to(batch.weight)
        self._model = Logistic(self.modality).fit(batch._replace(weight=here), spec) if bool(here.any()) else None
        return self

    def present(self, batch: Batch) -> Tensor:
        """Rows in which the modality is present, bool ``[B]``."""
        return batch.valid[self.modality].reshape(len(batch.weight), -1).any(1)

    def predict(self, batch: Batch) -> Answers:
        answers = self._prevalence.predict(batch)
        present = self.present(batch).cpu().numpy()
        for name, answer in (self._model.predict(batch) if self._model else {}).items():
            answers[name][present] = answer[present]
        return answers


class BestSingle:
    """For each task the single modality that does best on validation rows.

    By AUROC (one-versus-rest mean over classes); by likelihood where the validation rows lack a class; by squared error
    for a regression task. Of equals, the first modality.
    """

    def __init__(self, singles: dict[str, Single]) -> None:
        self._singles = singles

    def choose(self, validation: Batch, spec: Spec) -> BestSingle:
        """Keeps the best modality of each task as ``chosen``; without a known validation label, the first."""
        answers = {name: single.predict(validation) for name, single in self._singles.items()}
        self.chosen: dict[str, str] = {}
        for task in spec.tasks:
            rows, target, weight = tabular.labelled(validation, task)
            merits = {name: _merit(task, target, of[task.name][rows], weight) for name, of in answers.items()}
            self.chosen[task.name] = max(merits, key=lambda name: merits[name])
        return self

    def predict(self, batch: Batch) -> Answers:
        answers = {name: self._singles[name].predict(batch) for name in set(self.chosen.values())}
        return {task: answers[name][task] for task, name in self.chosen.items()}


class LateAverage:
    """The mean of the single modalities' answers over the modalities present; of a row without any, the prevalence."""

    def __init__(self, singles: dict[str, Single]) -> None:
        self._singles = singles

    def predict(self, batch: Batch) -> Answers:
        parts = [(s.present(batch).cpu().numpy().astype(float), s.predict(batch)) for s in self._singles.values()]
        counted = np.array([present for present, _ in parts])
        # an absent modality's answer is the prevalence, so that the plain mean serves a row without any
        share = np.where(counted.any(0), counted, 1.0)
        share = share / share.sum(0)
        return {task: sum((share[i] * a[task].T).T for i, (_, a) in enumerate(parts)) for task in parts[0][1]}


@dataclass
class TrainingFold:
    """One fold's scaled rows; its single-modality models are fitted once, when they are first asked for."""

    spec: Spec
    train: Batch
    val: Batch | None
    _fitted: dict[str, Single] = field(default_factory=dict)

    def single(self, modality: str) -> Single:
        """The model of one modality."""
        if modality not in self._fitted:
            self._fitted[modality] = Single(modality).fit(self.train, self.spec)
        return self._fitted[modality]

    def singles(self) -> dict[str, Single]:
        """The models of all modalities."""
        return {m.name: self.single(m.name) for m in self.spec.modalities}

    def best_single(self) -> BestSingle:
        """The best of them on this fold's validation rows."""
        assert self.val is not None, "the best single modality is chosen on validation rows"
        return BestSingle(self.singles()).choose(self.val, self.spec)


BASELINES: dict[str, Callable[[TrainingFold], Baseline]] = {
    "prevalence": lambda fold: Prevalence().fit(fold.train, fold.spec),
    "logistic": lambda fold: Logistic().fit(fold.train, fold.spec),
    "trees": lambda fold: Trees().fit(fold.train, fold.spec),
    "best_single": lambda fold: fold.best_single(),
    "late_average": lambda fold: LateAverage(fold.singles()),
}
"""Beside these, ``single:<modality>`` names the model of one modality."""


def baseline_names(spec: Spec) -> tuple[str, ...]:
    """All baselines of a data set, the single modalities before what is made of them."""
    singles = [SINGLE + m.name for m in spec.modalities]
    return ("prevalence", "logistic", "trees", *singles, "best_single", "late_average")


def fit_baseline(name: str, fold: TrainingFold) -> Baseline:
    """One baseline, fitted to one fold."""
    return fold.single(name.removeprefix(SINGLE)) if name.startswith(SINGLE) else BASELINES[name](fold)


def run_baselines(
    spec: Spec,
    folds: Folds,
    batch_of: Callable[[int, Tensor], Batch],
    names: tuple[str, ...] | None = None,
    on_fold: Callable[[str, int], None] | None = None,
) -> dict[str, Predictions]:
    """Cross-validates the baselines named, all of them by default, on one thread and fold after fold.

    ``batch_of(fold, rows)`` gives rows by index, with targets, scaled as that fold's models see them. ``on_fold(name,
    fold)`` hears of each baseline before it is fitted. Answers are for validation and test rows.

    Raises:
        ConfigError: an unknown name, or a task with a target per step.
    """
    names = _checked(spec, names)
    indices = {split: fold_rows(mask) for split, mask in (("val", folds.val), ("test", folds.test))}
    parts: dict[str, list[Predictions]] = {name: [] for name in names}
    with threadpool_limits(limits=1):
        for fold, train in enumerate(fold_rows(folds.train)):
            asked = {split: rows[fold] for split, rows in indices.items() if len(rows[fold])}
            batches = {split: batch_of(fold, rows) for split, rows in asked.items()}
            data = TrainingFold(spec, batch_of(fold, train), batches.get("val"))
            _assert_learnable(data)
            for name in names:
                if on_fold is not None:
                    on_fold(name, fold)
                model = fit_baseline(name, data)
                parts[name] += [_predict(model, b, spec, fold, s, asked[s]) for s, b in batches.items()]
    return {name: _joined(parts[name], spec) for name in names}


def _checked(spec: Spec, names: tuple[str, ...] | None) -> tuple[str, ...]:
    for task in spec.tasks:
        if task.per_step:
            raise ConfigError(
                f"baselines: expected tasks with one target per row, found {task.name!r} with one per step"
            )
    known = baseline_names(spec)
    for name in names or ():
        if name not in known:
            raise ConfigError(f"baselines: unknown baseline {name!r}{nearest(name, list(known))}")
    return known if names is None else names


def _assert_learnable(fold: TrainingFold) -> None:
    for task in fold.spec.tasks:
        assert tabular.learnable(task, tabular.labelled(fold.train, task)[1]), (
            f"{task.name}: one class in a fold's training rows"
        )


def _predict(model: Baseline, batch: Batch, spec: Spec, fold: int, split: str, rows: Tensor) -> Predictions:
    answers = model.predict(batch.without_targets())
    target = {task.name: tabular.array(batch.targets[task.name]) for task in spec.tasks}
    known = {task.name: batch.known[task.name].cpu().numpy() for task in spec.tasks}
    count = len(rows)
    return Predictions(np.full(count, fold), np.full(count, split), rows.cpu().numpy(), target, known, answers)


def _joined(parts: list[Predictions], spec: Spec) -> Predictions:
    def columns(kind: str) -> Answers:
        return {task.name: np.concatenate([getattr(part, kind)[task.name] for part in parts]) for task in spec.tasks}

    places = [np.concatenate([getattr(part, kind) for part in parts]) for kind in ("fold", "split", "row")]
    return Predictions(*places, target=columns("target"), known=columns("known"), score=columns("score"))


def _prevalence(task: Task, target: np.ndarray, weight: np.ndarray) -> np.ndarray:
    mean = np.average(tabular.one_hot(task, target), axis=0, weights=weight)
    return mean if task.kind == "multiclass" else mean[0]


def _answer(task: Task, model: Any, columns: np.ndarray) -> np.ndarray:
    if task.kind == "regression":
        return model.predict(columns)
    probability = model.predict_proba(columns)
    if task.kind == "binary":
        return probability[:, 1]
    answer = np.zeros((len(columns), task.outputs))
    answer[:, model.classes_] = probability  # a class that the training rows lack has none
    return answer


def _merit(task: Task, target: np.ndarray, answer: np.ndarray, weight: np.ndarray) -> float:
    """How well a single modality does on validation rows; larger is better."""
    if not len(target):
        return 0.0
    if task.kind == "regression":
        return -float(np.average((target - answer) ** 2, weights=weight))
    codes = target.astype(int)
    if len(np.unique(codes)) == len(task.classes):
        return float(roc_auc_score(codes, answer, multi_class="ovr", sample_weight=weight))
    right = answer[np.arange(len(codes)), codes] if task.kind == "multiclass" else np.abs(1 - codes - answer)
    return float(np.average(np.log(np.maximum(right, 1e-12)), weights=weight))
