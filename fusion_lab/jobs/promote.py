"""``promote``: the challenger becomes the champion when it passes the gates of its experiment; else nothing moves."""

from __future__ import annotations

import getpass
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import mlflow
import numpy as np
import torch
from mlflow.entities.model_registry import ModelVersion

from fusion_lab.config import nearest, parse_overrides
from fusion_lab.contracts import Predictions, Spec, UserError
from fusion_lab.data.raw import Records
from fusion_lab.evaluation.gates import Facts, Verdict, judge
from fusion_lab.evaluation.thresholds import pooled_thresholds
from fusion_lab.experiment import Experiment, Materials, override, read_experiment, resolve
from fusion_lab.jobs.baselines import cross_validate_baselines, fit_baseline, score_baselines
from fusion_lab.jobs.contests import Entrant, contest, on_holdout
from fusion_lab.jobs.final import AS_TRAINED, EVIDENCE, OUT_OF_FOLD, Final, origin_of, register, temperatures
from fusion_lab.jobs.progress import Progress
from fusion_lab.jobs.results import Scored, fairest, headline_key
from fusion_lab.jobs.session import Session, session
from fusion_lab.jobs.tell import closed_lines, data_lines
from fusion_lab.serving.answers import answer
from fusion_lab.serving.package import Package
from fusion_lab.tracking.predictions import predictions_from_table, read_predictions
from fusion_lab.tracking.registry import CHALLENGER, CHAMPION, REPLACED, Decision, Registry
from fusion_lab.tracking.store import Store
from fusion_lab.training import cross_validate

REFUSED = 1


@dataclass(frozen=True)
class Outcome:
    """What came of it; ``exit_code`` is 1 for a refusal."""

    promoted: bool
    version: str
    verdicts: tuple[Verdict, ...] = ()

    @property
    def exit_code(self) -> int:
        return 0 if self.promoted else REFUSED


@dataclass(frozen=True)
class _Registered:
    """A version as it is in the registry: its own package, loaded as a server loads it, and its evidence."""

    version: ModelVersion
    package: Package
    folder: Path

    def predictions(self, file: str, ids: np.ndarray) -> Predictions:
        return predictions_from_table(read_predictions(self.folder / EVIDENCE / file), self.package.spec, ids)

    @property
    def name(self) -> str:
        return f"version {self.version.version} ({self.package.label})"


def run(
    experiment: str,
    data: str | None = None,
    set: str = "",
    baseline: str | None = None,
    dry_run: bool = False,
    rollback: bool = False,
    tracking_uri: str | None = None,
) -> Outcome:
    """Judges the challenger of the experiment's registered model, or rolls the champion back.

    ``baseline`` makes that baseline the challenger first; ``dry_run`` judges and changes nothing.
    """
    chosen = read_experiment(experiment, parse_overrides(set), data)
    with Progress() as progress:
        if rollback:
            with Store.open(tracking_uri) as store:
                return _roll_back(Registry(store), chosen.name, progress, dry_run)
        if dry_run:
            with Store.open(tracking_uri) as store:
                return _Promotion(chosen, data, Registry(store), progress, None).run(baseline)
        with session(chosen.name, "promotion", f"promote {chosen.name}", tracking_uri) as place:
            progress.line("\n".join(closed_lines(place)))
            return _Promotion(chosen, data, Registry(place.store), progress, place).run(baseline)


