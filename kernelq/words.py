"""What all commands share: how they read their words, complain, and stop when nobody reads on."""

import argparse
import os
import sys
from typing import Any, NoReturn

from kernelq import log
from kernelq.errors import OptionError


class Parser(argparse.ArgumentParser):
    """Errors in one line that names the subject, and nothing guessed from abbreviations."""

    def __init__(self, **more: Any) -> None:
        how = {"formatter_class": argparse.RawDescriptionHelpFormatter, "allow_abbrev": False}
        super().__init__(**{**how, **more})

    def error(self, message: str) -> NoReturn:
        subject = self.prog.split()[1:2]
        raise OptionError(": ".join([*subject, message]))


def complain(text: str) -> None:
    print(f"kernelq: {log.clean(text)}", file=sys.stderr)


def drop_output() -> None:
    """Whoever read has seen enough: nothing more is to be written, not even at the end."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, sys.stdout.fileno())
    os.close(nowhere)
