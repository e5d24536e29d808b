"""What a fusion model has to beat: scikit-learn on the same rows, fitted on training rows only.

``prevalence``, ``logistic`` (ridge for a regression task), ``trees``, each modality alone (``single:<modality>``), the
best of these (``best_single``, chosen on validation rows) and the mean of their answers (``late_average``).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from time import perf_counter
from typing import Any, Protocol

import numpy as np
from sklearn.ensemble import HistGradientBoostingClassifier, HistGradientBoostingRegressor
from sklearn.linear_model import LogisticRegression, RidgeCV
from sklearn.metrics import roc_auc_score
from sklearn.model_selection import StratifiedKFold
from threadpoolctl import threadpool_limits
from torch import Tensor

from fusion_lab.config import nearest
from fusion_lab.contracts import Batch, ConfigError, Folds, Modality, Predictions, Spec, Task, fold_rows

Answers = dict[str, np.ndarray]
"""{task: probability [B], class probabilities [B,C] or value [B]}."""

SINGLE = "single:"

_STRENGTHS = (1e-4, 1e-3, 1e-2, 1e-1, 1.0)  # C of the logistic regression
_ALPHAS = tuple(0.5 / c for c in reversed(_STRENGTHS))  # the same penalties for ridge regression
_SCREENED = 512  # columns that the trees see: finding the bins of thousands would take longer than growing the trees
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
        self._answers = {task.name: _prevalence(task, *_labelled(batch, task)[1:]) for task in spec.tasks}
        return self

    def predict(self, batch: Batch) -> Answers:
        rows = len(batch.weight)
        return {name: np.tile(answer, (rows, *[1] * answer.ndim)) for name, answer in self._answers.items()}


class Logistic:
    """Linear model on all columns of its modalities and one indicator per absent modality.

    Logistic regression with an L2 penalty chosen by three-fold likelihood inside the training rows; for a regression
    task, ridge regression with a penalty chosen by leave-one-out error. A missing cell is 0. A task of which the
    training rows hold less than two classes, or less than two rows, gets no answer.
    """

    def __init__(self, *modalities: str) -> None:
        self._names = modalities

    def fit(self, batch: Batch, spec: Spec) -> Logistic:
        self._spec = spec
        self._modalities = tuple(m for m in spec.modalities if not self._names or m.name in self._names)
        weight = _array(batch.weight)
        columns = np.nan_to_num(_columns(batch, self._modalities))
        self._basis = _row_space(columns[weight > 0])
        reduced = self._reduce(columns)
        self._models: dict[str, Any] = {}
        for task in spec.tasks:
            rows, target, weights = _labelled(batch, task)
            if _learnable(task, target):
                self._models[task.name] = _fit_linear(task, reduced[rows], target, weights)
        return self

    def predict(self, batch: Batch) -> Answers:
        reduced = self._reduce(np.nan_to_num(_columns(batch, self._modalities)))
        return {name: _answer(self._spec.task(name), model, reduced) for name, model in self._models.items()}

    def coefficients(self, task: str) -> np.ndarray:
        """Weights of the columns, ``[1 or C, columns]``."""
        weights = np.atleast_2d(self._models[task].coef_)
        return weights if self._basis is None else weights @ self._basis.T

    def _reduce(self, columns: np.ndarray) -> np.ndarray:
        return columns if self._basis is None else columns @ self._basis


class Trees:
    """Gradient-boosted trees on all columns, missing cells left missing.

    Of very many columns, those that correlate best with the target on the training rows.
    """

    def fit(self, batch: Batch, spec: Spec) -> Trees:
        self._spec = spec
        columns = _columns(batch, spec.modalities)
        self._models: dict[str, tuple[np.ndarray, Any]] = {}
        for task in spec.tasks:
            rows, target, weight = _labelled(batch, task)
            kept = _screen(columns[rows], _one_hot(task, target), weight)
            kind = HistGradientBoostingRegressor if task.kind == "regression" else HistGradientBoostingClassifier
            # weighted bins take scikit-learn twenty times as long: equal weights are better left out
            weights = None if (weight == weight[0]).all() else weight
            model = kind(**_TREES).fit(columns[np.ix_(rows, kept)], _codes(task, target), sample_weight=weights)
            self._models[task.name] = kept, model
        return self

    def predict(self, batch: Batch) -> Answers:
        columns = _columns(batch, self._spec.modalities)
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
            rows, target, weight = _labelled(validation, task)
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
    on_done: Callable[[str, float], None] | None = None,
) -> dict[str, Predictions]:
    """Cross-validates the baselines named, all of them by default, on one thread and fold after fold.

    ``batch_of(fold, rows)`` gives rows by index, with targets, scaled as that fold's models see them. ``on_done(name,
    seconds)`` hears of each baseline when its last fold is done. Answers are for validation and test rows.

    Raises:
        ConfigError: an unknown name, or a task with a target per step.
    """
    names = _checked(spec, names)
    indices = {split: fold_rows(mask) for split, mask in (("val", folds.val), ("test", folds.test))}
    parts: dict[str, list[Predictions]] = {name: [] for name in names}
    seconds = dict.fromkeys(names, 0.0)
    with threadpool_limits(limits=1):
        for fold, train in enumerate(fold_rows(folds.train)):
            asked = {split: rows[fold] for split, rows in indices.items() if len(rows[fold])}
            batches = {split: batch_of(fold, rows) for split, rows in asked.items()}
            data = TrainingFold(spec, batch_of(fold, train), batches.get("val"))
            _assert_learnable(data)
            for name in names:
                start = perf_counter()
                model = fit_baseline(name, data)
                parts[name] += [_predict(model, b, spec, fold, s, asked[s]) for s, b in batches.items()]
                seconds[name] += perf_counter() - start
                if on_done is not None and fold == len(folds) - 1:
                    on_done(name, seconds[name])
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
        assert _learnable(task, _labelled(fold.train, task)[1]), f"{task.name}: one class in a fold's training rows"


def _predict(model: Baseline, batch: Batch, spec: Spec, fold: int, split: str, rows: Tensor) -> Predictions:
    answers = model.predict(batch.without_targets())
    target = {task.name: _array(batch.targets[task.name]) for task in spec.tasks}
    known = {task.name: batch.known[task.name].cpu().numpy() for task in spec.tasks}
    count = len(rows)
    return Predictions(np.full(count, fold), np.full(count, split), rows.cpu().numpy(), target, known, answers)


def _joined(parts: list[Predictions], spec: Spec) -> Predictions:
    def columns(kind: str) -> Answers:
        return {task.name: np.concatenate([getattr(part, kind)[task.name] for part in parts]) for task in spec.tasks}

    places = [np.concatenate([getattr(part, kind) for part in parts]) for kind in ("fold", "split", "row")]
    return Predictions(*places, target=columns("target"), known=columns("known"), score=columns("score"))


def _array(values: Tensor) -> np.ndarray:
    return values.detach().cpu().numpy().astype(float)


def _labelled(batch: Batch, task: Task) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Rows that count and whose label is known, their targets and their weights."""
    weight = _array(batch.weight)
    rows = np.flatnonzero(batch.known[task.name].cpu().numpy() & (weight > 0))
    return rows, _array(batch.targets[task.name])[rows], weight[rows]


