"""What a fusion model has to beat: scikit-learn on the same rows, fitted on training rows only.

``prevalence``, ``logistic`` (ridge for a regression task), ``trees``, each modality alone (``single:<modality>``), the
best of these (``best_single``, chosen on validation rows) and the mean of their answers (``late_average``).

Of a task per step every step is a line of its own, and of a task with units every unit at every step, all of which
share one model (:func:`fusion_lab.zoo.tabular.step_columns`); the linear models and the trees are fitted to at most
:data:`fusion_lab.zoo.tabular.LINES` of them, fewer where columns are many (:func:`fusion_lab.zoo.tabular.affordable`).
Where a task asks for a later value of an input, ``persistence`` says that it stays
(:mod:`fusion_lab.zoo.persistence`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Protocol

import numpy as np
from sklearn.ensemble import HistGradientBoostingClassifier, HistGradientBoostingRegressor
from sklearn.metrics import roc_auc_score
from threadpoolctl import threadpool_limits
from torch import Tensor

from fusion_lab.config import nearest
from fusion_lab.contracts import Batch, ConfigError, Folds, Modality, Predictions, Spec, Task, fold_rows
from fusion_lab.zoo import linear, tabular
from fusion_lab.zoo.persistence import Persistence, present_values

Answers = dict[str, np.ndarray]
"""{task: probability [B], class probabilities [B,C] or value [B]}, of a task per step with T after B, of one with
units with U after T.
"""

BatchOf = Callable[[int, Tensor], Batch]
"""Rows by index, with targets, scaled as the models of one fold see them."""

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
    """The same answer everywhere: the weighted mean of the training rows' (or steps') targets, class by class."""

    def fit(self, batch: Batch, spec: Spec) -> Prevalence:
        self._tasks = {task.name: task for task in spec.tasks}
        self._answers = {task.name: _prevalence(task, *tabular.labelled(batch, task)[1:]) for task in spec.tasks}
        return self

    def predict(self, batch: Batch) -> Answers:
        shapes = {name: _line_shape(batch, task) for name, task in self._tasks.items()}
        return {name: np.tile(answer, (*shapes[name], *[1] * answer.ndim)) for name, answer in self._answers.items()}


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
    task, ridge regression with a penalty chosen by leave-one-out error. Of a task per step rows are held out whole for
    that, in three parts for both. With the penalty is chosen by which power of its width a modality's columns are
    divided: 0, 1/2 or 1, so that wide modalities need not drown narrow ones. A missing cell is 0. A task of which the
    training rows hold less than two classes, or less than two rows, gets no answer.
    """

    def __init__(self, *modalities: str) -> None:
        self._names = modalities

    def fit(self, batch: Batch, spec: Spec) -> Logistic:
        """To the training rows ``batch``, leaves ``[B,...]``: a model for each task that has something to learn from;
        other tasks go without an answer.
        """
        modalities = tuple(m for m in spec.modalities if not self._names or m.name in self._names)
        self._modalities, self._tasks = _bare(modalities), {task.name: task for task in spec.tasks}
        rows = np.nan_to_num(tabular.columns(batch, modalities))
        views = _views(modalities, rows[tabular.array(batch.weight) > 0])
        reduced = [view(rows) for view in views]
        self._models: dict[str, tuple[_View, Any]] = {}
        for task in spec.tasks:
            width = len(tabular.block_widths(modalities, task.steps, task.units))
            lines, target, weight = tabular.sampled(batch, task, tabular.affordable(width))
            if not tabular.learnable(task, target):
                continue
            if task.per_step:
                self._models[task.name] = _fit_steps(task, batch, modalities, lines, target, weight)
            else:
                place, model = linear.fit(task, [r[lines] for r in reduced], target, weight)
                self._models[task.name] = views[place], model
        return self

    def predict(self, batch: Batch) -> Answers:
        rows = tabular.columns(batch, self._modalities)
        return {name: self._answer(name, batch, rows) for name in self._models}

    def _answer(self, name: str, batch: Batch, rows: np.ndarray) -> np.ndarray:
        task, (view, model) = self._tasks[name], self._models[name]

        def answer(columns: np.ndarray) -> np.ndarray:
            return _answer(task, model, view(np.nan_to_num(columns)))

        return _answer_lines(task, batch, self._modalities, rows, answer)

    def coefficients(self, task: str) -> np.ndarray:
        """Weights of the columns, ``[1 or C, columns]``."""
        view, model = self._models[task]
        return view.unscaled(np.atleast_2d(model.coef_))


