"""Weights and programs in and out, each against the program whose they are: onnxruntime here, PyTorch in
test_interop_peers.py. Caffe itself cannot be had: its file is compared with the ONNX form of the same network."""

import json
import struct
import subprocess
import sys
from pathlib import Path

import jax
import jax.export
import numpy as np
import onnx
import onnxruntime
import pytest
from google.protobuf import message
from onnx import TensorProto, helper, numpy_helper
from safetensors.numpy import load_file, save_file

from alexnet_jax import sharding, steps
from alexnet_jax.configs.variants import caffe as caffe_config
from alexnet_jax.configs.variants import one_weird_trick
from alexnet_jax.data.blocks import stored_pixels
from alexnet_jax.errors import DataError, UserError
from alexnet_jax.interop import caffe, files, networks, onnx_in, onnx_out, programs
from alexnet_jax.interop.chains import PIXELS, Chain, Pixels, network
from alexnet_jax.interop.networks import Network
from alexnet_jax.run import config_files
from alexnet_jax.run_config import Config
from tests.conftest import ROOT, encoded, made_up_statistics
from tests.runs import environment
from tests.test_commands import run
from tests.tiny import tiny_config

REAL = sorted((ROOT.parent / "shared/data/imagenet-samples").glob("*/*.JPEG"))


def pictures(size: int = 256, count: int = 3) -> np.ndarray:
    """[count, size, size, 3] uint8: photos where there are some, else made up ones of many colours."""
    if REAL:
        return np.stack([stored_pixels(path.read_bytes(), size)[0] for path in REAL[:count]])
    rng = np.random.default_rng(0)
    rough = [encoded(rng.integers(0, 256, (9, 11, 3), dtype=np.uint8), "PNG") for _ in range(count)]
    return np.stack([stored_pixels(content, size)[0] for content in rough])


def ours(found: Network, images: np.ndarray) -> np.ndarray:
    """Log-probabilities [B, classes]."""
    mesh = sharding.make_mesh(1, 1, found.config.model.towers)
    return np.asarray(steps.make_log_predict_step(found.config, mesh, 1)(found.params, images, found.statistics))


def log_softmax(logits: np.ndarray) -> np.ndarray:
    shifted = logits.astype(np.float64) - logits.max(axis=1, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True))


def centre(images: np.ndarray, crop: int) -> np.ndarray:
    start = (images.shape[1] - crop) // 2
    return images[:, start : start + crop, start : start + crop]


def small(make=tiny_config, **model) -> Config:
    values = make()
    values.model.update({name: value for name, value in model.items() if value is not None})
    for name in (name for name, value in model.items() if value is None):
        values.model[name] = None
    return config_files.parse(values)


def random_network(config: Config, seed: int = 0) -> Network:
    """With weights, biases and means that leave nothing equal by chance."""
    rng = np.random.default_rng(seed)
    state = steps.init_state(config, sharding.make_mesh(1, 1, config.model.towers))
    spread = jax.tree.map(
        lambda leaf: rng.normal(0, np.sqrt(2 / max(1, np.prod(leaf.shape[1:-1]))), leaf.shape).astype(np.float32),
        jax.device_get(state.params),
    )
    spread["conv1"]["kernel"] /= 60  # as pixels are large, and probabilities are to be neither 0 nor 1
    padding = config.model.towers * spread["fc8"]["bias"].shape[1] - config.model.num_classes
    if padding:  # columns that stand for no class
        spread["fc8"]["bias"][-1, -padding:] = 0
        spread["fc8"]["kernel"][-1, :, -padding:] = 0
    classes = [f"class <{i}>, 图" for i in range(config.model.num_classes)]
    return Network(config, classes, made_up_statistics(), spread)


def assert_same(one: Network, other: Network) -> None:
    assert one.config == other.config and one.classes == other.classes
    for a, b in zip(jax.tree.leaves((one.statistics, one.params)), jax.tree.leaves((other.statistics, other.params))):  # noqa: B905
        np.testing.assert_array_equal(a, b)
    assert one.params.keys() == other.params.keys()


# --- out, and back again ---

NETWORKS = {
    "two towers": lambda: small(),
    "across towers, inverted dropout": lambda: small(
        lrn=dict(k=1.0, n=5, alpha=0.1, beta=0.75, across_towers=True), dropout_scaling="training"
    ),
    "odd classes, no conv4, tanh, rounded up": lambda: small(
        num_classes=7, conv4=None, activation="tanh", pool=dict(window=3, stride=2, ceil=True)
    ),
    "as the authors' code": lambda: small(authors),
    "one tower, no hidden layers": lambda: small(towers=1, fc6=None, fc7=None),
}