class _Promotion:
    """One judgement. Without a ``place`` it is a dry run."""

    def __init__(
        self, chosen: Experiment, data: str | None, registry: Registry, progress: Progress, place: Session | None
    ) -> None:
        self.chosen, self.data, self.registry, self.progress, self.place = chosen, data, registry, progress, place

    def run(self, baseline: str | None) -> Outcome:
        with tempfile.TemporaryDirectory(prefix="fusion_lab-") as scratch:
            if baseline is not None:
                self._enter_baseline(baseline)
            version = self.registry.of_alias(self.chosen.name, CHALLENGER)
            if version is None:
                raise UserError(self._nobody())
            challenger = self._load(version, Path(scratch, "challenger"))
            facts = self._facts(challenger, Path(scratch))
        verdicts = judge(self.chosen.promotion, facts)
        promoted = all(verdict.passed for verdict in verdicts)
        self._tell(challenger, verdicts, promoted)
        if self.place is not None:
            self._decide(challenger, verdicts, promoted)
        return Outcome(promoted, str(version.version), tuple(verdicts))

    def _nobody(self) -> str:
        name = self.chosen.name
        champion = self.registry.of_alias(name, CHAMPION)
        there = f"found version {champion.version} as champion" if champion else "found nothing registered"
        return (
            f"model {name!r}: expected a challenger, {there}; "
            f"fusion-lab train --experiment {name}, or hpo, registers one"
        )

    def _load(self, version: ModelVersion, folder: Path) -> _Registered:
        """Through MLflow, as a server does it."""
        folder.mkdir()
        local = self.registry.download(version, folder)
        return _Registered(version, mlflow.pyfunc.load_model(str(local)).get_raw_model(), local)

    def _materials(self, package: Package, place: str) -> tuple[Experiment, Materials]:
        """The data and folds that a model was made from, read from where they lie now."""
        tree = dict(package.experiment)
        if self.data:
            tree = override(tree, {"data.root": self.data})
        elif "root" in tree["data"]:
            tree = override(tree, {"data.root": self.chosen.resolved()["data"].get("root", tree["data"]["root"])})
        experiment = resolve(tree, place)
        return experiment, Materials.load(experiment)

    def _facts(self, challenger: _Registered, scratch: Path) -> Facts:
        experiment, materials = self._materials(challenger.package, challenger.name)
        self.progress.line("\n".join(data_lines(experiment.name, materials)))
        self._check_data(challenger.package, materials)
        monitor = experiment.training.monitor
        self.progress.now("asking the registered model about raw rows")
        difference, compared = self._difference(challenger, materials, materials.records(experiment))
        predictions = challenger.predictions(OUT_OF_FOLD, materials.dataset.ids)
        ours = Entrant(
            challenger.name,
            predictions,
            on_holdout(challenger.package.members, materials, challenger.package.temperature),
            challenger.package.origin.selected is not None,
        )
        single, baseline = self._baselines(materials, monitor)
        champion = self._champion(challenger, experiment, materials, scratch)
        return Facts(
            contest(ours, champion, materials, monitor) if isinstance(champion, Entrant) else champion,
            contest(ours, single, materials, monitor),
            contest(ours, baseline, materials, monitor),
            difference,
            compared,
        )

    def _check_data(self, package: Package, materials: Materials) -> None:
        origin = package.origin
        for what, wanted, found in (
            ("data", origin.data, materials.dataset.provenance.digest),
            ("split", origin.folds, materials.folds.digest),
        ):
            if wanted != found:
                raise UserError(
                    f"{package.name}: expected the {what} that the challenger was trained on ({wanted[:12]}), found "
                    f"other {what} ({found[:12]}): train it again, or name its folder with data="
                )

    def _difference(self, model: _Registered, materials: Materials, records: Records) -> tuple[float, int]:
        """The largest difference between the registered model's answers to raw rows and those it gave in training."""
        ids, package = materials.dataset.ids, model.package
        trained = (model.folder / EVIDENCE / AS_TRAINED).is_file()
        before = model.predictions(AS_TRAINED if trained else OUT_OF_FOLD, ids)
        rows = np.unique(before.row)
        scores = answer(package, records, rows, strict=False).scores
        place = np.searchsorted(rows, before.row)
        largest, compared = 0.0, 0
        for task in package.spec.tasks:
            now, then = scores[task.name][before.fold, place], before.score[task.name]
            unit = float(np.std(then)) or 1.0 if task.kind == "regression" else 1.0
            largest = max(largest, float(np.abs(now - then).max(initial=0.0)) / unit)
            compared += len(then)
        return largest, compared

    def _baselines(self, materials: Materials, monitor: str) -> tuple[Entrant, Entrant]:
        """The best single modality and the best baseline, chosen on validation rows."""
        self.progress.now("baselines on the same folds")
        predictions = cross_validate_baselines(materials, None, self.progress.now)
        best = fairest(score_baselines(predictions, materials, monitor), "val")
        assert best is not None
        return self._entrant("best_single", predictions, materials), self._entrant(best.name, predictions, materials)

    def _entrant(self, name: str, predictions: Mapping[str, Predictions], materials: Materials) -> Entrant:
        shown = "the best single modality" if name == "best_single" else f"baseline {name}"
        locked = materials.folds.holdout.any()
        answers = on_holdout(fit_baseline(name, materials, self.progress.now), materials) if locked else None
        return Entrant(shown, predictions[name], answers)

    def _champion(
        self, challenger: _Registered, present: Experiment, materials: Materials, scratch: Path
    ) -> Entrant | str | None:
        """The champion on the same rows; a text where that cannot be had."""
        version = self.registry.of_alias(self.chosen.name, CHAMPION)
        if version is None or version.version == challenger.version.version:
            return None
        champion = self._load(version, scratch / "champion")
        name, package = f"the champion, {champion.name}", champion.package
        if package.spec.tasks != challenger.package.spec.tasks:
            return f"version {version.version} answers other tasks"
        experiment, own = self._materials(package, "champion")
        folds = own.folds.digest == package.origin.folds == materials.folds.digest
        if folds and own.dataset.provenance.digest == package.origin.data and _same_targets(own, materials):
            predictions = champion.predictions(OUT_OF_FOLD, own.dataset.ids)
            return Entrant(name, predictions, on_holdout(package.members, own, package.temperature))
        return self._again(package, name, experiment.model_copy(update={"folds": present.folds}), materials)

    def _again(self, package: Package, name: str, experiment: Experiment, materials: Materials) -> Entrant | str:
        """The champion's configuration, cross-validated anew on the present rows and folds."""
        own = Materials.load(experiment)
        if own.folds.digest != materials.folds.digest or not _same_targets(own, materials):
            return f"{name} was made from other rows, and cannot be cross-validated on these"
        self.progress.line(f"{name} was made from other data: its configuration is cross-validated on these rows")
        if package.baseline:
            found = cross_validate_baselines(own, None, self.progress.now)
            return Entrant(name, found[package.baseline])
        return Entrant(name, cross_validate(own.plan(experiment), self.progress.watch("champion")).predictions)

    def _enter_baseline(self, name: str) -> None:
        """Fits a baseline to every fold and makes it the challenger."""
        if self.place is None:
            raise UserError("dry_run: expected no baseline with it, for it would have to be registered first")
        materials = Materials.load(self.chosen)
        predictions = cross_validate_baselines(materials, None, self.progress.now)
        if name not in predictions:
            raise UserError(f"baseline {name!r}: unknown baseline{nearest(name, list(predictions))}")
        found, spec = predictions[name], materials.spec
        temperature = temperatures(found, spec)
        package = Package(
            name=self.chosen.name,
            members=fit_baseline(name, materials, self.progress.now),
            spec=spec,
            experiment=self.chosen.resolved(),
            origin=origin_of(self.chosen, materials, self.place.run.id, f"baseline {name}"),
            baseline=name,
            temperature=temperature,
            threshold=pooled_thresholds(found, spec, temperature),
        )
        scored = Scored.of(name, "baseline", found, materials, self.chosen.training.monitor)
        metrics = {f"{split}/{self._metric(spec)}": scored.value(split) for split in ("val", "test")}
        facts = f"{package.label}, cross-validated on {len(materials.dataset)} rows."
        version = register(Final(package, found), materials, self.registry, self.place.run, metrics, [*metrics], facts)
        self.progress.line(f"registered {self.chosen.name} version {version.version}: {package.label}")

    def _metric(self, spec: Spec) -> str:
        return headline_key(spec, self.chosen.training.monitor)

    def _tell(self, challenger: _Registered, verdicts: Sequence[Verdict], promoted: bool) -> None:
        name = self.chosen.name
        lines = ["", f"{name} {challenger.name}:", *(f"  {verdict}" for verdict in verdicts)]
        if not verdicts:
            lines.append("  no gates: promotion.gates of the experiment is empty")
        would = "would be " if self.place is None else ""
        if promoted:
            lines.append(f"{would}promoted: models:/{name}@{CHAMPION} is version {challenger.version.version}")
        else:
            failed = ", ".join(verdict.rule for verdict in verdicts if not verdict.passed)
            lines.append(f"{would}refused by {failed}: alias {CHAMPION!r} stays where it was")
        self.progress.line("\n".join(lines))

    def _decide(self, challenger: _Registered, verdicts: Sequence[Verdict], promoted: bool) -> None:
        """Writes the decision on the version and in the run, and moves the aliases where it was promoted."""
        assert self.place is not None
        name, version, run = self.chosen.name, challenger.version, self.place.run
        decision = Decision("promoted" if promoted else "refused", tuple(map(str, verdicts))).stamped(_who())
        numbers = {v.rule: {"passed": v.passed, "sentence": v.sentence, **v.numbers} for v in verdicts}
        run.json("decision.json", {**vars(decision), "version": str(version.version), "gates": numbers})
        run.tags({"verdict": decision.action, "fusion_lab.model_version": str(version.version)})
        run.metrics({f"gate/{v.rule}": float(v.passed) for v in verdicts})
        run.describe(_receipt(name, challenger, decision))
        run.flush()
        self.registry.record(version, decision)
        if not promoted:
            return
        before = self.registry.of_alias(name, CHAMPION)
        if before is not None and before.version != version.version:
            self.registry.tag(version, {REPLACED: str(before.version)})
            replaced = Decision("replaced", (f"version {version.version} is champion now",)).stamped(_who())
            self.registry.record(before, replaced)
        self.registry.point(name, CHAMPION, str(version.version))
        self.registry.unpoint(name, CHALLENGER)


