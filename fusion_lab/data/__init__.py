"""Domains, strangers to each other. A new one is a file here and a line below."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

from fusion_lab.config import Config
from fusion_lab.contracts import Dataset, Spec
from fusion_lab.data import synthetic, synthetic_records, table
from fusion_lab.data.raw import Records


class Domain(NamedTuple):
    """What a domain gives: the schema of its settings, and from settings a spec, a data set and its raw rows.

    ``records(config, labelled=True, spec=None)``: the raw rows of the data set, or, not ``labelled``, rows without
    targets for a model trained on ``spec``.
    """

    config: type[Config]
    spec: Callable[[Any], Spec]
    load: Callable[[Any], Dataset]
    records: Callable[..., Records]


DOMAINS: dict[str, Domain] = {
    "synthetic": Domain(synthetic.SyntheticConfig, synthetic.spec, synthetic.load, synthetic_records.records),
    "table": Domain(table.TableConfig, table.spec, table.load, table.records),
}

__all__ = ["DOMAINS", "Domain"]
