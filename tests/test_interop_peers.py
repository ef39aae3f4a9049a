"""Weights to and from PyTorch. `bash tests/run.sh --all` installs it and runs these tests."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from alexnet_jax import augment
from alexnet_jax.errors import DataError, UserError
from alexnet_jax.interop import files, foreign, networks, state_dicts
from alexnet_jax.interop.foreign import PREPROCESSING, ForeignNetwork
from alexnet_jax.run import config_files
from tests.networks import NETWORKS, assert_same, log_probabilities, log_softmax, pictures, random_network, small
from tests.runs import environment

torch = pytest.importorskip("torch", reason="needs PyTorch, which `bash tests/run.sh --all` installs")
from alexnet_jax.interop import torch_alexnet  # noqa: E402


@pytest.mark.slow
@pytest.mark.parametrize("suffix", [".safetensors", ".pth"])
@pytest.mark.parametrize("kind", NETWORKS)
def test_a_network_in_pytorch_gives_our_numbers_and_comes_back_bit_for_bit(kind, suffix, tmp_path):
    network, path = random_network(NETWORKS[kind]()), tmp_path / f"net{suffix}"
    files.export(network, path)
    net, classes, preprocess = torch_alexnet.load(path)
    images = pictures(32)
    with torch.no_grad():
        logits = net(preprocess(torch.from_numpy(images)))
    np.testing.assert_allclose(log_softmax(logits.numpy()), log_probabilities(network, images), atol=1e-4)
    assert classes == network.classes
    assert_same(files.open_own(path), networks.folded(network))


def test_the_module_needs_nothing_else_from_the_package(tmp_path):
    files.export(random_network(small()), tmp_path / "net.pth")
    (tmp_path / "alone.py").write_bytes(Path(torch_alexnet.__file__).read_bytes())
    code = "import alone; net, classes, _ = alone.load('net.pth'); print(len(classes), net.conv2.groups)"
    block = "import sys; sys.modules['alexnet_jax'] = sys.modules['jax'] = None; "
    done = subprocess.run(
        [sys.executable, "-c", block + code], cwd=tmp_path, capture_output=True, text=True, env=environment()
    )
    assert done.stdout.split() == ["10", "2"], done.stderr


def torchvision_alexnet(classes: int, units: int):
    """The published layers of torchvision.models.alexnet; fewer units make it faster."""
    nn = torch.nn
    features = nn.Sequential(
        *(nn.Conv2d(3, 64, 11, stride=4, padding=2), nn.ReLU(), nn.MaxPool2d(3, 2)),
        *(nn.Conv2d(64, 192, 5, padding=2), nn.ReLU(), nn.MaxPool2d(3, 2)),
        *(nn.Conv2d(192, 384, 3, padding=1), nn.ReLU()),
        *(nn.Conv2d(384, 256, 3, padding=1), nn.ReLU()),
        *(nn.Conv2d(256, 256, 3, padding=1), nn.ReLU(), nn.MaxPool2d(3, 2)),
    )
    classifier = nn.Sequential(
        *(nn.Dropout(), nn.Linear(256 * 6 * 6, units), nn.ReLU()),
        *(nn.Dropout(), nn.Linear(units, units), nn.ReLU()),
        nn.Linear(units, classes),
    )
    whole = nn.Sequential()
    whole.add_module("features", features)
    whole.add_module("avgpool", nn.AdaptiveAvgPool2d((6, 6)))
    whole.add_module("flatten", nn.Flatten())
    whole.add_module("classifier", classifier)
    return whole.eval()


def randomize(net) -> None:
    """Give it weights that keep the signal from dying out."""
    torch.manual_seed(0)
    with torch.no_grad():
        for parameter in net.parameters():
            fan_in = parameter[0].numel() if parameter.ndim > 1 else 100
            parameter.normal_(0, (2 / fan_in) ** 0.5)


@pytest.mark.parametrize("suffix", ["pth", "safetensors"])
def test_torchvision_s_alexnet_gives_torch_s_logits(suffix, tmp_path):
    from safetensors.torch import save_file

    net = torchvision_alexnet(1000, 512)
    randomize(net)
    path = tmp_path / f"alexnet.{suffix}"
    torch.save(net.state_dict(), path) if suffix == "pth" else save_file(net.state_dict(), path)
    network, _ = files.imported(path, "variants:one_weird_trick", "torchvision")
    images = pictures()
    inputs = augment.centre_crop(images, 224).astype(np.float32) / 255
    inputs = (inputs - np.array([0.485, 0.456, 0.406], np.float32)) / np.array([0.229, 0.224, 0.225], np.float32)
    with torch.no_grad():
        logits = net(torch.from_numpy(inputs.transpose(0, 3, 1, 2))).numpy()
    assert logits.std() > 0.3
    np.testing.assert_allclose(log_probabilities(network, images), log_softmax(logits), atol=1e-4)


def test_a_grouped_pytorch_alexnet_gives_torch_s_logits(tmp_path):
    """Two groups, Caffe's normalization over all channels (PyTorch's alpha is that of the mean), and unusual names."""
    nn = torch.nn
    norm = lambda: nn.LocalResponseNorm(5, alpha=1e-4, beta=0.75, k=1.0)  # noqa: E731
    net = nn.Sequential(
        *(nn.Conv2d(3, 96, 11, stride=4), nn.ReLU(), norm(), nn.MaxPool2d(3, 2)),
        *(nn.Conv2d(96, 256, 5, padding=2, groups=2), nn.ReLU(), norm(), nn.MaxPool2d(3, 2)),
        *(nn.Conv2d(256, 384, 3, padding=1), nn.ReLU()),
        *(nn.Conv2d(384, 384, 3, padding=1, groups=2), nn.ReLU()),
        *(nn.Conv2d(384, 256, 3, padding=1, groups=2), nn.ReLU(), nn.MaxPool2d(3, 2)),
        *(nn.Flatten(), nn.Linear(9216, 256), nn.ReLU(), nn.Dropout(), nn.Linear(256, 256), nn.ReLU()),
        *(nn.Dropout(), nn.Linear(256, 37)),
    ).eval()
    randomize(net)
    with torch.no_grad():
        net[0].weight.mul_(1 / 60)
    state = {f"module.net.{name}": tensor for name, tensor in net.state_dict().items()}
    torch.save({"epoch": 7, "state_dict": state}, tmp_path / "net.pt")
    saved = state_dicts.read_pth(tmp_path / "net.pt")
    assert isinstance(saved, ForeignNetwork)
    base = config_files.parse(config_files.load("variants:caffe"))
    network, _ = foreign.convert(saved, base, PREPROCESSING["caffe"]._replace(bgr=False), None)
    images = pictures()
    inputs = augment.centre_crop(images, 227).astype(np.float32) - np.array([104, 117, 123], np.float32)
    with torch.no_grad():
        logits = net(torch.from_numpy(inputs.transpose(0, 3, 1, 2).copy())).numpy()
    assert logits.std() > 0.3 and network.config.model.num_classes == 37
    np.testing.assert_allclose(log_probabilities(network, images), log_softmax(logits), atol=1e-4)


class Hostile:
    def __reduce__(self):
        return (print, ("run!",))


@pytest.mark.parametrize(
    "content", [Hostile(), {"state_dict": Hostile()}, [1, 2], {"a": torch.zeros(3)}, {"state_dict": torch.zeros(3)}]
)
def test_files_that_hold_more_or_less_than_weights_are_refused_and_never_run(content, tmp_path, capsys):
    torch.save(content, tmp_path / "net.pth")
    with pytest.raises(UserError, match=r"net\.pth (does not hold|is damaged)"):
        files.imported(tmp_path / "net.pth")
    assert "run!" not in capsys.readouterr().out


def test_truncated_files_are_refused(tmp_path):
    files.export(random_network(small()), tmp_path / "net.pth")
    content = (tmp_path / "net.pth").read_bytes()
    for length in (0, 10, len(content) // 2):
        (tmp_path / "net.pth").write_bytes(content[:length])
        with pytest.raises(DataError, match=r"net\.pth is damaged"):
            files.imported(tmp_path / "net.pth")


def test_what_a_pth_file_says_of_itself(tmp_path):
    """Training checkpoints, moving averages, DataParallel, narrow floats; whole modules and quantized weights."""
    net = torch.nn.Sequential(torch.nn.Conv2d(3, 8, 3), torch.nn.Flatten(), torch.nn.Linear(8, 4))
    parallel = {f"module.{name}": tensor.bfloat16() for name, tensor in net.state_dict().items()}
    optimizer = torch.optim.SGD(net.parameters(), 0.1, momentum=0.9)
    net(torch.ones(1, 3, 3, 3)).sum().backward()
    optimizer.step()
    averages = {f"ema.{name}": tensor for name, tensor in net.state_dict().items()}
    files_of = {
        "checkpoint": {
            "epoch": 1,
            "model_ema": net.state_dict(),
            "model": parallel,
            "optimizer": optimizer.state_dict(),
        },
        "averages": {**net.state_dict(), **averages},
        "optimizer": optimizer.state_dict(),
        "module": net,
        "quantized": {"0.weight": torch.zeros(8, 3, 3, 3, dtype=torch.int8)},
    }
    for name, content in files_of.items():
        torch.save(content, tmp_path / f"{name}.pth")
    read = files.read((tmp_path / "checkpoint.pth").rename(tmp_path / "checkpoint.pth.tar"))
    assert isinstance(read, ForeignNetwork)
    np.testing.assert_array_equal(read.layers[0].weight, parallel["module.0.weight"].float().numpy())
    checkpoint = "a training checkpoint: weights are read from 'model'; left out: epoch, model_ema, optimizer"
    named = "names begin with module., as DataParallel saves them"
    assert read.notes == [checkpoint, "weights are stored as bfloat16", named]
    read = files.read(tmp_path / "averages.pth")
    assert isinstance(read, ForeignNetwork) and read.notes == ["moving averages (EMA) of weights are left out"]
    for name, message in (
        ("optimizer", "does not hold the state dict .* it has no weights"),
        ("module", r"a whole module, whose code is not run; save the module's state_dict\(\)"),
        ("quantized", "is quantized: its weights are int8"),
    ):
        with pytest.raises(UserError, match=message):
            files.read(tmp_path / f"{name}.pth")
