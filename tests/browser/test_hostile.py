"""A server that is asked for what it must not give, with and without passwords; and script in every name that it shows."""

import contextlib
import http.client
import json
import re
import shutil
import socket
from urllib.parse import quote, urlencode, urlsplit

import pytest
import yaml
from app_page import Visit
from app_process import running
from PIL import Image
from playwright.sync_api import expect

from sfkd.loading import DEMO

SCRIPT = "<img src=x onerror=window.pwned=1>"
JSON = {"Content-Type": "application/json"}
FORM = {"Content-Type": "application/x-www-form-urlencoded"}


def ask(address, method, path, body=None, headers=()):
    """Status, headers and content of an answer; the path goes as it is."""
    connection = http.client.HTTPConnection(urlsplit(address).netloc, timeout=60)
    with contextlib.closing(connection):
        connection.putrequest(method, path, skip_host="Host" in dict(headers), skip_accept_encoding=True)
        for name, value in {**({"Content-Length": str(len(body))} if body else {}), **dict(headers)}.items():
            connection.putheader(name, value)
        connection.endheaders(body)
        answer = connection.getresponse()
        return answer.status, answer.headers, answer.read()


def form(size, name="picture.png"):
    """A form with one file of so many bytes."""
    head = f'--x\r\nContent-Disposition: form-data; name="files"; filename="{name}"\r\n\r\n'
    return head.encode() + bytes(size) + b"\r\n--x--\r\n", {"Content-Type": "multipart/form-data; boundary=x"}


@pytest.fixture(scope="module")
def guarded(tmp_path_factory):
    """A server that asks for a password; its run has script in every name that it holds, and so has its recipe."""
    folder = tmp_path_factory.mktemp("hostile")
    run = folder / "runs" / "mine"
    shutil.copytree(DEMO, run)
    shutil.copytree(DEMO, folder / "elsewhere")
    (folder / "runs" / "linked").symlink_to(folder / "elsewhere")
    recipe = yaml.safe_load((run / "config.yaml").read_text())
    recipe["data"]["name"] = recipe["student"]["name"] = recipe["teacher"]["name"] = SCRIPT
    recipe["teacher"].pop("schedule", None)
    (run / "config.yaml").write_text(yaml.safe_dump(recipe))
    metrics = (run / "metrics.csv").read_text()
    (run / "metrics.csv").write_text(metrics.replace(",kd,", f",{SCRIPT},"))
    analysis = run / "analysis" / "analysis.json"
    text = re.sub(r'"(stages|layers)\.(\d)"', lambda m: json.dumps(f"{m[1]}.{m[2]}{SCRIPT}"), analysis.read_text())
    text = text.replace('"convnext_atto"', json.dumps(SCRIPT)).replace('"student alone"', json.dumps(SCRIPT))
    analysis.write_text(text)
    (folder / "recipes").mkdir()
    shutil.copyfile(run / "config.yaml", folder / "recipes" / f"{SCRIPT}.yaml")
    (folder / "users").write_text("ada:secret\n")
    with running(folder, "--recipes", str(folder / "recipes"), "--auth", str(folder / "users")) as address:
        yield address


def cookie(address):
    """The header of one who has entered."""
    body = urlencode({"username": "ada", "password": "secret"}).encode()
    status, headers, _ = ask(address, "POST", "/login", body, FORM)
    assert status == 200
    return {"Cookie": "; ".join(value.partition(";")[0] for value in headers.get_all("set-cookie"))}


# -- files of the machine ---------------------------------------------------------------------------------------------

PREFIXES = ("/gradio_api/file=", "/gradio_api/file/", "/file=", "/assets/", "/static/", "/svelte/", "/sfkd/", "/")
TARGETS = (
    "/etc/passwd",
    "app/launch.py",
    "../../../../../../etc/passwd",
    "..%2f..%2f..%2f..%2f..%2f..%2fetc%2fpasswd",
    "%2e%2e/%2e%2e/%2e%2e/%2e%2e/%2e%2e/%2e%2e/etc/passwd",
    "%252e%252e%252f%252e%252e%252fetc%252fpasswd",
    "..\\..\\..\\..\\etc\\passwd",
    "..%5c..%5c..%5cetc%5cpasswd",
    "....//....//....//etc/passwd",
    "%00/etc/passwd",
    "index.js%00.png",
    "%0a/etc/passwd",
    "%c0%ae%c0%ae/%c0%ae%c0%ae/etc/passwd",
    "%ff%fe",
    "~root/.profile",
    "/proc/self/environ",
    "http://127.0.0.1:1/",
    "file:///etc/passwd",
    "a" * 5000,
)


@pytest.mark.parametrize("prefix", PREFIXES)
def test_no_route_leads_to_a_file(address, prefix):
    for target in TARGETS:
        status, _, content = ask(address, "GET", prefix + target)
        assert status in (400, 403, 404, 414), (target, status)
        assert b"root:" not in content
        assert len(content) < 500


