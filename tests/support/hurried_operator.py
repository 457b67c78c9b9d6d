"""The operator with watches that end, and count as dead, after seconds: what it does about them is the same."""

import sys

from warren_operator import mirror

mirror.WATCH_SECONDS = 4
mirror.SILENCE_MARGIN = 2.0

from warren_operator.program import main  # noqa: E402  takes the times over as they are now

sys.exit(main())
