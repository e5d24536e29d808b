"""The MLflow tracking store, reached with explicit ids only.

Never through the fluent API: it silently takes up the run that ``mlflow run`` launched, and breaks under parallel
workers.
"""

from __future__ import annotations

import logging
import os
import shutil
from collections.abc import Generator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from urllib.parse import unquote, urlparse

from mlflow import MlflowClient
from mlflow.entities import Experiment
from mlflow.exceptions import MlflowException

from fusion_lab.tracking.errors import StoreError, told
from fusion_lab.tracking.names import TAG_LENGTH, truncated
from fusion_lab.tracking.owner import OWNER, owner
from fusion_lab.tracking.provenance import source_tags
from fusion_lab.tracking.runs import Run
from fusion_lab.tracking.writer import Writer

FREE_BYTES = 64 * 2**20
"""Room that the artifacts' folder must have before anything starts."""

_PROBE = {"MLFLOW_HTTP_REQUEST_MAX_RETRIES": "0", "MLFLOW_HTTP_REQUEST_TIMEOUT": "8"}
_NOISY = {
    "alembic": logging.WARNING,
    "mlflow.store.db.utils": logging.CRITICAL,
    "mlflow.store.db": logging.WARNING,
    "mlflow.pyfunc": logging.WARNING,
}


class Store:
    """A tracking store and its background writer; a context manager that writes what is pending before it ends."""

    def __init__(self, client: MlflowClient) -> None:
        self.client = client
        self._writer = Writer()

    @classmethod
    def open(cls, uri: str | None = None, existing: bool = False) -> Store:
        """The store at ``uri``; ``None`` is MLflow's own default. ``existing`` refuses to make a new one.

        That is ``MLFLOW_TRACKING_URI`` where it is set, else ``mlflow.db`` with ``mlruns/`` in this folder.

        Raises:
            StoreError: it cannot be reached, within ten seconds, or is no store.
        """
        for name, level in _NOISY.items():
            logging.getLogger(name).setLevel(level)
        # MLflow waits four minutes for each call to a server that went away; half a minute is enough to restart one
        os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "4")
        where = uri or os.environ.get("MLFLOW_TRACKING_URI") or "mlflow.db in this folder"
        if existing:
            _refuse_missing(uri or os.environ.get("MLFLOW_TRACKING_URI") or "sqlite:///mlflow.db")
        with told(f"{where}: expected an MLflow tracking store that answers"), environment(_PROBE):
            client = MlflowClient(uri)
            client.search_experiments(max_results=1)
        return cls(client)

    @property
    def uri(self) -> str:
        return self.client.tracking_uri

    @property
    def registry_uri(self) -> str:
        """Where its registered models are: beside the runs, unless MLflow was told otherwise."""
        return str(self.client._registry_uri or self.uri)  # noqa: SLF001 - MlflowClient has no public name for it

    @property
    def web(self) -> str | None:
        """Address of the store's own pages; ``None`` for a database, whose pages ``mlflow ui`` shows."""
        return self.uri.rstrip("/") if urlparse(self.uri).scheme in ("http", "https") else None

    def experiment_id(self, name: str) -> str:
        """The id of the experiment of this name, made where there is none.

        Raises:
            StoreError: it was deleted, or there is no room for its artifacts.
        """
        with told(f"experiment {name!r}: expected to find or make it in {self.uri}"):
            found = self.client.get_experiment_by_name(name) or self._made(name)
        if found.lifecycle_stage != "active":
            raise StoreError(
                f"experiment {name!r}: expected an active experiment, found a deleted one; bring it back with"
                f" `mlflow experiments restore --experiment-id {found.experiment_id}` or choose another name"
            )
        check_room(found.artifact_location)
        return found.experiment_id

    def start_run(
        self,
        experiment_id: str,
        name: str,
        parent: str | None = None,
        tags: Mapping[str, str] | None = None,
        description: str = "",
    ) -> Run:
        """A new run, RUNNING from now on; ``parent`` is the id of the run that it is shown under."""
        self._writer.check()
        every = {**source_tags(), OWNER: owner(), **(tags or {})}
        every |= {"mlflow.parentRunId": parent} if parent else {}
        every |= {"mlflow.note.content": description} if description else {}
        with told(f"run {name!r}: expected to start it in {self.uri}"):
            made = self.client.create_run(experiment_id, run_name=name, tags=_cut(every))
        return Run(self.client, self._writer, made.info.run_id, experiment_id)

    def adopt_run(self, run_id: str, tags: Mapping[str, str] | None = None) -> Run:
        """A run that is there already: the one that ``mlflow run`` launched and named in MLFLOW_RUN_ID.

        Parameters that it has stay as they are.

        Raises:
            StoreError: there is no such run in this store.
        """
        self._writer.check()
        with told(f"run {run_id}: expected to find it in {self.uri}"):
            found = self.client.get_run(run_id)
        check_room(found.info.artifact_uri or "")
        run = Run(self.client, self._writer, run_id, found.info.experiment_id, found.data.params)
        run.tags({OWNER: owner(), **(tags or {})})
        run.flush()
        return run

    def has_run(self, run_id: str) -> bool:
        """Whether the run is in this store."""
        try:
            self.client.get_run(run_id)
        except MlflowException as error:
            if error.error_code != "RESOURCE_DOES_NOT_EXIST":
                raise StoreError(f"run {run_id}: expected to look it up in {self.uri}, found: {error}") from None
            return False
        return True

    def run(self, run_id: str, experiment_id: str) -> Run:
        """A run of this store that has ended, for files to be added to it."""
        return Run(self.client, self._writer, run_id, experiment_id)

    def flush(self) -> None:
        """Waits until everything given to any run is written; raises what could not be."""
        self._writer.flush()

    def close(self) -> None:
        """Writes what is pending and ends the writer; raises what could not be written."""
        self._writer.close()
        self._writer.flush()

    def __enter__(self) -> Store:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._writer.close()
        if error is None:
            self._writer.flush()

    def _made(self, name: str) -> Experiment:
        try:
            return self.client.get_experiment(self.client.create_experiment(name))
        except MlflowException as error:
            if error.error_code != "RESOURCE_ALREADY_EXISTS":  # another process may have been quicker
                raise
        found = self.client.get_experiment_by_name(name)
        assert found is not None, name
        return found


