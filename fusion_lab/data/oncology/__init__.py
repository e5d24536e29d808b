"""Cancer patients' embeddings, one HDF5 file per modality: the files of a folder (:mod:`.folder`), what is in them
(:mod:`.reading`, :mod:`.outcomes`), and the data set made of them (:mod:`.domain`).
"""

from fusion_lab.data.oncology.domain import load, records, spec
from fusion_lab.data.oncology.settings import OncologyConfig

__all__ = ["OncologyConfig", "load", "records", "spec"]
