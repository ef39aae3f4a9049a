"""The Hugging Face Hub: a network is pushed there and loaded from there, by huggingface_hub, with a stand-in server."""

import sys

import pytest

from alexnet_jax.data import hub
from alexnet_jax.errors import UserError
from tests import runs
from tests.hub import running

PROGRAM = """
import sys
from pathlib import Path
from alexnet_jax.data import hub
from alexnet_jax.errors import UserError

folder = Path(sys.argv[1])
for action in (
    lambda: hub.push(folder, "me/net", ["*.md", "*.bin"]),
    lambda: hub.push(folder, "me/net", ["*.md", "*.bin"]),
    lambda: sorted((path.name, path.read_text()) for path in hub.download("hf://me/net").iterdir()),
    lambda: hub.download("hf://datasets/me/data", ["*.parquet"]).name,
    lambda: hub.download("hf://me/net", ["*.txt", "no.bin"]),
    lambda: hub.download("hf://me/none"),
    lambda: hub.download("hf://me/net@none"),
    lambda: hub.download("hf://me net"),
):
    try:
        print(action())
    except UserError as error:
        print(f"error: {error}")
"""


@pytest.mark.long
def test_repositories_are_pushed_and_downloaded(tmp_path):
    pytest.importorskip("huggingface_hub", reason='needs pip install -e ".[hub]"')
    folder = tmp_path / "net"
    folder.mkdir()
    for name in ("README.md", "a.bin", "left.out"):
        (folder / name).write_text(f"---\nname: {name}\n---\n")
    with running() as server:
        server.repositories["datasets/me/data"] = {}
        commit = server.commit("datasets/me/data", {"train.parquet": b"rows", "large.bin": b"not asked for"})
        environment = runs.environment() | server.environment(tmp_path / "cache")
        command = [sys.executable, "-W", "error", "-c", PROGRAM, str(folder)]
        lines = runs.end(runs.start(command, env=environment)).splitlines()
        stranger = runs.end(runs.start(command, env=environment | {"HF_TOKEN": "hf_other"})).splitlines()
    (pushed,) = server.repositories["models/me/net"]
    assert sorted(server.repositories["models/me/net"][pushed]) == ["README.md", "a.bin"]
    assert lines[0] == lines[1] and lines[0].endswith(f"/me/net/commit/{pushed}")
    assert "('README.md', '---\\nname: README.md\\n---\\n'), ('a.bin', " in lines[2]
    assert lines[3] == commit
    assert [path.name for path in (tmp_path / "cache").rglob(f"{commit}/*")] == ["train.parquet"]
    assert lines[4].startswith("error: hf://me/net has no *.txt, no.bin; ")
    for line, problem in zip(
        lines[5:8], ("Repository Not Found", "Revision Not Found", "Repo id must use"), strict=True
    ):
        assert line.startswith("error: hf://me") and problem in line and "log in with `hf auth login`" in line
    assert stranger[0].startswith(f"error: {folder} cannot be pushed to me/net: ") and "'401 " in stranger[0]


def test_without_huggingface_hub_an_error_names_the_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(UserError, match=r'hf://me/net cannot be downloaded: .*pip install "alexnet_jax\[hub\]"'):
        hub.download("hf://me/net")