def _learnable(task: Task, target: np.ndarray) -> bool:
    return len(target) > 1 if task.kind == "regression" else len(np.unique(target)) > 1


def _codes(task: Task, target: np.ndarray) -> np.ndarray:
    return target if task.kind == "regression" else target.astype(int)


def _one_hot(task: Task, target: np.ndarray) -> np.ndarray:
    """``[B,C]`` for a multiclass task, ``[B,1]`` otherwise."""
    return np.eye(task.outputs)[target.astype(int)] if task.kind == "multiclass" else target[:, None]


def _prevalence(task: Task, target: np.ndarray, weight: np.ndarray) -> np.ndarray:
    mean = np.average(_one_hot(task, target), axis=0, weights=weight)
    return mean if task.kind == "multiclass" else mean[0]


def _columns(batch: Batch, modalities: tuple[Modality, ...]) -> np.ndarray:
    """Per modality its columns, NaN where there is no value, then 1 where it is absent: float64 ``[B, columns]``.

    A sequence counts with each feature's mean, deviation, least, greatest and last value, a bag with the first four.
    """
    parts = []
    for modality in modalities:
        valid = batch.valid[modality.name].cpu().numpy()
        real = batch.observed[modality.name].cpu().numpy() & valid[..., None]
        values = np.where(real, _array(batch.inputs[modality.name]), np.nan)
        parts.append(values if modality.kind == "vector" else _summary(values, real, modality.kind == "sequence"))
        parts.append(~valid.reshape(len(valid), -1).any(1)[:, None])
    return np.concatenate(parts, axis=1, dtype=float)


