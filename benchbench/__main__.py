"""`python -m benchbench` is `bench`."""

import sys

from benchbench.core import launch

launch.current_folder_last()  # before anything else is imported

from benchbench.cli.main import main  # noqa: E402

if __name__ == "__main__":
    sys.exit(main())
