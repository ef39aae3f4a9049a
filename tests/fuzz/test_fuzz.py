"""The same two hundred cases of each kind every time. `python -m tests.fuzz` runs more."""

import pytest

from tests.fuzz import cases
from tests.fuzz.__main__ import KINDS

pytestmark = [pytest.mark.slow, pytest.mark.long]

CASES = 200


@pytest.mark.parametrize("kind", KINDS)
def test_no_input_causes_harm(kind):
    result = cases.run(kind, seed=1, first=0, last=CASES)
    assert not result.findings, result.findings[0]
    assert result.outcomes.total() == CASES
    assert result.outcomes["accepted"] and result.outcomes["refused"]
