"""Weights to and from PyTorch. `bash tests/run.sh --peers` installs it and runs these tests."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from alexnet_jax.configs.variants import caffe, one_weird_trick
from alexnet_jax.errors import DataError, UserError
from alexnet_jax.interop import files, networks
from alexnet_jax.interop.chains import PIXELS, Chain, network
from tests import test_interop as interop
from tests.runs import environment

torch = pytest.importorskip("torch", reason="PyTorch is not here; `bash tests/run.sh --peers` installs it")
from alexnet_jax.interop import torch_alexnet  # noqa: E402


@pytest.mark.parametrize("suffix", ["safetensors", "pth"])
@pytest.mark.parametrize("kind", interop.NETWORKS)
def test_a_network_in_pytorch_gives_our_numbers_and_comes_back_bit_for_bit(kind, suffix, tmp_path):
    found = interop.random_network(interop.NETWORKS[kind]())
    path = tmp_path / f"net.{suffix}"
    getattr(files, f"write_{suffix}")(path, found)
    net, classes, ready = torch_alexnet.load(path)
    images = interop.pictures(32)
    with torch.no_grad():
        logits = net(ready(torch.from_numpy(images)))
    np.testing.assert_allclose(interop.log_softmax(logits.numpy()), interop.ours(found, images), atol=1e-4)
    assert classes == found.classes
    back = getattr(files, f"read_{suffix}")(path)
    assert isinstance(back, networks.Network)
    interop.assert_same(back, found)


def test_the_module_needs_nothing_else_of_the_package(tmp_path):
    files.write_pth(tmp_path / "net.pth", interop.random_network(interop.small()))
    (tmp_path / "alone.py").write_bytes(Path(torch_alexnet.__file__).read_bytes())
    code = "import alone; net, classes, _ = alone.load('net.pth'); print(len(classes), net.conv2.groups)"
    block = "import sys; sys.modules['alexnet_jax'] = sys.modules['jax'] = None; "
    done = subprocess.run(
        [sys.executable, "-c", block + code], cwd=tmp_path, capture_output=True, text=True, env=environment()
    )
    assert done.stdout.split() == ["10", "2"], done.stderr


def torchvision_alexnet(classes: int, units: int):
    """The network of torchvision.models.alexnet, by its published layers; with fewer units it is quicker."""
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


def alive(net) -> None:
    torch.manual_seed(0)
    with torch.no_grad():
        for parameter in net.parameters():
            fan_in = parameter[0].numel() if parameter.ndim > 1 else 100
            parameter.normal_(0, (2 / fan_in) ** 0.5)


@pytest.mark.parametrize("suffix", ["pth", "safetensors"])
def test_torchvision_s_alexnet_gives_torch_s_logits(suffix, tmp_path):
    from safetensors.torch import save_file

    net = torchvision_alexnet(1000, 512)
    alive(net)
    path = tmp_path / f"alexnet.{suffix}"
    torch.save(net.state_dict(), path) if suffix == "pth" else save_file(net.state_dict(), path)
    chain = getattr(files, f"read_{suffix}")(path)
    assert isinstance(chain, Chain)
    found, _ = network(chain, interop.base(one_weird_trick.get_config), PIXELS["torchvision"], None)
    images = interop.pictures()
    seen = interop.centre(images, 224).astype(np.float32) / 255
    seen = (seen - np.array([0.485, 0.456, 0.406], np.float32)) / np.array([0.229, 0.224, 0.225], np.float32)
    with torch.no_grad():
        logits = net(torch.from_numpy(seen.transpose(0, 3, 1, 2))).numpy()
    assert logits.std() > 0.3
    np.testing.assert_allclose(interop.ours(found, images), interop.log_softmax(logits), atol=1e-4)


def test_a_grouped_pytorch_alexnet_gives_torch_s_logits(tmp_path):
    """Two groups, Caffe's normalization over all channels (PyTorch's alpha is of the mean), names of its own."""
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
    alive(net)
    with torch.no_grad():
        net[0].weight.mul_(1 / 60)
    state = {f"module.net.{name}": of for name, of in net.state_dict().items()}
    torch.save({"epoch": 7, "state_dict": state}, tmp_path / "net.pt")
    chain = files.read_pth(tmp_path / "net.pt")
    assert isinstance(chain, Chain)
    found, _ = network(chain, interop.base(caffe.get_config), PIXELS["caffe"]._replace(bgr=False), None)
    images = interop.pictures()
    seen = interop.centre(images, 227).astype(np.float32) - np.array([104, 117, 123], np.float32)
    with torch.no_grad():
        logits = net(torch.from_numpy(seen.transpose(0, 3, 1, 2).copy())).numpy()
    assert logits.std() > 0.3 and found.config.model.num_classes == 37
    np.testing.assert_allclose(interop.ours(found, images), interop.log_softmax(logits), atol=1e-4)


class Hostile:
    def __reduce__(self):
        return (print, ("run!",))


@pytest.mark.parametrize("content", [Hostile(), {"state_dict": Hostile()}, [1, 2], {"a": torch.zeros(3)}])
def test_what_is_not_weights_is_refused_and_never_run(content, tmp_path, capsys):
    torch.save(content, tmp_path / "net.pth")
    with pytest.raises(UserError, match=r"net\.pth (holds|is damaged)"):
        files.read_pth(tmp_path / "net.pth")
    assert "run!" not in capsys.readouterr().out


def test_a_file_of_pytorch_that_is_cut(tmp_path):
    files.write_pth(tmp_path / "net.pth", interop.random_network(interop.small()))
    content = (tmp_path / "net.pth").read_bytes()
    for length in (0, 10, len(content) // 2):
        (tmp_path / "net.pth").write_bytes(content[:length])
        with pytest.raises(DataError, match=r"net\.pth is damaged"):
            files.read_pth(tmp_path / "net.pth")
