import os
import socket
import subprocess
import sys

import pytest

from fusion_lab.tracking.owner import OWNER, is_gone, owner, process_start
from fusion_lab.tracking.stale import CLOSED, close_stale_runs


@pytest.fixture
def ended_process() -> str:
    """The owner tag of a process that has ended."""
    child = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    tag = owner(child.pid)
    child.communicate(b"\n")
    return tag


def test_a_living_process_is_not_gone():
    assert not is_gone(owner())


def test_an_ended_process_is_gone(ended_process):
    assert is_gone(ended_process)


def test_a_process_that_got_the_same_number_later_is_another():
    host, pid, _ = owner().split(" ")
    assert is_gone(f"{host} {pid} 1")


def test_a_zombie_is_gone():
    child = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    assert child.stdin is not None
    tag = owner(child.pid)
    child.stdin.close()
    os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)  # ended, and not yet collected
    assert is_gone(tag)
    child.wait()
    assert process_start(child.pid) is None


@pytest.mark.parametrize("tag", ["", "elsewhere 1 2", f"{socket.gethostname()} x 2", f"{socket.gethostname()} 1"])
def test_what_cannot_be_judged_is_left_alone(tag):
    assert not is_gone(tag)


def test_only_runs_of_ended_processes_of_this_host_are_closed(store, ended_process):
    experiment = store.experiment_id("stale")

    def running(tags):
        return store.client.create_run(experiment, tags=tags).info.run_id

    stale = running({OWNER: ended_process})
    others = [
        running({OWNER: owner()}),
        running({OWNER: ended_process.replace(socket.gethostname(), "away")}),
        running({}),
    ]
    done = running({OWNER: ended_process})
    store.client.set_terminated(done)
    assert close_stale_runs(store, [experiment]) == [stale]
    found = store.client.get_run(stale)
    assert found.info.status == "KILLED"
    assert ended_process.split(" ")[1] in found.data.tags[CLOSED]
    assert {store.client.get_run(r).info.status for r in others} == {"RUNNING"}
    assert store.client.get_run(done).info.status == "FINISHED"
    assert close_stale_runs(store, [experiment]) == []
    for run in others:
        store.client.set_terminated(run)


def test_without_experiments_nothing_is_asked(store):
    assert close_stale_runs(store, []) == []
