"""Training: all folds advance together, told to the world through one callable."""

from fusion_lab.training.execution import settle
from fusion_lab.training.folds import CONTINUE, Decision, Diverged, Evaluation, OnEval, cross_validate
from fusion_lab.training.plan import Plan, TrainingConfig
from fusion_lab.training.results import CrossValidation, FoldResult

__all__ = [
    "CONTINUE",
    "CrossValidation",
    "Decision",
    "Diverged",
    "Evaluation",
    "FoldResult",
    "OnEval",
    "Plan",
    "TrainingConfig",
    "cross_validate",
    "settle",
]
