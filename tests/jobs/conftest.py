"""A fresh working folder with a copy of the empty tracking store for each test."""

import pytest
from jobs_stage import Stage


@pytest.fixture
def stage(tmp_path, monkeypatch, empty_store) -> Stage:
    made = Stage.set_up(tmp_path / "work", empty_store)
    made.enter(monkeypatch)
    return made
