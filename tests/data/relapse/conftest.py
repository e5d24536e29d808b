"""A raw tree of made-up days, small enough to be written for every test that asks for one."""

import pytest

from fusion_lab.data.relapse.raw_twin import RawTwinConfig, write_raw_tree

SMALL = RawTwinConfig(patients=2, days=3, motion_hz=0.02, heart_hz=0.02, lost=0, off=0)


@pytest.fixture(scope="session")
def small_twin():
    """The settings of :func:`tree`."""
    return SMALL


@pytest.fixture
def tree(tmp_path):
    """Two patients, three days a sequence, no sensor missing."""
    write_raw_tree(tmp_path / "raw", SMALL)
    return tmp_path / "raw"
