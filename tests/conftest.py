"""What holds for every test: one thread, and the same examples each time, so that a red run can be repeated."""

import os
from contextlib import suppress
from pathlib import Path

import pytest
import torch
from hypothesis import settings

settings.register_profile("repeatable", derandomize=True, deadline=None)
settings.load_profile("repeatable")
torch.set_num_threads(1)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The numbered properties of streams draw a hundred examples each, and what parts do to scores takes many
    trainings: each has a target of its own.
    """
    for item in items:
        if item.name.startswith("test_property_"):
            item.add_marker(pytest.mark.properties)
        if item.path.stem.endswith("_effects") and item.get_closest_marker("slow"):
            item.add_marker(pytest.mark.effects)


@pytest.fixture(scope="session")
def empty_store(tmp_path_factory) -> Path:
    """The folder of an empty tracking store, which takes seconds to make: one for all workers, to be copied."""
    from jobs_stage import make_store

    own = tmp_path_factory.getbasetemp()
    folder = (own.parent if "PYTEST_XDIST_WORKER" in os.environ else own) / "empty_store"
    if not folder.exists():
        half = make_store(tmp_path_factory.mktemp("half_store"))
        with suppress(OSError):  # another worker was quicker
            half.rename(folder)
    return folder


@pytest.fixture
def quick_baselines(monkeypatch) -> None:
    """See :func:`baseline_material.quicken`; for tests that ask nothing of how good a baseline is."""
    from baseline_material import quicken

    quicken(monkeypatch)
