"""The demo site: as an application, through the server, and in a browser."""

import json
import shutil
import subprocess
import urllib.request
from collections.abc import Callable, Iterator
from typing import Any
from wsgiref.util import setup_testing_defaults
from wsgiref.validate import validator

import psutil
import pytest
from server import Server

from kernelq import demo

Start = Callable[..., Server]


def call(method: str = "GET", path: str = "/", **more: str) -> tuple[str, dict[str, str], str]:
    environ: dict[str, Any] = {"REQUEST_METHOD": method, "PATH_INFO": path, "QUERY_STRING": ""}
    environ["SCRIPT_NAME"] = ""
    environ.update(more)
    setup_testing_defaults(environ)
    answer: list[Any] = []

    def start_response(status: str, headers: list[tuple[str, str]], exc: Any = None) -> Any:
        answer[:] = status, dict(headers)
        return lambda data: None

    content = validator(demo.application)(environ, start_response)
    body = b"".join(content).decode()
    content.close()
    return answer[0], answer[1], body


def test_page_is_whole_and_needs_nothing_from_elsewhere() -> None:
    status, headers, body = call()
    assert status == "200 OK"
    assert headers["Content-Type"].startswith("text/html")
    assert int(headers["Content-Length"]) == len(body.encode())
    assert "{{" not in body
    for elsewhere in ('src="http', 'href="http', "@import", "url(http", "//cdn"):
        assert elsewhere not in body


def test_other_paths_and_methods() -> None:
    assert call(path="/other")[0] == "404 Not Found"
    assert call("POST")[0] == "405 Method Not Allowed"
    assert call(path="/crash")[0] == "405 Method Not Allowed"
    assert call("POST", "/crash", HTTP_SEC_FETCH_SITE="cross-site")[0] == "403 Forbidden"


def test_crash_is_answered_and_the_page_stays(start: Start) -> None:
    server = start("--workers", "2").ready()
    connection = server.connect()
    connection.request("POST", "/crash", headers={"Accept": "application/json"})
    response = connection.getresponse()
    assert response.status == 202
    pid = json.loads(response.read())["pid"]
    connection.request("GET", "/state")  # on the same connection
    assert connection.getresponse().read()
    server.expect(f"(pid {pid}) died: signal 9")
    assert json.loads(server.get("/state"))["pid"] != pid
    connection.request("POST", "/crash")
    response = connection.getresponse()
    assert (response.status, response.getheader("Location")) == (303, "/")
    connection.close()
    assert "<h1>" in server.get("/")
    assert server.end() == 0


class Browser:
    """Chromium, driven by the WebDriver protocol (W3C), as far as one page needs it."""

    def __init__(self, driver: str, profile: str) -> None:
        self._driver = subprocess.Popen(
            [driver, "--port=0"], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
        )
        assert self._driver.stdout is not None
        port = next(
            line.rsplit(" ", 1)[1].rstrip(".\n")
            for line in self._driver.stdout
            if "started successfully on port" in line
        )
        self._base = f"http://127.0.0.1:{port}"
        arguments = ["--headless", "--no-sandbox", "--disable-gpu", f"--user-data-dir={profile}"]
        wish = {"alwaysMatch": {"goog:chromeOptions": {"args": arguments}}}
        found = self._ask("POST", "/session", {"capabilities": wish})
        self._base += f"/session/{found['sessionId']}"

    def _ask(self, method: str, path: str, words: Any = None) -> Any:
        data = None if words is None else json.dumps(words).encode()
        request = urllib.request.Request(self._base + path, data, method=method)
        with urllib.request.urlopen(request, timeout=60) as response:
            return json.load(response)["value"]

    def open(self, url: str) -> None:
        self._ask("POST", "/url", {"url": url})

    def run(self, script: str) -> Any:
        return self._ask("POST", "/execute/sync", {"script": script, "args": []})

    def close(self) -> None:
        processes = psutil.Process(self._driver.pid).children(recursive=True)
        self._ask("DELETE", "")
        self._driver.terminate()
        self._driver.wait()
        assert psutil.wait_procs(processes, 60)[1] == []  # some of its helpers end after it
        assert self._driver.stdout is not None
        self._driver.stdout.close()


@pytest.fixture
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    driver = shutil.which("chromedriver")
    if driver is None:
        pytest.skip("needs chromedriver")
    opened = Browser(driver, str(tmp_path_factory.mktemp("profile")))
    yield opened
    opened.close()


@pytest.mark.browser
def test_button_kills_the_worker_and_no_request_fails(browser: Browser, start: Start) -> None:
    server = start("--workers", "2", "--preload").ready()
    browser.open(server.url)
    told = "return document.querySelector('[role=status]').textContent"
    text = "return document.querySelector('[data-{}]').textContent"
    first = browser.run(text.format("pid"))
    browser.run("document.querySelector('button').click()")
    server.until(lambda: "is dead" in browser.run(told))
    assert browser.run(told).endswith("no request failed.")
    assert browser.run(text.format("pid")) != first
    assert browser.run(text.format("failed")) == "0"
    assert server.end() == 0
