"""Programs that build, run and test Warren: `python3 -m tools.cluster up` and its like, mostly through the Makefile."""

import sys

# Checked here, where even an old Python still can: the modules below use what only 3.11 and later understand.
if sys.version_info < (3, 11):  # noqa: UP036  the project needs 3.11, this machine may not have it
    sys.exit(
        f"error: {sys.executable} is Python {sys.version.split()[0]}, and Warren needs 3.11 or later: "
        "name another one, for example `make test PYTHON=python3.13`"
    )
