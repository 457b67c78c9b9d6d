"""The seed: printed, and so shown where a test fails; `WARREN_SEED=…` repeats it."""

import os
import random

import pytest


@pytest.fixture
def seed() -> int:
    """Of this run."""
    chosen = int(os.environ.get("WARREN_SEED") or random.randrange(10**6))
    print(f"WARREN_SEED={chosen}")
    return chosen
