"""``predict``: a registered model's answers to the rows of a file, or of a folder laid out as its training data."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path

from mlflow.entities.model_registry import ModelVersion

from fusion_lab.contracts import UserError
from fusion_lab.data.raw import Records
from fusion_lab.jobs.progress import Progress
from fusion_lab.jobs.session import terminable
from fusion_lab.serving.answers import predict
from fusion_lab.serving.files import WRITERS, read_input, write_answers
from fusion_lab.serving.intake import ID
from fusion_lab.serving.package import MODEL, Package
from fusion_lab.tracking.registry import Registry
from fusion_lab.tracking.store import Store


def run(
    model: str, input: str, output: str = "predictions.csv", attention: bool = False, tracking_uri: str | None = None
) -> Path:
    """Writes a line per row of ``input``, whole or not at all.

    ``model`` is ``name@champion``, ``name/3`` or ``name``. ``input`` is a table with columns
    ``<modality>.<column>``, a file of JSON lines with a record each, or a folder with files as the model's experiment
    describes them, targets not needed.
    """
    given, target = Path(input), Path(output)
    _check_target(target, given)
    with terminable(), Progress() as progress, Store.open(tracking_uri, existing=True) as store:
        registry = Registry(store)
        version = registry.find(model)
        package = _load(registry, version)
        progress.line(f"{version.name} version {version.version}: {package.label}")
        records = read_input(given, package)
        progress.line("\n".join(_told(given, records, package)))
        answers = predict(package, records, attention, progress.track("rows", len(records)))
        answers.insert(0, ID, records.ids)
        write_answers(answers, target)
        progress.line(f"wrote {len(answers)} rows to {target}")
    return target


def _check_target(target: Path, given: Path) -> None:
    """Refuses what cannot be written to, and to write over anybody's rows."""
    if target.suffix not in WRITERS:
        raise UserError(f"{target}: expected an output that ends in {', '.join(WRITERS)}, found {target.suffix!r}")
    if not target.resolve().parent.is_dir():
        raise UserError(f"{target}: expected a folder to write to, found no {target.parent}")
    try:
        inside = given.is_dir() and target.exists() and target.resolve().parent == given.resolve()
    except OSError as error:
        raise UserError(f"{target}: expected a file that can be written, found: {error.strerror}") from None
    if target.resolve() == given.resolve() or inside:
        raise UserError(f"{target}: expected an output that is no input, found a file of {given}")


def _load(registry: Registry, version: ModelVersion) -> Package:
    what = f"{version.name} version {version.version}"
    with tempfile.TemporaryDirectory(prefix="fusion_lab-") as scratch:
        found = sorted(registry.download(version, Path(scratch)).rglob(MODEL))
        if not found:
            raise UserError(f"{what}: expected a model of fusion_lab, found no {MODEL}")
        try:
            return Package.load(found[0].parent)
        except UserError as error:
            raise UserError(f"{what}: {error}") from None


def _told(given: Path, records: Records, package: Package) -> Iterator[str]:
    """What was read, what is not there, and what is longer than the model reads."""
    yield f"{given}: {len(records)} rows, modalities: {', '.join(records.modalities)}"
    absent = [m.name for m in package.spec.modalities if m.name not in records.modalities]
    if absent:
        yield f"note: no row has {', '.join(absent)}"
    for modality in package.spec.modalities:
        raw = records.modalities.get(modality.name)
        if raw is not None and raw.span is not None and modality.length is not None:
            longer, which = int((raw.span > modality.length).sum()), "last" if modality.kind == "sequence" else "first"
            if longer:
                limit = f"the {which} {modality.length} of each are read, as in training"
                yield f"note: {modality.name}: {longer} rows have more positions; {limit}"
