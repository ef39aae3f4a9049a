"""The list of defects that were mended fits the code: `python -m tests.mended` can bring each of them back."""

import pytest

from tests import mended
from tests.conftest import ROOT


@pytest.mark.parametrize("defect", mended.defects(), ids=lambda defect: defect["test"].partition("::")[2])
def test_the_change_fits_the_code(defect):
    assert (ROOT / defect["file"]).read_text().count(defect["find"]) == 1
    assert defect["find"] != defect["replace"] and defect["caught"]
    file, _, test = defect["test"].partition("::")
    assert f"\ndef {test.partition('[')[0]}(" in (ROOT / file).read_text()