class Trees:
    """Gradient-boosted trees on all columns, missing cells left missing.

    Of very many columns, those of narrow modalities and those that correlate best with the target on the training rows.
    """

    def fit(self, batch: Batch, spec: Spec) -> Trees:
        """To the training rows ``batch``, leaves ``[B,...]``: for each task, trees on the columns kept for it."""
        self._modalities, self._tasks = _bare(spec.modalities), {task.name: task for task in spec.tasks}
        rows = tabular.columns(batch, spec.modalities)
        self._models: dict[str, tuple[np.ndarray, Any]] = {}
        for task in spec.tasks:
            widths = tabular.block_widths(spec.modalities, task.steps, task.units)
            most = tabular.affordable(min(len(widths), tabular.SCREENED))
            lines, target, weight = tabular.sampled(batch, task, most)
            here = rows[lines] if not task.per_step else _lines(task, batch, spec.modalities, lines)
            kept = tabular.screen(here, tabular.one_hot(task, target), weight, widths <= _NARROW)
            kind = HistGradientBoostingRegressor if task.kind == "regression" else HistGradientBoostingClassifier
            # weighted bins take scikit-learn twenty times as long: equal weights are better left out
            weights = None if (weight == weight[0]).all() else weight
            model = kind(**_TREES).fit(here[:, kept], tabular.codes(task, target), sample_weight=weights)
            self._models[task.name] = kept, model
        return self

    def predict(self, batch: Batch) -> Answers:
        rows = tabular.columns(batch, self._modalities)
        return {name: self._answer(name, batch, rows) for name in self._models}

    def _answer(self, name: str, batch: Batch, rows: np.ndarray) -> np.ndarray:
        task, (kept, model) = self._tasks[name], self._models[name]
        return _answer_lines(
            task, batch, self._modalities, rows, lambda columns: _answer(task, model, columns[:, kept])
        )


class Single:
    """:class:`Logistic` on one modality, fitted where it is present; the rest gets the training prevalence.

    Of a task per step, a sequence among its ``steps`` is present or absent step by step.
    """

    def __init__(self, modality: str) -> None:
        self.modality = modality

    def fit(self, batch: Batch, spec: Spec) -> Single:
        self.tasks = {task.name: task for task in spec.tasks}
        self._prevalence = Prevalence().fit(batch, spec)
        here = batch.weight * self._row_present(batch).to(batch.weight)
        known = {name: batch.known[name] & self.present(batch, task) for name, task in self.tasks.items()}
        part = batch._replace(weight=here, known=known)
        self._model = Logistic(self.modality).fit(part, spec) if bool(here.any()) else None
        return self

    def present(self, batch: Batch, task: Task) -> Tensor:
        """Lines of a task at which the modality is present, bool ``[B]``, ``[B,T]`` or ``[B,T,U]``."""
        if not task.per_step:
            return self._row_present(batch)
        at_steps = batch.valid[self.modality] if self.modality in task.steps else self._row_present(batch)[:, None]
        shape = _line_shape(batch, task)
        return at_steps.reshape(*at_steps.shape, *[1] * (len(shape) - 2)).expand(shape)

    def predict(self, batch: Batch) -> Answers:
        answers = self._prevalence.predict(batch)
        for name, answer in (self._model.predict(batch) if self._model else {}).items():
            present = self.present(batch, self.tasks[name]).cpu().numpy()
            answers[name][present] = answer[present]
        return answers

    def _row_present(self, batch: Batch) -> Tensor:
        return batch.valid[self.modality].reshape(len(batch.weight), -1).any(1)


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
            lines, target, weight = tabular.labelled(validation, task)
            found = {name: _by_line(task, of[task.name])[lines] for name, of in answers.items()}
            merits = {name: _merit(task, target, answer, weight) for name, answer in found.items()}
            self.chosen[task.name] = max(merits, key=lambda name: merits[name])
        return self

    def predict(self, batch: Batch) -> Answers:
        answers = {name: self._singles[name].predict(batch) for name in set(self.chosen.values())}
        return {task: answers[name][task] for task, name in self.chosen.items()}


