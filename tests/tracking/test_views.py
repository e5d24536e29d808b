import base64
import json
import zlib

import pytest

from fusion_lab.tracking.errors import StoreError
from fusion_lab.tracking.views import TAG, runs_link, save_view, table


def test_a_saved_view_can_be_read_back(store, experiment):
    state = table(["val/auroc"], ["model.fusion"], "val/auroc", search="tags.`mlflow.parentRunId` = 'abc'")
    link = save_view(store, experiment, "my study", "Study: demo", state)
    assert link == runs_link("", experiment, "my study")
    assert link.endswith("viewStateShareKey=my_study")
    saved = json.loads(store.client.get_experiment(experiment).tags[TAG + "my_study"])
    assert saved["name"] == "Study: demo"
    packed = saved["state"].removeprefix("deflate;")
    assert json.loads(zlib.decompress(base64.b64decode(packed))) == state
    assert state["orderByKey"] == "metrics.`val/auroc`"
    assert "params.`model.fusion`" in state["selectedColumns"]


def test_a_view_of_the_same_key_is_replaced(store, experiment):
    for name in ("first", "second"):
        save_view(store, experiment, "key", name, table(["a"], [], "a"))
    tags = store.client.get_experiment(experiment).tags
    assert json.loads(tags[TAG + "key"])["name"] == "second"


def test_a_view_that_mlflow_would_refuse_is_told(store, experiment):
    many = [f"{i}{hash((i, 'x')):x}" for i in range(2000)]
    with pytest.raises(StoreError, match="expected at most 20000 characters"):
        save_view(store, experiment, "wide", "Wide", table(many, [], "a"))


def test_the_filter_of_a_parent_finds_its_children(store):
    experiment = store.experiment_id("views")
    parent = store.start_run(experiment, "parent")
    child = store.start_run(experiment, "child", parent=parent.id)
    found = store.client.search_runs([experiment], filter_string=f"tags.`mlflow.parentRunId` = '{parent.id}'")
    assert [run.info.run_id for run in found] == [child.id]
    child.close()
    parent.close()
    store.flush()
