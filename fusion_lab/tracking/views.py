"""Saved views of MLflow's run table: what a person sees who opens the printed link.

The format is MLflow's own (an experiment tag, read by its pages) and may change; without a view the plain link still
works. As seen in MLflow 3.17.
"""

from __future__ import annotations

import base64
import json
import time
import zlib
from collections.abc import Sequence
from typing import Any
from urllib.parse import quote

from fusion_lab.tracking.errors import StoreError, told
from fusion_lab.tracking.names import safe_part
from fusion_lab.tracking.store import Store

TAG = "mlflow.sharedViewState."
COLUMN_WIDTH = 96
"""Pixels: enough for four digits of a score."""
LONGEST_STATE = 20_000
"""Characters of an experiment's tag, as MLflow limits them."""


def save_view(
    store: Store,
    experiment_id: str,
    key: str,
    name: str,
    state: dict[str, object],
) -> str:
    """Saves a view, made by :func:`table`, under "Views" of the experiment; one of the same key is replaced.

    Returns the path of its link, to be put behind the address of the pages.

    Raises:
        StoreError: the view has too many columns for MLflow, or the store cannot be reached.
    """
    key = view_key(key)
    now = int(time.time() * 1000)
    value = json.dumps({"name": name, "createdAt": now, "updatedAt": now, "state": _packed(state)})
    if len(value) > LONGEST_STATE:
        raise StoreError(f"view {name!r}: expected at most {LONGEST_STATE} characters, found {len(value)}")
    with told(f"view {name!r}: expected to save it in {store.uri}"):
        store.client.set_experiment_tag(experiment_id, TAG + key, value)
    return runs_link("", experiment_id, key)


def table(
    metrics: Sequence[str],
    params: Sequence[str],
    order_by: str,
    ascending: bool = False,
    search: str = "",
) -> dict[str, Any]:
    """The state of a run table: these columns in this order, sorted by the metric ``order_by``.

    ``search`` is a filter in MLflow's language; with one, or when sorted by a metric, runs stand in a flat list.
    """
    columns = [f"metrics.`{m}`" for m in metrics] + [f"params.`{p}`" for p in params]
    wanted = ["attributes.`Status`", "attributes.`Duration`", *columns]
    return {
        "searchFilter": search,
        "orderByKey": f"metrics.`{order_by}`",
        "orderByAsc": ascending,
        "startTime": "ALL",
        "lifecycleFilter": "Active",
        "datasetsFilter": [],
        "modelVersionFilter": "All Runs",
        "selectedColumns": wanted,
        "columnOrder": wanted,
        "columnWidths": dict.fromkeys(wanted, COLUMN_WIDTH),
        "runsHiddenMode": "FIRST_20_RUNS",
        "groupBy": None,
        "runsPinned": [],
        "runsHidden": [],
        "runsExpanded": {},
        "useGroupedValuesInCharts": True,
    }


def runs_link(base: str, experiment_id: str, key: str | None = None) -> str:
    """Address of an experiment's run table, of one saved view when ``key`` is given.

    >>> runs_link("http://127.0.0.1:5000", "3", "study")
    'http://127.0.0.1:5000/#/experiments/3/runs?workflowType=machine_learning&viewStateShareKey=study'
    """
    link = f"{base.rstrip('/')}/#/experiments/{quote(experiment_id)}/runs?workflowType=machine_learning"
    return f"{link}&viewStateShareKey={quote(view_key(key))}" if key else link


def run_link(base: str, experiment_id: str, run_id: str) -> str:
    """Address of one run's page."""
    return f"{base.rstrip('/')}/#/experiments/{quote(experiment_id)}/runs/{quote(run_id)}"


def view_key(text: str) -> str:
    """A key of letters, digits, dots, dashes and underscores.

    >>> view_key("demo study 1")
    'demo_study_1'
    """
    return safe_part(text).replace(" ", "_")


def _packed(state: dict[str, object]) -> str:
    return "deflate;" + base64.b64encode(zlib.compress(json.dumps(state).encode())).decode()
