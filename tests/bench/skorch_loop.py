"""The opponent by skorch: a net in scikit-learn's manner, with callbacks."""

from __future__ import annotations

import torch
from case import Case, Fold, Replay, Rows
from opponents import load
from settings import FoldAnswer
from skorch import NeuralNetBinaryClassifier
from skorch.callbacks import EarlyStopping, EpochScoring, GradientNormClipping
from skorch.dataset import Dataset
from skorch.helper import predefined_split
from torch import Tensor

__all__ = ["cross_validate", "load"]

EVALUATION_BATCH = 256  # without gradients a larger batch is quicker


def cross_validate(case: Case) -> list[FoldAnswer]:
    """One fold after the other, a net for each."""
    return [_train(case, fold) for fold in case.folds]


def _train(case: Case, fold: Fold) -> FoldAnswer:
    train, val, test = (_split(rows) for rows in case.rows(fold))
    net = _net(case, fold, Dataset(*val)).fit(*train)
    history = net.history[:, ("train_loss", "valid_loss", "valid_auroc")]
    answer = FoldAnswer(*(list(curve) for curve in zip(*history, strict=True)), {})
    for split, (inputs, labels) in (("val", val), ("test", test)):
        answer.best.update(case.scores(split, labels, torch.from_numpy(net.predict_proba(inputs)[:, 1])))
    return answer


def _split(rows: Rows) -> tuple[dict[str, Tensor], Tensor]:
    return {name: column for name, column in rows.columns.items() if name != "label"}, rows.columns["label"]


def _net(case: Case, fold: Fold, val: Dataset) -> NeuralNetBinaryClassifier:
    s = case.settings
    return NeuralNetBinaryClassifier(
        case.model(fold),  # built, and so taken with the weights it has
        criterion__pos_weight=fold.class_weights[1].to(case.dtype),
        optimizer=torch.optim.AdamW,
        optimizer__weight_decay=s.weight_decay,
        optimizer__fused=True,
        lr=s.lr,
        max_epochs=s.epochs,
        batch_size=s.batch_size,
        iterator_train__sampler=Replay(fold.orders),
        iterator_valid__batch_size=EVALUATION_BATCH,
        train_split=predefined_split(val),
        callbacks=[
            ("valid_auroc", EpochScoring("roc_auc", lower_is_better=False, name="valid_auroc")),
            ("clip", GradientNormClipping(s.clip)),
            # It keeps the best epoch's weights in memory, cheaper than a checkpoint on disk.
            (
                "stop",
                EarlyStopping("valid_auroc", s.patience, threshold=0.0, lower_is_better=False, load_best=True),
            ),
        ],
        callbacks__valid_acc=None,  # a default that nobody asked for
        callbacks__print_log=None,
        verbose=0,
    )
