"""``promote``: the challenger becomes the champion when it passes the gates of its experiment; else nothing moves."""

from __future__ import annotations

import getpass
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from mlflow.entities.model_registry import ModelVersion

from fusion_lab.config import nearest, parse_overrides
from fusion_lab.contracts import Predictions, UserError
from fusion_lab.data.portions import targets_of
from fusion_lab.evaluation.gates import Facts, Verdict, judge
from fusion_lab.evaluation.thresholds import pooled_thresholds
from fusion_lab.experiment import Experiment, Materials, read_experiment
from fusion_lab.jobs.baselines import cross_validate_baselines, fit_baseline, score_baselines
from fusion_lab.jobs.contests import Entrant, contest, on_holdout
from fusion_lab.jobs.final import (
    Final,
    Scores,
    Trained,
    describe_version,
    final_model,
    is_champion,
    known_version,
    origin_of,
    register,
    temperatures,
)
from fusion_lab.jobs.progress import Progress
from fusion_lab.jobs.registered import Registered
from fusion_lab.jobs.results import Scored, fairest
from fusion_lab.jobs.session import Session, session
from fusion_lab.jobs.tell import closed_lines, command_line, data_lines
from fusion_lab.serving.members import Members
from fusion_lab.serving.package import Package
from fusion_lab.tracking.registry import CHALLENGER, CHAMPION, REPLACED, Decision, Registry
from fusion_lab.tracking.store import Store
from fusion_lab.training import Diverged, cross_validate
from fusion_lab.training.plan import Goal

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
    if baseline is not None and (dry_run or rollback):
        other = "dry-run" if dry_run else "rollback"
        raise UserError(f"--baseline: expected no --{other} with it, for a baseline is registered before it is judged")
    chosen = read_experiment(experiment, parse_overrides(set), data)
    again = command_line("train", experiment=experiment, data=data, set=set, tracking_uri=tracking_uri)
    with Progress() as progress:
        if rollback:
            with Store.open(tracking_uri, existing=True) as store:
                return _roll_back(Registry(store), chosen.name, progress, dry_run)
        if dry_run:
            with Store.open(tracking_uri, existing=True) as store:
                return _Promotion(chosen, data, Registry(store), progress, None, again).run()
        with session(chosen.name, "promotion", f"promote {chosen.name}", tracking_uri) as place:
            progress.line("\n".join(closed_lines(place)))
            promotion = _Promotion(chosen, data, Registry(place.store), progress, place, again)
            if baseline is not None:
                promotion.enter_baseline(baseline, place)
            return promotion.run()


