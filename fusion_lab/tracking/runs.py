"""One MLflow run: everything given is buffered, and written in few calls by the background thread."""

from __future__ import annotations

import json
import math
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path, PurePosixPath
from types import TracebackType
from typing import Any

from mlflow import MlflowClient
from mlflow.entities import DatasetInput, Metric, Param, RunTag

from fusion_lab.tracking.errors import StoreError, reason, told
from fusion_lab.tracking.names import PARAM_LENGTH, TAG_LENGTH, safe_name, truncated
from fusion_lab.tracking.writer import Writer

METRICS_PER_CALL, OTHERS_PER_CALL, BYTES_PER_CALL = 1000, 100, 900_000  # MLflow's limit is 1 MB of JSON
SECONDS_BETWEEN_WRITES = 10.0
"""How old buffered metrics may grow while a run goes on, so that a long training can be watched."""

Content = bytes | Callable[[], bytes]
Entry = Metric | Param | RunTag


class Run:
    """A run of the store, for use by one thread. Made by :class:`fusion_lab.tracking.store.Store`.

    As a context manager it closes itself: ``FINISHED``, ``KILLED`` where it was interrupted, ``FAILED`` with the reason
    as tag ``failure`` otherwise. Every method but :meth:`close` raises :class:`StoreError` for what an earlier call
    could not write.
    """

    def __init__(
        self, client: MlflowClient, writer: Writer, run_id: str, experiment_id: str, known_params: Iterable[str] = ()
    ) -> None:
        self.id = run_id
        self.experiment_id = experiment_id
        self._client = client
        self._writer = writer
        self._entries: list[Entry] = []
        self._known_params = set(known_params)
        self._undefined: set[str] = set()
        self._written = time.monotonic()
        self._failure: str | None = None  # set by the writer's thread
        self._closed = False

    def params(self, values: Mapping[str, object]) -> None:
        """Parameters; of a key that the run has already the first value stands, as in MLflow itself."""
        self._writer.check()
        for name, value in values.items():
            key = safe_name(name)
            if key not in self._known_params:
                self._known_params.add(key)
                self._entries.append(Param(key, truncated(shown(value), PARAM_LENGTH)))

    def metrics(self, values: Mapping[str, float], step: int = 0) -> None:
        """Numbers at a step. One that is not finite is no number: its name goes to the tag ``undefined`` instead."""
        self._writer.check()
        now = int(time.time() * 1000)
        for name, value in values.items():
            if math.isfinite(value):
                self._entries.append(Metric(safe_name(name), float(value), now, int(step)))
            else:
                self._undefined.add(safe_name(name))
        waited = time.monotonic() - self._written
        if len(self._entries) >= METRICS_PER_CALL or waited > SECONDS_BETWEEN_WRITES:
            self._write()

    def tags(self, values: Mapping[str, object]) -> None:
        """Tags; a later value replaces an earlier one."""
        self._writer.check()
        self._entries += [RunTag(safe_name(k), truncated(shown(v), TAG_LENGTH)) for k, v in values.items()]

    def describe(self, markdown: str) -> None:
        """The run's description, as its page shows it on top."""
        self.tags({"mlflow.note.content": markdown})

    def text(self, path: str, content: str) -> None:
        """A text file among the run's artifacts."""
        self.bytes(path, content.encode())

    def json(self, path: str, value: object) -> None:
        """A JSON file among the run's artifacts; a number that is not finite becomes null."""
        self.bytes(path, json_bytes(value))

    def bytes(self, path: str, content: Content) -> None:
        """A file among the run's artifacts; a callable is asked for the content in the writer's thread."""
        self._writer.check()
        where = PurePosixPath(path)

        def write() -> None:
            with tempfile.TemporaryDirectory(prefix="fusion_lab-") as folder:
                local = Path(folder, where.name)
                local.write_bytes(content if isinstance(content, bytes) else content())
                self._client.log_artifact(self.id, str(local), _folder(where))

        self._put(f"artifact {path}", write)

    def file(self, local: Path, folder: str = "") -> None:
        """A file of this machine, copied into ``folder`` of the run's artifacts; it has to stay until :meth:`flush`."""
        self._writer.check()
        self._put(f"artifact {local}", lambda: self._client.log_artifact(self.id, str(local), folder or None))

    def inputs(self, datasets: Iterable[DatasetInput]) -> None:
        """The data sets that the run's page shows."""
        self._writer.check()
        listed = list(datasets)
        self._put("data set", lambda: self._client.log_inputs(self.id, listed))

    def flush(self) -> None:
        """Waits until everything given so far is in the store."""
        self._write()
        self._writer.flush()

    def close(self, status: str = "FINISHED") -> None:
        """Ends the run after all it was given; does not wait. A run of which something was lost ends ``FAILED``."""
        if self._closed:
            return
        self._closed = True
        self._write()

        def end() -> None:
            if self._failure is not None:
                self._client.set_tag(self.id, "failure", truncated(self._failure, TAG_LENGTH))
            self._client.set_terminated(self.id, "FAILED" if self._failure is not None else status)

        self._put("its end", end)

    def __enter__(self) -> Run:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is None or self._closed:
            self.close()
            return
        interrupted = isinstance(error, (KeyboardInterrupt, SystemExit))
        told_why = "interrupted" if interrupted else f"{type(error).__name__}: {reason(error)}"
        self._entries.append(RunTag("failure", truncated(told_why, TAG_LENGTH)))
        self.close("KILLED" if interrupted else "FAILED")

    def _write(self) -> None:
        """Hands the buffer to the writer."""
        self._written = time.monotonic()
        if self._undefined:
            self._entries.append(RunTag("undefined", truncated(", ".join(sorted(self._undefined)), TAG_LENGTH)))
        entries, self._entries = _latest_tags(self._entries), []
        if entries:
            self._put("metrics and parameters", lambda: self._log(entries))

    def _log(self, entries: list[Entry]) -> None:
        for metrics, params, tags in batches(entries):
            self._client.log_batch(self.id, metrics, params, tags, synchronous=True)

    def _put(self, what: str, job: Callable[[], None]) -> None:
        def run() -> None:
            try:
                with told(f"{what} of run {self.id}: expected to write it to {self._client.tracking_uri}"):
                    job()
            except StoreError as error:
                self._failure = self._failure or str(error)
                raise

        self._writer.put(run)


