"""A small Flask site: pages, a form, a session, a stream, an upload, a download, an error."""

import hashlib
import io
from typing import Any

from flask import Flask, Response, flash, redirect, request, send_file, session, url_for
from flask import stream_with_context as in_context

app = Flask(__name__)
app.secret_key = "not a secret"


@app.get("/")
def index() -> str:
    return f"hello {session.get('name', 'stranger')}"


@app.post("/login")
def login() -> Response:
    session["name"] = request.form["name"]
    flash("in")
    return redirect(url_for("index"))


@app.get("/stream")
def stream() -> Response:
    return Response(in_context(f"{number} {request.path}\n" for number in range(1000)))


@app.post("/upload")
def upload() -> dict[str, Any]:
    found = request.files["file"]
    data = found.stream.read()
    return {
        "name": found.filename,
        "note": request.form["note"],
        "bytes": len(data),
        "sha256": hashlib.sha256(data).hexdigest(),
    }


@app.post("/json")
def json_back() -> Any:
    return request.get_json()


@app.get("/download")
def download() -> Response:
    return send_file(io.BytesIO(b"x" * 100_000), download_name="x.bin", as_attachment=True)


@app.get("/file")
def file() -> Response:
    return send_file(__file__, mimetype="text/plain", conditional=True)


@app.get("/error")
def error() -> str:
    raise RuntimeError("a Flask view failed")


@app.get("/who")
def who() -> dict[str, Any]:
    return {"url": request.url, "client": request.remote_addr, "secure": request.is_secure}
