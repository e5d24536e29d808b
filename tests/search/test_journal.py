"""Laws of the journal: a kill at any byte loses at most the line it was writing."""

from __future__ import annotations

import signal
import subprocess
import sys
import time

import pytest
from optuna.pruners import NopPruner
from optuna.trial import TrialState

from fusion_lab.contracts import DataError
from fusion_lab.search.journal import FileLock, open_study


def finished(path, trials: int) -> None:
    study = open_study(path, "s", NopPruner())
    for value in range(trials):
        trial = study.ask()
        trial.suggest_float("x", 0, 1)
        study.tell(trial, value)


def test_a_line_cut_anywhere_is_dropped_and_the_study_goes_on(tmp_path):
    path = tmp_path / "journal.log"
    finished(path, 2)
    whole = path.read_bytes()
    last = whole[:-1].rfind(b"\n") + 1
    for cut in (last + 1, (last + len(whole)) // 2, len(whole) - 1):
        path.write_bytes(whole[:cut])
        study = open_study(path, "s", NopPruner())
        assert [t.state for t in study.trials] == [TrialState.COMPLETE, TrialState.RUNNING]
        study.tell(1, 5.0)
        assert open_study(path, "s", NopPruner()).trials[1].value == 5.0
    assert path.read_bytes().startswith(whole[:last])


def test_a_whole_journal_is_left_as_it_is(tmp_path):
    path = tmp_path / "journal.log"
    finished(path, 1)
    before = path.read_bytes()
    open_study(path, "s", NopPruner())
    assert path.read_bytes().startswith(before)


def test_a_file_that_is_no_journal_is_refused(tmp_path):
    path = tmp_path / "journal.log"
    path.write_text("not a line of it\nnor this\n")
    with pytest.raises(DataError, match="journal.log: expected a study's journal") as error:
        open_study(path, "s", NopPruner())
    assert "\n" not in str(error.value)


def test_a_lock_goes_with_a_killed_process(tmp_path):
    path = tmp_path / "journal.lock"
    hold = "import fcntl, sys, time; f = open(sys.argv[1], 'a'); fcntl.flock(f, fcntl.LOCK_EX); "
    hold += "print('held', flush=True); time.sleep(60)"
    other = subprocess.Popen([sys.executable, "-c", hold, path], stdout=subprocess.PIPE, text=True)
    assert other.stdout is not None
    assert other.stdout.readline() == "held\n"
    other.send_signal(signal.SIGKILL)
    other.communicate()
    lock, start = FileLock(path), time.monotonic()
    assert lock.acquire()
    lock.release()
    assert time.monotonic() - start < 5
