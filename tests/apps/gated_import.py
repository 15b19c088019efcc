"""An application whose import waits at a gate."""

import os

from web import application, gate

if path := os.environ.get("IMPORT_GATE"):
    gate(path, "importing")

__all__ = ["application"]