def authors():
    values = tiny_config()
    values.model.conv1.update(then=("lrn", "pool", "activation"), padding=(0, 3))
    values.model.conv2.then = ("activation", "lrn", "map_norm", "pool")
    values.model.map_norm.alpha = 0.01
    values.augment.mean_crop = "centre"
    return values


@pytest.mark.parametrize("kind", NETWORKS)
def test_a_network_in_onnx_gives_our_numbers_and_comes_back_bit_for_bit(kind, tmp_path):
    found = random_network(NETWORKS[kind]())
    onnx_out.write(tmp_path / "net.onnx", found)
    images = pictures(32)
    session = onnxruntime.InferenceSession(tmp_path / "net.onnx")
    graph = onnx.load(tmp_path / "net.onnx").graph
    assert {of.name for of in graph.initializer} <= {name for node in graph.node for name in node.input}
    logits, probabilities = session.run(["logits", "probabilities"], {"image": images})
    np.testing.assert_allclose(log_softmax(logits), ours(found, images), atol=1e-4)
    np.testing.assert_allclose(np.log(probabilities), ours(found, images), atol=1e-3)
    back = onnx_in.read(tmp_path / "net.onnx")
    assert isinstance(back, Network)
    assert_same(back, found)


@pytest.mark.parametrize("kind", NETWORKS)
def test_safetensors_come_back_bit_for_bit(kind, tmp_path):
    found = random_network(NETWORKS[kind]())
    files.write_safetensors(tmp_path / "net.safetensors", found)
    back = files.read_safetensors(tmp_path / "net.safetensors")
    assert isinstance(back, Network)
    assert_same(back, found)


def test_a_program_runs_without_the_package(tmp_path):
    """In a Python that cannot import it, for any number of images."""
    found = random_network(small())
    programs.write(tmp_path / "net.stablehlo", found)
    np.save(tmp_path / "images.npy", pictures(32))
    code = f"""
import sys
sys.modules["alexnet_jax"] = sys.modules["flax"] = None
import jax, numpy as np
import jax.export
program = jax.export.deserialize(open({str(tmp_path / "net.stablehlo")!r}, "rb").read())
images = np.load({str(tmp_path / "images.npy")!r})
for count in (1, 3):
    np.save({str(tmp_path)!r} + f"/{{count}}.npy", program.call(images[:count]))
"""
    subprocess.run([sys.executable, "-c", code], check=True, cwd=tmp_path, env=environment())
    for count in (1, 3):
        np.testing.assert_allclose(
            np.log(np.load(tmp_path / f"{count}.npy")), ours(found, pictures(32)[:count]), atol=1e-4
        )


def test_a_network_that_others_cannot_hold(tmp_path):
    found = random_network(small(tower_local))
    for write in (onnx_out.write, files.write_safetensors):
        with pytest.raises(UserError, match=r"fc6.* sees its own tower only.*export to .stablehlo"):
            write(tmp_path / "net", found)
    programs.write(tmp_path / "net.stablehlo", found)


def tower_local():
    values = tiny_config()
    values.model.fc6.exchange = False
    return values


# --- in: other programs' networks, full size, random weights, real images ---


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


