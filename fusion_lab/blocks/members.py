"""Members of a model that answer together and learn each for itself."""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional as F

from fusion_lab.contracts import Task


def disagreement(task: Task, answers: Tensor) -> Tensor:
    """How much more the G members ``[G,B,outputs]`` lose on average than their mean answer does, ``[B]``, at least 0.

    Cross-entropy and squared error are a convex function of the answer and a part that is linear in it; only the second
    knows the target, and of a mean it is the mean. So what the members lose on average is the loss of their mean answer
    and this: the ambiguity decomposition (Krogh & Vedelsby, 1995, "Neural Network Ensembles, Cross Validation, and
    Active Learning"; of cross-entropy Wood et al., 2023, "A Unified Theory of Diversity in Ensemble Learning"). A model
    whose loss is that of its mean answer, with this beside it as a penalty, trains every member as if it were alone. Of
    losses that weigh classes, or doubt, it is what the plain ones would have.
    """
    return _convex(task, answers).mean(0) - _convex(task, answers.mean(0))


def _convex(task: Task, answers: Tensor) -> Tensor:
    """What does not know the target in the loss of answers ``[...,outputs]``."""
    if task.kind == "binary":
        return F.softplus(answers).squeeze(-1)
    if task.kind == "multiclass":
        return answers.logsumexp(-1)
    return answers.square().squeeze(-1)
