"""The names of daily features and their order, which files and models go by."""

from __future__ import annotations

STATISTICS = ("mean", "std", "min", "max", "median", "skewness", "kurtosis")
"""As :mod:`.moments` computes them."""

AXES = ("x", "y", "z", "magnitude")

MOTION = (
    *(f"{axis}_{statistic}" for axis in AXES for statistic in STATISTICS),
    "energy",
    "zero_crossing_rate",
    "share_above_1_5",
    "share_below_0_2",
    "dominant_frequency",
    "spectral_entropy",
    "power_0_1",
    "power_1_3",
    "power_3_8",
    "power_8_up",
)

HEART = (
    *(f"rate_{statistic}" for statistic in STATISTICS),
    *(f"rr_{statistic}" for statistic in STATISTICS),
    "sdnn",
    "rmssd",
    "pnn50",
    "triangular_index",
    "lf_power",
    "hf_power",
    "lf_hf_ratio",
    "total_power",
    "sd1",
    "sd2",
    "sd1_sd2_ratio",
    "coverage",
)

STEP_TOTALS = ("total_steps", "steps_walking", "steps_running", "distance", "calories")

STEPS = (*STEP_TOTALS, "segments", "first_hour", "last_hour", "longest_gap", "gap_std")

SLEEP = (
    "total_minutes",
    "episodes",
    "onset_sin",
    "onset_cos",
    "wake_sin",
    "wake_cos",
    "longest_bout",
    "onset_deviation",
    "wake_deviation",
)

MODALITIES: dict[str, tuple[str, ...]] = {"accel": MOTION, "gyr": MOTION, "hr": HEART, "step": STEPS, "sleep": SLEEP}
"""The 121 features of a day by modality. The order of both is fixed."""

WINDOW_SECONDS = 300
WINDOWS = 24 * 60 * 60 // WINDOW_SECONDS
"""A day is cut into windows of five minutes by the clock, the first from midnight."""
