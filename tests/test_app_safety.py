"""What may be opened, who may enter, what the server answers; and the command line."""

import re
import subprocess
import sys

import pytest
from guard import LOOPBACK, Guard
from helpers import ROOT
from launch import parse, users
from messages import UserError, readable
from runs_root import RunsRoot
from starlette.applications import Starlette
from starlette.responses import PlainTextResponse
from starlette.routing import Route
from starlette.testclient import TestClient


def test_runs_come_from_the_runs_folder_only(finished_run, tmp_path):
    (tmp_path / "linked").symlink_to(finished_run.path)
    assert RunsRoot(tmp_path).finished() == {}
    for name in ("linked", "..", "../linked", "a/b", "", "-x", "a" * 65, str(finished_run.path)):
        with pytest.raises(UserError):
            RunsRoot(tmp_path).folder(name)
    runs = RunsRoot(finished_run.path.parent)
    assert runs.finished() == {finished_run.path.name: finished_run.path}
    assert runs.folder("new") == finished_run.path.parent / "new"


def test_a_link_inside_a_run_that_leads_out_is_refused(finished_run, tmp_path):
    run = finished_run.export(tmp_path / "root" / "mine")
    runs = RunsRoot(tmp_path / "root")
    assert list(runs.finished()) == ["mine"]
    (tmp_path / "elsewhere.csv").write_text("epoch\n")
    (run.path / "teacher" / "metrics.csv").unlink()
    (run.path / "teacher" / "metrics.csv").symlink_to(tmp_path / "elsewhere.csv")
    assert runs.finished() == {}
    with pytest.raises(UserError, match="leads out"):
        runs.folder("mine")


def test_runs_without_a_teacher_or_an_end_are_not_offered(finished_run, tmp_path):
    finished_run.export(tmp_path / "whole")
    finished_run.nested("baseline").export(tmp_path / "alone")
    (finished_run.export(tmp_path / "begun").student / "model.safetensors").unlink()
    (finished_run.export(tmp_path / "broken").path / "config.yaml").write_text("teacher: [")
    assert list(RunsRoot(tmp_path).finished()) == ["whole"]


def test_the_run_of_the_command_line_is_offered_wherever_it_lies(finished_run, tmp_path):
    runs = RunsRoot(tmp_path / "none", finished_run.path)
    assert runs.finished() == {runs.first_name: finished_run.path}


@pytest.fixture(scope="module")
def client():
    def client_of(hosts):
        app = Starlette(routes=[Route("/{path:path}", lambda _: PlainTextResponse("inside"), methods=["GET", "POST"])])
        return TestClient(Guard(app, hosts), base_url="http://127.0.0.1:7860")

    return client_of


@pytest.mark.parametrize("host", ["127.0.0.1:7860", "localhost:7860", "[::1]:7860", "LOCALHOST"])
def test_the_page_s_own_names_are_answered(client, host):
    assert client(LOOPBACK).get("/", headers={"host": host}).text == "inside"


@pytest.mark.parametrize("host", ["evil.example", "127.0.0.1.evil.example", "localhost.evil:7860", ""])
def test_foreign_names_are_not(client, host):
    assert client(LOOPBACK).get("/", headers={"host": host}).status_code == 421
    assert client(None).get("/", headers={"host": host}).text == "inside"


@pytest.mark.parametrize("origin", ["https://evil.example", "http://127.0.0.1:1", "null"])
def test_requests_of_other_sites_are_refused(client, origin):
    answer = client(LOOPBACK).post("/gradio_api/queue/join", headers={"origin": origin})
    assert answer.status_code == 403
    assert client(LOOPBACK).post("/gradio_api/queue/join", headers={"origin": "http://127.0.0.1:7860"}).text == "inside"


@pytest.mark.parametrize(
    "path",
    [
        "/gradio_api/file=/etc/passwd",
        "/gradio_api/file=app/launch.py",
        "/gradio_api/file/app/launch.py",
        "/gradio_api/proxy=http://example.org",
        "/gradio_api/vibe-edit",
        "/gradio_api/stream/a/b/c/playlist.m3u8",
        "/gradio_api/run-history/records",
        "/monitoring",
        "/docs",
        "/gradio_api/openapi.json",
    ],
)
def test_what_the_page_does_not_need_is_not_served(client, path):
    assert client(LOOPBACK).get(path).status_code == 404


def test_answers_forbid_the_browser_to_ask_elsewhere(client):
    policy = client(LOOPBACK).get("/").headers["content-security-policy"]
    assert policy.startswith("default-src 'self'")
    assert "http" not in policy


def test_a_public_address_demands_a_password(tmp_path):
    for arguments in (["--share"], ["--host", "0.0.0.0"], ["--host", "192.168.0.2"]):
        with pytest.raises(ValueError, match="with --auth FILE"):
            users(parse(arguments))
    assert users(parse([])) is None
    (tmp_path / "users").write_text("ada:secret\nbob:a:b\n")
    assert users(parse(["--share", "--auth", str(tmp_path / "users")])) == [("ada", "secret"), ("bob", "a:b")]
    for content in ("", "ada", "ada:\n", ":secret"):
        (tmp_path / "users").write_text(content)
        with pytest.raises(ValueError, match="lines of user:password"):
            users(parse(["--auth", str(tmp_path / "users")]))
    with pytest.raises(ValueError, match="cannot be read"):
        users(parse(["--auth", str(tmp_path / "nowhere")]))


def test_messages_do_not_say_where_files_lie(tmp_path):
    with pytest.raises(UserError) as caught:
        readable((tmp_path / "secret.txt").read_text)()
    assert str(caught.value) == "secret.txt: No such file or directory"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--run", "nowhere"], "no run folder at .*nowhere: pass a folder"),
        (["--run", "docs"], "docs is no run folder: config.yaml is missing"),
        (["--device", "warp"], "device 'warp' is not available here"),
        (["--share"], "name a file of user:password lines with --auth FILE"),
    ],
)
def test_bad_arguments_are_one_line(arguments, message):
    command = [sys.executable, "app/launch.py", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, check=False)
    assert done.returncode == 2
    assert re.search(message, done.stderr)
    assert done.stderr.count("\n") == 1


def test_the_first_page_needs_no_torch():
    code = (
        "import sys; sys.path.insert(0, 'app'); from pathlib import Path\n"
        "from microscope import Microscope; from runs_root import RunsRoot\n"
        "microscope = Microscope(RunsRoot(Path('runs')), Path('configs')); import wiring; wiring.build(microscope)\n"
        "print(sorted({'torch', 'timm', 'captum', 'sfkd.loading'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, check=True)
    assert done.stdout.strip() == "[]"
