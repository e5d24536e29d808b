"""Domains, strangers to each other. A new one is a file or a package here, and a line below."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from fusion_lab.config import Config
from fusion_lab.contracts import Dataset, Spec
from fusion_lab.data import activity, editing, molecules, oncology, relapse, synthetic, synthetic_records, table
from fusion_lab.data.oncology.writing import write as write_oncology
from fusion_lab.data.raw import Records
from fusion_lab.data.validation import Validation


class Domain(NamedTuple):
    """What a domain gives: the schema of its settings, and from settings a spec, a data set and its raw rows.

    ``records(config, labelled=True, spec=None)``: the raw rows of the data set, or, not ``labelled``, rows without
    targets for a model trained on ``spec``. ``prepare(config, output, tell)``: writes the data set to the folder
    ``output`` in a form that loads faster, and tells what it does; ``None`` of a domain that has none.
    ``write(dataset, output, encoder, tell, *, width=None)``: writes any data set in the layout of this domain, its
    modalities encoded as said; ``None`` of a domain that has no layout of its own. ``validate(config, tell)``: looks
    through the files part by part and goes on after a fault; ``None`` of a domain that is validated by loading it.
    """

    config: type[Config]
    spec: Callable[[Any], Spec]
    load: Callable[[Any], Dataset]
    records: Callable[..., Records]
    prepare: Callable[[Any, Path, Callable[[str], None]], None] | None = None
    write: Callable[..., None] | None = None
    validate: Callable[[Any, Callable[[str], None]], Validation] | None = None


DOMAINS: dict[str, Domain] = {
    "synthetic": Domain(synthetic.SyntheticConfig, synthetic.spec, synthetic.load, synthetic_records.records),
    "table": Domain(table.TableConfig, table.spec, table.load, table.records),
    "activity": Domain(activity.ActivityConfig, activity.spec, activity.load, activity.records, activity.prepare),
    "molecules": Domain(molecules.MoleculesConfig, molecules.spec, molecules.load, molecules.records),
    "editing": Domain(editing.EditingConfig, editing.spec, editing.load, editing.records, validate=editing.validate),
    "oncology": Domain(oncology.OncologyConfig, oncology.spec, oncology.load, oncology.records, write=write_oncology),
    "relapse": Domain(
        relapse.RelapseConfig, relapse.spec, relapse.load, relapse.records, relapse.prepare, relapse.write
    ),
}

__all__ = ["DOMAINS", "Domain"]
