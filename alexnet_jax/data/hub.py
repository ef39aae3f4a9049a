"""Repositories of the Hugging Face Hub: the only module that uses huggingface_hub, an extra."""

import contextlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import ModuleType

from alexnet_jax.errors import UserError

PREFIX = "hf://"


def download(address: str, files: Sequence[str] | None = None) -> Path:
    """Download a repository, except for what huggingface_hub's cache already holds.

    Args:
        address: hf://USER/NAME for a model, hf://datasets/USER/NAME for a data set; @REVISION may follow.
        files: the patterns of the files to download, such as *.parquet; None: all.

    Returns:
        Its folder in the cache. Without a connection, what the cache holds.

    Raises:
        UserError: if huggingface_hub is not installed, or the repository cannot be downloaded or has no such file.
    """
    with _library(f"{address} cannot be downloaded") as hub:
        name, _, revision = address.removeprefix(PREFIX).partition("@")
        kind = "dataset" if name.startswith("datasets/") else "model"
        name = name.removeprefix("datasets/")
        folder = Path(hub.snapshot_download(name, repo_type=kind, revision=revision or None, allow_patterns=files))
    if files and not any(any(folder.rglob(pattern)) for pattern in files):
        raise UserError(f"{address} has no {', '.join(files)}; check the name")
    return folder


def push(folder: Path, name: str, files: Sequence[str]) -> str:
    """Upload files of a folder to the model USER/NAME, which is made if missing. Returns the address of the commit.

    Raises UserError as `download` does.
    """
    with _library(f"{folder} cannot be pushed to {name}") as hub:
        hub.create_repo(name, exist_ok=True)
        return hub.upload_folder(repo_id=name, folder_path=folder, allow_patterns=files).commit_url


@contextlib.contextmanager
def _library(problem: str) -> Iterator[ModuleType]:
    """huggingface_hub. What it raises becomes UserError."""
    try:
        import huggingface_hub
    except ModuleNotFoundError:
        raise UserError(f'{problem}: huggingface_hub is not installed: pip install "alexnet_jax[hub]"') from None
    try:
        yield huggingface_hub
    except Exception as error:  # of several libraries
        cure = "check the name and the connection; for what is not public, log in with `hf auth login` or set HF_TOKEN"
        raise UserError(f"{problem}: {' '.join(str(error).split())[:300]}; {cure}") from None
