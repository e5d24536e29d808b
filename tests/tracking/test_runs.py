import errno
import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from mlflow.entities import Metric, Param, RunTag

from fusion_lab.contracts import UserError
from fusion_lab.tracking.errors import StoreError
from fusion_lab.tracking.names import PARAM_LENGTH
from fusion_lab.tracking.runs import BYTES_PER_CALL, METRICS_PER_CALL, OTHERS_PER_CALL, batches, json_bytes

ENTRY = st.one_of(
    st.builds(Metric, st.text(min_size=1, max_size=5), st.just(1.0), st.just(0), st.integers(0, 9)),
    st.builds(Param, st.text(min_size=1, max_size=5), st.sampled_from(["v", "é" * 6000])),
    st.builds(RunTag, st.text(min_size=1, max_size=5), st.sampled_from(["v", "t" * 8000])),
)


@settings(max_examples=30, deadline=None)
@given(st.lists(ENTRY, max_size=60), st.integers(1, 40))
def test_batches_hold_every_entry_once_within_mlflows_limits(entries, times):
    entries = entries * times
    found = list(batches(entries))
    for place, kind in enumerate((Metric, Param, RunTag)):
        assert [e for b in found for e in b[place]] == [e for e in entries if isinstance(e, kind)]
    for metrics, params, tags in found:
        assert 0 < len(metrics) + len(params) + len(tags) <= METRICS_PER_CALL
        assert max(len(params), len(tags)) <= OTHERS_PER_CALL
        assert len(json_bytes([[e.key, e.value] for e in (*params, *tags)])) < BYTES_PER_CALL


def test_what_is_given_is_in_the_store_after_flush(store, experiment, artifact):
    run = store.start_run(experiment, "one", tags={"colour": "blue"}, description="**About** it")
    run.params({"lr": 1e-4, "nested": {"a": [1, 2]}, "flag": True, "long": "x" * 7000})
    run.metrics({"val/auroc": 0.7, "bad": math.nan, "worse": math.inf}, step=3)
    run.metrics({"val/auroc": 0.8}, step=4)
    run.tags({"stage": "first"})
    run.tags({"stage": "second"})
    run.text("notes/a.txt", "über")
    run.json("b.json", {"x": math.nan})
    run.bytes("c.bin", lambda: b"lazy")
    run.flush()
    data = store.client.get_run(run.id).data
    assert data.params == {
        "lr": "0.0001",
        "nested": '{"a": [1, 2]}',
        "flag": "true",
        "long": "x" * (PARAM_LENGTH - 1) + "…",
    }
    assert data.metrics == {"val/auroc": 0.8}
    assert [(m.step, m.value) for m in store.client.get_metric_history(run.id, "val/auroc")] == [(3, 0.7), (4, 0.8)]
    assert data.tags["undefined"] == "bad, worse"
    assert (data.tags["stage"], data.tags["colour"], data.tags["mlflow.note.content"]) == (
        "second",
        "blue",
        "**About** it",
    )
    assert artifact(run, "notes/a.txt") == "über".encode()
    assert artifact(run, "b.json") == b'{"x": null}'
    assert artifact(run, "c.bin") == b"lazy"
    run.close()
    store.flush()
    assert store.client.get_run(run.id).info.status == "FINISHED"


def test_a_file_is_copied(store, experiment, tmp_path, artifact):
    (tmp_path / "table.csv").write_text("a,b")
    with store.start_run(experiment, "file") as run:
        run.file(tmp_path / "table.csv", "tables")
    store.flush()
    assert artifact(run, "tables/table.csv") == b"a,b"


@pytest.mark.parametrize(
    ("error", "status"),
    [(KeyboardInterrupt(), "KILLED"), (SystemExit(2), "KILLED"), (ValueError("too wide"), "FAILED")],
)
def test_a_run_left_by_an_exception_ends_with_its_reason(store, experiment, error, status):
    with pytest.raises(type(error)), store.start_run(experiment, "left") as run:
        run.metrics({"loss": 1.0})
        raise error
    store.flush()
    found = store.client.get_run(run.id)
    assert found.info.status == status
    assert found.data.metrics == {"loss": 1.0}
    assert found.data.tags["failure"] == ("interrupted" if status == "KILLED" else "ValueError: too wide")


def test_the_first_value_of_a_parameter_stands(store, experiment):
    run = store.start_run(experiment, "params")
    run.params({"seed": 1})
    run.flush()
    run.params({"seed": 2, "other": 3})
    run.close()
    store.flush()
    assert store.client.get_run(run.id).data.params == {"seed": "1", "other": "3"}


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EDQUOT])
def test_a_full_disk_is_told_in_one_line_and_ends_the_run(store, experiment, code):
    def full() -> bytes:
        raise OSError(code, "full")

    run = store.start_run(experiment, "full")
    run.bytes("big.bin", full)
    with pytest.raises(
        StoreError, match=f"artifact big.bin of run {run.id}: expected .* found: .*(space|quota)"
    ) as caught:
        run.flush()
    assert "\n" not in str(caught.value)
    assert isinstance(caught.value, UserError)
    run.close()
    store.flush()
    found = store.client.get_run(run.id)
    assert (found.info.status, "big.bin" in found.data.tags["failure"]) == ("FAILED", True)
    assert store.client.list_artifacts(run.id) == []


def test_a_failure_is_raised_at_the_next_call_too(store, experiment):
    run = store.start_run(experiment, "late")
    run.bytes("gone.bin", lambda: (_ for _ in ()).throw(OSError(errno.EIO, "Input/output error")))
    run._writer.put(lambda: None)
    run._writer._pending[-1].result()
    with pytest.raises(StoreError, match="Input/output error"):
        run.metrics({"loss": 1.0})
    run.close("FAILED")
    store.flush()


def test_the_programs_own_errors_are_not_dressed_up(store, experiment):
    run = store.start_run(experiment, "bug")
    run.bytes("x.bin", lambda: {}["missing"])
    with pytest.raises(KeyError, match="missing"):
        run.flush()
    run.close("FAILED")
    store.flush()
