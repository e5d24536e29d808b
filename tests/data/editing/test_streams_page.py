"""What docs/streams.md says of settings is so."""

import re
from pathlib import Path

import pytest

from fusion_lab.config import parse_yaml, validate
from fusion_lab.data.editing.settings import (
    TRACK_COLUMNS,
    EditingConfig,
    StreamConfig,
    TargetConfig,
    TracksConfig,
    TwinConfig,
)
from fusion_lab.experiment import read_experiment

PAGE = (Path(__file__).parents[3] / "docs" / "streams.md").read_text(encoding="utf-8")


def test_the_example_is_a_valid_configuration():
    (text,) = re.findall(r"```yaml\n(.*?)```", PAGE, re.DOTALL)
    assert validate(EditingConfig, parse_yaml(text, "page")["data"], "page").clock == "targets"


@pytest.mark.parametrize("settings", [EditingConfig, StreamConfig, TargetConfig, TracksConfig, TwinConfig])
def test_every_setting_is_told(settings):
    for name in settings.model_fields:
        if name not in ("domain", "leakage_auroc", "kind"):
            assert re.search(rf"\b{name}\b", PAGE), name


def test_columns_and_defaults_are_those_of_the_settings():
    plain = EditingConfig()
    for stream in plain.streams.values():
        columns = [name for name in stream.columns if not name.startswith("face_") or name == "face_count"]
        assert all(name in PAGE for name in columns) and stream.file in PAGE
    assert all(column in PAGE for column in TRACK_COLUMNS)
    assert f"`tolerance` ({plain.tolerance} s)" in PAGE and f"`max_gap` ({plain.max_gap:g} s)" in PAGE
    assert (
        f"`report_gap` ({plain.report_gap:g} s)" in PAGE
        and f"`most_interpolated`, {plain.most_interpolated:.0%}" in (PAGE.replace(" %", "%"))
    )
    twin = TwinConfig()
    for name in ("videos", "seconds", "lag", "dropped", "span", "absent", "signal", "seed"):
        assert f"{name}: {getattr(twin, name):g}" in PAGE


def test_the_experiments_are_what_the_page_says():
    editing, film = read_experiment("editing").data, read_experiment("studyforrest").data
    assert (
        isinstance(editing, EditingConfig) and editing.made is not None and editing.streams == EditingConfig().streams
    )
    assert isinstance(film, EditingConfig) and film.tracks is None and film.horizon == 0
