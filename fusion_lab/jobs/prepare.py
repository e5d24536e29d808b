"""``prepare``: reads a data set's files once and writes them in a form that is read in no time."""

from __future__ import annotations

from fusion_lab.config import parse_overrides
from fusion_lab.contracts import ConfigError
from fusion_lab.data import DOMAINS
from fusion_lab.data.readers import data_folder
from fusion_lab.experiment import read_experiment
from fusion_lab.jobs.progress import Progress
from fusion_lab.jobs.session import terminable
from fusion_lab.jobs.tell import command_line


def run(experiment: str, data: str | None = None, output: str = "prepared", set: str = "") -> None:
    """Prepares the data of the experiment of this name or path; the same command continues one that was interrupted."""
    chosen = read_experiment(experiment, parse_overrides(set), data)
    prepare = DOMAINS[chosen.data.domain].prepare
    if prepare is None:
        ready = ", ".join(name for name, domain in DOMAINS.items() if domain.prepare is not None)
        raise ConfigError(
            f"data.domain: expected one whose files are prepared ({ready}), found {chosen.data.domain!r}, "
            "which is read as it is"
        )
    with terminable(), Progress() as progress:
        progress.now(f"{chosen.name}: reading the files")
        prepare(chosen.data, data_folder(output), progress.line)
    again = command_line("train", experiment=experiment, data=output, set=set)
    progress.line(f"prepared in {output}; next:\n  {again}")
