"""Runs whose process was killed stay RUNNING for ever in MLflow: the next start closes them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from mlflow.entities import Run as StoredRun

from fusion_lab.tracking.errors import told
from fusion_lab.tracking.owner import OWNER, is_gone
from fusion_lab.tracking.store import Store

CLOSED = "fusion_lab.closed"
"""Tag of a run that was closed as stale, saying why."""

STATE = "fusion_lab.state"
"""Tag of a trial whose numbers are all in the store: ``complete``, ``pruned`` or ``failed``."""
ENDS = {"complete": "FINISHED", "pruned": "FINISHED", "failed": "FAILED"}


def close_stale_runs(store: Store, experiment_ids: Sequence[str]) -> list[str]:
    """Ends the RUNNING runs whose process of this host no longer exists; returns their ids.

    They are KILLED, but for trials that had all but their figures: those are FINISHED.

    Runs of other hosts, of living processes, and such as carry no owner are left alone.
    """
    closed = []
    with told(f"unfinished runs: expected to reach {store.uri}"):
        for run in list(_running(store, experiment_ids)):
            tag = run.data.tags[OWNER]
            if is_gone(tag):
                host, pid, _ = tag.split(" ")
                why = f"process {pid} on {host} ended without closing the run; closed at the next start"
                store.client.set_tag(run.info.run_id, CLOSED, why)
                store.client.set_terminated(run.info.run_id, ENDS.get(run.data.tags.get(STATE, ""), "KILLED"))
                closed.append(run.info.run_id)
    return closed


def _running(store: Store, experiment_ids: Sequence[str]) -> Iterator[StoredRun]:
    token: str | None = None
    while experiment_ids:
        page = store.client.search_runs(
            list(experiment_ids),
            filter_string=f"attributes.status = 'RUNNING' AND tags.`{OWNER}` LIKE '%'",
            max_results=500,
            page_token=token,
        )
        yield from page
        token = page.token
        if not token:
            return
