"""Models in MLflow: checkpoints with their metrics, versions of a registered model, the aliases that say which is
served.
"""

from __future__ import annotations

import json
import time
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path

from mlflow.artifacts import download_artifacts
from mlflow.entities import LoggedModelOutput, Metric
from mlflow.entities.model_registry import ModelVersion
from mlflow.exceptions import MlflowException

from fusion_lab.config import nearest
from fusion_lab.contracts import UserError
from fusion_lab.tracking.errors import told
from fusion_lab.tracking.names import TAG_LENGTH, safe_name, truncated
from fusion_lab.tracking.runs import Run, json_bytes
from fusion_lab.tracking.store import Store, environment

CHALLENGER, CHAMPION = "challenger", "champion"
FINGERPRINT, REPLACED, DECISIONS = "fusion_lab.fingerprint", "fusion_lab.replaced", "fusion_lab.decisions"
VERDICT = "verdict"
"""Tags of a version: what it was made from, the champion it replaced, what was decided on it, as JSON, and the last of
that in a word.
"""
MOST_DECISIONS = 20
_SERVED = "mlflow.modelVersions"  # MLflow's own tag, by which a model's page links to its versions


@dataclass(frozen=True)
class Decision:
    """What was decided on a version, and why: a line per gate."""

    action: str  # promoted, refused, rolled back, replaced
    lines: tuple[str, ...]
    by: str = ""
    at: str = ""

    def stamped(self, by: str) -> Decision:
        """With the present time and who decided."""
        return Decision(self.action, self.lines, by, time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()))


class Registry:
    """The registered models of a store."""

    def __init__(self, store: Store) -> None:
        self.store = store
        self.client = store.client

    def log_model(
        self,
        run: Run,
        name: str,
        folder: Path,
        metrics: Mapping[str, float],
        kind: str,
        params: Mapping[str, object] | None = None,
        step: int = 0,
        tags: Mapping[str, str] | None = None,
    ) -> str:
        """Gives the run a model of its own: the files of ``folder`` and metrics that models are ranked by.

        Returns its id; ``models:/<id>`` loads it where the folder is a model directory.
        """
        with told(f"model {name!r}: expected to store it in {self.store.uri}"):
            made = self.client.create_logged_model(
                run.experiment_id,
                model_name(name),
                run.id,
                {key: truncated(value, TAG_LENGTH) for key, value in (tags or {}).items()},
                {key: truncated(str(value), 500) for key, value in (params or {}).items()},
                kind,
            )
            self.client.log_model_artifacts(made.model_id, str(folder))
            self.client.finalize_logged_model(made.model_id, "READY")
            self.client.log_outputs(run.id, [LoggedModelOutput(made.model_id, step)])
            now = int(time.time() * 1000)
            finite = {key: value for key, value in metrics.items() if value == value and abs(value) != float("inf")}
            linked = [
                Metric(safe_name(key), float(value), now, step, model_id=made.model_id, run_id=run.id)
                for key, value in finite.items()
            ]
            if linked:
                self.client.log_batch(run.id, linked)
        return made.model_id

    def models_of(self, run: Run) -> set[str]:
        """Names of the models that the run was given before."""
        with told(f"run {run.id}: expected to read it from {self.store.uri}"):
            outputs = self.client.get_run(run.id).outputs
            found = outputs.model_outputs if outputs else []
            return {self.client.get_logged_model(output.model_id).name for output in found}

    def register(
        self, name: str, model_id: str, run: Run, description: str, tags: Mapping[str, str], about: str = ""
    ) -> ModelVersion:
        """A new version of the registered model ``name`` as challenger; where there is no such model, it is made, with
        ``about`` as description.
        """
        with told(f"model {name!r}: expected to register it in {self.store.uri}"):
            self._ensure(name, about)
            cut = {key: truncated(value, TAG_LENGTH) for key, value in tags.items()}
            with self._global():
                made = self.client.create_model_version(
                    name, f"models:/{model_id}", run.id, cut, description=description, model_id=model_id
                )
            versions = json.dumps([{"name": name, "version": str(made.version)}])
            self.client.set_logged_model_tags(model_id, {_SERVED: versions})
            self.client.set_registered_model_alias(name, CHALLENGER, str(made.version))
        return made

    def versions(self, name: str) -> list[ModelVersion]:
        """All versions, the newest first."""
        with told(f"model {name!r}: expected to read its versions from {self.store.uri}"):
            found = self.client.search_model_versions(f"name = '{_quoted(name)}'")
        return sorted(found, key=lambda version: -int(version.version))

    def of_alias(self, name: str, alias: str) -> ModelVersion | None:
        """The version that an alias points at, with its tags; ``None`` where there is none."""
        try:
            return self.client.get_model_version_by_alias(name, alias)
        except MlflowException as error:
            if error.error_code in ("RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE"):
                return None
            with told(f"model {name!r}: expected to read alias {alias!r} from {self.store.uri}"):
                raise

    def find(self, reference: str) -> ModelVersion:
        """The version of ``name@alias``, ``name/version`` or ``name`` (its champion).

        Raises:
            UserError: there is none; what there is, is told.
        """
        text = reference.removeprefix("models:/")
        name, at, alias = text.partition("@")
        if at:
            return self._found(self.of_alias(name, alias), name, f"alias {alias!r}")
        name, slash, number = text.rpartition("/")
        if slash and number.isdecimal():
            version = next((v for v in self.versions(name) if str(v.version) == number), None)
            return self._found(version, name, f"version {number}")
        return self._found(self.of_alias(text, CHAMPION), text, f"alias {CHAMPION!r}")

    def with_fingerprint(self, name: str, fingerprint: str) -> ModelVersion | None:
        """The newest version that was made from the same configuration, data and split."""
        return next((v for v in self.versions(name) if v.tags.get(FINGERPRINT) == fingerprint), None)

    def download(self, version: ModelVersion, folder: Path) -> Path:
        """The model directory of a version, copied into ``folder``."""
        name, number = version.name, version.version
        with told(f"{name} version {number}: expected to read it from {self.store.uri}"), self._global():
            return Path(download_artifacts(f"models:/{name}/{number}", dst_path=str(folder)))

    def point(self, name: str, alias: str, version: str) -> None:
        """Moves an alias."""
        with told(f"model {name!r}: expected to move alias {alias!r} in {self.store.uri}"):
            self.client.set_registered_model_alias(name, alias, version)

    def unpoint(self, name: str, alias: str) -> None:
        """Takes an alias away."""
        with told(f"model {name!r}: expected to remove alias {alias!r} in {self.store.uri}"):
            self.client.delete_registered_model_alias(name, alias)

    def tag(self, version: ModelVersion, tags: Mapping[str, str]) -> None:
        """Tags of a version."""
        with told(f"{version.name} version {version.version}: expected to tag it in {self.store.uri}"):
            for key, value in tags.items():
                self.client.set_model_version_tag(version.name, str(version.version), key, truncated(value, TAG_LENGTH))

    def untag(self, version: ModelVersion, key: str) -> None:
        """Takes a tag of a version away, where it is there."""
        if key in version.tags:
            with told(f"{version.name} version {version.version}: expected to change its tags in {self.store.uri}"):
                self.client.delete_model_version_tag(version.name, str(version.version), key)

    def record(self, version: ModelVersion, decision: Decision) -> None:
        """Writes a decision on a version, after those that are there: as a tag, and where a person reads it."""
        version = self.find(f"{version.name}/{version.version}")  # as it is now: others may have decided meanwhile
        past = decisions(version)
        kept = [*past, vars(decision)][-MOST_DECISIONS:]
        while len(text := json_bytes(kept).decode()) > TAG_LENGTH and len(kept) > 1:
            kept = kept[1:]
        self.tag(version, {DECISIONS: text, VERDICT: decision.action})
        first = (version.description or "").split(_HEADING)[0].rstrip()
        with told(f"{version.name} version {version.version}: expected to describe it in {self.store.uri}"):
            self.client.update_model_version(version.name, str(version.version), f"{first}\n\n{_as_text(kept)}")

    def _global(self) -> AbstractContextManager[None]:
        """Parts of MLflow look for a model in its global store, whatever the client's is."""
        return environment({"MLFLOW_TRACKING_URI": self.store.uri, "MLFLOW_REGISTRY_URI": self.store.registry_uri})

    def _ensure(self, name: str, about: str) -> None:
        try:
            self.client.create_registered_model(name, description=about or None)
        except MlflowException as error:
            if error.error_code != "RESOURCE_ALREADY_EXISTS":
                raise

    def _found(self, version: ModelVersion | None, name: str, what: str) -> ModelVersion:
        if version is not None:
            return version
        try:
            model = self.client.get_registered_model(name)
        except MlflowException:
            known = [model.name for model in self.client.search_registered_models(max_results=1000)]
            hint = _hint(name, known) if known else " (nothing is registered: run train or hpo first)"
            raise UserError(f"model {name!r}: expected a registered model, found none{hint}") from None
        there = {str(v.version) for v in self.versions(name)}
        aliases = ", ".join(
            f"{alias} (version {number}{'' if str(number) in there else ', which was deleted'})"
            for alias, number in sorted(model.aliases.items())
        )
        raise UserError(f"model {name!r}: expected {what}, found aliases {aliases or '(none)'}")


