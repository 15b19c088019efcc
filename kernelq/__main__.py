"""The command `kernelq`, and `python -m kernelq`.

Commands that talk to a running server are not to wait for what only a start needs to load.
"""

import sys
from collections.abc import Sequence

from kernelq.subjects import SUBJECTS


def main(arguments: Sequence[str] | None = None) -> int:
    """The command; gives the status to end with."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    if words and words[0] in SUBJECTS:
        from kernelq import commands

        return commands.main(words)
    from kernelq import cli

    return cli.main(words)


if __name__ == "__main__":
    sys.exit(main())
