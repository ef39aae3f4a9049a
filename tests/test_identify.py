"""`alexnet identify`: which network a file holds, and whether it looks trained. Files are built, but for ONNX's own."""

import json
import shlex
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from flax import serialization
from flax.traverse_util import unflatten_dict
from safetensors.numpy import save_file

from alexnet_jax import __main__
from alexnet_jax.errors import DataError, UserError
from alexnet_jax.interop import architectures, files, identify, start
from alexnet_jax.interop.foreign import ForeignLayer, ForeignNetwork
from alexnet_jax.model_config import Conv
from alexnet_jax.model_config import std as std_of
from tests.networks import random_network, small
from tests.test_interop_foreign import OWT_PLACES, caffemodel, write_zoo

Tensors = dict[str, np.ndarray]
LIGHT = Path(onnx.__file__).parent / "backend/test/data/light"  # graphs of the model zoo without their weights
GROUPED = ("the paper's network", "the authors' network of 2012", "Caffe's bvlc_alexnet", "CaffeNet")
OWT = ("torchvision's alexnet", 'the network of "One weird trick", which normalizes')
CIFAR = ("features.0", "features.3", "features.6", "features.8", "features.10", "classifier")


def started(name: str, units: int = 16, pytorch: bool = False) -> Tensors:
    """Weights and biases as the known network `name` starts, or as PyTorch would; fc6 and fc7 have few `units`."""
    model = next(known.model for known in architectures.KNOWN if known.name == name)
    rng, tensors, maps, size = np.random.default_rng(0), Tensors(), 3, model.image_size
    groups = identify.networks.groups(model)
    for layer, spec in model.layers().items():
        if isinstance(spec, Conv):
            shape: tuple[int, ...] = (spec.features, maps // groups[layer], spec.kernel, spec.kernel)
            size, maps = spec.output(size), spec.features
            size = model.pool.output(size) if "pool" in spec.then else size
        else:
            shape = (10 if layer == "fc8" else units, maps * size**2)
            maps, size = units, 1
        bound, bias = np.prod(shape[1:]) ** -0.5, getattr(spec, "init_bias", 0.0)
        std = std_of(spec.init_std, np.prod(shape[1:]))
        values = rng.uniform(-bound, bound, shape) if pytorch else std * rng.standard_normal(shape, np.float32)
        biases = rng.uniform(-bound, bound, shape[0]) if pytorch else np.full(shape[0], bias)
        tensors |= {f"{layer}_w": values.astype(np.float32), f"{layer}_b": biases.astype(np.float32)}
    return tensors


def save_state(path: Path, tensors: Tensors, places: tuple[str, ...], prefix: str = "", dtype=np.float32) -> None:
    layers = [name[:-2] for name in tensors if name.endswith("_w")]
    named = {
        f"{prefix}{place}.{kind}": tensors[f"{layer}_{kind[0]}"].astype(dtype)
        for layer, place in zip(layers, places, strict=True)
        for kind in ("weight", "bias")
    }
    save_file(named, path)


def numbered(tensors: Tensors) -> tuple[str, ...]:
    return tuple(name[:-2] for name in tensors if name.endswith("_w"))


def save_flax(path: Path, tensors: Tensors) -> None:
    """A state of training of Flax, in its array layout."""
    leaves, maps = {}, 256
    for name, array in tensors.items():
        layer, kind = name.split("_")
        if kind == "w" and layer == "fc6":
            size = int((array.shape[1] // maps) ** 0.5)
            array = array.reshape(-1, maps, size, size).transpose(0, 2, 3, 1).reshape(len(array), -1)
        leaves[f"{layer}.{'kernel' if kind == 'w' else 'bias'}"] = (
            array.transpose(2, 3, 1, 0) if array.ndim == 4 else array.T
        )
    params = unflatten_dict(leaves, sep=".")
    path.write_bytes(serialization.to_bytes({"step": 0, "params": params, "opt_state": {"trace": params}}))


def as_convolutions(tensors: Tensors) -> Tensors:
    """Fully connected layers as TF-Slim has them."""
    sizes = {"fc6_w": 5, "fc7_w": 1, "fc8_w": 1}
    return {
        name: array.reshape(len(array), -1, sizes[name], sizes[name]) if name in sizes else array
        for name, array in tensors.items()
    }


def write_caffe(name: str, *order: str) -> Callable[[Path], object]:
    return lambda path: path.write_bytes(caffemodel(started(name), "v1", order).SerializeToString())


def save(name: str, places: tuple[str, ...] = (), **options) -> Callable[[Path], None]:
    return lambda path: save_state(path, started(name), places or numbered(started(name)), **options)


SLIM, CIFAR_ONE_FC = "TF-Slim's alexnet_v2", "pytorch-classification's alexnet for CIFAR"
UNGROUPED, SIX = "a network of the paper's widths without groups", "the paper's network with six convolutions"
CASES: dict[str, tuple[str, Callable[[Path], object], tuple[str, ...]]] = {  # file -> suffix, writer, what it may be
    "Caffe's bvlc_alexnet": (".caffemodel", write_caffe("Caffe's bvlc_alexnet", "LRN", "Pooling"), (GROUPED[2],)),
    "CaffeNet": (".caffemodel", write_caffe("CaffeNet", "Pooling", "LRN"), ("CaffeNet",)),
    "Caffe's, without order": (".safetensors", save("CaffeNet"), GROUPED),
    "Caffe's, as ONNX": (".onnx", lambda path: write_zoo(path, started(GROUPED[2])), (GROUPED[2],)),
    "Caffe's with k = 2": (".onnx", lambda path: write_zoo(path, started(GROUPED[2]), k=2.0), ()),
    "CNTK's": (".onnx", lambda path: write_zoo(path, started("CNTK's AlexNet")), ("CNTK's AlexNet",)),
    "torchvision's": (
        ".safetensors",
        lambda path: save_state(path, started(OWT[0], pytorch=True), OWT_PLACES, "module."),
        (OWT[0],),
    ),
    "torchvision's under other names": (".safetensors", save(OWT[0]), OWT),
    "a Flax copy of torchvision's": (".msgpack", lambda path: save_flax(path, started(OWT[0])), OWT),
    "TF-Slim's": (
        ".safetensors",
        lambda path: save_state(path, as_convolutions(started(SLIM)), numbered(started(SLIM))),
        (SLIM,),
    ),
    "a Flax copy of TF-Slim's": (".msgpack", lambda path: save_flax(path, started(SLIM)), (SLIM,)),
    "a CIFAR cousin": (".safetensors", save(CIFAR_ONE_FC, CIFAR, dtype=np.float16), (CIFAR_ONE_FC,)),
    "a tutorial's": (".safetensors", save(UNGROUPED), (UNGROUPED,)),
    "six convolutions": (".safetensors", save(SIX), (SIX,)),
    "one GPU's": (".safetensors", save("the paper's one-GPU network"), ("the paper's one-GPU network",)),
}


def identified(path: Path, capsys) -> dict:
    """What the command prints as JSON."""
    with pytest.raises(SystemExit) as ended:
        __main__.main(["identify", str(path), "--json"])
    out, err = capsys.readouterr()
    assert not ended.value.code, err
    return json.loads(out)


@pytest.mark.parametrize("kind", CASES)
def test_a_file_is_what_its_shapes_and_it_itself_say(kind, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(start, "SAMPLE", (64, 128))  # quicker
    suffix, write, expected = CASES[kind]
    write(tmp_path / f"net{suffix}")
    answer = identified(tmp_path / f"net{suffix}", capsys)
    assert tuple(answer["candidates"]) == expected and answer["certain"] == (len(expected) == 1), answer["network"]
    assert answer["trained"].startswith("no:"), answer["trained"]
    for command in answer["import"]:
        _, _, path, *flags = shlex.split(command)
        given = dict(zip(flags[::2], flags[1::2], strict=True))
        network, _ = files.imported(Path(path), given["--config"], given["--pixels"], given.get("--mean"))
        assert len(network.classes) == 10
        if suffix == ".msgpack":  # whose array layout differs from that of the others
            tensors, read = started(expected[0]), files.read(Path(path))
            assert isinstance(read, ForeignNetwork)
            for layer, name in zip(read.layers, numbered(tensors), strict=True):
                np.testing.assert_array_equal(layer.weight, tensors[f"{name}_w"])
    if not expected:
        assert "lrn k: 2, not 1" in answer["network"] and not answer["import"]


def test_the_graphs_that_come_with_onnx(capsys):
    """The model zoo's bvlcalexnet in full size, whose weights are placeholders, and networks that are no AlexNet."""
    answer = identified(LIGHT / "light_bvlc_alexnet.onnx", capsys)
    assert answer["candidates"] == ["Caffe's bvlc_alexnet"] and answer["certain"] and not answer["differences"]
    assert (
        "placeholder" in answer["trained"] and "it calls itself bvlc_alexnet; onnx-caffe2 wrote it" in answer["notes"]
    )
    assert [layer["groups"] for layer in answer["layers"]] == [1, 2, 1, 2, 2, 1, 1, 1]
    network, rows = files.imported(LIGHT / "light_bvlc_alexnet.onnx", "variants:caffe", "caffe")
    assert (network.config.model.image_size, network.config.model.pool.ceil) == (227, False)  # as in Caffe
    assert any("rounds both up and down" in row[3] for row in rows)
    for name, message in (("zfnet512", "earlier layers have"), ("resnet50", "BatchNormalization")):
        with pytest.raises(SystemExit, match="2"):
            __main__.main(["identify", str(LIGHT / f"light_{name}.onnx")])
        assert f"light_{name}.onnx" in (err := capsys.readouterr().err) and message in err


def layer(weight: np.ndarray, bias: np.ndarray | None = None) -> ForeignLayer:
    zeros = np.zeros(len(weight), np.float32)
    return ForeignLayer("layer", weight.astype(np.float32), zeros if bias is None else bias.astype(np.float32), {})


@pytest.mark.parametrize(
    ("shape", "count"),
    [((32, 3, 5, 5), 10), ((10, 64), 10), ((64, 128), 10), pytest.param((96, 3, 11, 11), 10, marks=pytest.mark.long)],
)
def test_independent_weights_never_look_trained(shape, count):
    """Their scores stay below two thirds of what is called trained; those of weights that learned are above."""
    scores, verdicts = [], set()
    for seed in range(count):
        rng = np.random.default_rng(seed)
        normal = rng.standard_normal(shape)
        cut = np.where(abs(normal) < 2, normal, rng.uniform(-0.5, 0.5, shape))
        for weight in (0.01 * normal, rng.uniform(-1, 1, shape), cut):
            look = start.look(layer(weight))
            scores += [look.edge, look.smoothness]
            verdicts.add(look.verdict)
    assert max(scores) < start.EDGE / 1.5 and "trained" not in verdicts, (max(scores), verdicts)
    slope = np.ones(shape[1:]) / np.sqrt(np.prod(shape[1:]))  # all units learn one direction
    learned = normal + 3 * np.sqrt(max(shape[0], np.prod(shape[1:])) / shape[0]) * slope
    assert start.look(layer(learned)).verdict == "trained"


def test_what_is_unusual_about_weights_is_said():
    rng = np.random.default_rng(0)
    weight = rng.standard_normal((64, 100))
    network = identify.identify(ForeignNetwork(Path("x"), [], {}, []))._replace
    odd = {
        "only 9 different weights": np.clip(np.round(2 * weight), -4, 4),
        "68% of its weights at 0": np.where(abs(weight) < 1, 0, weight),
        "3 dead units": np.where(np.arange(64)[:, None] < 3, 1e-9, 1) * weight,
        "rank 2, of 64": weight[:, :2] @ weight[:2],
    }
    for words, values in odd.items():
        identity = network(network=ForeignNetwork(Path("x"), [layer(values)], {}, []))
        assert words in "; ".join(identify.remarks(identity, identify.looks(identity)[1])), words
    usual = network(network=ForeignNetwork(Path("x"), [layer(rng.standard_normal((600, 600)))], {}, []))
    assert not identify.remarks(usual, identify.looks(usual)[1])  # although 300 units are looked at, and 512 at most
    identity = network(network=ForeignNetwork(Path("x"), [layer(weight * np.nan)], {}, []))
    assert "not finite" in identify.looks(identity)[0]


def test_our_own_files_say_all(tmp_path, capsys):
    network = random_network(small(towers=1))
    files.export(network, tmp_path / "net.safetensors")
    answer = identified(tmp_path / "net.safetensors", capsys)
    assert not answer["ask"] and answer["notes"] == ["written by this program at step 7"]
    assert answer["layers"][0]["then"] == ["activation", "lrn", "pool"]
    assert not answer["certain"] and "no AlexNet that is known here" in answer["network"]
    assert answer["import"] == [f"alexnet import {tmp_path / 'net.safetensors'} --workdir runs/imported"]


def test_an_import_names_the_network_and_its_config(tmp_path):
    """Where no config is given, where the one given does not fit, and where it only seems to fit."""
    path = tmp_path / "a net.safetensors"
    save_state(path, started(OWT[0]), OWT_PLACES)
    command = (
        rf"torchvision's alexnet .* alexnet import '{path}' --config variants:one_weird_trick --pixels torchvision"
    )
    with pytest.raises(UserError, match=command):
        files.imported(path)
    with pytest.raises(UserError, match=rf"the config's network needs .*{command}"):
        files.imported(path, "variants:slim", "rgb")
    _, rows = files.imported(path, "variants:caffe", "caffe")  # whose fc6 has 9216 inputs too
    assert "variants:one_weird_trick" in rows[-1][-1]
    _, rows = files.imported(path, "variants:one_weird_trick", "torchvision")
    assert rows[-1][0] == "pooling"


def test_files_that_cannot_be_used_say_why(tmp_path):
    weights = {"conv1.weight": np.zeros((8, 3, 5, 5), np.int8), "fc8.weight": np.zeros((10, 8), np.float32)}
    save_file(weights, tmp_path / "net.safetensors")
    with pytest.raises(UserError, match="is quantized: its weights are I8"):
        files.read(tmp_path / "net.safetensors")
    weights["conv1.weight"] = np.zeros((8, 3, 5, 5), np.float32)
    save_file(weights | {"bn1.running_mean": np.zeros(8, np.float32)}, tmp_path / "net.safetensors")
    with pytest.raises(UserError, match=r"has batch normalization \(bn1.running_mean\)"):
        files.read(tmp_path / "net.safetensors")
    save_flax(tmp_path / "net.msgpack", started(OWT[0]))
    (tmp_path / "net.msgpack").write_bytes((tmp_path / "net.msgpack").read_bytes()[:-100])
    with pytest.raises(DataError, match="not a file of Flax, or is truncated"):
        files.read(tmp_path / "net.msgpack")


def test_what_is_no_layer_is_refused(tmp_path):
    """Weights or biases that cannot be those of a layer, and products without weights, as of attention."""
    for kernels, biases in (((0, 3, 5, 5), 0), ((8, 0, 5, 5), 8), ((8, 3, 5, 5), 9)):
        tensors = {"conv1.weight": np.zeros(kernels, np.float32), "conv1.bias": np.zeros(biases, np.float32)}
        save_file(tensors, tmp_path / "net.safetensors")
        with pytest.raises(UserError, match=r"conv1 has weights .* which make no layer"):
            files.read(tmp_path / "net.safetensors")
    image, out = (onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, [1, 3, 4, 4]) for name in "xy")
    graph = onnx.helper.make_graph([onnx.helper.make_node("MatMul", ["x", "x"], ["y"])], "g", [image], [out])
    onnx.save(onnx.helper.make_model(graph), tmp_path / "net.onnx")
    with pytest.raises(UserError, match="y multiplies what other nodes compute"):
        files.read(tmp_path / "net.onnx")


def test_the_folder_of_an_export_is_its_network(tmp_path, capsys):
    files.export(random_network(small(towers=1)), tmp_path / files.WEIGHTS)
    (tmp_path / "config.json").write_text("{}")
    assert identified(tmp_path, capsys)["notes"] == ["written by this program at step 7"]
    assert files.imported(tmp_path)[0].step == 7
