"""A few hundred cases of each kind; `python -m tests.fuzz` runs ten thousand."""

import re

import pytest

from tests.conftest import ROOT
from tests.fuzz.__main__ import fuzz
from tests.fuzz.targets import KINDS


@pytest.mark.parametrize("kind", KINDS)
def test_nothing_but_clean_answers(kind):
    result = fuzz(kind, seed=1, first=0, cases=300)
    assert not result["findings"] and result["cases"] == 300
    assert result["refused"] >= 30  # the mistakes are ones that matter


def test_no_pickle_is_loaded():
    """np.load refuses pickles unless asked; nothing else that runs what it reads is used."""
    forbidden = (
        r"allow_pickle=True|\bpickle\.(load|Unpickler)|\b(marshal|shelve|dill|cloudpickle|joblib)\b|weights_only=False"
    )
    for path in (ROOT / "alexnet_jax").rglob("*.py"):
        assert not re.search(forbidden, path.read_text()), path
        assert not re.search(r"\.extract(all)?\(", path.read_text()), path  # members of archives never reach the disk
