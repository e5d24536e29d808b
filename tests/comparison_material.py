"""Made-up entries of a comparison: subjects with recordings that are cut into rows, a fold for each subject."""

import numpy as np

from fusion_lab.contracts import Predictions, Task
from fusion_lab.evaluation.comparison import Measure
from fusion_lab.evaluation.entries import Entry, FoldFacts

TASK = Task("activity", "multiclass", ("sit", "walk", "run"))
BINARY = Task("activity", "binary", ("no", "yes"))
ACCURACY, F1 = Measure("accuracy", {"activity": "accuracy"}), Measure("f1", {"activity": "f1"})
LOSS, AUROC = Measure("log_loss", {"activity": "log_loss"}), Measure("auroc", {"activity": "auroc"})


def made_entry(
    name="a",
    skill=1.0,
    seed=0,
    subjects=5,
    recordings=6,
    cut=4,
    grouped=True,
    recorded=True,
    task=TASK,
    data="data",
    shift=0,
    kind="model",
) -> Entry:
    """Each subject's recordings have ``cut`` rows each; fold k tests subject k and validates subject k + 1.

    ``skill`` is how far the right class stands out; ``shift`` gives subjects other folds.
    """
    rng = np.random.default_rng([seed, cut])
    rows = subjects * recordings * cut
    subject, recording = np.arange(rows) // (recordings * cut), np.arange(rows) // cut
    classes = len(task.classes)
    target = (recording % recordings % classes).astype(float)
    logits = rng.normal(size=(rows, classes)) + skill * np.eye(classes)[target.astype(int)]
    every = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    score = every[:, 1] if task.kind == "binary" else every
    row = np.tile(np.arange(rows), 2)
    fold = (np.concatenate([subject, subject - 1]) + shift) % subjects
    predictions = Predictions(
        fold,
        np.repeat(["test", "val"], rows),
        row,
        {task.name: np.tile(target, 2)},
        {task.name: np.ones(2 * rows, bool)},
        {task.name: np.concatenate([score, score])},
    )
    size = recordings * cut
    facts = FoldFacts(
        "leave_one_group_out",
        tuple(f"s{k}" for k in range(subjects)),
        f"split {cut} {shift}",
        data,
        (size * (subjects - 2),) * subjects,
        (size,) * subjects,
        (size,) * subjects,
    )
    return Entry(
        name,
        (task,),
        predictions,
        np.array([f"r{r} of {cut} {i % cut}" for i, r in enumerate(recording)]),
        np.array([f"s{s}" for s in subject]) if grouped else None,
        np.array([f"rec {r}" for r in recording]) if recorded else None,
        facts,
        kind,
    )
