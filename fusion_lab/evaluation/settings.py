"""What is asked of a trained configuration beside its scores."""

from __future__ import annotations

from pydantic import Field

from fusion_lab.config import Config


class EvaluationConfig(Config):
    """``bins`` of the calibration error and the reliability figure; ``mc_samples`` passes with dropout on (0: none);
    ``most_subsets`` of modalities that are scored one by one: of more, single ones, those that lack one, and a draw.
    """

    bins: int = Field(15, ge=2, le=100)
    mc_samples: int = Field(10, ge=0, le=1000)
    most_subsets: int = Field(63, ge=1, le=65535)
    latency_rows: int = Field(100, ge=0, le=100_000)  # single rows that are timed; 0: none
