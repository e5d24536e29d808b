"""One tracking store, made once; a fresh working folder with a copy of it for each test."""

from pathlib import Path

import pytest
from jobs_stage import Stage, make_store


@pytest.fixture(scope="session")
def empty_store(tmp_path_factory) -> Path:
    return make_store(tmp_path_factory.mktemp("empty_store"))


@pytest.fixture
def stage(tmp_path, monkeypatch, empty_store) -> Stage:
    made = Stage.set_up(tmp_path / "work", empty_store)
    made.enter(monkeypatch)
    return made
