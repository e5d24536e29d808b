"""``prepare``: reads a data set's files once and writes them in a form that is read in no time, or in the layout of
another domain.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path

from fusion_lab.config import nearest, parse_overrides
from fusion_lab.contracts import ConfigError, DataError
from fusion_lab.data import DOMAINS
from fusion_lab.data.output import same_place
from fusion_lab.data.readers import data_folder
from fusion_lab.experiment import Experiment, read_experiment
from fusion_lab.jobs.progress import Progress
from fusion_lab.jobs.session import terminable
from fusion_lab.jobs.tell import command_line

Tell = Callable[[str], None]


def run(
    experiment: str,
    data: str | None = None,
    output: str = "prepared",
    set: str = "",
    to: str | None = None,
    encoder: str | None = None,
    width: int | None = None,
) -> None:
    """Prepares the data of the experiment of this name or path, or writes them in the layout of the domain ``to``; the
    same command continues one that was interrupted.
    """
    chosen = read_experiment(experiment, parse_overrides(set), data)
    if to is None:
        _refuse_alone(encoder=encoder, width=width)
        write = _preparing(chosen)
        again = command_line("train", experiment=experiment, data=output, set=set)
    else:
        write = _writing(chosen, to, encoder or "none", width)
        again = command_line("train", experiment=to, data=output)
    with terminable(), Progress() as progress:
        progress.now(f"{chosen.name}: reading the files")
        write(data_folder(output), progress.line)
    progress.line(f"prepared in {output}; next:\n  {again}")


def _preparing(chosen: Experiment) -> Callable[[Path, Tell], None]:
    """The domain's own form, which loads at once."""
    prepare = DOMAINS[chosen.data.domain].prepare
    if prepare is None:
        ready = ", ".join(name for name, domain in DOMAINS.items() if domain.prepare is not None)
        raise ConfigError(
            f"data.domain: expected one whose files are prepared ({ready}), found {chosen.data.domain!r}, "
            "which is read as it is"
        )
    return partial(prepare, chosen.data)


def _writing(chosen: Experiment, to: str, encoder: str, width: int | None) -> Callable[[Path, Tell], None]:
    """The layout of another domain."""
    known = [name for name, domain in DOMAINS.items() if domain.write is not None]
    write = DOMAINS[to].write if to in DOMAINS else None
    if write is None:
        raise ConfigError(f"to: expected a domain that data sets are written for, found {to!r}{nearest(to, known)}")

    def read_and_write(output: Path, tell: Tell) -> None:
        root = getattr(chosen.data, "root", None)
        if root is not None and same_place(data_folder(root), output):
            raise DataError(f"{output}: expected a folder other than that of the files, found the same")
        write(DOMAINS[chosen.data.domain].load(chosen.data), output, encoder, tell, width=width)

    return read_and_write


def _refuse_alone(**options: object) -> None:
    """An error for options that say how another layout is written, where none is."""
    for name, value in options.items():
        if value is not None:
            raise ConfigError(f"{name}: expected --to=DOMAIN beside it, found {value!r} alone")
