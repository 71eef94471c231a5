"""`python -m trainkit` is the console script `trainkit`."""

import sys

from trainkit.cli.main import main

if __name__ == "__main__":
    sys.exit(main())
