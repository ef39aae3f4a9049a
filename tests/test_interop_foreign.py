"""Other programs' networks, imported: full size, with random weights, on real photos.

onnxruntime runs here, PyTorch in test_interop_peers.py. Caffe cannot be installed: its file is compared with the ONNX
form of the same network.
"""

import dataclasses
import json
import struct
from pathlib import Path

import jax
import numpy as np
import onnx
import onnxruntime
import pytest
from google.protobuf import message
from onnx import TensorProto, helper, numpy_helper
from safetensors.numpy import save_file

from alexnet_jax import augment, metrics, model, sharding
from alexnet_jax.errors import UserError
from alexnet_jax.inference.network import Network
from alexnet_jax.interop import caffe, files, foreign, networks, onnx_files, state_dicts
from alexnet_jax.interop.foreign import PREPROCESSING, ForeignNetwork, Preprocessing
from alexnet_jax.run import config_files
from alexnet_jax.run_config import Config
from tests.conftest import encoded
from tests.networks import log_probabilities, log_softmax, pictures, random_network, small
from tests.test_commands import run

KERNELS = {"conv1": [11, 11], "conv2": [5, 5], "conv3": [3, 3], "conv4": [3, 3], "conv5": [3, 3]}
LAYERS = (*KERNELS, "fc6", "fc7", "fc8")


def config(name: str) -> Config:
    return config_files.parse(config_files.load(name))


def converted(path: Path, name: str = "variants:caffe", pixels: str = "caffe") -> Network:
    return files.imported(path, name, pixels)[0]


def bvlc(rng: np.random.Generator) -> dict[str, np.ndarray]:
    """Caffe's bvlc_alexnet: its shapes, with weights that keep signals alive."""
    shapes = {
        "conv1": (96, 3, 11, 11),
        "conv2": (256, 48, 5, 5),
        "conv3": (384, 256, 3, 3),
        "conv4": (384, 192, 3, 3),
        "conv5": (256, 192, 3, 3),
        "fc6": (4096, 9216),
        "fc7": (4096, 4096),
        "fc8": (1000, 4096),
    }
    tensors = {}
    for name, shape in shapes.items():
        fan_in = np.prod(shape[1:])
        tensors[f"{name}_w"] = (rng.standard_normal(shape, np.float32) * np.sqrt(2 / fan_in)).astype(np.float32)
        tensors[f"{name}_b"] = (0.1 * rng.standard_normal(shape[0], np.float32)).astype(np.float32)
    tensors["conv1_w"] /= 60  # pixels
    return tensors


def write_zoo(path: Path, tensors: dict[str, np.ndarray], activated: tuple[str, ...] = ("fc6", "fc7"), k=1.0) -> None:
    """Write bvlcalexnet as in the model zoo: images of 224, pooling padded at the end, Reshape before fc6, Softmax."""
    nodes: list[onnx.NodeProto] = []
    last, maps = "data_0", [3]

    def add(kind, *others, **attributes):
        nonlocal last
        out = f"{kind.lower()}{len(nodes)}_1"
        nodes.append(helper.make_node(kind, [last, *others], [out], **attributes))
        last = out

    def conv(name, stride, pad):
        pads, group = [pad] * 4, maps[-1] // tensors[f"{name}_w"].shape[1]
        maps.append(len(tensors[f"{name}_w"]))
        add("Conv", f"{name}_w", f"{name}_b", group=group, strides=[stride] * 2, pads=pads, kernel_shape=KERNELS[name])
        add("Relu")

    def norm_pool(norm=True):
        if norm:
            add("LRN", alpha=1e-4, beta=0.75, bias=k, size=5)
        add("MaxPool", kernel_shape=[3, 3], strides=[2, 2], pads=[0, 0, 1, 1])

    conv("conv1", 4, 0)
    norm_pool()
    conv("conv2", 1, 2)
    norm_pool()
    conv("conv3", 1, 1)
    conv("conv4", 1, 1)
    conv("conv5", 1, 1)
    norm_pool(norm=False)
    add("Reshape", "shape")
    for name in ("fc6", "fc7", "fc8"):
        add("Gemm", f"{name}_w", f"{name}_b", transB=1)
        if name in activated:
            add("Relu")
        if name != "fc8":
            add("Dropout", ratio=0.5)
    logits = last
    add("Softmax", axis=1)
    graph = helper.make_graph(
        nodes,
        "bvlcalexnet",
        [helper.make_tensor_value_info("data_0", TensorProto.FLOAT, [1, 3, 224, 224])],
        [
            helper.make_tensor_value_info(logits, TensorProto.FLOAT, [1, 1000]),
            helper.make_tensor_value_info(last, TensorProto.FLOAT, [1, 1000]),
        ],
        [
            *(numpy_helper.from_array(tensor, name) for name, tensor in tensors.items()),
            numpy_helper.from_array(np.array([1, 9216], np.int64), "shape"),
        ],
    )
    proto = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 9)])
    proto.ir_version = 8
    path.write_bytes(proto.SerializeToString())


