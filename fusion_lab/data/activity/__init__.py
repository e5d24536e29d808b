"""Activity recognition from body-worn sensors: files in any layout (:mod:`.reading`), recordings, chunks, and the data
set made of them (:mod:`.domain`); and the form that loads at once (:mod:`.prepare`).
"""

from fusion_lab.data.activity.domain import load, records, spec
from fusion_lab.data.activity.prepare import prepare
from fusion_lab.data.activity.settings import ActivityConfig

__all__ = ["ActivityConfig", "load", "prepare", "records", "spec"]
