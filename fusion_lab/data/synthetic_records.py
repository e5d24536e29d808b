"""Raw rows of generated data."""

from __future__ import annotations

from fusion_lab.contracts import Spec
from fusion_lab.data import synthetic
from fusion_lab.data.raw import Records
from fusion_lab.data.records import records_of


def records(config: synthetic.SyntheticConfig, labelled: bool = True, spec: Spec | None = None) -> Records:
    """The raw rows of ``synthetic.load(config)``: generated rows are the same with labels or without."""
    return records_of(synthetic.load(config))
