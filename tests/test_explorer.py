"""The program of an explorer, run by onnxruntime, gives the numbers of JAX: all stages, with links whole and cut."""

import dataclasses
import functools
from collections.abc import Callable

import numpy as np
import onnxruntime
import pytest

from alexnet_jax.configs import variants
from alexnet_jax.errors import UserError
from alexnet_jax.explorer import program, stages
from alexnet_jax.inference.network import Network
from tests.networks import NETWORKS, log_probabilities, pictures, random_network, small
from tests.tiny import tiny_config


def no_links():
    values = tiny_config()
    variants.apply(values, ["no_links"])
    return values


KINDS = NETWORKS | {"four towers": lambda: small(towers=4), "towers that meet only in fc8": lambda: small(no_links)}


Links = tuple[float, ...]
Outputs = Callable[[Links], dict[str, np.ndarray]]


def ours(network: Network, half: bool = False) -> Outputs:
    """What the program makes of three images."""
    session = onnxruntime.InferenceSession(program.serialized(network, half))

    def run(links: Links) -> dict[str, np.ndarray]:
        inputs = {"image": pictures(32), "links": np.array(links, np.float32)}
        return dict(zip((output.name for output in session.get_outputs()), session.run(None, inputs), strict=True))

    return run


def expected(network: Network) -> Outputs:
    """The same by JAX, by parameters without the blocks that are cut."""
    step = stages.make_step(network.config, network.mesh, len(network.classes))
    return lambda links: network.ask(functools.partial(step, links=np.array(links, np.float32)), pictures(32))


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_a_program_gives_all_stages_with_links_whole_and_cut(kind):
    network = random_network(KINDS[kind]())
    count = len(stages.links(network.config.model))
    by_onnx, by_jax = ours(network), expected(network)
    whole = np.exp(log_probabilities(network, pictures(32)))
    np.testing.assert_allclose(by_jax((1.0,) * count)["probabilities"], whole, atol=1e-6)
    for links in {(1.0,) * count, (0.0,) * count, (1.0, 0.0, 1.0, 0.0)[:count]}:
        outputs, right = by_onnx(links), by_jax(links)
        assert outputs.keys() == right.keys()
        for name, values in outputs.items():
            np.testing.assert_allclose(values, right[name], atol=3e-6 * np.abs(right[name]).max(), err_msg=name)


@pytest.mark.slow
def test_the_links_are_where_the_towers_meet_and_cutting_them_changes_what_follows():
    network = random_network(small())
    assert stages.links(network.config.model) == ("conv3", "fc6", "fc7", "fc8")
    run = ours(network)
    whole, parted = run((1.0,) * 4), run((1.0, 0.0, 1.0, 1.0))
    changed = [name for name in whole if not np.array_equal(whole[name], parted[name])]
    assert changed == ["probabilities", "fc6.activation", "fc7.activation", "fc8.response"]


def test_one_tower_and_towers_that_share_only_the_image_have_no_links():
    assert stages.links(small(towers=1).model) == ()
    assert stages.links(small(no_links).model) == ("fc8",)


@pytest.mark.slow
def test_half_precision_is_close():
    network = random_network(small())
    half, full = (ours(network, half)((1.0,) * 4)["probabilities"] for half in (True, False))
    np.testing.assert_allclose(half, full, atol=1e-3)
    assert not np.array_equal(half, full)


def test_fewer_classes_than_columns():
    """As where a network has more outputs than its data has classes."""
    network = random_network(small())
    fewer = dataclasses.replace(network, classes=network.classes[:3])
    outputs, all_classes = (ours(each)((1.0,) * 4) for each in (fewer, network))
    np.testing.assert_array_equal(outputs["probabilities"], all_classes["probabilities"][:, :3])
    assert outputs["fc8.response"].shape == (3, 10)


def test_layers_that_onnx_lacks_are_refused():
    values = tiny_config()
    values.model.conv2.shared = False
    with pytest.raises(UserError, match=r"conv2 has separate kernels for every position.*export to .stablehlo"):
        program.serialized(random_network(small(lambda: values)), half=False)
    values.model.conv2.update(shared=True, then=("activation", "pool", "activation"))
    with pytest.raises(UserError, match=r"conv2 has an operation twice in model\.conv2\.then"):
        program.serialized(random_network(small(lambda: values)), half=False)