@pytest.fixture(scope="module")
def bvlc_tensors() -> dict[str, np.ndarray]:
    return bvlc(np.random.default_rng(0))


@pytest.fixture(scope="module")
def bvlc_onnx(bvlc_tensors, tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("zoo") / "bvlcalexnet-9.onnx"
    write_zoo(path, bvlc_tensors)
    return path


@pytest.mark.slow
def test_the_zoo_s_bvlc_alexnet_gives_onnxruntime_s_logits(bvlc_onnx):
    network, rows = files.imported(bvlc_onnx, "variants:caffe", "caffe")
    spec = network.config.model
    assert (spec.towers, spec.image_size, spec.pool.ceil, spec.lrn.across_towers) == (2, 224, True, True)
    assert [conv.exchange for _, conv in spec.convs()] == [False, False, True, False, False]
    images = pictures()
    inputs = augment.centre_crop(images, 224)[..., ::-1].astype(np.float32) - np.array([104, 117, 123], np.float32)
    session = onnxruntime.InferenceSession(bvlc_onnx)
    logits = np.concatenate([session.run(None, {"data_0": x[None].transpose(0, 3, 1, 2)})[0] for x in inputs])
    assert logits.std() > 0.5  # the signal has not died out, in which case anything would agree
    np.testing.assert_allclose(log_probabilities(network, images), log_softmax(logits), atol=1e-4)
    done = {row[0]: row[3] for row in rows}
    assert "BGR to RGB" in done["conv1"] and "2 groups become 2 towers" in done["conv2"]
    assert "[C, H, W] to [H, W, C]" in done["fc6"] and "2e-05" in done["normalization"]


def caffemodel(
    tensors: dict[str, np.ndarray], age: str, order: tuple[str, ...] = ("LRN", "Pooling")
) -> message.Message:
    """A file as Caffe wrote it before 2015 ("v1"), or has since."""
    net = caffe.NetParameter()
    old = age == "v1"
    types = {name: number for number, name in caffe.TYPES.items()}
    layers = net.layers if old else net.layer

    def add(kind, name):
        return layers.add(name=name, type=types[kind] if old else kind)

    def add_blobs(layer, name):
        for kind in "wb":
            array = tensors[f"{name}_{kind}"]
            blob = layer.blobs.add()
            if old:
                blob.num, blob.channels, blob.height, blob.width = (1,) * (4 - array.ndim) + array.shape
            else:
                blob.shape.dim.extend(array.shape)
            blob.data.extend(array.reshape(-1))

    groups, pads = {"conv2": 2, "conv4": 2, "conv5": 2}, {"conv1": 0, "conv2": 2}
    layers.add(name="data", type=5 if old else "Data")
    for name in KERNELS:
        layer = add("Convolution", name)
        conv = layer.convolution_param
        conv.num_output, conv.group = len(tensors[f"{name}_w"]), groups.get(name, 1)
        conv.kernel_size.append(tensors[f"{name}_w"].shape[-1])
        conv.pad.append(pads.get(name, 1))
        conv.stride.append(4 if name == "conv1" else 1)
        add_blobs(layer, name)
        add("ReLU", f"relu_{name}")
        for kind in order if name in ("conv1", "conv2") else ("Pooling",) if name == "conv5" else ():
            layer = add(kind, f"{kind}_{name}")
            if kind == "LRN":
                norm = layer.lrn_param
                norm.local_size, norm.alpha, norm.beta = 5, 1e-4, 0.75
            else:
                layer.pooling_param.kernel_size, layer.pooling_param.stride = 3, 2
    for name in ("fc6", "fc7", "fc8"):
        add_blobs(add("InnerProduct", name), name)
        if name != "fc8":
            add("ReLU", f"relu_{name}")
            layers.add(name=f"drop_{name}", type=6 if old else "Dropout")
    layers.add(name="loss", type=21 if old else "SoftmaxWithLoss")
    return net


@pytest.fixture(scope="module")
def few_tensors(bvlc_tensors) -> dict[str, np.ndarray]:
    """bvlc_alexnet with a sixteenth of the units in fc6 and fc7: a .caffemodel is slow to write in Python."""
    cut = dict(bvlc_tensors)
    cut["fc6_w"], cut["fc6_b"] = cut["fc6_w"][:256], cut["fc6_b"][:256]
    cut["fc7_w"], cut["fc7_b"] = cut["fc7_w"][:128, :256] * 4, cut["fc7_b"][:128]
    cut["fc8_w"], cut["fc8_b"] = cut["fc8_w"][:10, :128] * 5, cut["fc8_b"][:10]
    return cut


@pytest.mark.slow
@pytest.mark.parametrize("age", ["v1", "since 2015"])
def test_a_caffemodel_is_the_network_of_its_onnx_form(age, few_tensors, tmp_path):
    """With images of 227, as in Caffe: conv1's output is 55x55, and no pooling window extends over an edge."""
    (tmp_path / "net.caffemodel").write_bytes(caffemodel(few_tensors, age).SerializeToString())
    network = converted(tmp_path / "net.caffemodel")
    assert network.config.model.image_size == 227 and network.config.model.conv1.then == ("activation", "lrn", "pool")
    write_zoo(tmp_path / "net.onnx", few_tensors)
    other = converted(tmp_path / "net.onnx")
    jax.tree.map(np.testing.assert_array_equal, network.params, other.params)
    assert network.config.model.lrn == other.config.model.lrn
    other = dataclasses.replace(other, config=config_files.changed(other.config, model={"image_size": 227}))
    np.testing.assert_array_equal(log_probabilities(network, pictures()), log_probabilities(other, pictures()))


OWT_PLACES = (  # torchvision's names, whose alphabetical order is not that of the layers
    *("features.0", "features.3", "features.6", "features.8", "features.10"),
    *("classifier.1", "classifier.4", "classifier.6"),
)


def test_a_state_dict_in_safetensors_with_its_config(tmp_path):
    rng = np.random.default_rng(1)
    convs = ((64, 3, 11, 11), (192, 64, 5, 5), (384, 192, 3, 3), (256, 384, 3, 3), (256, 256, 3, 3))
    shapes: tuple[tuple[int, ...], ...] = (*convs, (32, 9216), (32, 32), (10, 32))
    tensors: dict[str, np.ndarray] = {}
    for name, shape in zip(LAYERS, shapes, strict=True):
        tensors |= {f"{name}_w": rng.standard_normal(shape, np.float32), f"{name}_b": np.ones(shape[0], np.float32)}
    named = {
        f"{place}.{kind}": tensors[f"{layer}_{kind[0]}"]
        for layer, place in zip(LAYERS, OWT_PLACES, strict=True)
        for kind in ("weight", "bias")
    }
    save_file(named, tmp_path / "owt.safetensors")
    state = state_dicts.read_safetensors(tmp_path / "owt.safetensors")
    assert isinstance(state, ForeignNetwork) and [layer.name for layer in state.layers][:2] == [
        "features.0",
        "features.3",
    ]
    network, rows = files.imported(tmp_path / "owt.safetensors", "variants:one_weird_trick", "torchvision")
    spec = network.config.model
    assert (spec.towers, spec.num_classes, spec.dropout_scaling) == (1, 10, "training")
    assert spec.fc6 and spec.fc6.features == 32
    factor = 1 / 255 / np.array([0.229, 0.224, 0.225])
    np.testing.assert_allclose(
        network.params["conv1"]["kernel"][0].transpose(3, 2, 0, 1),
        tensors["conv1_w"] * factor[None, :, None, None],
        1e-6,
    )
    np.testing.assert_allclose(network.statistics.mean_image[0, 0], [123.675, 116.28, 103.53], rtol=1e-6)
    assert any("its scale of pixels" in row[3] for row in rows)


def test_a_mean_replaces_the_usual_one(few_tensors, tmp_path):
    """--mean is in the network's order of colours, here BGR."""
    write_zoo(tmp_path / "net.onnx", few_tensors)
    network, _ = files.imported(tmp_path / "net.onnx", "variants:caffe", "caffe", "1,2,3")
    np.testing.assert_array_equal(network.statistics.mean_image[0, 0], [3, 2, 1])


@pytest.mark.slow
def test_an_imported_network_predicts(few_tensors, tmp_path):
    write_zoo(tmp_path / "net.onnx", few_tensors)
    (tmp_path / "classes.txt").write_text("\n".join(f"kind {i}" for i in range(10)))
    output = run(
        "alexnet_jax",
        "import",
        tmp_path / "net.onnx",
        "--config=variants:caffe",
        "--pixels=caffe",
        f"--classes={tmp_path / 'classes.txt'}",
        f"--workdir={tmp_path / 'run'}",
    )
    assert "2 groups become 2 towers" in output and "BGR to RGB" in output
    (tmp_path / "photo.png").write_bytes(encoded(pictures(count=1)[0], "PNG"))
    assert "kind " in run("alexnet_jax", "predict", "--workdir", tmp_path / "run", tmp_path / "photo.png")


DAMAGED = {
    "a safetensors file of noise": ("a.safetensors", b"noise" * 99),
    "one that claims a header of 2^60 bytes": ("a.safetensors", struct.pack("<Q", 2**60) + b"{}"),
    "one with no weights": ("a.safetensors", struct.pack("<Q", 2) + json.dumps({}).encode()),
    "an onnx file of noise": ("a.onnx", b"noise" * 99),
    "an empty onnx file": ("a.onnx", b""),
    "a caffemodel of noise": ("a.caffemodel", b"noise" * 99),
    "an empty caffemodel": ("a.caffemodel", b""),
    "an unknown suffix": ("a.h5", b"noise"),
}


@pytest.mark.parametrize("kind", DAMAGED)
def test_files_without_a_network_are_refused(kind, tmp_path):
    name, content = DAMAGED[kind]
    (tmp_path / name).write_bytes(content)
    with pytest.raises(UserError, match=name.replace(".", r"\.")):
        files.imported(tmp_path / name)


def test_a_graph_that_is_not_an_alexnet_is_refused(tmp_path):
    image = helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 3, 8, 8])
    for node, expected in (
        (helper.make_node("Sigmoid", ["x"], ["y"]), "is of type Sigmoid, which is not supported"),
        (helper.make_node("Relu", ["z"], ["y"]), "is not a sequence of layers"),
        (helper.make_node("Conv", ["x", "w"], ["y"], auto_pad="SAME_UPPER"), "uses auto_pad"),
    ):
        graph = helper.make_graph([node], "g", [image], [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)])
        onnx.save(helper.make_model(graph), tmp_path / "g.onnx")
        with pytest.raises(UserError, match=expected):
            onnx_files.read(tmp_path / "g.onnx")