def zoo(path: Path, tensors: dict[str, np.ndarray], activated: tuple[str, ...] = ("fc6", "fc7")) -> None:
    """As the model zoo has bvlcalexnet: images of 224, pooling with zeros behind, Reshape before fc6, Softmax."""
    nodes: list[onnx.NodeProto] = []
    there = "data_0"

    def add(kind, *others, **with_):
        nonlocal there
        out = f"{kind.lower()}{len(nodes)}_1"
        nodes.append(helper.make_node(kind, [there, *others], [out], **with_))
        there = out

    def conv(name, group, stride, pad):
        pads = [pad] * 4
        add("Conv", f"{name}_w", f"{name}_b", group=group, strides=[stride] * 2, pads=pads, kernel_shape=KERNELS[name])
        add("Relu")

    def norm_pool(norm=True):
        if norm:
            add("LRN", alpha=1e-4, beta=0.75, bias=1.0, size=5)
        add("MaxPool", kernel_shape=[3, 3], strides=[2, 2], pads=[0, 0, 1, 1])

    conv("conv1", 1, 4, 0)
    norm_pool()
    conv("conv2", 2, 1, 2)
    norm_pool()
    conv("conv3", 1, 1, 1)
    conv("conv4", 2, 1, 1)
    conv("conv5", 2, 1, 1)
    norm_pool(norm=False)
    add("Reshape", "shape")
    for name in ("fc6", "fc7", "fc8"):
        add("Gemm", f"{name}_w", f"{name}_b", transB=1)
        if name in activated:
            add("Relu")
        if name != "fc8":
            add("Dropout", ratio=0.5)
    logits = there
    add("Softmax", axis=1)
    graph = helper.make_graph(
        nodes,
        "bvlcalexnet",
        [helper.make_tensor_value_info("data_0", TensorProto.FLOAT, [1, 3, 224, 224])],
        [
            helper.make_tensor_value_info(logits, TensorProto.FLOAT, [1, 1000]),
            helper.make_tensor_value_info(there, TensorProto.FLOAT, [1, 1000]),
        ],
        [
            *(numpy_helper.from_array(of, name) for name, of in tensors.items()),
            numpy_helper.from_array(np.array([1, 9216], np.int64), "shape"),
        ],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 9)])
    model.ir_version = 8
    path.write_bytes(model.SerializeToString())


KERNELS = {"conv1": [11, 11], "conv2": [5, 5], "conv3": [3, 3], "conv4": [3, 3], "conv5": [3, 3]}


@pytest.fixture(scope="module")
def bvlc_tensors() -> dict[str, np.ndarray]:
    return bvlc(np.random.default_rng(0))


