"""The configuration file: one table of keys, and what reads, checks, explains and shows them.

`kinds.py` says how values are written, `table.py` which keys there are, `read.py` holds a file
against the table, `build.py` makes the settings of it and checks what only the whole can show.
"""

from kernelq.configuration.errors import ConfigurationErrors
from kernelq.configuration.load import Configuration, load, read

__all__ = ["Configuration", "ConfigurationErrors", "load", "read"]
