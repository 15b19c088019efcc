"""Which framing a response gets, and what of the application's head reaches the client."""

import json
from urllib.parse import urlencode

import pytest
from serving import Server
from wire import Client, Ended, chunked, request


def asks(path: str, **query: object) -> str:
    return f"{path}?{urlencode(query)}"


@pytest.mark.parametrize(
    "method", ["GET", "POST", "PUT", "DELETE", "PATCH", "TRACE", "QUERY", "X-Y"]
)
def test_methods_pass(client: Client, method: str) -> None:
    response = client.ask("/show", method=method)
    assert json.loads(response.text)["REQUEST_METHOD"] == method
    assert client.is_quiet()


def test_connect_is_not_implemented(client: Client) -> None:
    response = client.ask("example.org:443", method="CONNECT")
    assert response.status == 501
    assert response.is_last
    assert client.ends()


def test_options_asterisk(client: Client) -> None:
    seen = json.loads(client.ask("*", method="OPTIONS").text)
    assert seen["PATH_INFO"] == "*"
    assert seen["REQUEST_URI"] == "*"


def test_asterisk_is_for_options_only(client: Client) -> None:
    assert client.ask("*").status == 400
    assert client.ends()


def test_absolute_form_replaces_host(client: Client) -> None:
    seen = json.loads(client.ask("http://Other.example:81/show?a=b").text)
    assert seen["HTTP_HOST"] == "Other.example:81"
    assert seen["PATH_INFO"] == "/show"
    assert seen["QUERY_STRING"] == "a=b"


def test_http_1_0_without_host(client: Client) -> None:
    client.send(b"GET /show HTTP/1.0\r\n\r\n")
    seen = json.loads(client.response().text)
    assert "HTTP_HOST" not in seen
    assert seen["SERVER_PROTOCOL"] == "HTTP/1.0"


@pytest.mark.parametrize(
    "status", [200, 201, 226, 299, 300, 404, 418, 451, 500, 599, 600, 799, 999]
)
def test_final_statuses_pass(client: Client, status: int) -> None:
    response = client.ask(asks("/status", line=f"{status} Some Reason", content="content"))
    assert (response.status, response.reason) == (status, "Some Reason")
    assert response.text == "content"


def test_empty_reason_gets_the_usual_one(client: Client) -> None:
    assert client.ask(asks("/status", line="404 ")).status == 404


@pytest.mark.parametrize("status", [100, 101, 103, 199])
def test_interim_status_as_final_is_a_500(server: Server, client: Client, status: int) -> None:
    assert client.ask(asks("/status", line=f"{status} X", at=status)).status == 500
    server.log.expect("the application failed", f"at={status}")
    assert client.is_quiet()


@pytest.mark.parametrize(
    "line", ["", "200", "200OK", "20 OK", "2000 OK", "abc OK", "200 A\x00B", "200 \u0416"]
)
def test_malformed_status_is_a_500(client: Client, line: str) -> None:
    assert client.ask(asks("/status", line=line or " ")).status == 500
    assert client.is_quiet()


@pytest.mark.parametrize("status", ["204 No Content", "304 Not Modified"])
def test_statuses_without_content(client: Client, status: str) -> None:
    client.send(request("GET", asks("/status", line=status, content="dropped")) * 2)
    for _ in range(2):
        response = client.response()
        assert response.status == int(status[:3])
        assert response.all("Transfer-Encoding") == []
    client.ask("/hello")
    assert client.is_quiet()


def test_204_has_no_length(client: Client) -> None:
    fields = json.dumps([("Content-Length", "5")])
    assert client.ask(asks("/status", line="204 X", fields=fields)).one("Content-Length") is None


def test_304_keeps_its_length(client: Client) -> None:
    fields = json.dumps([("Content-Length", "5"), ("ETag", '"x"')])
    response = client.ask(asks("/status", line="304 X", fields=fields))
    assert response.one("Content-Length") == "5"
    assert client.ask("/hello").status == 200


def test_head_has_the_length_and_no_content(client: Client) -> None:
    assert client.ask("/hello?abc", method="HEAD").one("Content-Length") == "9"
    response = client.ask("/stream?blocks=3&bytes=3", method="HEAD")
    assert response.one("Transfer-Encoding") in (None, "chunked")
    assert client.ask("/stream?blocks=3&bytes=3&length", method="HEAD").one("Content-Length") == "9"
    assert client.ask("/writes", method="HEAD").status == 200
    assert client.ask("/hello").text == "hello "
    assert client.is_quiet()


def test_head_of_a_refusal_has_no_content(server: Server) -> None:
    client = server.connect()
    assert client.ask("/a%zz", method="HEAD").status == 400
    assert client.ends()


@pytest.mark.parametrize("query", ["", "&length"])
def test_streamed_response(client: Client, query: str) -> None:
    response = client.ask(f"/stream?blocks=50&bytes=20000{query}")
    assert response.framing == ("length" if query else "chunked")
    assert len(response.content) == 1_000_000
    assert client.ask("/hello").status == 200


def test_write(client: Client) -> None:
    response = client.ask("/writes")
    assert response.text == "one two three"
    assert response.framing == "chunked"