def batches(entries: Iterable[Entry]) -> Iterator[tuple[list[Metric], list[Param], list[RunTag]]]:
    """Entries in as few batches as MLflow's limits of one call allow, each in its order."""
    batch: tuple[list[Any], list[Any], list[Any]] = ([], [], [])
    size = 0
    for entry in entries:
        place = 0 if isinstance(entry, Metric) else 1 if isinstance(entry, Param) else 2
        cost = _bytes_of(entry)
        full = len(batch[place]) >= (OTHERS_PER_CALL if place else METRICS_PER_CALL)
        if full or sum(map(len, batch)) >= METRICS_PER_CALL or size + cost > BYTES_PER_CALL:
            yield batch
            batch, size = ([], [], []), 0
        batch[place].append(entry)
        size += cost
    if any(batch):
        yield batch


def shown(value: object) -> str:
    """A parameter's or tag's value as text: as it stands in a YAML file.

    >>> [shown(v) for v in ("a", 1e-4, True, None, [1, 2])]
    ['a', '0.0001', 'true', 'null', '[1, 2]']
    """
    return value if isinstance(value, str) else json.dumps(value, default=str, ensure_ascii=False)


def json_bytes(value: object) -> bytes:
    """JSON text of plain values; what is not finite becomes null, as JSON knows no such number.

    >>> json_bytes({"auroc": float("nan")})
    b'{"auroc": null}'
    """
    return json.dumps(_finite(value), allow_nan=False, ensure_ascii=False).encode()


def _finite(value: object) -> object:
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {str(k): _finite(v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(v) for v in value]
    return value


def _bytes_of(entry: Entry) -> int:
    """At least the entry's share of the request."""
    return 150 + len(json.dumps(entry.key)) + (0 if isinstance(entry, Metric) else len(json.dumps(entry.value)))


def _latest_tags(entries: list[Entry]) -> list[Entry]:
    """Without the tags that a later one of the same key replaces: a batch must not hold a key twice."""
    last = {e.key: i for i, e in enumerate(entries) if isinstance(e, RunTag)}
    return [e for i, e in enumerate(entries) if not isinstance(e, RunTag) or last[e.key] == i]


def _folder(path: PurePosixPath) -> str | None:
    return None if path.parent == PurePosixPath(".") else str(path.parent)
