"""Recordings as files: a twin written in the layout of video edits, an NPZ archive of tracks and a CSV file per stream
and video.
"""

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from fusion_lab.config import validate
from fusion_lab.data.editing.settings import EditingConfig, TrackColumn
from fusion_lab.data.editing.twin import Twin

SMALL = {
    "audio": {
        "file": "{video}_features.csv",
        "columns": {"audio_energy_rms": "continuous", "audio_is_speaking": "binary"},
    },
    "visual": {
        "file": "{video}_visual_features.csv",
        "columns": {"visual_motion": "continuous", "face_count": "discrete", "face_size": "continuous"},
        "only_where": {"face_size": "face_count"},
        "embedding": "clip_{0..3}",
        "half": True,
    },
}
TRACKS = {"count": 3, "asset_classes": 3}


def settings(**changes: Any) -> EditingConfig:
    """A small twin, unless ``root`` says where files are."""
    tree = {"domain": "editing", "length": 20, "streams": SMALL, "tracks": TRACKS, "twin": {"videos": 4, "seconds": 6}}
    return validate(EditingConfig, {**tree, **changes}, "test")


def write_twin(folder: Path, config: EditingConfig, starts: bool = True) -> EditingConfig:
    """Writes what the twin of the settings is, and gives the settings that read it."""
    assert config.twin is not None
    twin = Twin(config, config.twin)
    write_tracks(folder, twin, config.length, starts)
    for name, stream in twin.streams.items():
        for video in stream.videos():
            write_stream(folder / config.streams[name].file.replace("{video}", video), twin, name, video)
    return config.model_copy(update={"root": str(folder), "twin": None})


def write_stream(file: Path, twin: Twin, name: str, video: str) -> None:
    """Numbers with as many digits as it takes to read them back to the bit."""
    stream = twin.streams[name].get(video).stream
    config = twin.streams[name].config
    frame = pd.DataFrame(stream.values, columns=[*config.columns, *config.embedding_columns()])
    frame.insert(0, config.time, stream.times)
    if file.suffix == ".parquet":
        frame.to_parquet(file, index=False)
    else:
        frame.to_csv(file, index=False)


def write_tracks(folder: Path, twin: Twin, length: int, starts: bool = True) -> None:
    """The archives: the windows of each part of the split in a file of their own."""
    windows = list(twin.tracks.windows(length))
    split = dict(zip(twin.videos, twin.tracks.split.tolist(), strict=True))
    for part in ("train", "val"):
        own = [window for window in windows if split[window[0]] == part]
        arrays = archive([w[0] for w in own], np.stack([w[2] for w in own]), np.stack([w[3] for w in own]))
        if starts:
            arrays["start"] = np.array([w[1] for w in own])
        np.savez(folder / f"{part}_sequences.npz", **arrays)


def archive(videos: list[str], sequences: np.ndarray, masks: np.ndarray) -> dict[str, np.ndarray]:
    """The arrays of an archive without starts."""
    return {
        "sequences": sequences,
        "masks": masks,
        "video_ids": np.array(videos),
        "source_video_names": np.array(videos),
    }


def write_archive(folder: Path, **changes: np.ndarray) -> None:
    """Two videos of two windows each, 5 steps long, 3 tracks x 9 columns, all cells of some use."""
    rng = np.random.default_rng(0)
    cells = rng.normal(0, 1, (4, 5, 3, 9)).astype(np.float32)
    cells[..., 0], cells[..., 1] = rng.integers(0, 2, (4, 5, 3)), rng.integers(0, 3, (4, 5, 3))
    arrays = archive(["a", "a", "b", "b"], cells.reshape(4, 5, 27), np.ones((4, 5), bool))
    np.savez(folder / "train_sequences.npz", **{**arrays, **changes})


def write_features(folder: Path, video: str, seconds: float = 1.0, rate: float = 10.0, **changes: Any) -> pd.DataFrame:
    """A file of the small audio stream; ``changes``: columns that are otherwise."""
    times = np.arange(int(seconds * rate)) / rate
    columns = {"time": times, "audio_energy_rms": np.sin(times), "audio_is_speaking": (times > 0.3).astype(int)}
    frame = pd.DataFrame({**columns, **changes})
    frame.to_csv(folder / f"{video}_features.csv", index=False)
    return frame


def column_names(columns: tuple[TrackColumn, ...], count: int) -> list[str]:
    """Names of the features of the tracks."""
    return [f"track {i + 1} {column}" for i in range(count) for column in columns]
