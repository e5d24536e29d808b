"""Small molecules: their table (:mod:`.compounds`); features from tables (:mod:`.tables`), from an archive
(:mod:`.archive`) or from the structures (:mod:`.structures`); and the data set made of them (:mod:`.domain`).
"""

from fusion_lab.data.molecules.domain import load, records, spec
from fusion_lab.data.molecules.settings import MoleculesConfig

__all__ = ["MoleculesConfig", "load", "records", "spec"]
