"""Networks as named tensors with metadata, which exported files hold; as StableHLO programs; and as new workdirs.

The tensors are in PyTorch's array layout, which Caffe and ONNX share. Values are only moved:

here      kernel [tower, k, k, in, out / towers] or [tower, in, out / towers]; feature maps are flattened as [H, W, C]
PyTorch   weight [out, in / groups, k, k] or [out, in]; groups are towers; feature maps are flattened as [C, H, W]
"""

import dataclasses
import json
import shutil
import tempfile
from pathlib import Path

import jax
import jax.export
import jax.numpy as jnp
import numpy as np

from alexnet_jax import batch_norm, optim, sharding, steps
from alexnet_jax.data.datasets import Dataset
from alexnet_jax.data.files import replacing
from alexnet_jax.data.statistics import Statistics
from alexnet_jax.errors import UserError, reading
from alexnet_jax.inference import activations
from alexnet_jax.inference.network import Network
from alexnet_jax.model_config import Model
from alexnet_jax.run import checkpoint, config_files, workdir

FORMAT = 1
METADATA = "alexnet_jax"  # the key under which files hold the metadata; other programs' files do not have it
MEAN = "mean_image"  # the name of the mean image among the tensors
PLATFORMS = ("cpu", "cuda", "rocm", "tpu")  # of StableHLO programs

Params = dict[str, dict[str, np.ndarray]]


def to_workdir(network: Network, directory: Path) -> None:
    """Make `directory` a workdir that holds the network as of step 0. Raises UserError if it is one already.

    Its config comes last: an interrupted import leaves no workdir, and can be repeated.
    """
    saved = directory / workdir.CHECKPOINTS
    if (directory / workdir.CONFIG).exists():
        raise UserError(f"{directory} is a workdir already; give another --workdir")
    if any(path.name.isdigit() and path.name != "0" for path in saved.glob("*")):
        raise UserError(f"{directory} has checkpoints of training but no {workdir.CONFIG}; give another --workdir")
    config = network.config
    state = steps.init_state(config, network.mesh)
    places = jax.tree.map(lambda leaf: leaf.sharding, state.params)
    params = jax.tree.map(sharding.put_as, jax.device_get(network.params), places)
    with workdir.lock(directory), tempfile.TemporaryDirectory() as described:
        shutil.rmtree(saved, ignore_errors=True)  # of an import that was interrupted
        with checkpoint.open_directory(saved, keep=1) as checkpoints:
            position = checkpoint.Position(0, optim.Validation(), 0)
            checkpoint.save(
                checkpoints, 0, state.starting_from(params), position, {"config": config.model_dump(mode="json")}
            )
        workdir.prepare(Path(described), config, Dataset(network.classes, {}, lambda: network.statistics, "imported"))
        for path in sorted(Path(described).iterdir(), key=lambda path: path.name == workdir.CONFIG):
            with replacing(directory / path.name) as temporary:
                shutil.copyfile(path, temporary)


def parameters(network: Network) -> int:
    """The number of its parameters."""
    return sum(leaf.size for layer in network.params.values() for leaf in layer.values())


def folded(network: Network) -> Network:
    """The network with its batch normalization in its kernels and biases, as a plain one, which any format can hold."""
    spec, params = batch_norm.folded(network.config.model, network.params)
    return dataclasses.replace(network, config=network.config.model_copy(update={"model": spec}), params=params)


def write_stablehlo(path: Path, network: Network) -> None:
    """Write a program with weights: image [batch, size, size, 3] uint8 -> probabilities [batch, classes] float32."""
    config = network.config
    logits = activations.logits(config, sharding.make_mesh(1, 1, config.model.towers))
    params, statistics = jax.tree.map(jnp.asarray, jax.device_get((network.params, network.statistics)))

    def program(image):
        return jax.nn.softmax(logits(params, image, statistics), axis=-1)

    size = config.data.size
    image = jax.ShapeDtypeStruct((*jax.export.symbolic_shape("batch"), size, size, 3), jnp.uint8)
    path.write_bytes(jax.export.export(jax.jit(program), platforms=PLATFORMS)(image).serialize())


def to_tensors(network: Network) -> tuple[dict[str, np.ndarray], str]:
    """A network as tensors by name, and the rest as JSON. Raises UserError if PyTorch has no such layer."""
    mean_image, *colours = network.statistics
    metadata = {
        "format": FORMAT,
        "config": network.config.model_dump(mode="json"),
        "classes": network.classes,
        "colours": [array.tolist() for array in colours],  # eigenvalues and eigenvectors, which only training needs
        "step": network.step,
    }
    tensors = to_torch(network.config.model, jax.device_get(network.params))
    return tensors | {MEAN: mean_image}, json.dumps(metadata)