def test_weights_in_a_file_of_their_own_are_read_beside_the_onnx_file_only(few_tensors, tmp_path, monkeypatch):
    """From any folder, whatever it holds; and no other file of this computer."""
    home, elsewhere = tmp_path / "home", tmp_path / "elsewhere"
    home.mkdir(), elsewhere.mkdir()
    write_zoo(home / "net.onnx", few_tensors)
    expected = converted(home / "net.onnx").params
    onnx.save(onnx.load(home / "net.onnx"), home / "net.onnx", save_as_external_data=True, location="weights.bin")
    assert (home / "net.onnx").stat().st_size < 2**16 < (home / "weights.bin").stat().st_size
    weights = (home / "weights.bin").read_bytes()
    (elsewhere / "weights.bin").write_bytes(bytes(len(weights)))
    for cwd, path in ((elsewhere, home / "net.onnx"), (tmp_path, Path("home/net.onnx")), (home, Path("net.onnx"))):
        monkeypatch.chdir(cwd)
        jax.tree.map(np.testing.assert_array_equal, converted(path).params, expected)

    (elsewhere / "weights.bin").write_bytes(weights)
    (home / "linked.bin").symlink_to(elsewhere / "weights.bin")
    described = onnx.load(home / "net.onnx", load_external_data=False)
    refused = {"../elsewhere/weights.bin": "outside", str(elsewhere / "weights.bin"): "absolute"}
    for location, why in (refused | {"linked.bin": "symbolic link", "missing.bin": "missing.bin"}).items():
        entries = (entry for tensor in described.graph.initializer for entry in tensor.external_data)
        next(entry for entry in entries if entry.key == "location").value = location
        (home / "bad.onnx").write_bytes(described.SerializeToString())
        with pytest.raises(UserError, match=rf"bad\.onnx is not a valid ONNX file: .*{why}"):
            converted(home / "bad.onnx")


