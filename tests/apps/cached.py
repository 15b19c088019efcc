"""Pages that may be kept for long, and a way to flush them.

/flush?url=U [&exactly=] | ?group=G [&origin=O]    flushes; with thread= in a thread of its own
anything else [?group=G]                           a page that is new each time it is made
"""

import itertools
import os
import threading
from collections.abc import Callable
from typing import Any
from urllib.parse import parse_qsl

from kernelq import cache

_made = itertools.count(1)


def flush(query: dict[str, str]) -> object:
    try:
        if "group" in query:
            return cache.flush_group(query["group"], query.get("origin"))
        return cache.flush(query["url"], "exactly" not in query)
    except Exception as found:
        return f"{type(found).__name__}: {found}"


def flush_in_thread(query: dict[str, str]) -> object:
    outcomes: list[object] = []
    thread = threading.Thread(target=lambda: outcomes.append(flush(query)))
    thread.start()
    thread.join()
    return outcomes[0]


def application(environ: dict[str, Any], start_response: Callable[..., Any]) -> list[bytes]:
    query = dict(parse_qsl(environ["QUERY_STRING"], keep_blank_values=True))
    if environ["PATH_INFO"] == "/flush":
        start_response("200 OK", [("Content-Type", "text/plain")])
        return [str((flush_in_thread if "thread" in query else flush)(query)).encode()]
    fields = [("Content-Type", "text/plain"), ("Cache-Control", "public, max-age=600")]
    if "group" in query:
        fields.append(("Cache-Groups", f'"{query["group"]}"'))
    start_response("200 OK", fields)
    return [f"{environ['PATH_INFO']} {os.getpid()} {next(_made)}".encode()]
