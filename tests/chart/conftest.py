"""The chart in several variants, which between them switch on everything."""

from typing import Any

import pytest
from chart_variants import VARIANTS


@pytest.fixture(params=VARIANTS)
def variant(request: pytest.FixtureRequest) -> dict[str, Any]:
    """The values of each variant in turn."""
    return VARIANTS[request.param]