class _Promotion:
    """One judgement. Without a ``place`` it is a dry run, which does not look at locked rows either: a look that nobody
    hears of is one too many.
    """

    def __init__(
        self,
        chosen: Experiment,
        data: str | None,
        registry: Registry,
        progress: Progress,
        place: Session | None,
        again: str,
    ) -> None:
        self.chosen, self.registry, self.progress, self.place, self.again = chosen, registry, progress, place, again
        self.name = chosen.name
        self.root = data or chosen.resolved()["data"].get("root")

    def run(self) -> Outcome:
        """Judges the challenger against the champion as both are now, and decides if they still are when it is done."""
        version = self._challenger()
        champion = self.registry.of_alias(self.name, CHAMPION)
        with tempfile.TemporaryDirectory(prefix="fusion_lab-") as scratch:
            challenger = Registered.load(self.registry, version, Path(scratch, "challenger"))
            facts = self._facts(challenger, champion, Path(scratch, "champion"))
        verdicts = judge(self.chosen.promotion, facts)
        promoted = all(verdict.passed for verdict in verdicts)
        self._tell(challenger, verdicts, promoted)
        if self.place is not None:
            self._check_aliases(version, champion)
            self._decide(self.place, challenger, champion, verdicts, promoted)
        return Outcome(promoted, str(version.version), tuple(verdicts))

    def enter_baseline(self, baseline: str, place: Session) -> None:
        """Fits a baseline to every fold and makes it the challenger."""
        materials = Materials.load(self.chosen)
        predictions = cross_validate_baselines(materials, None, self.progress.now)
        if baseline not in predictions:
            raise UserError(f"baseline {baseline!r}: unknown baseline{nearest(baseline, list(predictions))}")
        found, spec = predictions[baseline], materials.spec
        origin = origin_of(self.chosen, materials, place.run.id, baseline)
        known = known_version(self.registry, self.name, origin.fingerprint)
        if known is not None:
            self.progress.line(f"{self.name} version {known.version} is this very baseline")
            return
        temperature = temperatures(found, spec)
        package = Package(
            name=self.name,
            members=fit_baseline(baseline, materials, self.progress.now),
            spec=spec,
            experiment=self.chosen.resolved(),
            origin=origin,
            baseline=baseline,
            temperature=temperature,
            threshold=pooled_thresholds(found, spec, temperature),
        )
        goal = self.chosen.training.goal
        scored, final = Scored.of(baseline, "baseline", found, materials, goal), Final(package, found)
        scores, facts = Scores.of(scored, spec, goal), describe_version(final, materials, scored)
        version = register(final, materials, self.registry, place.run, scores, facts)
        self.progress.line(f"registered {self.name} version {version.version}: {package.label}")

    def _challenger(self) -> ModelVersion:
        version = self.registry.of_alias(self.name, CHALLENGER)
        champion = self.registry.of_alias(self.name, CHAMPION)
        there = f"found version {champion.version} as champion" if champion else "found nothing registered"
        if version is None:
            raise UserError(f"model {self.name!r}: expected a challenger, {there}; {self.again}, or hpo, registers one")
        if is_champion(self.registry, version):
            if self.place is not None:
                self.registry.unpoint(self.name, CHALLENGER)
            raise UserError(f"model {self.name!r}: expected a challenger, {there}, and as challenger too")
        return version

    def _facts(self, challenger: Registered, champion: ModelVersion | None, scratch: Path) -> Facts:
        experiment, materials = challenger.materials(self.root)
        self.progress.line("\n".join(data_lines(experiment.name, materials)))
        self._check_data(challenger.package, materials)
        goal = experiment.training.goal
        self.progress.now("asking the registered model about raw rows")
        difference, compared = challenger.difference(materials, experiment)
        package = challenger.package
        ours = Entrant(
            challenger.name,
            challenger.out_of_fold(materials.dataset.ids),
            self._locked(package.members, package.temperature, materials),
            package.origin.selected is not None,
        )
        single, baseline = self._baselines(materials, goal)
        other = None if champion is None else self._champion(champion, challenger, experiment, materials, scratch)
        return Facts(
            contest(ours, other, materials, goal) if isinstance(other, Entrant) else other,
            contest(ours, single, materials, goal),
            contest(ours, baseline, materials, goal),
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

    def _locked(
        self, members: Members, temperature: Mapping[str, float], materials: Materials
    ) -> dict[str, np.ndarray] | None:
        """Answers to the locked rows, where there are any and this is no dry run."""
        return None if self.place is None else on_holdout(members, materials, temperature)

    def _baselines(self, materials: Materials, goal: Goal) -> tuple[Entrant, Entrant]:
        """The best single modality and the best baseline, chosen on validation rows."""
        self.progress.now("baselines on the same folds")
        predictions = cross_validate_baselines(materials, None, self.progress.now)
        best = fairest(score_baselines(predictions, materials, goal), "val")
        assert best is not None
        single = self._baseline("best_single", "the best single modality", predictions, materials)
        return single, self._baseline(best.name, f"baseline {best.name}", predictions, materials)

    def _baseline(self, name: str, shown: str, predictions: Mapping[str, Predictions], materials: Materials) -> Entrant:
        found = predictions[name]
        if self.place is None or not materials.folds.holdout.any():
            return Entrant(shown, found)
        members = fit_baseline(name, materials, self.progress.now)
        return Entrant(shown, found, on_holdout(members, materials, temperatures(found, materials.spec)))

    def _champion(
        self,
        version: ModelVersion,
        challenger: Registered,
        present: Experiment,
        materials: Materials,
        scratch: Path,
    ) -> Entrant | str:
        """The champion on the same rows; a text where that cannot be had."""
        try:
            champion = Registered.load(self.registry, version, scratch)
            if champion.package.spec.tasks != challenger.package.spec.tasks:
                return f"version {version.version} answers other tasks"
            return self._on_these_rows(champion, present, materials)
        except (UserError, Diverged) as error:
            return f"version {version.version}: {error}"

    def _on_these_rows(self, champion: Registered, present: Experiment, materials: Materials) -> Entrant | str:
        """As it was cross-validated where that was on these rows and folds; its configuration anew where it was not."""
        name, package = f"the champion, {champion.name}", champion.package
        experiment, own = champion.materials(self.root)
        same_folds = own.folds.digest == package.origin.folds == materials.folds.digest
        if same_folds and own.dataset.provenance.digest == package.origin.data and _same_targets(own, materials):
            locked = self._locked(package.members, package.temperature, own)
            return Entrant(name, champion.out_of_fold(own.dataset.ids), locked)
        experiment = experiment.model_copy(update={"folds": present.folds})
        own = Materials.load(experiment)
        if own.folds.digest != materials.folds.digest or not _same_targets(own, materials):
            return f"{name} was made from other rows, and cannot be cross-validated on these"
        self.progress.line(f"{name} was made from other data: its configuration is cross-validated on these rows")
        if package.baseline:
            predictions = cross_validate_baselines(own, None, self.progress.now)
            return self._baseline(package.baseline, name, predictions, own)
        trained = Trained.of(experiment, cross_validate(own.plan(experiment), self.progress.watch("champion")))
        if self.place is None or not own.folds.holdout.any():
            return Entrant(name, trained.predictions)
        anew = final_model(trained, own, "").package
        return Entrant(name, trained.predictions, self._locked(anew.members, anew.temperature, own))

    def _tell(self, challenger: Registered, verdicts: Sequence[Verdict], promoted: bool) -> None:
        lines = ["", f"{self.name} {challenger.name}:", *(f"  {verdict}" for verdict in verdicts)]
        if not verdicts:
            lines.append("  no gates: promotion.gates of the experiment is empty")
        if self.place is None and challenger.package.origin.holdout:
            lines.append("  a dry run leaves the locked rows locked: compared on test rows of the folds")
        would = "would be " if self.place is None else ""
        if promoted:
            lines.append(f"{would}promoted: models:/{self.name}@{CHAMPION} is version {challenger.version.version}")
        else:
            failed = ", ".join(verdict.rule for verdict in verdicts if not verdict.passed)
            lines.append(f"{would}refused by {failed}: alias {CHAMPION!r} stays where it was")
        self.progress.line("\n".join(lines))

    def _check_aliases(self, challenger: ModelVersion, champion: ModelVersion | None) -> None:
        """Refuses to decide on what has changed while it was judged."""
        for alias, judged in ((CHALLENGER, challenger), (CHAMPION, champion)):
            now = self.registry.of_alias(self.name, alias)
            if (now and now.version) != (judged and judged.version):
                found = f"version {now.version}" if now else "none"
                raise UserError(
                    f"model {self.name!r}: expected the {alias} that was judged, found {found}: it changed meanwhile, "
                    "and nothing was decided; promote again"
                )

    def _decide(
        self,
        place: Session,
        challenger: Registered,
        champion: ModelVersion | None,
        verdicts: Sequence[Verdict],
        promoted: bool,
    ) -> None:
        """Moves the aliases where it was promoted, and writes the decision on the version and in the run. A kill in
        between leaves an alias without its receipt, never a receipt of what did not happen.
        """
        version, run = challenger.version, place.run
        decision = Decision("promoted" if promoted else "refused", tuple(map(str, verdicts))).stamped(_who())
        numbers = {v.rule: {"passed": v.passed, "sentence": v.sentence, **v.numbers} for v in verdicts}
        run.json("decision.json", {**vars(decision), "version": str(version.version), "gates": numbers})
        run.tags({"verdict": decision.action, "fusion_lab.model_version": str(version.version)})
        run.metrics({f"gate/{v.rule}": float(v.passed) for v in verdicts})
        run.describe(_receipt(self.name, challenger, decision))
        run.flush()
        if promoted:
            if champion is not None:
                self.registry.tag(version, {REPLACED: str(champion.version)})
            self.registry.point(self.name, CHAMPION, str(version.version))
            self.registry.unpoint(self.name, CHALLENGER)
        self.registry.record(version, decision)
        if promoted and champion is not None:
            replaced = Decision("replaced", (f"version {version.version} is champion now",)).stamped(_who())
            self.registry.record(champion, replaced)


def _same_targets(a: Materials, b: Materials) -> bool:
    """Whether two data sets hold the same rows with the same targets, whatever their modalities are."""
    if not np.array_equal(a.dataset.ids, b.dataset.ids):
        return False
    first, second = (targets_of(m.dataset) for m in (a, b))
    return all(
        torch.equal(leaf, other[task])
        for leaves, other in ((first.targets, second.targets), (first.known, second.known))
        for task, leaf in leaves.items()
    )


def _roll_back(registry: Registry, name: str, progress: Progress, dry_run: bool) -> Outcome:
    """The champion that the present one replaced is champion again; its tag goes, so that no second rollback comes back
    to it.
    """
    champion = registry.of_alias(name, CHAMPION)
    if champion is None:
        raise UserError(f"model {name!r}: expected a champion to roll back, found none")
    before = champion.tags.get(REPLACED)
    if not before:
        number = champion.version
        raise UserError(f"model {name!r}: expected a version that {number} replaced, found none: it was the first")
    target = registry.find(f"{name}/{before}")
    now = f"{name}: champion {champion.version} -> {before}"
    if dry_run:
        progress.line(f"{now} (dry run: nothing was changed)")
        return Outcome(True, before)
    registry.point(name, CHAMPION, before)
    registry.untag(champion, REPLACED)
    registry.record(champion, Decision("rolled back", (f"version {before} is champion again",)).stamped(_who()))
    registry.record(target, Decision("restored", (f"version {champion.version} was rolled back",)).stamped(_who()))
    progress.line(now)
    return Outcome(True, before)


def _receipt(name: str, challenger: Registered, decision: Decision) -> str:
    lines = "\n".join(f"- {line}" for line in decision.lines)
    return f"{name} {challenger.name}: **{decision.action}** {decision.at} by {decision.by}\n\n### Gates\n{lines}"


def _who() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # a container's user without a name
        return "unknown"
