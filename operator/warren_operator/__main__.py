"""`python -m warren_operator`."""

import sys

from warren_operator.program import main

if __name__ == "__main__":
    sys.exit(main())