def _summary(values: np.ndarray, real: np.ndarray, ordered: bool) -> np.ndarray:
    """Statistics over the real places of axis 1, ``[B,T,F] -> [B, 4F or 5F]``; NaN where there are none."""
    count, some = real.sum(1), real.any(1)
    with np.errstate(invalid="ignore"):  # 0 / 0 is the answer: no value
        mean = np.where(real, values, 0.0).sum(1) / count
        deviation = np.sqrt(np.where(real, (values - mean[:, None]) ** 2, 0.0).sum(1) / count)
    least = np.where(some, np.where(real, values, np.inf).min(1), np.nan)
    greatest = np.where(some, np.where(real, values, -np.inf).max(1), np.nan)
    last = real.shape[1] - 1 - real[:, ::-1].argmax(1)
    ending = [np.take_along_axis(values, last[:, None], 1)[:, 0]] if ordered else []
    return np.concatenate([mean, deviation, least, greatest, *ending], axis=1)


def _row_space(columns: np.ndarray) -> np.ndarray | None:
    """Orthonormal directions ``[columns, B]`` that hold all B training rows; ``None`` where there are fewer columns.

    The weights of a linear model with an L2 penalty lie in the space of its training rows (representer theorem), so the
    model fitted there is the same one, with hundreds of weights in place of thousands.
    """
    rows, width = columns.shape
    return np.linalg.qr(columns.T)[0] if width > rows else None


def _fit_linear(task: Task, columns: np.ndarray, target: np.ndarray, weight: np.ndarray) -> Any:
    if task.kind == "regression":
        return RidgeCV(alphas=_ALPHAS).fit(columns, target, sample_weight=weight)
    codes = target.astype(int)
    return _logistic(_choose_strength(columns, codes, weight)).fit(columns, codes, sample_weight=weight)


def _logistic(strength: float, **settings: Any) -> LogisticRegression:
    return LogisticRegression(C=strength, max_iter=1000, random_state=0, **settings)


def _choose_strength(columns: np.ndarray, codes: np.ndarray, weight: np.ndarray) -> float:
    """C with the best held-out likelihood; the middle one where a class is too small to be split."""
    parts = min(3, int(np.unique(codes, return_counts=True)[1].min()))
    if parts < 2:
        return _STRENGTHS[len(_STRENGTHS) // 2]
    splits = StratifiedKFold(parts, shuffle=True, random_state=0).split(columns, codes)
    losses = [_held_out_losses(columns, codes, weight, *split) for split in splits]
    return _STRENGTHS[int(np.argmin(np.sum(losses, axis=0)))]


def _held_out_losses(
    columns: np.ndarray, codes: np.ndarray, weight: np.ndarray, inner: np.ndarray, outer: np.ndarray
) -> list[float]:
    """Negative log-likelihood of the rows ``outer`` under models of ``inner``, one per C, each started at the last."""
    losses = []
    model = _logistic(1.0, tol=1e-3, warm_start=True)
    for strength in _STRENGTHS:
        model.set_params(C=strength).fit(columns[inner], codes[inner], sample_weight=weight[inner])
        places = np.searchsorted(model.classes_, codes[outer])
        right = model.predict_proba(columns[outer])[np.arange(len(outer)), places]
        losses.append(-float(weight[outer] @ np.log(np.maximum(right, 1e-12))))
    return losses


def _screen(columns: np.ndarray, targets: np.ndarray, weight: np.ndarray) -> np.ndarray:
    """Indices of the columns ``[B,F]`` that correlate most with any of ``targets`` ``[B,C]``, in their own order."""
    if columns.shape[1] <= _SCREENED:
        return np.arange(columns.shape[1])
    root = np.sqrt(weight / weight.sum())[:, None]
    filled = np.nan_to_num(columns)
    x, y = (root * (a - np.average(a, axis=0, weights=weight)) for a in (filled, targets))
    scale = np.linalg.norm(x, axis=0)[:, None] * np.linalg.norm(y, axis=0)
    correlation = np.divide(x.T @ y, scale, out=np.zeros_like(scale), where=scale > 1e-12)
    return np.sort(np.argsort(-np.abs(correlation).max(1), kind="stable")[:_SCREENED])


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