@pytest.fixture(scope="module")
def bvlc_onnx(bvlc_tensors, tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("zoo") / "bvlcalexnet-9.onnx"
    zoo(path, bvlc_tensors)
    return path


def base(make) -> Config:
    return config_files.parse(make())


@pytest.mark.slow
def test_the_zoo_s_bvlc_alexnet_gives_onnxruntime_s_logits(bvlc_onnx):
    chain = onnx_in.read(bvlc_onnx)
    assert isinstance(chain, Chain)
    found, rows = network(chain, base(caffe_config.get_config), PIXELS["caffe"], None)
    model = found.config.model
    assert (model.towers, model.image_size, model.pool.ceil, model.lrn.across_towers) == (2, 224, True, True)
    assert [conv.exchange for _, conv in model.convs()] == [False, False, True, False, False]
    images = pictures()
    seen = centre(images, 224)[..., ::-1].astype(np.float32) - np.array([104, 117, 123], np.float32)
    session = onnxruntime.InferenceSession(bvlc_onnx)
    logits = np.concatenate([session.run(None, {"data_0": one[None].transpose(0, 3, 1, 2)})[0] for one in seen])
    assert logits.std() > 0.5  # signals are alive: else anything would agree
    np.testing.assert_allclose(ours(found, images), log_softmax(logits), atol=1e-4)
    done = {row[0]: row[3] for row in rows}
    assert "BGR to RGB" in done["conv1"] and "2 groups are 2 towers" in done["conv2"]
    assert "[C, H, W] to [H, W, C]" in done["fc6"] and "2e-05" in done["normalization"]


def caffemodel(tensors: dict[str, np.ndarray], age: str) -> message.Message:
    """The file that Caffe writes, of before 2015 ("v1") or since."""
    net = caffe.MESSAGES["NetParameter"]()
    old = age == "v1"
    kinds = {name: number for number, name in caffe.KINDS.items()}
    layers = net.layers if old else net.layer

    def add(kind, name):
        return layers.add(name=name, type=kinds[kind] if old else kind)

    def blobs(one, name):
        for kind in "wb":
            array = tensors[f"{name}_{kind}"]
            blob = one.blobs.add()
            if old:
                blob.num, blob.channels, blob.height, blob.width = (1,) * (4 - array.ndim) + array.shape
            else:
                blob.shape.dim.extend(array.shape)
            blob.data.extend(array.reshape(-1))

    groups, pads = {"conv2": 2, "conv4": 2, "conv5": 2}, {"conv1": 0, "conv2": 2}
    layers.add(name="data", type=5 if old else "Data")
    for name in ("conv1", "conv2", "conv3", "conv4", "conv5"):
        one = add("Convolution", name)
        said = one.convolution_param
        said.num_output, said.group = len(tensors[f"{name}_w"]), groups.get(name, 1)
        said.kernel_size.append(tensors[f"{name}_w"].shape[-1])
        said.pad.append(pads.get(name, 1))
        said.stride.append(4 if name == "conv1" else 1)
        blobs(one, name)
        add("ReLU", f"relu_{name}")
        if name in ("conv1", "conv2"):
            norm = add("LRN", f"norm_{name}").lrn_param
            norm.local_size, norm.alpha, norm.beta = 5, 1e-4, 0.75
        if name in ("conv1", "conv2", "conv5"):
            pool = add("Pooling", f"pool_{name}").pooling_param
            pool.kernel_size, pool.stride = 3, 2
    for name in ("fc6", "fc7", "fc8"):
        blobs(add("InnerProduct", name), name)
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


@pytest.mark.parametrize("age", ["v1", "since 2015"])
def test_a_caffemodel_is_the_network_of_its_onnx_form(age, few_tensors, tmp_path):
    """Images of 227, as Caffe's own: conv1 is 55x55 and no window of a pool goes over an edge."""
    (tmp_path / "net.caffemodel").write_bytes(caffemodel(few_tensors, age).SerializeToString())
    of_config = base(caffe_config.get_config)
    found, _ = network(caffe.read(tmp_path / "net.caffemodel", 227), of_config, PIXELS["caffe"], None)
    assert found.config.model.image_size == 227 and found.config.model.conv1.then == ("activation", "lrn", "pool")
    zoo(tmp_path / "net.onnx", few_tensors)
    chain = onnx_in.read(tmp_path / "net.onnx")
    assert isinstance(chain, Chain)
    there, _ = network(chain, of_config, PIXELS["caffe"], None)
    jax.tree.map(np.testing.assert_array_equal, found.params, there.params)
    assert found.config.model.lrn == there.config.model.lrn
    model = there.config.model.model_copy(update={"image_size": 227})
    there = there._replace(config=there.config.model_copy(update={"model": model}))
    np.testing.assert_array_equal(ours(found, pictures()), ours(there, pictures()))


def owt_names(tensors: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Under the names of torchvision's alexnet, whose order by letters is not that of the layers."""
    convs = ("features.0", "features.3", "features.6", "features.8", "features.10")
    places = (*convs, "classifier.1", "classifier.4", "classifier.6")
    return {
        f"{place}.{kind}": tensors[f"{layer}_{kind[0]}"]
        for layer, place in zip(("conv1", "conv2", "conv3", "conv4", "conv5", "fc6", "fc7", "fc8"), places, strict=True)
        for kind in ("weight", "bias")
    }


def test_a_state_dict_in_safetensors_with_the_config_that_fits(tmp_path):
    rng = np.random.default_rng(1)
    shapes: list[tuple[int, ...]] = [
        (64, 3, 11, 11),
        (192, 64, 5, 5),
        (384, 192, 3, 3),
        (256, 384, 3, 3),
        (256, 256, 3, 3),
    ]
    shapes += [(32, 9216), (32, 32), (10, 32)]
    names = ("conv1", "conv2", "conv3", "conv4", "conv5", "fc6", "fc7", "fc8")
    tensors: dict[str, np.ndarray] = {}
    for name, shape in zip(names, shapes, strict=True):
        tensors |= {f"{name}_w": rng.standard_normal(shape, np.float32), f"{name}_b": np.ones(shape[0], np.float32)}
    save_file(owt_names(tensors), tmp_path / "owt.safetensors")
    chain = files.read_safetensors(tmp_path / "owt.safetensors")
    assert isinstance(chain, Chain) and [layer.name for layer in chain.layers][:2] == ["features.0", "features.3"]
    found, rows = network(chain, base(one_weird_trick.get_config), PIXELS["torchvision"], None)
    model = found.config.model
    assert (model.towers, model.num_classes, model.dropout_scaling) == (1, 10, "training")
    assert model.fc6 and model.fc6.features == 32
    factor = 1 / 255 / np.array([0.229, 0.224, 0.225])
    np.testing.assert_allclose(
        found.params["conv1"]["kernel"][0].transpose(3, 2, 0, 1), tensors["conv1_w"] * factor[None, :, None, None], 1e-6
    )
    np.testing.assert_allclose(found.statistics.mean_image[0, 0], [123.675, 116.28, 103.53], rtol=1e-6)
    assert any("its scale of pixels" in row[3] for row in rows)


# --- the commands ---


@pytest.fixture(scope="module")
def workdir(tmp_path_factory) -> Path:
    directory = tmp_path_factory.mktemp("interop") / "run"
    networks.to_workdir(random_network(small()), directory)
    return directory


@pytest.mark.parametrize("suffix", [".safetensors", ".onnx"])
def test_export_and_import_as_commands(workdir, suffix, tmp_path):
    file = tmp_path / f"net{suffix}"
    assert "wrote" in run("alexnet_jax", "export", "--workdir", workdir, "--output", file)
    assert "10 classes, 2 tower" in run("alexnet_jax", "import", file, "--workdir", tmp_path / "back")
    assert_same(networks.of_workdir(tmp_path / "back"), networks.of_workdir(workdir))
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith(".")] == []
    again = run("alexnet_jax", "import", file, "--workdir", tmp_path / "back", code=2)
    assert "is a workdir already; give another --workdir" in again


def test_an_imported_network_predicts(few_tensors, tmp_path):
    zoo(tmp_path / "net.onnx", few_tensors)
    (tmp_path / "classes.txt").write_text("\n".join(f"kind {i}" for i in range(10)))
    said = run(
        "alexnet_jax.interop",
        "import",
        tmp_path / "net.onnx",
        "--config=configs/variants/caffe.py",
        "--pixels=caffe",
        f"--classes={tmp_path / 'classes.txt'}",
        f"--workdir={tmp_path / 'run'}",
    )
    assert "2 groups are 2 towers" in said and "BGR to RGB" in said
    (tmp_path / "photo.png").write_bytes(encoded(pictures(count=1)[0], "PNG"))
    assert "kind " in run("alexnet_jax", "predict", "--workdir", tmp_path / "run", tmp_path / "photo.png")


def damaged_files() -> dict[str, tuple[str, bytes]]:
    nothing = json.dumps({}).encode()
    return {
        "a safetensors file of noise": ("a.safetensors", b"noise" * 99),
        "one that claims a header of 2^60 bytes": ("a.safetensors", struct.pack("<Q", 2**60) + b"{}"),
        "one with no weights": ("a.safetensors", struct.pack("<Q", 2) + nothing),
        "an onnx file of noise": ("a.onnx", b"noise" * 99),
        "an empty onnx file": ("a.onnx", b""),
        "a caffemodel of noise": ("a.caffemodel", b"noise" * 99),
        "an empty caffemodel": ("a.caffemodel", b""),
        "another ending": ("a.h5", b"noise"),
    }


@pytest.mark.parametrize("kind", damaged_files())
def test_files_that_are_no_network(kind, tmp_path):
    from alexnet_jax.commands.weights import _read

    name, content = damaged_files()[kind]
    (tmp_path / name).write_bytes(content)
    with pytest.raises(UserError, match=name.replace(".", r"\.")):
        _read(tmp_path / name, None)


def test_a_damaged_file_of_ours(tmp_path):
    files.write_safetensors(tmp_path / "net.safetensors", random_network(small()))
    tensors = load_file(tmp_path / "net.safetensors")
    about = json.dumps(
        {
            "format": 1,
            "config": small().model_dump(mode="json"),
            "classes": ["a"] * 10,
            "colours": [[0] * 3, [[0] * 3] * 3],
        }
    )
    for change, message_ in (
        ({"mean_image": np.zeros((5, 5, 3), np.float32)}, "mean image"),
        ({"conv1.weight": np.zeros((1, 3, 5, 5), np.float32)}, "conv1.weight has the shape"),
    ):
        save_file(tensors | change, tmp_path / "bad.safetensors", {"alexnet_jax": about})
        with pytest.raises(UserError, match=message_):
            files.read_safetensors(tmp_path / "bad.safetensors")
    del tensors["fc8.bias"]
    save_file(tensors, tmp_path / "bad.safetensors", {"alexnet_jax": about})
    with pytest.raises(DataError, match=r"fc8\.bias"):
        files.read_safetensors(tmp_path / "bad.safetensors")
    save_file(tensors, tmp_path / "bad.safetensors", {"alexnet_jax": "{"})
    with pytest.raises(DataError, match="is damaged"):
        files.read_safetensors(tmp_path / "bad.safetensors")


def test_a_graph_that_is_no_alexnet(tmp_path):
    one = helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 3, 8, 8])
    for node, message_ in (
        (helper.make_node("Sigmoid", ["x"], ["y"]), "has Sigmoid"),
        (helper.make_node("Relu", ["z"], ["y"]), "is no row of layers"),
        (helper.make_node("Conv", ["x", "w"], ["y"], auto_pad="SAME_UPPER"), "pads by auto_pad"),
    ):
        graph = helper.make_graph([node], "g", [one], [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)])
        onnx.save(helper.make_model(graph), tmp_path / "g.onnx")
        with pytest.raises(UserError, match=message_):
            onnx_in.read(tmp_path / "g.onnx")


