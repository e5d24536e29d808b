import logging
import os
import socket
import sqlite3
import subprocess
import sys
import threading
import time
import urllib.request
from contextlib import closing

import pytest

from fusion_lab.tracking import store as store_module
from fusion_lab.tracking.errors import StoreError
from fusion_lab.tracking.owner import OWNER, owner
from fusion_lab.tracking.store import Store, check_room


def test_the_default_store_is_mlflows_own(store, store_folder):
    with closing(sqlite3.connect(store_folder / "mlflow.db")) as database:
        assert ("tests",) in database.execute("SELECT name FROM experiments").fetchall()
    assert (store_folder / "mlruns").is_dir()
    assert store.web is None
    assert logging.getLogger("alembic").level == logging.WARNING


def test_an_experiment_is_made_once(store):
    assert store.experiment_id("once") == store.experiment_id("once")


def test_a_deleted_experiment_is_refused_with_the_way_out(store):
    made = store.experiment_id("deleted")
    store.client.delete_experiment(made)
    with pytest.raises(StoreError, match=f"'deleted': expected an active .* --experiment-id {made}"):
        store.experiment_id("deleted")


def test_a_run_carries_owner_source_and_parent(store, experiment):
    parent = store.start_run(experiment, "parent")
    child = store.start_run(experiment, "child", parent=parent.id)
    tags = store.client.get_run(child.id).data.tags
    assert tags["mlflow.parentRunId"] == parent.id
    assert tags[OWNER] == owner()
    assert {"mlflow.user", "mlflow.source.name", "fusion_lab.version"} <= tags.keys()
    child.close()
    parent.close()
    store.flush()


def test_an_adopted_run_keeps_the_parameters_it_has(store, experiment):
    launched = store.client.create_run(experiment)
    store.client.log_param(launched.info.run_id, "trials", "4")
    with store.adopt_run(launched.info.run_id) as run:
        run.params({"trials": 5, "seed": 0})
    store.flush()
    found = store.client.get_run(launched.info.run_id)
    assert found.data.params == {"trials": "4", "seed": "0"}
    assert (found.data.tags[OWNER], found.info.status) == (owner(), "FINISHED")


def test_a_run_that_is_not_there_is_refused(store):
    with pytest.raises(StoreError, match="run 0123: expected to find it in .*, found: .*0123"):
        store.adopt_run("0123")


def test_too_little_room_is_refused_before_anything_starts(store, monkeypatch):
    monkeypatch.setattr(store_module, "FREE_BYTES", 2**62)
    with pytest.raises(StoreError, match="expected [0-9]+ MiB of free space for artifacts, found [0-9]+ MiB"):
        store.experiment_id("tests")


def test_a_place_for_artifacts_that_is_a_file_is_refused(tmp_path):
    (tmp_path / "mlruns").write_text("")
    with pytest.raises(StoreError, match="mlruns.*expected a folder for artifacts"):
        check_room(str(tmp_path / "mlruns" / "1"))


def test_a_server_that_refuses_is_told_at_once():
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        uri = f"http://127.0.0.1:{unused.getsockname()[1]}"
        began = time.monotonic()
        with pytest.raises(
            StoreError, match=f"{uri}: expected an MLflow tracking store that answers, found: "
        ) as caught:
            Store.open(uri)
    assert time.monotonic() - began < 10
    assert "\n" not in str(caught.value)


def test_a_server_that_says_nothing_is_given_up(monkeypatch):
    monkeypatch.setitem(store_module._PROBE, "MLFLOW_HTTP_REQUEST_TIMEOUT", "1")
    before = dict(os.environ)
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        with pytest.raises(StoreError, match="found: .*timed out"):
            Store.open(f"http://127.0.0.1:{silent.getsockname()[1]}")
    changed = {k for k in os.environ if os.environ[k] != before.get(k)} | (before.keys() - os.environ.keys())
    assert changed <= {"MLFLOW_HTTP_REQUEST_MAX_RETRIES"}
    assert os.environ["MLFLOW_HTTP_REQUEST_MAX_RETRIES"] != "0"


def test_a_server_that_is_no_mlflow_is_refused():
    from http.server import BaseHTTPRequestHandler, HTTPServer

    class Shop(BaseHTTPRequestHandler):
        def do_POST(self):  # noqa: N802 - the name that the standard library calls
            self.send_response(404)
            self.end_headers()

        do_GET = do_POST  # noqa: N815

        def log_message(self, format, *args):
            pass

    with HTTPServer(("127.0.0.1", 0), Shop) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        with pytest.raises(StoreError, match="expected an MLflow tracking store that answers, found: .*404"):
            Store.open(f"http://127.0.0.1:{server.server_port}")
        server.shutdown()


def test_a_scheme_that_is_no_store_is_refused():
    with pytest.raises(StoreError, match="gopher://here: expected an MLflow tracking store"):
        Store.open("gopher://here")


def test_a_database_that_is_none_is_refused(tmp_path):
    (tmp_path / "text.db").write_text("this is no database, but long enough to be taken for one" * 50)
    with pytest.raises(
        StoreError, match="text.db: expected an MLflow tracking store that answers, found: .*not a database"
    ):
        Store.open(f"sqlite:///{tmp_path / 'text.db'}")


@pytest.mark.slow
def test_a_whole_run_over_a_real_server(tmp_path):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(port), "--workers", "1"]
    environment = {**os.environ, "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}
    with open(tmp_path / "log", "w") as log:
        server = subprocess.Popen(
            command, cwd=tmp_path, env=environment, stdout=log, stderr=log, start_new_session=True
        )
    try:
        wait_for(f"http://127.0.0.1:{port}/health")
        with Store.open(f"http://127.0.0.1:{port}") as opened:
            with opened.start_run(opened.experiment_id("remote"), "over the wire") as run:
                run.params({f"p{i}": i for i in range(150)})
                for step in range(1200):
                    run.metrics({"loss": 1 / (step + 1)}, step=step)
                run.text("a/b.txt", "hello")
            opened.flush()
            found = opened.client.get_run(run.id)
            assert (found.info.status, len(found.data.params)) == ("FINISHED", 150)
            assert len(opened.client.get_metric_history(run.id, "loss")) == 1200
            assert [a.path for a in opened.client.list_artifacts(run.id, "a")] == ["a/b.txt"]
            assert opened.web == f"http://127.0.0.1:{port}"
    finally:
        os.killpg(server.pid, 15)
        server.wait(timeout=30)


def wait_for(address: str) -> None:
    for _ in range(240):
        try:
            urllib.request.urlopen(address, timeout=1)
            return
        except OSError:
            time.sleep(0.5)
    pytest.fail(f"{address} did not answer")
