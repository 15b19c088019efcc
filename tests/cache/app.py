"""The origin of the cache's tests. What it answers stands in files, and so does what it has seen:
both outlive a worker, and tests read and write them without asking the server (origin.py).

The first segment of the path names the script: FOLDER/NAME.json, a list of answers; the n-th
execution takes the n-th of them, and the last one goes on for ever. FOLDER/NAME.seen gets a line of
JSON for each execution before anything else is done. An answer may have:

    status      "200 OK"
    fields      [[name, value], ...]
    content     text; else "TARGET vN", where N is the number of the execution
    bytes       content is repeated up to this length
    chunked     no Content-Length
    file        a path, sent by wsgi.file_wrapper without Content-Length
    written     text, by write() before the file
    validates   a request whose If-None-Match or If-Modified-Since names this version gets 304
    fields_304  its fields then; else the same
    echo        a key of the environ, whose value stands for {echo} in content and fields
    methods     {METHOD: another answer}, instead of this one
    gate        a unix socket: the test is told the number of the execution, and lets it go on
    delay       seconds between reading this and answering
    fail        raise or die instead of an answer
    blocks      content in pieces: text, ["gate", PATH], ["fill", BYTES], ["raise"] or ["die"]

While FOLDER/bad exists, the application cannot be imported.

/-/flush?prefix=URL&recursive=0|1 and /-/flush_group?name=NAME[&origin=ORIGIN] call kernelq.cache.
"""

import fcntl
import json
import os
import socket
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, quote

FOLDER = Path(os.environ["CACHE_APP_DIR"])
Environ = dict[str, Any]


if (FOLDER / "bad").exists():  # no worker can start
    os._exit(3)


class Failure(Exception):
    """What the application fails with."""


def note(name: str, environ: Environ) -> int:
    """Write down what came; give the number of this execution, from 1."""
    fields = {
        key.removeprefix("HTTP_").replace("_", "-").lower(): value
        for key, value in environ.items()
        if key.startswith("HTTP_") or key in ("CONTENT_TYPE", "CONTENT_LENGTH")
    }
    line = {
        "method": environ["REQUEST_METHOD"],
        "target": target_of(environ),
        "fields": fields,
        "content": environ["wsgi.input"].read().decode("latin-1"),
        "pid": os.getpid(),
    }
    with open(FOLDER / f"{name}.seen", "ab+") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        file.seek(0)
        number = file.read().count(b"\n") + 1
        file.write(json.dumps(line).encode() + b"\n")
    return number


def target_of(environ: Environ) -> str:
    query = environ["QUERY_STRING"]
    path = quote(environ["PATH_INFO"].encode("latin-1"), safe="/:@!$&'()*+,;=~")
    return path + (f"?{query}" if query else "")


def gate(path: str, word: str) -> None:
    """Tell the test where we are, and wait for it."""
    with socket.socket(socket.AF_UNIX) as link:
        link.connect(path)
        link.sendall(word.encode())
        link.recv(1)


def fail(how: str) -> None:
    if how == "die":
        os._exit(9)
    raise Failure(how)


def is_current(environ: Environ, fields: list[tuple[str, str]]) -> bool:
    """Whether the client has this version: RFC 9110 section 13.2.2, as an origin."""
    own = {name.lower(): value for name, value in fields}
    tags = environ.get("HTTP_IF_NONE_MATCH")
    if tags is not None:
        mine = own.get("etag", "").removeprefix("W/")
        theirs = [tag.strip().removeprefix("W/") for tag in tags.split(",")]
        return bool(mine) and (tags.strip() == "*" or mine in theirs)
    since = environ.get("HTTP_IF_MODIFIED_SINCE")
    return since is not None and since == own.get("last-modified")


def pieces(blocks: list[Any], number: int) -> Iterator[bytes]:
    for block in blocks:
        if isinstance(block, str):
            yield block.encode("latin-1")
        elif block[0] == "gate":
            gate(block[1], str(number))
        elif block[0] == "fill":
            pattern = f"v{number} ".encode() * 8192
            for start in range(0, block[1], len(pattern)):
                yield pattern[: block[1] - start]
        else:
            fail(block[0])


def answer(environ: Environ, start: Any, name: str) -> Any:
    number = note(name, environ)
    script = json.loads((FOLDER / f"{name}.json").read_text())
    chosen = script[min(number, len(script)) - 1]
    chosen = chosen.get("methods", {}).get(environ["REQUEST_METHOD"], chosen)
    time.sleep(chosen.get("delay", 0))
    if "gate" in chosen:
        gate(chosen["gate"], str(number))
    if "fail" in chosen:
        fail(chosen["fail"])
    echoed = environ.get(chosen.get("echo", ""), "none")
    fields = [(name, value.replace("{echo}", echoed)) for name, value in chosen.get("fields", [])]
    if chosen.get("validates") and is_current(environ, fields):
        told = [(name, value) for name, value in chosen.get("fields_304", fields)]
        start("304 Not Modified", told)
        return []
    status = chosen.get("status", "200 OK")
    if "blocks" in chosen:
        start(status, fields)
        return pieces(chosen["blocks"], number)
    if "file" in chosen:
        write = start(status, fields)
        if "written" in chosen:
            write(chosen["written"].encode())
        return environ["wsgi.file_wrapper"](open(chosen["file"], "rb"))
    text = chosen.get("content")
    text = f"{target_of(environ)} v{number}" if text is None else text
    content = text.replace("{echo}", echoed).encode("latin-1")
    if size := chosen.get("bytes"):
        content = (content + b" ") * (size // (len(content) + 1) + 1)
        content = content[:size]
    if chosen.get("chunked"):
        start(status, fields)
        return iter([content[:1], content[1:]])
    if status[:3] in ("204", "304"):
        start(status, fields)
        return []
    start(status, [*fields, ("Content-Length", str(len(content)))])
    return [content]


def control(environ: Environ, start: Any, what: str) -> Any:
    import kernelq.cache as cache

    query = dict(parse_qsl(environ["QUERY_STRING"], keep_blank_values=True))
    found = 0
    if what == "flush":
        found = cache.flush(query["prefix"], query.get("recursive", "1") == "1")
    else:
        cache.flush_group(query["name"], query.get("origin"))
    content = b"%d" % found
    start("200 OK", [("Content-Length", str(len(content))), ("Cache-Control", "no-store")])
    return [content]


def application(environ: Environ, start_response: Any) -> Any:
    _, name, *rest = environ["PATH_INFO"].split("/")
    if name == "-":
        return control(environ, start_response, rest[0])
    return answer(environ, start_response, name)
