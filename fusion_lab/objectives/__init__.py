"""What training minimises."""

from fusion_lab.objectives.losses import LOSSES, ObjectiveConfig
from fusion_lab.objectives.objective import Objective, mean_penalties

__all__ = ["LOSSES", "Objective", "ObjectiveConfig", "mean_penalties"]