_HEADING = "### Decisions"


def decisions(version: ModelVersion) -> list[dict[str, object]]:
    """What was decided on a version so far, the oldest first."""
    try:
        past = json.loads(version.tags.get(DECISIONS, "[]"))
    except ValueError:  # somebody has written into the tag: what follows is still to be recorded
        return []
    return [one for one in past if isinstance(one, dict)] if isinstance(past, list) else []


def _as_text(past: Sequence[Mapping[str, object]]) -> str:
    parts = [_HEADING]
    for one in reversed(past):
        told = one.get("lines")
        lines = "\n".join(
            f"- {' '.join(str(line).split())}" for line in (told if isinstance(told, list | tuple) else [])
        )
        parts.append(f"**{one.get('action')}** {one.get('at')} {one.get('by')}\n{lines}")
    return truncated("\n\n".join(parts), 4000)


def model_name(name: str) -> str:
    """A name that MLflow takes for a model of a run.

    >>> model_name("cohort v1.2 fold 0")
    'cohort v1-2 fold 0'
    """
    return safe_name(name).translate(str.maketrans("/:.%\"'", "------"))


def _hint(name: str, known: Sequence[str]) -> str:
    hint = nearest(name, list(known))
    shown = ", ".join(map(repr, known[:6]))
    return hint if len(known) <= 6 or "did you mean" in hint else f" (known: {shown} and {len(known) - 6} more)"


def _quoted(name: str) -> str:
    """A name inside single quotes of MLflow's query language, which cannot escape one: no model of ours has one."""
    return name.replace("'", "")