@pytest.mark.parametrize("activated", [("fc6",), (), ("fc6", "fc7", "fc8")])
def test_other_activations_than_ours_are_refused(few_tensors, tmp_path, activated):
    zoo(tmp_path / "net.onnx", few_tensors, activated)
    chain = onnx_in.read(tmp_path / "net.onnx")
    assert isinstance(chain, Chain)
    with pytest.raises(UserError, match=r"behind .* comes .* this network cannot run"):
        network(chain, base(caffe_config.get_config), PIXELS["caffe"], None)


def test_weights_that_are_not_finite_are_refused(few_tensors, tmp_path):
    zoo(tmp_path / "net.onnx", few_tensors | {"conv3_b": few_tensors["conv3_b"] * np.nan})
    chain = onnx_in.read(tmp_path / "net.onnx")
    assert isinstance(chain, Chain)
    with pytest.raises(UserError, match="weights that are not finite"):
        network(chain, base(caffe_config.get_config), PIXELS["caffe"], None)


def test_what_is_missing_or_too_much_is_told(workdir, tmp_path):
    run("alexnet_jax", "export", "--workdir", workdir, "--output", tmp_path / "net.safetensors")
    tensors = {
        name: of for name, of in load_file(tmp_path / "net.safetensors").items() if "." in name and name[0] in "cf"
    }
    save_file(tensors, tmp_path / "plain.safetensors")
    line = ["alexnet_jax", "import", tmp_path / "plain.safetensors", "--workdir", tmp_path / "new"]
    assert "give its --config" in run(*line, code=2)
    full = [*line, "--config=configs/paper.py", "--pixels=rgb"]
    assert "fc6.weight has the shape" in run(*full, code=2)
    for mean in ("1,2", "nan,0,0"):
        assert "no three numbers" in run(*full, f"--mean={mean}", code=2)
    (tmp_path / "bad.py").write_text("x = 1\n")
    assert "bad.py does not work: it has no get_config" in run(
        *line, f"--config={tmp_path / 'bad.py'}", "--pixels=rgb", code=2
    )
    (tmp_path / "names").write_bytes(b"\xe9t\xe9\n")
    assert "is not in UTF-8" in run(*full, f"--classes={tmp_path / 'names'}", code=2)
    assert "says itself what it is" in run(*line[:2], tmp_path / "net.safetensors", *line[3:], "--pixels=rgb", code=2)
    assert "nothing is written to files that end in '.h5'" in run(
        "alexnet_jax", "export", "--workdir", workdir, "--output", tmp_path / "net.h5", code=2
    )
    assert not (tmp_path / "new").exists()


