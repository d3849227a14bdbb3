"""The app as a process of its own, for the tests that talk to it."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from helpers import ROOT

_PATIENCE = 180  # seconds; a loaded machine is slow, not wrong


def free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])


@contextmanager
def running(folder: Path, *arguments: str, port: int | None = None) -> Iterator[str]:
    """The address of an app whose runs lie in `folder / "runs"`; what it said must hold no traceback."""
    port = port or free_port()
    log = folder / f"app-{port}.log"
    command = [
        sys.executable,
        "app/launch.py",
        "--no-browser",
        "--port",
        str(port),
        "--runs-root",
        str(folder / "runs"),
    ]
    with log.open("a") as output:
        process = subprocess.Popen(
            [*command, *arguments], cwd=ROOT, stdout=output, stderr=output, env={**os.environ, "OMP_NUM_THREADS": "1"}
        )
    try:
        yield _when_open(f"http://127.0.0.1:{port}/", process, log)
    finally:
        process.terminate()
        process.wait(60)
    assert "Traceback" not in log.read_text(), log.read_text()


def _when_open(url: str, process: subprocess.Popen[bytes], log: Path) -> str:
    end = time.monotonic() + _PATIENCE
    while time.monotonic() < end:
        assert process.poll() is None, log.read_text()
        try:
            urllib.request.urlopen(url, timeout=5).close()
            return url
        except OSError:
            time.sleep(0.1)
    raise AssertionError(log.read_text())
