"""A few hundred cases of each kind; `python -m tests.fuzz` runs ten thousand."""

import re

import pytest

from alexnet_jax.errors import UserError
from tests.conftest import ROOT
from tests.fuzz.__main__ import fuzz
from tests.fuzz.targets import KINDS, packed, use, write_sealed


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


@pytest.mark.parametrize(
    "change",
    [
        {"classes": ["\ud800", "dog"]},  # half a character: JSON can hold it, UTF-8 cannot (manifest 4113)
        {"mean_image": {"name": "../mean_image.npy", "bytes": 0, "xxh128": ""}},
        {"mean_image": {"name": "/etc/passwd", "bytes": 0, "xxh128": ""}},
        {"size": 10**9},
        {"eigenvalues": [1.0, 2.0]},
        {"classes": ["cat"]},  # and labels of two
    ],
)
def test_manifests_that_were_made_up(change, tmp_path):
    """Sealed as if the program had written them."""
    tree = packed(tmp_path, "raw").model_dump(mode="json") | change
    write_sealed(tmp_path, tree)
    with pytest.raises(UserError):
        use(tmp_path)
