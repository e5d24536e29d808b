"""Settings of recordings from body-worn sensors, in the words of PAMAP2 (Reiss and Stricker, 2012)."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from fusion_lab.config import Config, nearest

Site = Literal["hand", "chest", "ankle"]
Channel = Literal["temp", "acc16", "acc6", "gyro", "mag", "orientation"]

SITES: tuple[Site, ...] = ("hand", "chest", "ankle")
HEART_RATE = "heart_rate"

CHANNELS: dict[Channel, tuple[str, ...]] = {
    "temp": ("temp_c",),
    "acc16": ("acc16_x_ms2", "acc16_y_ms2", "acc16_z_ms2"),
    "acc6": ("acc6_x_ms2", "acc6_y_ms2", "acc6_z_ms2"),
    "gyro": ("gyro_x_rads", "gyro_y_rads", "gyro_z_rads"),
    "mag": ("mag_x_ut", "mag_y_ut", "mag_z_ut"),
    "orientation": ("orientation_w", "orientation_x", "orientation_y", "orientation_z"),
}
"""The 17 columns of a sensor unit, in the order of the data set's files, with their units."""

SUBJECT, TIME, ACTIVITY, HEART_RATE_BPM = "subject_id", "timestamp_s", "activity_id", "heart_rate_bpm"

COLUMNS = (TIME, ACTIVITY, HEART_RATE_BPM) + tuple(f"{s}_{c}" for s in SITES for of in CHANNELS.values() for c in of)
"""The 54 columns of a raw ``.dat`` file, in order."""

ACTIVITIES = {
    1: "lying",
    2: "sitting",
    3: "standing",
    4: "walking",
    5: "running",
    6: "cycling",
    7: "nordic walking",
    9: "watching TV",
    10: "computer work",
    11: "car driving",
    12: "ascending stairs",
    13: "descending stairs",
    16: "vacuum cleaning",
    17: "ironing",
    18: "folding laundry",
    19: "house cleaning",
    20: "playing soccer",
    24: "rope jumping",
}
"""The data set's activity ids; 0 marks what is between activities."""

TRANSIENT = 0


class ActivityConfig(Config):
    """Recordings cut into chunks of ``chunk`` samples, each a row with one sequence per sensor.

    ``layout`` says what the files under ``root`` are (``auto``: told from what is there). ``columns`` names columns of
    the files that are called otherwise: ``{canonical name: name in the file}``. ``channels`` are those of each sensor
    unit that models see: the 6 g accelerometer saturates, the orientation is invalid and the temperature follows the
    session, so they are off. ``activities`` are kept, all of the data set's by default; of these a class that fewer
    than ``min_subjects`` subjects have is left out, which is noted.

    A chunk begins every ``stride`` samples (``None``: when the last one ends), inside one recording: a run of one
    subject's samples of one activity, at most ``gap`` seconds apart. A recording's last chunk may be shorter, down to
    the share ``shortest`` of a whole one.
    """

    domain: Literal["activity"] = "activity"
    root: str = "."
    layout: Literal["auto", "prepared", "dat", "table", "shards", "arrays"] = "auto"
    columns: dict[str, str] = {}
    modalities: tuple[Literal["hand", "chest", "ankle", "heart_rate"], ...] = Field((*SITES, HEART_RATE), min_length=1)
    channels: tuple[Channel, ...] = Field(("acc16", "gyro", "mag"), min_length=1)
    activities: tuple[str, ...] | None = Field(None, min_length=1)
    min_subjects: int = Field(3, ge=1)
    chunk: int = Field(256, ge=2, le=8192)
    stride: int | None = Field(None, ge=1)
    shortest: float = Field(0.5, gt=0.0, le=1.0)
    rate: float = Field(100.0, gt=0.0)  # samples per second
    gap: float = Field(0.02, gt=0.0)  # seconds

    @model_validator(mode="after")
    def _names_are_known(self) -> ActivityConfig:
        known = list(ACTIVITIES.values())
        for name in self.activities or ():
            if name not in known:
                raise ValueError(f"activities: unknown {name!r}{nearest(name, known)}")
        canonical = [SUBJECT, *COLUMNS]
        for name in self.columns:
            if name not in canonical:
                raise ValueError(f"columns: unknown {name!r}{nearest(name, canonical)}")
        files = [self.columns.get(name, name) for name in canonical]
        twice = next((name for name in self.columns.values() if files.count(name) > 1), None)
        if twice is not None:
            both = " and ".join(name for name in canonical if self.columns.get(name, name) == twice)
            raise ValueError(f"columns: expected a column of its own for each name, found {twice!r} for {both}")
        for setting in ("modalities", "channels", "activities"):
            values = getattr(self, setting) or ()
            if len(set(values)) < len(values):
                raise ValueError(f"{setting}: expected each name once, found {', '.join(values)}")
        if self.gap * self.rate < 1:
            raise ValueError(f"gap: expected at least one sample ({1 / self.rate:g} s), found {self.gap:g} s")
        return self
