"""Streams of any rates on one clock: what they are (:mod:`.streams`), the values at its steps (:mod:`.steps`) or over
them (:mod:`.summaries`), and how well they cover it (:mod:`.coverage`).
"""

from fusion_lab.data.alignment.order import ordered
from fusion_lab.data.alignment.steps import absent, align
from fusion_lab.data.alignment.streams import (
    Aligned,
    Column,
    ColumnKind,
    Coverage,
    Rules,
    Stream,
    check_columns,
)
from fusion_lab.data.alignment.summaries import Statistic, summarise, summary_columns

__all__ = [
    "Aligned",
    "Column",
    "ColumnKind",
    "Coverage",
    "Rules",
    "Statistic",
    "Stream",
    "absent",
    "align",
    "check_columns",
    "ordered",
    "summarise",
    "summary_columns",
]
