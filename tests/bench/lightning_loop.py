"""The opponent by Lightning: a module, a trainer, callbacks."""

from __future__ import annotations

import logging
import warnings
from copy import deepcopy

import lightning as L
import torch
from case import Case, Fold, Replay, Row
from lightning.pytorch.callbacks import Callback, EarlyStopping
from opponents import load
from settings import FoldAnswer
from torch import Tensor
from torch.utils.data import DataLoader

__all__ = ["cross_validate", "load"]

EVALUATION_BATCH = 256  # without gradients a larger batch is quicker

logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)  # else a line per fold on the devices there are
warnings.filterwarnings("ignore", message=".*does not have many workers.*")  # every contender is one process
warnings.filterwarnings("ignore", message=".*LeafSpec.*is deprecated")  # between PyTorch and Lightning


def cross_validate(case: Case) -> list[FoldAnswer]:
    """One fold after the other, a trainer for each."""
    return [_train(case, fold) for fold in case.folds]


def _train(case: Case, fold: Fold) -> FoldAnswer:
    settings = case.settings
    train, val, test = case.rows(fold)
    train_loader = DataLoader(train, settings.batch_size, sampler=Replay(fold.orders))
    val_loader, test_loader = (DataLoader(rows, EVALUATION_BATCH) for rows in (val, test))
    module = Classifier(case, fold)
    best = BestWeights()
    trainer = L.Trainer(
        accelerator="cpu",
        devices=1,
        precision="64-true" if settings.double else "32-true",
        max_epochs=settings.epochs,
        gradient_clip_val=settings.clip,
        callbacks=[EarlyStopping("val_auroc", mode="max", patience=settings.patience), best],
        # Everything that can be left out is. Not barebones, which is discouraged for training and takes away self.log,
        # by which early stopping knows what it watches.
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        num_sanity_val_steps=0,
        use_distributed_sampler=False,
    )
    trainer.fit(module, train_loader, val_loader)
    module.load_state_dict(best.weights)
    answer = FoldAnswer(*module.curves.values(), {})
    for split, loader in (("val", val_loader), ("test", test_loader)):
        labels, logits = zip(*trainer.predict(module, loader), strict=True)
        answer.best.update(case.scores(split, torch.cat(labels), case.probabilities(torch.cat(logits))))
    return answer


class Classifier(L.LightningModule):
    """The model with its loss, its optimiser and what is logged of it."""

    def __init__(self, case: Case, fold: Fold) -> None:
        super().__init__()
        self.case, self.settings = case, case.settings
        self.model = case.model(fold)
        self.criterion = case.criterion(fold)
        self.answers: list[tuple[Tensor, Tensor]] = []
        self.curves: dict[str, list[float]] = {"train_loss": [], "val_loss": [], "val_auroc": []}

    def training_step(self, batch: Row, index: int) -> Tensor:
        label, logits = self._forward(batch)
        loss = self.criterion(logits, label)
        self.log("train_loss", loss, on_step=False, on_epoch=True, batch_size=len(label))
        return loss

    def validation_step(self, batch: Row, index: int) -> None:
        label, logits = self._forward(batch)
        self.log("val_loss", self.criterion(logits, label), batch_size=len(label))
        self.answers.append((label, logits))

    def on_validation_epoch_end(self) -> None:
        labels, logits = (torch.cat(part) for part in zip(*self.answers, strict=True))
        self.log("val_auroc", self.case.auroc(labels, logits))
        self.answers.clear()

    def on_train_epoch_end(self) -> None:
        for name, curve in self.curves.items():
            curve.append(self.trainer.callback_metrics[name].item())

    def predict_step(self, batch: Row, index: int) -> tuple[Tensor, Tensor]:
        return self._forward(batch)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        s = self.settings
        return torch.optim.AdamW(self.parameters(), lr=s.lr, weight_decay=s.weight_decay, fused=True)

    def _forward(self, batch: Row) -> tuple[Tensor, Tensor]:
        return batch["label"], self.model(batch["features"], batch["masks"])


class BestWeights(Callback):
    """Keeps the weights of the best epoch in memory, cheaper than the checkpoint on disk that Lightning would write."""

    def __init__(self) -> None:
        self.score = -1.0
        self.weights: dict[str, Tensor] = {}

    def on_validation_end(self, trainer: L.Trainer, module: L.LightningModule) -> None:
        score = trainer.callback_metrics["val_auroc"].item()
        if score > self.score:
            self.score, self.weights = score, deepcopy(module.state_dict())
