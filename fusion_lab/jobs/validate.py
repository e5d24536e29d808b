"""``validate``: looks through a data set's files part by part and goes on after a fault, where training would stop."""

from __future__ import annotations

from pathlib import Path

from fusion_lab.config import parse_overrides
from fusion_lab.contracts import ConfigError, UserError
from fusion_lab.data import DOMAINS
from fusion_lab.data.output import written
from fusion_lab.data.validation import Validation
from fusion_lab.experiment import Experiment, Materials, read_experiment
from fusion_lab.jobs.progress import Progress
from fusion_lab.jobs.session import terminable
from fusion_lab.report.validation import validation_dict, validation_html, validation_lines, validation_table
from fusion_lab.tracking.runs import json_bytes

FAULTS = 1


class Result(Validation):
    """What was found; ``exit_code`` is 1 where something cannot be used."""

    @property
    def exit_code(self) -> int:
        return 0 if self.sound else FAULTS


def run(experiment: str, data: str | None = None, output: str = "validation.html", set: str = "") -> Result:
    """Looks through the files of the experiment of this name or path, and writes a page, a table and a JSON file."""
    chosen = read_experiment(experiment, parse_overrides(set), data)
    page = Path(output)
    if page.suffix != ".html":
        raise ConfigError(f"output: expected a name that ends in .html, found {output!r}")
    with terminable(), Progress() as progress:
        found = Result(*_validated(chosen, progress))
        progress.line("\n".join(validation_lines(found)))
        for path, content in (
            (page, validation_html(found).encode()),
            (page.with_suffix(".csv"), validation_table(found).to_csv(index=False).encode()),
            (page.with_suffix(".json"), json_bytes(validation_dict(found))),
        ):
            with written(path) as half:
                half.write_bytes(content)
        progress.line(f"written: {page}, {page.with_suffix('.csv')}, {page.with_suffix('.json')}")
    return found


def _validated(chosen: Experiment, progress: Progress) -> Validation:
    """By the domain's own look through its files; of a domain without one, whether the data set loads and splits."""
    validate = DOMAINS[chosen.data.domain].validate
    if validate is not None:
        return validate(chosen.data, progress.now)
    where = str(getattr(chosen.data, "root", None) or chosen.data.domain)
    try:
        materials = Materials.load(chosen)
    except UserError as error:
        return Validation(where, {}, (), (str(error),))
    return Validation(where, {}, (), (), materials.notes)