def from_tensors(tensors: dict[str, np.ndarray], metadata: str, path: Path) -> Network:
    """The network that `to_tensors` described in the file `path`. Raises DataError if a part does not fit."""
    with reading(f"{path} is damaged", "; export it again"):
        values = json.loads(metadata)
        if values["format"] != FORMAT:
            raise UserError(f"{path} has format {values['format']}, but this version reads {FORMAT}; export it again")
        config = config_files.from_json(json.dumps(values["config"]))
        eigenvalues, eigenvectors = (np.array(numbers, np.float32) for numbers in values["colours"])
        statistics = Statistics(np.asarray(tensors[MEAN], np.float32), eigenvalues, eigenvectors)
        size, classes = config.data.size, [str(name) for name in values["classes"]]
        shapes = ((size, size, 3), (3,), (3, 3))
        if tuple(array.shape for array in statistics) != shapes or len(classes) > config.model.num_classes:
            raise ValueError("its mean image, colours or classes do not fit its config")
        step = int(values.get("step", 0))  # files of earlier versions do not have it
        return Network(config, statistics, from_torch(config.model, tensors), classes, step, path)


def groups(spec: Model) -> dict[str, int]:
    """The number of groups of each convolution: more than one where a tower sees only its own feature maps."""
    return {name: 1 if name == "conv1" or conv.exchange else spec.towers for name, conv in spec.convs()}


def check_layers(spec: Model) -> None:
    """Raise UserError if PyTorch has no equivalent of one of the layers."""
    if names := spec.normalized():
        raise UserError(
            f"{', '.join(names)} has batch normalization, which files of weights hold folded into kernels and biases; "
            "give a config without batch_norm"
        )
    check_shared(spec)
    sees_all = {name: dense.exchange for name, dense in spec.hidden()} | {"fc8": spec.fc8.exchange}
    if spec.towers > 1:
        _check_none([name for name, exchange in sees_all.items() if not exchange], "sees only its own tower")


def check_shared(spec: Model) -> None:
    """Raise UserError if a layer has a kernel for each place, for which neither PyTorch nor ONNX has an operator."""
    _check_none([name for name, conv in spec.convs() if not conv.shared], "has separate kernels for every position")


def _check_none(names: list[str], what: str) -> None:
    if names:
        raise UserError(
            f"{', '.join(names)} {what}, which other programs have no layer for; export to .stablehlo, which can hold "
            "any network"
        )


def to_torch(spec: Model, params: Params) -> dict[str, np.ndarray]:
    """Parameters as float32 tensors `LAYER.weight` and `LAYER.bias`. Raises UserError as `check_layers` does."""
    check_layers(spec)
    tensors = {}
    for name, (height, width, channels) in _fields(spec).items():
        kernel, bias = (np.asarray(params[name][kind]) for kind in ("kernel", "bias"))
        weight = kernel.reshape(spec.towers, height, width, channels, -1).transpose(0, 4, 3, 1, 2)
        weight = weight.reshape(bias.size, *((channels, height, width) if name.startswith("conv") else (-1,)))
        outputs = spec.num_classes if name == "fc8" else bias.size  # fc8 may have more columns than classes
        tensors[f"{name}.weight"] = np.ascontiguousarray(weight[:outputs])
        tensors[f"{name}.bias"] = bias.reshape(-1)[:outputs]
    return tensors


def from_torch(spec: Model, tensors: dict[str, np.ndarray]) -> Params:
    """The parameters of `to_torch`'s tensors, or of another program's under the same names.

    Columns of fc8 without a class are zero. Raises UserError if a tensor has the wrong shape.
    """
    check_layers(spec)
    params: Params = {}
    for name, (height, width, channels) in _fields(spec).items():
        kernel_shape = activations.shapes(spec)[0][name]["kernel"]
        columns = spec.towers * kernel_shape[-1]
        outputs = spec.num_classes if name == "fc8" else columns
        inputs = (channels, height, width) if name.startswith("conv") else (channels * height * width,)
        expected = {"weight": (outputs, *inputs), "bias": (outputs,)}
        weight, bias = (np.asarray(tensors[f"{name}.{kind}"], np.float32) for kind in expected)
        for tensor, (kind, shape) in zip((weight, bias), expected.items(), strict=True):
            if tensor.shape != shape:
                raise UserError(
                    f"{name}.{kind} has the shape {tensor.shape}, but the config's network needs {shape}; give the "
                    "--config of the network that the weights belong to"
                )
        if missing := columns - outputs:
            weight, bias = np.pad(weight, ((0, missing), (0, 0))), np.pad(bias, (0, missing))
        kernel = weight.reshape(spec.towers, -1, channels, height, width).transpose(0, 3, 4, 2, 1).reshape(kernel_shape)
        params[name] = {"bias": bias.reshape(spec.towers, -1), "kernel": np.ascontiguousarray(kernel)}
    return params


def _fields(spec: Model) -> dict[str, tuple[int, ...]]:
    """Layer -> [H, W, C] of what one of its units sees."""
    params, outputs = activations.shapes(spec)
    kernels = {name: leaves["kernel"] for name, leaves in params.items()}
    fields = {name: shape[1:4] if name.startswith("conv") else (1, 1, shape[1]) for name, shape in kernels.items()}
    height, width, channels = outputs[f"{spec.convs()[-1][0]}_output"]
    return fields | {next((name for name, _ in spec.hidden()), "fc8"): (height, width, spec.towers * channels)}
