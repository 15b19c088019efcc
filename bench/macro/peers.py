"""The table of servers: how each is started, what it cannot do, how it names its version.

Every server that runs Python runs bench.apps:application with the access log off, keep-alive on
and room for more than 10,000 connections; else its own defaults. The words of a command may hold
    {python}   the interpreter that has kernelq      {bin}      scripts of the peers' environment
    {port}     a free port                           {tools}    .bench
    {workers} {threads}                              {config}   the file made from `config`
    {www}      a directory with what /cached and /cached64k answer
"""

from __future__ import annotations

import shlex
import subprocess
from dataclasses import dataclass, field, replace
from pathlib import Path

ROOT = Path(__file__).parents[2]
TOOLS = ROOT / ".bench"

NGINX_HEAD = """\
daemon off;
user root;
worker_processes {workers};
worker_rlimit_nofile 20000;
error_log stderr crit;
pid {config}.pid;
events { worker_connections 16384; }
http {
    access_log off;
    keepalive_timeout 120;
    keepalive_requests 1000000000;
    client_body_temp_path {config}.body;
    proxy_temp_path {config}.proxy;
    fastcgi_temp_path {config}.fastcgi;
    scgi_temp_path {config}.scgi;
    uwsgi_temp_path {config}.uwsgi;
    default_type text/plain;
"""
NGINX = (
    NGINX_HEAD
    + """\
    server {
        listen 127.0.0.1:{port} backlog=4096;
        location / { return 200 "Hello, world!"; }
    }
}
"""
)
NGINX_FILE = (
    NGINX_HEAD
    + """\
    sendfile on;
    tcp_nopush on;
    server {
        listen 127.0.0.1:{port} backlog=4096;
        root {www};
        location = / { return 200 "Hello, world!"; }
    }
}
"""
)
NGINX_CACHE = (  # in front of itself
    NGINX_HEAD
    + """\
    proxy_cache_path {config}.cache keys_zone=responses:256m max_size=4g inactive=1h;
    server {
        listen 127.0.0.1:{port} backlog=4096;
        proxy_cache responses;
        location / { proxy_pass http://unix:{config}.sock; }
    }
    server {
        listen unix:{config}.sock;
        add_header Cache-Control "public, max-age=3600";
        add_header ETag '"a"';
        location / { return 200 "Hello, world!"; }
        location = /cached64k { root {www}; etag off; }
    }
}
"""
)
VARNISH = """\
vcl 4.1;
import std;
backend default none;
sub vcl_backend_error {
    set beresp.status = 200;
    set beresp.ttl = 1h;
    set beresp.http.Content-Type = "text/plain";
    set beresp.http.Cache-Control = "public, max-age=3600";
    set beresp.http.ETag = {""a""};
    set beresp.body = "Hello, world!";
    if (bereq.url == "/cached64k") { set beresp.body = std.fileread("{www}/cached64k"); }
    return (deliver);
}
"""


@dataclass(frozen=True)
class Peer:
    """A server and how to run it."""

    name: str
    command: str
    version: str  # a command; the last word that it prints
    workers: int = 1
    threads: int = 4
    config: str = ""
    cannot: frozenset[str] = field(default_factory=frozenset)  # names of cases
    compared: bool = True  # by default in compare.py
    is_cache: bool = False  # only in the cases that name it

    def words(self, text: str, **values: object) -> list[str]:
        """The text's words, with the places filled: a path may hold spaces."""
        return [self.fill(word, **values) for word in shlex.split(text)]

    def fill(self, text: str, **values: object) -> str:
        places = {"bin": TOOLS / "venv" / "bin", "tools": TOOLS, **values}
        for name, value in {**places, "workers": self.workers, "threads": self.threads}.items():
            text = text.replace("{" + name + "}", str(value))
        return text

    def installed(self, python: str) -> str | None:
        """The version, or None when it is not installed."""
        try:
            done = subprocess.run(
                self.words(self.version, python=python),
                cwd=ROOT,
                capture_output=True,
                text=True,
                timeout=30,
                check=True,
            )
        except (OSError, subprocess.SubprocessError):
            return None
        return (done.stdout + done.stderr).strip().rpartition(" ")[2]


def package(name: str) -> str:
    return f"{{bin}}/python -c 'import importlib.metadata as m; print(m.version(\"{name}\"))'"