@pytest.mark.parametrize("name", ["Date", "Server", "date", "SERVER"])
def test_own_date_and_server_are_kept(client: Client, name: str) -> None:
    response = client.ask(asks("/fields", fields=json.dumps([(name, "my own")])))
    assert response.all(name) == ["my own"]


def test_repeated_fields_stay_apart_and_in_order(client: Client) -> None:
    fields = [("Set-Cookie", "a=1"), ("X-A", "1"), ("Set-Cookie", "b=2"), ("X-Empty", "")]
    response = client.ask(asks("/fields", fields=json.dumps(fields)))
    assert response.all("Set-Cookie") == ["a=1", "b=2"]
    assert response.one("X-Empty") == ""


@pytest.mark.parametrize(
    "field",
    [
        ("X-A", "b\r\nX-Injected: 1"),
        ("X-A", "b\nc"),
        ("X-A", "b\x00c"),
        ("X-A\r\nX-Injected", "1"),
        ("X A", "b"),
        ("X:A", "b"),
        ("", "b"),
        ("X-A", "\u0416"),
        ("Connection", "close"),
        ("Transfer-Encoding", "chunked"),
        ("Upgrade", "websocket"),
        ("Content-Length", "-1"),
        ("Content-Length", "1_0"),
        ("Content-Length", "+7"),
        ("Content-Length", " 7"),
        ("Content-Length", "7, 7"),
        ("Content-Length", "\u0667"),
    ],
)
def test_fields_that_no_application_may_send(client: Client, field: tuple[str, str]) -> None:
    response = client.ask(asks("/fields", fields=json.dumps([field])))
    assert response.status == 500
    assert response.all("X-Injected") == []
    assert client.ask("/hello").status == 200


def test_many_and_large_response_fields(client: Client) -> None:
    fields = [(f"X-{number}", "v" * 120) for number in range(200)]
    data = json.dumps(fields).encode()
    response = client.ask("/reflect", method="POST", content=data)
    assert [(n, v) for n, v in response.fields if n.startswith("X-")] == fields
    fields = [("X-Large", "v" * 30000)]
    response = client.ask("/reflect", method="POST", content=json.dumps(fields).encode())
    assert response.one("X-Large") == "v" * 30000


@pytest.mark.parametrize("how", ["list", "iterator"])
def test_too_much_content_is_cut_and_logged(server: Server, client: Client, how: str) -> None:
    response = client.ask(asks("/lies", says=5, sends=9, how=how, much=how))
    assert response.text == "xxxxx"
    server.log.expect("more content than", f"much={how}")
    assert client.ask("/hello").status == 200


@pytest.mark.parametrize("how", ["list", "iterator"])
def test_too_little_content_is_a_visible_abort(server: Server, client: Client, how: str) -> None:
    client.get(asks("/lies", says=9, sends=5, how=how, little=how))
    with pytest.raises(Ended) as ended:
        client.response()
    assert ended.value.got.endswith(b"\r\n\r\nxxxxx")
    server.log.expect("Response_Cut", f"little={how}")


def test_too_little_content_of_a_head_is_no_fault(client: Client) -> None:
    response = client.ask(asks("/lies", says=9, sends=0, how="list"), method="HEAD")
    assert response.one("Content-Length") == "9"
    assert client.ask("/hello").status == 200


@pytest.mark.parametrize("version", ["1.0", "1.1"])
def test_failure_after_the_first_block_is_visible(server: Server, version: str) -> None:
    client = server.connect().get(f"/fails?where=block&with={version}", version=version)
    with pytest.raises(Ended) as ended:
        client.response()
    assert ended.value.was_reset is (version == "1.0")
    server.log.expect("Response_Cut", f"with={version}")
    server.log.expect("Failure: after a block")


@pytest.mark.parametrize("where", ["call", "started", "first", "exit", "nothing"])
def test_failure_before_any_content_is_a_500(server: Server, client: Client, where: str) -> None:
    mark = server.mark()
    response = client.ask(f"/fails?where={where}&tell")
    assert response.status == 500
    assert "Failure" not in response.text
    server.log.expect("the application failed", f"GET /fails?where={where}&tell", since=mark)
    server.log.expect("Error:" if where == "nothing" else "Traceback", since=mark)
    assert client.ask("/hello").status == 200


def test_failure_behind_a_block_that_is_no_bytes(server: Server, client: Client) -> None:
    client.get("/fails?where=text")
    with pytest.raises(Ended):
        client.response()
    server.log.expect("TypeError: the content of a response must be bytes, not str")


def test_exc_info_before_the_head_is_sent(client: Client) -> None:
    response = client.ask("/exc_info")
    assert (response.status, response.reason, response.text) == (500, "Handled", "handled")


def test_exc_info_after_the_head_was_sent(client: Client) -> None:
    client.get("/exc_info?sent")
    with pytest.raises(Ended):
        client.response()


def test_content_both_ways_chunked(client: Client) -> None:
    pieces = [bytes([65 + number]) * number * 100 for number in range(1, 20)]
    response = client.ask(
        "/echo", "Transfer-Encoding: chunked", method="POST", content=chunked(*pieces)
    )
    assert response.content == b"".join(pieces)
