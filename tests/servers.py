"""Servers that a test starts and ends: MLflow's tracking server with artifact proxy, and a served model."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Generator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

SECONDS = 120
"""Bound of a start; the slower of the two takes ten on an idle machine."""


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@contextmanager
def tracking_server(folder: Path) -> Generator[str]:
    """MLflow's server on a SQLite store in ``folder``, artifacts through the server; its address."""
    port = free_port()
    command = [
        *(sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(port), "--workers", "1"),
        *("--backend-store-uri", f"sqlite:///{folder}/server.db"),
        *("--artifacts-destination", str(folder / "artifacts"), "--serve-artifacts"),
    ]
    environment = {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}
    with _running(command, folder, environment, f"http://127.0.0.1:{port}/health"):
        yield f"http://127.0.0.1:{port}"


@contextmanager
def served_model(folder: Path, model: str, tracking: str) -> Generator[str]:
    """``mlflow models serve`` of a registered model, with everything that unpickles refused; its address."""
    port = free_port()
    command = [
        *(sys.executable, "-m", "mlflow", "models", "serve", "-m", f"models:/{model}", "--env-manager", "local"),
        *("-h", "127.0.0.1", "-p", str(port), "-w", "1"),
    ]
    environment = {"MLFLOW_TRACKING_URI": tracking, "MLFLOW_ALLOW_PICKLE_DESERIALIZATION": "false"}
    with _running(command, folder, environment, f"http://127.0.0.1:{port}/ping"):
        yield f"http://127.0.0.1:{port}/invocations"


def ask(address: str, payload: Any) -> tuple[int, Any]:
    """Posts JSON; status and the answer's JSON."""
    request = urllib.request.Request(address, json.dumps(payload).encode(), {"Content-Type": "application/json"})
    try:
        with urllib.request.urlopen(request, timeout=SECONDS) as answer:
            return answer.status, json.loads(answer.read())
    except urllib.error.HTTPError as error:
        return error.code, json.loads(error.read())


@contextmanager
def _running(command: list[str], folder: Path, environment: dict[str, str], health: str) -> Generator[None]:
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("MLFLOW_RUN")}
    # the bin folder of this Python first: MLflow starts `uvicorn` and `python` by name
    path = f"{Path(sys.executable).parent}{os.pathsep}{inherited.get('PATH', '')}"
    env = {**inherited, "PATH": path, "MLFLOW_DISABLE_TELEMETRY": "true", "OMP_NUM_THREADS": "1", **environment}
    log = folder / f"{Path(command[2]).name}-{time.monotonic_ns()}.log"
    with open(log, "wb") as output:
        process = subprocess.Popen(
            command, cwd=folder, env=env, stdout=output, stderr=subprocess.STDOUT, start_new_session=True
        )
    try:
        _wait(process, health, log)
        yield
    finally:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGTERM)
        try:
            process.wait(20)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait(20)


def _wait(process: subprocess.Popen[bytes], health: str, log: Path) -> None:
    end = time.monotonic() + SECONDS
    while time.monotonic() < end:
        assert process.poll() is None, f"the server ended: {log.read_text()[-2000:]}"
        with suppress(OSError), urllib.request.urlopen(health, timeout=5) as answer:
            if answer.status == 200:
                return
        time.sleep(0.2)
    raise AssertionError(f"no answer from {health} in {SECONDS} s: {log.read_text()[-2000:]}")
