"""What every contender is told to train. Nothing here needs PyTorch: the program that waits for them stays small."""

from __future__ import annotations

from dataclasses import dataclass

OURS = ("stacked", "loop")
CONTENDERS = {
    "stacked": "ours",
    "loop": "ours",
    "plain": "plain",
    "lightning": "lightning_loop",
    "skorch": "skorch_loop",
}
"""Each contender's module."""

PACKAGES = {"lightning": "lightning", "skorch": "skorch"}
"""What a contender needs beside this project and its own requirements."""

PARAMETERS = {64: 316_033, 32: 83_265}
"""The relapse model's published size by its width."""


@dataclass(frozen=True)
class Settings:
    """One cross-validation. ``double``: in float64, to show that what differs in float32 is rounding."""

    d_model: int = 64
    epochs: int = 2
    rows: int = 1875
    folds: int = 9
    dropout: float = 0.1
    double: bool = False
    batch_size: int = 32
    lr: float = 1e-4
    weight_decay: float = 0.01
    clip: float = 1.0
    patience: int = 100  # kept count of, never reached: all do equal work
    case: str = "relapse"
    encoder: str | None = None  # of the activity model
    samples: int | None = None  # of a chunk of the activity data

    @property
    def nhead(self) -> int:
        return self.d_model // 16

    @property
    def title(self) -> str:
        """What is trained, on the console."""
        width = f"d_model {self.d_model}"
        return width if self.case == "relapse" else f"{self.case}, {self.encoder}, {width}"


_ACTIVITY = {"case": "activity", "rows": 807, "folds": 7, "samples": 256, "epochs": 1}

CASES = {
    "relapse": (Settings(),),
    "activity": (Settings(**_ACTIVITY, encoder="gru"), Settings(**_ACTIVITY, encoder="cnn")),
}
"""What is cross-validated, at every width."""

QUICK = {
    "relapse": {"rows": 151, "folds": 3, "epochs": 1},
    "activity": {"rows": 90, "folds": 3, "samples": 64, "epochs": 1},
}
QUICK_MODELS = {"relapse": None, "activity": 1}
"""How many of a case's models a quick run takes: starting the contenders of each is what it spends its time on."""

READING = "reading"
"""The case in which nothing is trained: raw recordings are read."""

READ_ROWS, QUICK_READ_ROWS = 150_000, 3_000
"""Of the file that is read."""

READ_ROUNDS = 5
"""For each round of the cross-validations, which take longer."""

FINGERPRINTS = "fingerprints"
"""The case in which molecules are described."""

MOLECULES, QUICK_MOLECULES = 640, 60
"""That are described, in one process."""

ALIGNMENT = "alignment"
"""The case in which streams of several rates are brought to one clock."""

ALIGN_SECONDS, QUICK_ALIGN_SECONDS = 3_600, 20
"""Of both streams."""

DAILY_FEATURES = "daily_features"
"""The case in which days of raw sensor files are described."""

DAYS, DAILY_RATES = 1, (1.0, 1.0)
"""Of one patient, and samples a second of motion sensors and of the heart's; QUICK_DAILY_RATES of a quick run."""

QUICK_DAILY_RATES = (0.05, 1.0)

TAKE_PART = {"relapse": tuple(CONTENDERS), "activity": ("stacked", "loop", "plain", "lightning")}
"""The contenders of each case."""


@dataclass(frozen=True)
class FoldAnswer:
    """One fold's curves, a number per epoch, and its scores at the best one: ``{"val_auroc": ..., "test_ap": ...}``."""

    train_loss: list[float]
    val_loss: list[float]
    val_auroc: list[float]
    best: dict[str, float]
