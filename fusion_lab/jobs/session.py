"""A job's place in MLflow: the store, the experiment, the run that `mlflow run` launched or a new one, and a clean
ending.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Generator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from types import FrameType

from fusion_lab.tracking.errors import told
from fusion_lab.tracking.runs import Run
from fusion_lab.tracking.stale import close_stale_runs
from fusion_lab.tracking.store import Store

KIND, STUDY = "fusion_lab.kind", "fusion_lab.study"
"""Tags: what a run is (``study``, ``trial``, ``baseline``, ``train``), and the study it belongs to."""


@dataclass(frozen=True)
class Session:
    """An open store and the run of this job."""

    store: Store
    run: Run
    closed: tuple[str, ...]  # runs that an earlier kill had left behind

    @property
    def experiment_id(self) -> str:
        return self.run.experiment_id

    def has(self, kind: str, tags: Mapping[str, str]) -> bool:
        """Whether the store holds a finished run of this kind with these tags."""
        wanted = {KIND: kind, **tags}
        search = " AND ".join(f"tags.`{name}` = '{value}'" for name, value in wanted.items())
        with told(f"runs of kind {kind}: expected to search {self.store.uri}"):
            found = self.store.client.search_runs(
                [self.experiment_id], f"{search} AND attributes.status = 'FINISHED'", max_results=1
            )
        return bool(found)

    def child(self, name: str, kind: str, tags: Mapping[str, str] | None = None) -> Run:
        """A new run under this job's."""
        return self.store.start_run(self.experiment_id, name, parent=self.run.id, tags={KIND: kind, **(tags or {})})


@contextmanager
def session(experiment: str, kind: str, name: str, uri: str | None = None) -> Generator[Session]:
    """Opens the store, closes what a kill left behind, and holds the job's run until its end.

    A run launched by ``mlflow run`` (MLFLOW_RUN_ID) is taken over and stays in its MLflow experiment; otherwise the
    run goes to MLFLOW_EXPERIMENT_NAME, or to the MLflow experiment named as ours. SIGTERM ends the job as Ctrl-C does.
    """
    with terminable(), Store.open(uri) as store:
        launched = os.environ.get("MLFLOW_RUN_ID")
        if launched:
            run = store.adopt_run(launched, {KIND: kind, "mlflow.runName": name})
        else:
            place = store.experiment_id(os.environ.get("MLFLOW_EXPERIMENT_NAME") or experiment)
            run = store.start_run(place, name, tags={KIND: kind})
        with run:
            closed = close_stale_runs(store, [run.experiment_id])
            yield Session(store, run, tuple(closed))


@contextmanager
def terminable() -> Generator[None]:
    """SIGTERM ends what is inside as Ctrl-C does."""

    def terminate(number: int, frame: FrameType | None) -> None:
        raise KeyboardInterrupt("terminated")

    before = signal.signal(signal.SIGTERM, terminate)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
