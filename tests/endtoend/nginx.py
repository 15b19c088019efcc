"""nginx in front of a server, on a unix socket, as a child of the test."""

import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from serving import until
from wire import PATIENCE_SECONDS, Client

COMMAND = shutil.which("nginx") or shutil.which("nginx", path="/usr/sbin:/usr/local/sbin")

_CONFIGURATION = """
daemon off;
master_process off;
worker_processes 1;
pid {folder}/nginx.pid;
error_log {folder}/error.log;
events {{ worker_connections 512; }}
http {{
    access_log off;
    client_body_temp_path {folder}/body;
    proxy_temp_path {folder}/proxy;
    fastcgi_temp_path {folder}/fastcgi;
    uwsgi_temp_path {folder}/uwsgi;
    scgi_temp_path {folder}/scgi;
    client_max_body_size 100m;
    upstream kernelq {{ server {upstream}; keepalive 16; }}
    server {{
        listen unix:{folder}/front.sock;
        location / {{
            proxy_pass http://kernelq;
            proxy_http_version 1.1;
            proxy_set_header Connection "";
            proxy_set_header Host $http_host;
            proxy_set_header X-Forwarded-For 203.0.113.5;
            proxy_set_header X-Forwarded-Proto https;
            {more}
        }}
    }}
}}
"""


@contextmanager
def nginx(folder: Path, upstream: str, more: str = "") -> Iterator[str]:
    """Run nginx before an upstream; gives the socket file to connect to."""
    assert COMMAND is not None
    text = _CONFIGURATION.format(folder=folder, upstream=upstream, more=more)
    (folder / "nginx.conf").write_text(text)
    front = str(folder / "front.sock")
    process = subprocess.Popen(
        [COMMAND, "-p", str(folder), "-c", str(folder / "nginx.conf"), "-e", f"{folder}/early.log"],
        stdin=subprocess.DEVNULL,
    )
    try:
        until(lambda: process.poll() is not None or _accepts(front), "nginx")
        assert process.returncode is None, (folder / "early.log").read_text()
        yield front
    finally:
        process.terminate()
        process.wait(PATIENCE_SECONDS)


def _accepts(front: str) -> bool:
    try:
        Client(front).close()
    except OSError:
        return False
    return True
