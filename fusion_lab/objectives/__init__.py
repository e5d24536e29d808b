"""What training minimises."""

from fusion_lab.objectives.losses import LOSSES, ObjectiveConfig
from fusion_lab.objectives.objective import PART, Objective, mean_penalties

__all__ = ["LOSSES", "PART", "Objective", "ObjectiveConfig", "mean_penalties"]
