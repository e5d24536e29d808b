"""Recordings of several streams at rates of their own, and what happens on the tracks of an edit at every step: files
(:mod:`.streams`, :mod:`.tracks`, :mod:`.targets`) or a synthetic twin (:mod:`.twin`), brought to one clock and cut into
windows (:mod:`.domain`).
"""

from fusion_lab.data.editing.domain import load, records, spec
from fusion_lab.data.editing.settings import EditingConfig
from fusion_lab.data.editing.validation import validate

__all__ = ["EditingConfig", "load", "records", "spec", "validate"]
