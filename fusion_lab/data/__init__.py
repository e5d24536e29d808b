"""Domains, strangers to each other. A new one is a file here and a line below."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

from fusion_lab.config import Config
from fusion_lab.contracts import Dataset, Spec
from fusion_lab.data import synthetic, table


class Domain(NamedTuple):
    """What a domain gives: the schema of its settings, and from settings a spec and a data set."""

    config: type[Config]
    spec: Callable[[Any], Spec]
    load: Callable[[Any], Dataset]


DOMAINS: dict[str, Domain] = {
    "synthetic": Domain(synthetic.SyntheticConfig, synthetic.spec, synthetic.load),
    "table": Domain(table.TableConfig, table.spec, table.load),
}

__all__ = ["DOMAINS", "Domain"]