def test_a_link_in_the_runs_folder_leads_nowhere(guarded):
    entered = cookie(guarded)
    assert called(guarded, "runs", [], entered) == [["mine"]]
    for path in ("/gradio_api/file=runs/linked/config.yaml", "/runs/linked/config.yaml", "/static/runs/linked"):
        assert ask(guarded, "GET", path, headers=entered)[0] == 404
    assert called(guarded, "describe", ["linked"], entered) is None


def called(address, name, arguments, headers):
    """What an endpoint gives, None for an error."""
    body = json.dumps({"data": arguments}).encode()
    _, _, content = ask(address, "POST", f"/gradio_api/call/{name}", body, JSON | headers)
    event = json.loads(content)["event_id"]
    _, _, told = ask(address, "GET", f"/gradio_api/call/{name}/{event}", headers=headers)
    found = re.findall(rb"event: complete\ndata: (.*)", told)
    return json.loads(found[0]) if found else None


# -- who asks ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"Host": "evil.example"}, 421),
        ({"Host": "127.0.0.1.evil.example"}, 421),
        ({"Host": "evil.example@127.0.0.1"}, 421),
        ({"Host": ""}, 421),
        ({"X-Forwarded-Host": "evil.example"}, 421),
        ({"X-Forwarded-Host": "127.0.0.1, evil.example"}, 421),
        ({"Origin": "https://evil.example"}, 403),
        ({"Origin": "null"}, 403),
        ({"Origin": "http://127.0.0.1.evil.example"}, 403),
        ({"Origin": ""}, 403),
    ],
)
def test_other_names_and_sites_are_refused(address, headers, status):
    for method, path in (("GET", "/"), ("GET", "/config"), ("POST", "/gradio_api/queue/join")):
        assert ask(address, method, path, headers=headers)[0] == status


def test_other_sites_are_refused_where_a_password_is_asked_too(guarded):
    assert ask(guarded, "GET", "/config", headers=cookie(guarded) | {"Origin": "https://evil.example"})[0] == 403


REQUESTS = [
    ("GET", "/config", None),
    ("GET", "/gradio_api/info", None),
    ("GET", "/gradio_api/app_id", None),
    ("GET", "/gradio_api/user", None),
    ("GET", "/gradio_api/token", None),
    ("GET", "/gradio_api/login_check", None),
    ("GET", "/gradio_api/heartbeat/x", None),
    ("GET", "/gradio_api/queue/status", None),
    ("GET", "/gradio_api/queue/data?session_hash=x", None),
    ("GET", "/gradio_api/upload_progress?upload_id=x", None),
    ("GET", "/gradio_api/call/runs/x", None),
    ("GET", "/logout", None),
    ("POST", "/gradio_api/queue/join", {"data": [], "fn_index": 0, "session_hash": "x"}),
    ("POST", "/gradio_api/call/runs", {"data": []}),
    ("POST", "/gradio_api/run/runs", {"data": []}),
    ("POST", "/gradio_api/component_server", {"component_id": 1, "fn_name": "table", "data": 1, "session_hash": "x"}),
    ("POST", "/gradio_api/cancel", {"event_id": "x", "session_hash": "x", "fn_index": 0}),
    ("POST", "/gradio_api/reset", {"event_id": "x"}),
    ("POST", "/gradio_api/upload", b""),
]


@pytest.mark.parametrize("forges", [False, True])
def test_without_a_login_there_is_the_form_alone(guarded, forges):
    names = ("access-token-", "access-token-unsecure-")
    forged = {"Cookie": "; ".join(f"{name}{token}=null" for name in names for token in ("", "x", "None"))}
    for method, path, body in REQUESTS:
        content, headers = form(10) if body == b"" else (None if body is None else json.dumps(body).encode(), JSON)
        status, _, said = ask(guarded, method, path, content, headers | (forged if forges else {}))
        assert status == 401, (path, status, said)
    status, _, content = ask(guarded, "GET", "/")
    assert status == 200
    assert b'"auth_required":true' in content
    assert b'"components":[]' in content
    assert b"bundled pair" not in content


@pytest.mark.parametrize(
    ("name", "word"),
    [
        ("ada", "wrong"),
        ("ada", "secre"),
        ("ada", "secret\0"),
        ("nobody", "secret"),
        ("ada' OR '1'='1", "x"),
        ("ada:secret", "x"),
        ("ada" * 10_000, "secret" * 10_000),
    ],
)
def test_a_wrong_password_opens_nothing(guarded, name, word):
    body = urlencode({"username": name, "password": word}).encode()
    status, headers, _ = ask(guarded, "POST", "/login", body, FORM)
    assert status == 400
    assert "set-cookie" not in headers


def test_a_login_opens_what_was_closed(guarded):
    entered = cookie(guarded)
    for path in ("/config", "/gradio_api/info", "/gradio_api/login_check"):
        assert ask(guarded, "GET", path, headers=entered)[0] == 200
    assert ask(guarded, "GET", "/logout", headers=entered)[0] == 302
    assert ask(guarded, "GET", "/config", headers=entered)[0] == 401


# -- too much ---------------------------------------------------------------------------------------------------------


def test_an_upload_over_its_size_is_refused(address):
    assert ask(address, "POST", "/gradio_api/upload", *form(21 * 10**6))[0] == 413


