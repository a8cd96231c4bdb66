"""`python -m benchbench` is `bench`."""

import sys

from benchbench.cli import main

if __name__ == "__main__":
    sys.exit(main())
