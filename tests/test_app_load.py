"""The app with many visitors, slow ones, and runs that go away under it."""

import contextlib
import shutil
import socket
import subprocess
import sys
import threading

import httpx
import psutil
import pytest
from app_process import running
from app_visitors import draw, visit
from engine import Engine
from helpers import ROOT
from messages import UserError
from runs_root import RunsRoot
from settings import Settings
from work import Work

_MB = 2**20


def memory(address: str) -> float:
    """MB that the process behind an address holds."""
    port = address.rstrip("/").rpartition(":")[2]
    (server,) = (p for p in psutil.Process().children() if port in p.cmdline())
    return server.memory_info().rss / _MB


@pytest.mark.parametrize(
    ("visitors", "seconds", "growth"),
    [(3, 8, 1.3), pytest.param(32, 300, 1.1, marks=[pytest.mark.long, pytest.mark.timeout(2400)])],
)
def test_visitors_get_what_they_ask_for_and_memory_comes_back(tmp_path, visitors, seconds, growth):
    """The same walks again add at most a tenth to the memory: the first fill the caches, which have a limit.

    A walk of seconds fills little of them, and the next some more.
    """
    with running(tmp_path) as address:
        assert visit(address, visitors=visitors, seconds=seconds)["errors"] == 0
        before = memory(address)
        found = visit(address, visitors=visitors, seconds=seconds)
        after = memory(address)
    print(f"{visitors} visitors, {seconds} s: {found}; memory {before:.0f} MB, then {after:.0f} MB")
    assert found["errors"] == 0, found["first"]
    assert found["answers"] >= visitors
    assert after <= growth * before


_EIGHT_THREADS = """
import ctypes, threading
from memory import share_memory_of_threads

share_memory_of_threads()
libc = ctypes.CDLL("libc.so.6")
libc.malloc.restype = ctypes.c_void_p
together = threading.Barrier(8)
threads = [threading.Thread(target=lambda: (libc.malloc(1000), together.wait())) for _ in range(8)]
for thread in threads:
    thread.start()
for thread in threads:
    thread.join()
libc.malloc_info(0, ctypes.c_void_p.in_dll(libc, "stdout"))
libc.fflush(None)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="arenas are glibc's")
def test_threads_share_two_arenas():
    app = ROOT / "app"
    done = subprocess.run([sys.executable, "-c", _EIGHT_THREADS], cwd=app, capture_output=True, text=True, check=True)
    assert done.stdout.count("<heap nr=") == 2, done.stdout


def test_slow_visitors_hold_nobody_up(tmp_path):
    """Forty who never finish their question, and ten who never read the answer."""
    with running(tmp_path) as address, contextlib.ExitStack() as opened:
        host, port = address.removeprefix("http://").rstrip("/").split(":")
        for number in range(50):
            slow = opened.enter_context(socket.create_connection((host, int(port)), timeout=60))
            path = "/" if number < 40 else "/sfkd/plotly.min.js"
            slow.sendall(f"GET {path} HTTP/1.1\r\nHost: {host}:{port}\r\n".encode())
            if number >= 40:
                slow.sendall(b"\r\n")
        assert httpx.get(address, timeout=60).status_code == 200
        assert visit(address, visitors=1, seconds=5)["errors"] == 0


def test_a_page_that_gradio_forgot_goes_on(tmp_path):
    """Its session is made anew, and knows nothing of the pair that the page had opened."""
    pair = "timm|test_resnet.r160_in1k|test_vit.r160_in1k|random"
    layer = Engine(RunsRoot(tmp_path), "cpu").describe(pair).layers[-1]
    with running(tmp_path) as address:
        found = draw(address, "forgotten", Settings(pair=pair, layer=layer, view="Spectra"))
    assert found["figures"]
    assert "layer=blocks.5,layer4" in found["address"]


# -- runs that go away ------------------------------------------------------------------------------------------------


def test_a_run_that_was_deleted_is_missing_in_words_and_others_are_shown(finished_run, tmp_path):
    run = finished_run.export(tmp_path / "mine")
    finished_run.export(tmp_path / "other")
    engine = Engine(RunsRoot(tmp_path), "cpu")
    settings = Settings(pair="run|mine", view="Spectra")
    assert engine.show(settings, Work()).figures[0]
    shutil.rmtree(run.path)
    for view in ("Spectra", "Sub-bands"):
        with pytest.raises(UserError, match="no finished run 'mine'"):
            engine.show(Settings(pair="run|mine", view=view), Work())
    assert engine.show(Settings(pair="run|other", view="Spectra"), Work()).figures[0]


def test_a_run_that_was_written_anew_is_read_anew(finished_run, tmp_path):
    run = finished_run.export(tmp_path / "mine")
    engine = Engine(RunsRoot(tmp_path), "cpu")
    settings = Settings(pair="run|mine", view="Spectra")
    trained = engine.show(settings, Work()).figures[0]
    weights = run.student / "model.safetensors"
    shutil.copyfile(run.path / "baseline" / "student" / "model.safetensors", weights)
    assert engine.show(settings, Work()).figures[0] != trained
    weights.write_bytes(weights.read_bytes()[:100])
    with pytest.raises(UserError, match=r"model\.safetensors"):
        engine.show(settings, Work())
    finished_run.export(run.path)
    assert engine.show(settings, Work()).figures[0] == trained


def test_runs_are_listed_while_one_comes_and_goes(finished_run, tmp_path):
    finished_run.export(tmp_path / "stays")
    runs, end = RunsRoot(tmp_path), threading.Event()

    def come_and_go() -> None:
        while not end.is_set():
            finished_run.export(tmp_path / "goes")
            shutil.rmtree(tmp_path / "goes")

    other = threading.Thread(target=come_and_go)
    other.start()
    try:
        for _ in range(300):
            assert "stays" in runs.finished()
    finally:
        end.set()
        other.join()