@pytest.mark.parametrize(
    "name", ["../../evil.png", "/etc/evil.png", "..\\evil.png", SCRIPT, "a" * 3000, "\0.png", "%2e%2e%2fevil.png", ""]
)
def test_an_upload_lands_in_its_own_folder(address, name, tmp_path):
    status, _, content = ask(address, "POST", "/gradio_api/upload", *form(10, name.replace('"', "")))
    if status == 200:
        for path in json.loads(content):
            assert re.fullmatch(r"/.*/[0-9a-f]{64}/[^/\\]*", path), path
            assert "/../" not in path
            assert ask(address, "GET", f"/gradio_api/file={quote(path)}")[0] == 404
    else:
        assert 400 <= status < 500, content


@pytest.mark.parametrize(
    "headers",
    [{"X-Much": "a" * 200_000}, {f"X-{i}": "a" * 1000 for i in range(300)}, {"Cookie": "a=b; " * 30_000}],
    ids=["long", "many", "cookies"],
)
def test_headers_without_end_are_refused(address, headers):
    with contextlib.suppress(ConnectionError, http.client.HTTPException):  # the server may hang up first
        assert ask(address, "GET", "/", headers=headers)[0] in (400, 431)
    assert ask(address, "GET", "/sfkd/plotly.min.js")[0] == 200


def test_ten_thousand_parameters_are_ten_thousand_parameters(address):
    query = urlencode({f"p{i}": i for i in range(5000)})
    status, _, content = ask(address, "GET", f"/?{query}")
    assert status == 200
    assert len(content) < 2**20
    assert ask(address, "GET", f"/?{'p=1&' * 10_000}")[0] in (200, 400, 414)


@pytest.mark.parametrize("path", ["/", "/gradio_api/queue/join", "/gradio_api/ws", "/sfkd/x"])
def test_there_are_no_websockets(address, path):
    headers = {"Connection": "Upgrade", "Upgrade": "websocket", "Sec-WebSocket-Version": "13"}
    status, _, _ = ask(address, "GET", path, headers=headers | {"Sec-WebSocket-Key": "dGhlIHNhbXBsZSBub25jZQ=="})
    assert status != 101


@pytest.mark.parametrize(
    "content",
    [
        b"\x16\x03\x01\x02\0",
        b"GET / HTTP/9.9\r\n\r\n",
        b"GET\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: \xff\r\n\r\n",
        b"POST /config HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: -1\r\n\r\n",
        b"POST /config HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n",
    ],
)
def test_what_is_no_request_ends_nothing(address, content):
    parts = urlsplit(address)
    with socket.create_connection((parts.hostname, parts.port), timeout=60) as connection:
        connection.sendall(content)
        assert not connection.recv(100).startswith(b"HTTP/1.1 200")
    assert ask(address, "GET", "/sfkd/plotly.min.js")[0] == 200


@pytest.mark.parametrize(
    "body",
    [
        b"[" * 100_000,
        b"{}",
        b"\xff",
        b'{"component_id": "../x", "fn_name": "table", "data": 1, "session_hash": "x"}',
        b'{"component_id": 1, "fn_name": "__class__", "data": 1, "session_hash": "x"}',
        b'{"component_id": 1, "fn_name": "launch", "data": 1, "session_hash": "x"}',
    ],
)
def test_functions_of_components_are_those_of_the_page(address, body):
    assert 400 <= ask(address, "POST", "/gradio_api/component_server", body, JSON)[0] < 500


# -- script in names --------------------------------------------------------------------------------------------------


def test_script_in_names_is_text(browser, guarded, tmp_path):
    page = Visit(browser, guarded, "run=mine")
    page.page.get_by_label("username").fill("ada")
    page.page.get_by_label("password").fill("secret")
    page.page.get_by_role("button", name="Login").click()
    expect(page.page.locator(".cards")).to_contain_text(SCRIPT)
    expect(page.page.locator(".data")).to_contain_text(SCRIPT)
    page.drawn("Transfer: alignment")
    page.open("CKA")
    page.drawn("CKA")
    page.open("Training")
    page.drawn("Training · mine")
    expect(page.page.get_by_label("Recipe", exact=True)).to_have_value(SCRIPT)
    page.page.get_by_label("Name of the run").fill(SCRIPT)
    page.page.get_by_role("button", name="Start training").click()
    expect(page.page.get_by_role("alert").locator("visible=true").first).to_contain_text("letters, digits")
    Image.new("RGB", (32, 32)).save(tmp_path / f"{SCRIPT}.png")
    page.open("Sub-bands")
    page.page.locator("input[type=file]").first.set_input_files(tmp_path / f"{SCRIPT}.png")
    page.verdict("your picture")
    assert page.page.evaluate("window.pwned") is None
    page.go(urlencode({"view": "spectra", "image": SCRIPT, "job": SCRIPT, SCRIPT: 1, "run": "mine"}))
    expect(page.page.locator(".remark")).to_contain_text(SCRIPT)
    page.drawn("Energy spectrum")
    assert page.page.evaluate("window.pwned") is None
    page.close()
