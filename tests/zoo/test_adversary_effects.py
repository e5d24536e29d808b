"""What token_fusion's adversary does to the scores of people never seen, on a twin made for it."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from contracts.test_effects import Trained, assert_better, experiment

from fusion_lab.contracts import Feature, Modality, Provenance, Spec, Task
from fusion_lab.data.arrays import ArrayDataset
from fusion_lab.data.splits import make_folds
from fusion_lab.experiment import Materials
from fusion_lab.training import cross_validate

pytestmark = pytest.mark.slow
SEEDS = range(100, 114)
WIDTH, TRAITS, DAYS = 8, 4, 16
VALIDATING, UNSEEN = 3, 60
SPEC = Spec(
    tuple(Modality(name, "vector", tuple(Feature(f"{name} {i}") for i in range(WIDTH))) for name in "ab"),
    (Task("outcome", "binary", ("no", "yes")),),
)
TRAINING = {"epochs": 30, "batch_size": 96, "restore": "last", "mode": "loop", "device": "cpu"}


def strangers(seed: int, labelled: int, unlabelled: int) -> ArrayDataset:
    """People who say yes four times in five, or once, and have four loud traits that have nothing to do with it; the
    label shows a little, in a direction of its own. Of training people some have labels: few enough that their traits
    tell which of them say yes.
    """
    draws = np.random.default_rng(seed)
    parts = {"train": labelled + unlabelled, "val": VALIDATING, "test": UNSEEN}
    people = sum(parts.values())
    who, rows = np.repeat(np.arange(people), DAYS), people * DAYS
    often = np.concatenate([draws.permutation(np.arange(size) % 2) for size in parts.values()])
    label = (draws.random(rows) < np.where(often == 1, 0.8, 0.2)[who]).astype(np.float32)
    traits = draws.normal(size=(people, TRAITS))
    inputs = {m.name: _columns(draws, label, traits[who]) for m in SPEC.modalities}
    there = torch.ones(rows, dtype=torch.bool)
    return ArrayDataset.checked(
        spec=SPEC,
        ids=np.arange(rows).astype(str),
        inputs=inputs,
        valid=dict.fromkeys(inputs, there),
        observed={name: torch.ones(x.shape, dtype=torch.bool) for name, x in inputs.items()},
        quality={name: torch.ones(rows) for name in inputs},
        targets={"outcome": torch.from_numpy(label)},
        known={"outcome": torch.from_numpy((who < labelled) | (who >= parts["train"]))},
        provenance=Provenance(()),
        group=np.array([f"P{k:03d}" for k in who]),
        given_split=np.repeat(list(parts), list(parts.values()))[who],
    )


def _columns(draws: np.random.Generator, label: np.ndarray, traits: np.ndarray) -> torch.Tensor:
    """``[R,F]``: noise of deviation 1, the label, and the traits, which lie across the label's direction."""
    shown, of_label = draws.normal(size=(TRAITS, WIDTH)), draws.normal(size=WIDTH)
    of_label /= np.linalg.norm(of_label)
    shown -= np.outer(shown @ of_label, of_label)
    shown *= np.sqrt(WIDTH) / np.linalg.norm(shown, axis=1, keepdims=True)
    signal = 0.8 * (2 * label[:, None] - 1) * of_label / np.sqrt(len(SPEC.modalities))
    return torch.from_numpy((draws.normal(size=(len(label), WIDTH)) + signal + traits @ shown).astype(np.float32))


def auroc(seed: int, adversary: float, labelled: int = 8, unlabelled: int = 52) -> float:
    """Of the pooled days of people never seen: an answer that goes by who somebody is puts them in a wrong order."""
    model = {"fusion": "gated", "adversary": adversary, "adversary_warmup": 5}
    config = experiment(seed, {"rows": 20}, model, training=TRAINING, folds={"protocol": "given"})
    data = strangers(seed, labelled, unlabelled)
    materials = Materials(data, make_folds(config.folds, data))
    return Trained(materials, cross_validate(materials.plan(config))).auroc


def test_where_few_people_have_labels_it_helps_with_people_never_seen():
    """Eight people's traits happen to tell how often they say yes, which of others is wrong. What tells people apart
    can be learned, and unlearned, of those without labels, too.
    """
    with_it, without = ([auroc(seed, adversary) for seed in SEEDS] for adversary in (0.1, 0.0))
    assert_better(with_it, without, margin=0.0)


def test_too_strong_it_takes_the_label_away_with_the_people():
    """Who says yes more often is told by the label, too: what must not tell people must not tell the label."""
    strong, without = ([auroc(seed, adversary, 12, 0) for seed in SEEDS] for adversary in (3.0, 0.0))
    assert_better(without, strong, margin=0.02)