KERNELQ = (
    "{python} -m kernelq bench.apps:application --bind 127.0.0.1:{port}"
    " --workers {workers} --threads {threads}"
)
GUNICORN = (
    "{bin}/gunicorn bench.apps:application --bind 127.0.0.1:{port} --workers {workers}"
    " --keep-alive 120 --no-control-socket --log-level warning"
)
GRANIAN = (
    "{bin}/granian bench.apps:application --interface wsgi --host 127.0.0.1 --port {port}"
    " --workers {workers} --blocking-threads {threads} --http 1 --no-ws --backpressure 16384"
    " --respawn-failed-workers --log-level warning"
)
KERNELQ_VERSION = "{python} -m kernelq --version"
ONLY_HELLO = frozenset({"64k", "upload"})
NGINX_COMMAND, NGINX_VERSION = "nginx -e stderr -c {config}", "nginx -v"
VARNISH_COMMAND = (
    "varnishd -F -j none -a 127.0.0.1:{port} -f {config} -n {config}.varnish -s malloc,4g -T none"
)
VARNISH_VERSION = "sh -c 'varnishd -V 2>&1 | grep -o -m1 varnish-[0-9.]*'"

kernelq = Peer("kernelq", KERNELQ, KERNELQ_VERSION)
granian = Peer("granian", GRANIAN, package("granian"))

TABLE = (
    kernelq,
    replace(kernelq, name="kernelq-t1", threads=1),
    replace(kernelq, name="kernelq-w2", workers=2),
    replace(kernelq, name="kernelq-off", command=KERNELQ + " --cache off", is_cache=True),
    replace(kernelq, name="kernelq-l2", command=KERNELQ + " --loops 2", is_cache=True),
    replace(kernelq, name="kernelq-large", command=KERNELQ + " --cache-size 4G", is_cache=True),
    replace(kernelq, name="kernelq-preload", command=KERNELQ + " --preload", compared=False),
    Peer("floor", "{tools}/floor {port}", "echo 1", cannot=ONLY_HELLO),
    Peer("nginx", NGINX_COMMAND, NGINX_VERSION, config=NGINX, cannot=ONLY_HELLO),
    Peer("nginx-file", NGINX_COMMAND, NGINX_VERSION, config=NGINX_FILE, is_cache=True),
    Peer("nginx-cache", NGINX_COMMAND, NGINX_VERSION, config=NGINX_CACHE, is_cache=True),
    Peer("varnish", VARNISH_COMMAND, VARNISH_VERSION, config=VARNISH, is_cache=True),
    Peer(
        "fastpysgi",
        "{bin}/python -c 'import fastpysgi, bench.apps;"
        ' fastpysgi.run(bench.apps.application, "127.0.0.1", {port})\'',
        package("fastpysgi"),
    ),
    Peer(
        "bjoern",
        "{bin}/python -c 'import bjoern, bench.apps;"
        ' bjoern.run(bench.apps.application, "127.0.0.1", {port})\'',
        package("bjoern"),
        cannot=frozenset({"pipelined"}),
    ),
    granian,
    replace(granian, name="granian-t1", threads=1),
    Peer(
        "uwsgi",
        "{bin}/uwsgi --http 127.0.0.1:{port} --http-keepalive=120 --http-timeout 120 --master"
        " --processes {workers} --threads {threads} --module bench.apps:application --need-app"
        " --listen 1024 --max-fd 20000 --die-on-term --disable-logging",
        package("uWSGI"),
        cannot=frozenset({"pipelined"}),
    ),
    Peer(  # without its router: a thread for each connection, as long as that lasts
        "uwsgi-direct",
        "{bin}/uwsgi --http11-socket 127.0.0.1:{port} --socket-timeout 120 --master"
        " --processes {workers} --threads {threads} --module bench.apps:application --need-app"
        " --listen 1024 --die-on-term --disable-logging",
        package("uWSGI"),
        threads=64,
        cannot=frozenset({"pipelined", "idle"}),
    ),
    Peer(
        "gunicorn",
        GUNICORN + " --worker-class gthread --threads {threads} --worker-connections 16384",
        package("gunicorn"),
    ),
    Peer("gunicorn-sync", GUNICORN, package("gunicorn"), threads=1, compared=False),
    Peer(
        "waitress",
        "{bin}/waitress-serve --listen 127.0.0.1:{port} --threads {threads} --backlog 2048"
        " --connection-limit 16384 --channel-timeout 120 --asyncore-use-poll"
        " bench.apps:application",
        package("waitress"),
    ),
)
PEERS = {peer.name: peer for peer in TABLE}