@pytest.mark.parametrize("activated", [("fc6",), (), ("fc6", "fc7", "fc8")])
def test_other_activations_than_ours_are_refused(few_tensors, tmp_path, activated):
    write_zoo(tmp_path / "net.onnx", few_tensors, activated)
    with pytest.raises(UserError, match=r"is followed by .*, but .* can only be followed by"):
        converted(tmp_path / "net.onnx")


def test_weights_that_are_not_finite_are_refused(few_tensors, tmp_path):
    write_zoo(tmp_path / "net.onnx", few_tensors | {"conv3_b": few_tensors["conv3_b"] * np.nan})
    with pytest.raises(UserError, match="weights that are not finite"):
        converted(tmp_path / "net.onnx")


@pytest.mark.slow
def test_the_preprocessing_of_any_program(tmp_path):
    """(pixel * scale - mean) / std in the network's order of colours becomes part of conv1 and the mean image."""
    network = random_network(small(towers=1))
    images, rng = pictures(32), np.random.default_rng(2)
    preprocessing = Preprocessing(1 / 128, (0.9, 1.1, 0.8), (0.5, 0.25, 2.0), bgr=True)
    # No border around the crop: here zeros are padded after the mean is subtracted.
    base = config_files.changed(network.config, data={"size": 28})
    tensors = {name: tensor for name, tensor in networks.to_tensors(network)[0].items() if "." in name}
    tensors["conv1.bias"] = rng.standard_normal(len(tensors["conv1.bias"]), np.float32)
    save_file(tensors, tmp_path / "net.safetensors")
    state = state_dicts.read_safetensors(tmp_path / "net.safetensors")
    assert isinstance(state, ForeignNetwork)
    imported, _ = foreign.convert(state, base, preprocessing, None)
    plain, _ = foreign.convert(state, base, PREPROCESSING["rgb"], None)
    crop = augment.centre_crop(images, 28)
    inputs = ((crop[..., ::-1] / 128 - np.array(preprocessing.mean)) / np.array(preprocessing.std)).astype(np.float32)

    def one_tower(params):
        return metrics.log_softmax(model.logits(plain.config.model, params, inputs, None))

    expected = jax.vmap(one_tower, axis_name=sharding.TOWER)(plain.params)[0]
    np.testing.assert_allclose(log_probabilities(imported, crop), expected, atol=1e-4)