def check_room(location: str) -> None:
    """Makes a local folder of artifacts and looks whether it can be written to; other places are left alone.

    Raises:
        StoreError: it cannot be written to, or less than :data:`FREE_BYTES` are free.
    """
    folder = local_folder(location)
    if folder is None:
        return
    with told(f"{folder}: expected a folder for artifacts that can be written to"):
        folder.mkdir(parents=True, exist_ok=True)
        if not os.access(folder, os.W_OK | os.X_OK):
            raise PermissionError(13, "permission denied")
    free = shutil.disk_usage(folder).free
    if free < FREE_BYTES:
        raise StoreError(
            f"{folder}: expected {FREE_BYTES >> 20} MiB of free space for artifacts, found {free >> 20} MiB"
        )


def local_folder(location: str) -> Path | None:
    """The folder of an artifact location on this machine, ``None`` for one elsewhere.

    >>> local_folder("file:///data/ml%20runs/1"), local_folder("mlflow-artifacts:/1")
    (PosixPath('/data/ml runs/1'), None)
    """
    parsed = urlparse(location)
    if parsed.scheme not in ("", "file"):
        return None
    return Path(unquote(parsed.path) if parsed.scheme else location)


def _refuse_missing(uri: str) -> None:
    """A database file that is not there would be made."""
    parsed = urlparse(uri)
    file = Path(unquote(parsed.path.removeprefix("/")))
    if parsed.scheme == "sqlite" and parsed.path.strip("/") and not file.is_file():
        raise StoreError(f"{uri}: expected a tracking store with registered models, found no file {file}")


def _cut(tags: Mapping[str, str]) -> dict[str, str]:
    return {name: truncated(value, TAG_LENGTH) for name, value in tags.items()}


@contextmanager
def environment(values: Mapping[str, str]) -> Generator[None]:
    before = {name: os.environ.get(name) for name in values}
    os.environ.update(values)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value