class LateAverage:
    """The mean of the single modalities' answers over the modalities present; without any, the prevalence."""

    def __init__(self, singles: dict[str, Single]) -> None:
        self._singles = singles

    def predict(self, batch: Batch) -> Answers:
        first = next(iter(self._singles.values()))
        answers = [single.predict(batch) for single in self._singles.values()]
        return {name: self._mean(batch, task, [a[name] for a in answers]) for name, task in first.tasks.items()}

    def _mean(self, batch: Batch, task: Task, answers: list[np.ndarray]) -> np.ndarray:
        counted = np.array([s.present(batch, task).cpu().numpy().astype(float) for s in self._singles.values()])
        # an absent modality's answer is the prevalence, so that the plain mean serves where there is none
        share = np.where(counted.any(0), counted, 1.0)
        share = (share / share.sum(0)).reshape(*share.shape, *[1] * (task.kind == "multiclass"))
        return sum(part * answer for part, answer in zip(share, answers, strict=True))


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
    "persistence": lambda fold: Persistence(Prevalence().fit(fold.train, fold.spec)).fit(fold.train, fold.spec),
    "logistic": lambda fold: Logistic().fit(fold.train, fold.spec),
    "trees": lambda fold: Trees().fit(fold.train, fold.spec),
    "best_single": lambda fold: fold.best_single(),
    "late_average": lambda fold: LateAverage(fold.singles()),
}
"""Beside these, ``single:<modality>`` names the model of one modality."""


def baseline_names(spec: Spec) -> tuple[str, ...]:
    """All baselines of a data set, the single modalities before what is made of them."""
    singles = [SINGLE + m.name for m in spec.modalities]
    stays = ("persistence",) if any(present_values(task, spec) for task in spec.tasks) else ()
    return ("prevalence", *stays, "logistic", "trees", *singles, "best_single", "late_average")


def fit_baseline(name: str, fold: TrainingFold) -> Baseline:
    """One baseline, fitted to one fold."""
    return fold.single(name.removeprefix(SINGLE)) if name.startswith(SINGLE) else BASELINES[name](fold)


def run_baselines(
    spec: Spec,
    folds: Folds,
    batch_of: BatchOf,
    names: tuple[str, ...] | None = None,
    on_fold: Callable[[str, int], None] | None = None,
) -> dict[str, Predictions]:
    """Cross-validates the baselines named, all of them by default, on one thread and fold after fold.

    ``batch_of(fold, rows)`` gives rows by index, with targets, scaled as that fold's models see them. ``on_fold(name,
    fold)`` hears of each baseline before it is fitted. Answers are for validation and test rows.

    Raises:
        ConfigError: an unknown name.
    """
    names = _checked(spec, names)
    indices = {split: fold_rows(mask) for split, mask in (("val", folds.val), ("test", folds.test))}
    parts: dict[str, list[Predictions]] = {name: [] for name in names}
    with threadpool_limits(limits=1):
        for fold, data in _training_folds(spec, folds, batch_of):
            rows = {split: of[fold] for split, of in indices.items()}
            batches = {"val": data.val, "test": batch_of(fold, rows["test"]) if len(rows["test"]) else None}
            for name in names:
                if on_fold is not None:
                    on_fold(name, fold)
                model = fit_baseline(name, data)
                parts[name] += [_predict(model, b, spec, fold, s, rows[s]) for s, b in batches.items() if b is not None]
    return {name: _joined(parts[name], spec) for name in names}


def fit_folds(
    name: str,
    spec: Spec,
    folds: Folds,
    batch_of: BatchOf,
    on_fold: Callable[[str, int], None] | None = None,
) -> tuple[Baseline, ...]:
    """One baseline's K fitted models, those that :func:`run_baselines` asks, whose arguments these are.

    Raises:
        ConfigError: an unknown name.
    """
    _checked(spec, (name,))
    models = []
    with threadpool_limits(limits=1):
        for fold, data in _training_folds(spec, folds, batch_of):
            if on_fold is not None:
                on_fold(name, fold)
            models.append(fit_baseline(name, data))
    return tuple(models)


