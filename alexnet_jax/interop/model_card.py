"""A run as a folder for the Hugging Face Hub: its network, for several programs, and a card that describes it."""

import hashlib
import shutil
from pathlib import Path
from typing import Any, NamedTuple

import jinja2

from alexnet_jax.data.files import write_text
from alexnet_jax.errors import UserError
from alexnet_jax.inference.network import Network, open_workdir
from alexnet_jax.interop import files, networks
from alexnet_jax.run import checks, config_files, workdir

TORCH, CARD = "torch_alexnet.py", "README.md"
CONTENT = (files.WEIGHTS, "model.onnx", workdir.CONFIG, TORCH)  # besides the card
FILES = (*CONTENT, CARD)


class Stated(NamedTuple):
    """What only its owner can say about a network, in the Hub's words; None is left out."""

    repository: str | None = None  # USER/NAME, where it will be
    license: str | None = None  # of the weights
    dataset: str | None = None  # what it was trained on


def export(directory: Path, folder: Path, stated: Stated) -> None:
    """Write FILES to `folder`, which is made if missing, from the newest checkpoint of the workdir `directory`.

    Raises UserError if `folder` is a workdir or has another README.md, if a format cannot hold a layer, or if its
    library is missing.
    """
    if (folder / workdir.CHECKPOINTS).exists():
        raise UserError(f"{folder} is a workdir, whose files must stay; give another --output")
    if (folder / CARD).exists() and "alexnet_jax" not in (folder / CARD).read_text(errors="replace"):
        raise UserError(f"{folder / CARD} is not a model card of alexnet_jax; give another --output")
    net = networks.folded(open_workdir(directory))
    folder.mkdir(parents=True, exist_ok=True)
    for name in CONTENT[:2]:
        files.export(net, folder / name)
    write_text(folder / workdir.CONFIG, config_files.to_json(net.config))
    shutil.copyfile(Path(__file__).with_name(TORCH), folder / TORCH)
    write_text(folder / CARD, _card(net, directory, folder, stated))


def _card(net: Network, directory: Path, folder: Path, stated: Stated) -> str:
    name = stated.repository.rpartition("/")[2] if stated.repository else net.name
    evaluation, checked = workdir.read_evaluation(directory), checks.read(directory)
    if evaluation and evaluation["step"] != net.step:
        evaluation = None  # the run has gone on since
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("alexnet_jax", "interop"),
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.policies["json.dumps_kwargs"] = {"ensure_ascii": False}  # YAML knows no surrogates
    return environment.get_template("card.md.j2").render(
        metadata=_metadata(name, net, evaluation, stated),
        name=name,
        net=net,
        stated=stated,
        evaluation=evaluation,
        check=checked[-1] if checked else None,
        run=workdir.read_run_file(directory),
        parameters=networks.parameters(net),
        contents=[(name, (folder / name).stat().st_size, _sha256(folder / name)) for name in CONTENT],
    )


def _metadata(name: str, net: Network, evaluation: dict[str, Any] | None, stated: Stated) -> dict[str, Any]:
    """The Hub's metadata of a model. It has a name for accuracies, but none for errors."""
    found: dict[str, Any] = {
        "library_name": "alexnet_jax",
        "pipeline_tag": "image-classification",
        "tags": ["alexnet", "image-classification", "jax", "flax", "onnx", "pytorch"],
        "license": stated.license,
        "datasets": [stated.dataset] if stated.dataset else None,
    }
    if evaluation:
        data, views = net.config.data, evaluation["views"]
        source = stated.dataset or Path(data.directory).name or data.source
        dataset = {"type": stated.dataset or data.source, "name": source, "split": evaluation["split"]}
        right = {k: round(1 - evaluation[f"top{k}_error"], 6) for k in (1, 5)}
        accuracies = [
            {"type": "accuracy", "name": f"top-{k}, {views} view(s)", "value": share} for k, share in right.items()
        ]
        result = {"task": {"type": found["pipeline_tag"]}, "dataset": dataset, "metrics": accuracies}
        found |= {"metrics": ["accuracy"], "model-index": [{"name": name, "results": [result]}]}
    return {key: value for key, value in found.items() if value is not None}


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