def test_pixels_of_any_program():
    """(pixel * scale - mean) / std in the network's order of colours, folded into conv1 and the mean image."""
    found = random_network(small(towers=1))
    images, rng = pictures(32), np.random.default_rng(2)
    pixels = Pixels(1 / 128, (0.9, 1.1, 0.8), (0.5, 0.25, 2.0), bgr=True)
    config = found.config.model_copy(
        update={"data": found.config.data.model_copy(update={"size": 28})}  # no border: zeros are padded after the mean
    )
    tensors = {name: of for name, of in networks.described(found)[0].items() if "." in name}
    tensors["conv1.bias"] = rng.standard_normal(len(tensors["conv1.bias"]), np.float32)
    there, _ = network(files.of_state_dict(tensors, Path("x")), config, pixels, None)
    plain, _ = network(files.of_state_dict(tensors, Path("x")), config, PIXELS["rgb"], None)
    seen = (images[..., ::-1] / 128 - np.array(pixels.mean)) / np.array(pixels.std)
    crop = centre(images, 28)
    expected = network_on_floats(plain, centre(seen, 28))
    np.testing.assert_allclose(ours(there, crop), expected, atol=1e-4)


def network_on_floats(found: Network, image: np.ndarray) -> np.ndarray:
    """Log-probabilities of what the network sees already."""
    from alexnet_jax import metrics, model

    def one(params):
        return metrics.log_softmax(model.logits(found.config.model, params, image.astype(np.float32), None))

    return np.asarray(jax.vmap(one, axis_name=sharding.TOWER)(found.params)[0])