def answer_rows(models: Sequence[Baseline], spec: Spec, batch_of: BatchOf, rows: Tensor) -> Answers:
    """What the model of each fold says of the same rows, int64 ``[B]``: :data:`Answers` with K before B."""
    predictions = predict_rows(models, spec, batch_of, rows, "")
    shape = len(models), len(rows)
    return {name: score.reshape(*shape, *score.shape[1:]) for name, score in predictions.score.items()}


def predict_rows(
    models: Sequence[Baseline], spec: Spec, batch_of: BatchOf, rows: Tensor, split: str = "holdout"
) -> Predictions:
    """The same as predictions, fold after fold, with the rows' targets: of a locked holdout, say."""
    with threadpool_limits(limits=1):
        parts = [_predict(m, batch_of(fold, rows), spec, fold, split, rows) for fold, m in enumerate(models)]
    return _joined(parts, spec)


def _training_folds(spec: Spec, folds: Folds, batch_of: BatchOf) -> Iterator[tuple[int, TrainingFold]]:
    for fold, (train, val) in enumerate(zip(fold_rows(folds.train), fold_rows(folds.val), strict=True)):
        data = TrainingFold(spec, batch_of(fold, train), batch_of(fold, val) if len(val) else None)
        _assert_learnable(data)
        yield fold, data


def _checked(spec: Spec, names: tuple[str, ...] | None) -> tuple[str, ...]:
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


def _bare(modalities: tuple[Modality, ...]) -> tuple[Modality, ...]:
    """Without the names of their features, of which a file would hold thousands and answering needs none but those of
    modalities that show units or embeddings.
    """
    told = (any(f.unit or f.kind == "embedding" for f in m.features) for m in modalities)
    return tuple(m if needed else replace(m, features=()) for m, needed in zip(modalities, told, strict=True))


def _views(modalities: tuple[Modality, ...], training: np.ndarray, task: Task | None = None) -> list[_View]:
    widths = tabular.block_widths(modalities, *((task.steps, task.units) if task else ()))
    return [_View(scale, training) for scale in linear.scales(widths)]


def _lines(task: Task, batch: Batch, modalities: tuple[Modality, ...], lines: np.ndarray) -> np.ndarray:
    return tabular.step_columns(batch, modalities, task.steps, lines, task.units)


def _fit_steps(
    task: Task,
    batch: Batch,
    modalities: tuple[Modality, ...],
    lines: np.ndarray,
    target: np.ndarray,
    weight: np.ndarray,
) -> tuple[_View, Any]:
    """A linear model of a task per step, its penalty chosen by rows held out whole."""
    columns = np.nan_to_num(_lines(task, batch, modalities, lines))
    views = _views(modalities, columns, task)
    rows = lines // tabular.lines_per_row(batch, task)
    place, model = linear.fit(task, [view(columns) for view in views], target, weight, rows)
    return views[place], model


def _answer_lines(
    task: Task,
    batch: Batch,
    modalities: tuple[Modality, ...],
    rows: np.ndarray,
    answer: Callable[[np.ndarray], np.ndarray],
) -> np.ndarray:
    """``answer`` of the columns of every row, which are ``rows``, or of every line of a task per step."""
    if not task.per_step:
        return answer(rows)
    if any(modality.name in task.steps for modality in modalities):
        parts = tabular.parts(batch, task)
        lines = np.concatenate([answer(_lines(task, part, modalities, lines)) for part, lines in parts])
    else:
        lines = np.repeat(answer(rows), tabular.lines_per_row(batch, task), axis=0)
    return lines.reshape(*_line_shape(batch, task), *lines.shape[1:])


def _line_shape(batch: Batch, task: Task) -> tuple[int, ...]:
    """``(B,)``, ``(B, T)`` of a task per step, ``(B, T, U)`` of a task with units."""
    count = len(batch.weight)
    steps = (tabular.step_count(batch, task),) if task.per_step else ()
    return (count, *steps, *([len(task.units)] if task.units else []))


def _by_line(task: Task, answer: np.ndarray) -> np.ndarray:
    """Answers ``[B,...]``, ``[B,T,...]`` or ``[B,T,U,...]`` one after the other."""
    return answer.reshape(-1, *answer.shape[1 + task.per_step + bool(task.units) :])


def _answer(task: Task, model: Any, columns: np.ndarray) -> np.ndarray:
    """``[lines]``, or ``[lines, C]`` of a multiclass task."""
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
