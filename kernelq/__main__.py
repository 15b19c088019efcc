"""`python -m kernelq` is the command `kernelq`."""

import sys

from kernelq.cli import main

if __name__ == "__main__":
    sys.exit(main())
