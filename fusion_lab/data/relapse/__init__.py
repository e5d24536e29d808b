"""Relapse prediction from wearables: raw sensor trees (:mod:`.raw`) become daily features (:mod:`.features`), which
``prepare`` writes (:mod:`.prepare`) as one table of days (:mod:`.daily`). Any table of days (:mod:`.table`), fold
archives (:mod:`.archives`) or days that are made up (:mod:`.twin`) become windows of calendar days (:mod:`.windows`),
and a data set (:mod:`.domain`).
"""

from fusion_lab.data.relapse.archive_writing import write
from fusion_lab.data.relapse.domain import load, prepare, records, spec
from fusion_lab.data.relapse.settings import RelapseConfig

__all__ = ["RelapseConfig", "load", "prepare", "records", "spec", "write"]
