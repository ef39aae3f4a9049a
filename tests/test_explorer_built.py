"""What is shipped of the explorer's page: built from the sources, and in agreement with the rest of the project."""

import base64
import hashlib
import json
import shutil
import subprocess

import numpy as np
import pytest

from alexnet_jax.data.images import to_square
from tests.conftest import ROOT

WEB = ROOT / "alexnet_jax/explorer/web"
BUILT = WEB.parent / "built"


def test_what_is_shipped_was_built_from_the_sources():
    """As web/finish.mjs has it. If not, run `npm ci && npm run build` in web/."""
    files = [*WEB.glob("[!.]*.*"), *(WEB / "src").rglob("*.*"), *(WEB / "public").rglob("*.*")]
    sources = sorted(path.relative_to(WEB).as_posix() for path in files if ".test." not in path.name)
    digest = hashlib.sha256(b"".join(name.encode() + b"\0" + (WEB / name).read_bytes() + b"\0" for name in sources))
    assert (BUILT / "sources.sha256").read_text().strip() == digest.hexdigest()


def test_the_page_scales_images_as_prepare_does():
    """The numbers that web/src/resample.test.ts compares with are those of cv2; made here again, if it has changed."""
    path = WEB / "src/resample.test.json"
    for case in json.loads(path.read_text()):
        side, size = case["side"], case["size"]
        place = np.arange(side * side * 3, dtype=np.uint64)
        pixels = ((place * 2654435761 % 2**32) >> 24).astype(np.uint8).reshape(side, side, 3)
        ours = np.frombuffer(base64.b64decode(case["scaled"]), np.uint8).reshape(size, size, 3)
        np.testing.assert_array_equal(to_square(pixels, size), ours)


@pytest.mark.long
def test_a_build_gives_the_same_files_byte_for_byte(tmp_path):
    if shutil.which("npm") is None or not (WEB / "node_modules").is_dir():
        pytest.skip("needs Node.js and the packages of `npm ci` in alexnet_jax/explorer/web")
    copy = tmp_path / "web"
    shutil.copytree(WEB, copy, ignore=shutil.ignore_patterns("node_modules"))
    (copy / "node_modules").symlink_to(WEB / "node_modules")
    subprocess.run(["npm", "run", "build"], cwd=copy, check=True, capture_output=True)
    subprocess.run(["npm", "test"], cwd=copy, check=True, capture_output=True)
    built = {path.relative_to(BUILT): path.read_bytes() for path in BUILT.rglob("*") if path.is_file()}
    again = {path.relative_to(tmp_path / "built"): path for path in (tmp_path / "built").rglob("*") if path.is_file()}
    assert built.keys() == again.keys()
    assert [name for name, path in again.items() if path.read_bytes() != built[name]] == []