def _same_targets(a: Materials, b: Materials) -> bool:
    """Whether two data sets hold the same rows with the same targets, whatever their modalities are."""
    if not np.array_equal(a.dataset.ids, b.dataset.ids):
        return False
    first, second = (m.dataset.gather(torch.arange(len(m.dataset))) for m in (a, b))
    return all(
        torch.equal(leaf, other[task])
        for leaves, other in ((first.targets, second.targets), (first.known, second.known))
        for task, leaf in leaves.items()
    )


def _roll_back(registry: Registry, name: str, progress: Progress, dry_run: bool) -> Outcome:
    """The champion that the present one replaced is champion again."""
    champion = registry.of_alias(name, CHAMPION)
    if champion is None:
        raise UserError(f"model {name!r}: expected a champion to roll back, found none")
    before = champion.tags.get(REPLACED)
    if not before:
        raise UserError(
            f"model {name!r}: expected a version that {champion.version} replaced, found none: it was the first"
        )
    target = registry.find(f"{name}/{before}")
    now = f"{name}: champion {champion.version} -> {before}"
    if dry_run:
        progress.line(f"{now} (dry run: nothing was changed)")
        return Outcome(True, before)
    registry.point(name, CHAMPION, before)
    registry.record(champion, Decision("rolled back", (f"version {before} is champion again",)).stamped(_who()))
    registry.record(target, Decision("restored", (f"version {champion.version} was rolled back",)).stamped(_who()))
    progress.line(now)
    return Outcome(True, before)


def _receipt(name: str, challenger: _Registered, decision: Decision) -> str:
    lines = "\n".join(f"- {line}" for line in decision.lines)
    return f"{name} {challenger.name}: **{decision.action}** {decision.at} by {decision.by}\n\n### Gates\n{lines}"


def _who() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # a container's user without a name
        return "unknown"
