"""`python -m quantlab.cli`: the same as `quantlab`."""

import sys

from quantlab.cli.main import main

if __name__ == "__main__":
    sys.exit(main())
