"""Which AlexNet a file or workdir holds, by its shapes and by what it says, and whether its weights look trained."""

import math
import shlex
from typing import NamedTuple

from alexnet_jax.inference.network import Network
from alexnet_jax.interop import architectures, networks, start
from alexnet_jax.interop.architectures import Known
from alexnet_jax.interop.foreign import ForeignNetwork
from alexnet_jax.model_config import std


class Identity(NamedTuple):
    """What is known of a network without running it."""

    network: ForeignNetwork
    own: bool  # written by this program, so that nothing is left open
    known: list[Known]  # those that it may be; certain if there is only one
    differences: list[str]  # from that one, or from the nearest if there is none


def identify(network: ForeignNetwork | Network) -> Identity:
    if own := isinstance(network, Network):
        network = networks.folded(network)
        model, notes = network.config.model, [f"written by this program at step {network.step}"]
        network = architectures.described(model, networks.to_torch(model, network.params), network.path)
        network.notes.extend(notes)
    known = architectures.candidates(network)
    like = known[0] if known else architectures.nearest(network)
    return Identity(network, own, known, architectures.differences(network, like.model, free=bool(known)))


def verdict(identity: Identity) -> str:
    """Which network it is; certain only where no other known one is left."""
    names = [f"{known.name} ({known.source})" for known in identity.known]
    but = f". It differs in {'; '.join(identity.differences)}" if identity.differences else ""
    if not names:
        nearest = architectures.nearest(identity.network)
        return f"no AlexNet that is known here. The nearest is {nearest.name} ({nearest.config}){but}"
    return (names[0] if len(names) == 1 else f"either {', or '.join(names)}; the file does not say which") + but


def questions(identity: Identity) -> list[str]:
    """What the file does not say, so that its author must be asked."""
    if identity.own:
        return []
    asked = ["the order of colours, the scale and mean of pixels", "the order of the classes"]
    if "image_size" not in identity.network.model:
        sizes = sorted({str(known.model.image_size) for known in identity.known})
        asked.insert(0, "the size of the crops" + (f", usually {' or '.join(sizes)}" if sizes else ""))
    if any("then" not in layer.settings for layer in identity.network.layers):
        asked.insert(0, "strides, padding, the order of activation, normalization and pooling; k, n, alpha")
    return asked


def commands(identity: Identity) -> list[str]:
    """The commands that import the file: one for each network that it may be."""
    path, ours = identity.network.path, [""] if identity.own and not identity.network.path.is_dir() else []
    theirs = [f"--config {known.config} --pixels {known.pixels} " for known in identity.known if known.imports]
    flags = ours if identity.own else theirs
    return [f"alexnet import {shlex.quote(str(path))} {each}--workdir runs/imported" for each in flags]


def how(identity: Identity) -> str:
    """A sentence that says how to import the file."""
    if found := commands(identity):
        return f"Import it by: {'; or '.join(found)}"
    if identity.own:
        return "It is a workdir, which all commands open"
    return "No config here imports it: write one that starts from the nearest's, for alexnet import --config FILE.py"


def advice(identity: Identity, config: str) -> str:
    """Advice for an import by `config`: which network it is, if it is a known one of another config; else nothing."""
    if not identity.known or config in [known.config for known in identity.known]:
        return ""
    return f"It is {verdict(identity)}. {how(identity)}"


def looks(identity: Identity) -> tuple[str, list[start.Look]]:
    """Whether the network looks trained, in words, and how each layer looks."""
    layers = identity.network.layers
    each = [start.look(layer) for layer in layers]
    verdicts = [look.verdict for look in each]
    if (kinds := set(verdicts)) == {"constant"}:
        return "no: each layer holds one number, so this is a placeholder", each
    if "not finite" in kinds:
        return "weights are not finite: the file is damaged, or its training diverged", each
    if kinds == {"as started"}:
        names = [known.name for known in identity.known if _starts_as(known, identity, each)]
        starts = "; ".join(dict.fromkeys(look.start for look in each))
        return f"no: weights are as programs start them ({' or '.join(names) or starts})", each
    if kinds == {"trained"}:
        return "yes, all layers", each
    if "trained" not in kinds:
        return "hardly: weights show no sign of it, but biases have moved, or did not start equal", each
    if verdicts.count("as started") == 1 and verdicts[-1] == "as started":
        return f"yes, but for {layers[-1].name}, which is as it starts: to be fine-tuned", each
    parts = [
        f"{', '.join(layer.name for layer, look in zip(layers, each, strict=True) if look.verdict == kind)} {words}"
        for kind, words in (("trained", "look trained"), ("moved", "little changed"), ("as started", "as started"))
        if kind in kinds
    ]
    return f"partly or briefly: {'; '.join(parts)}", each


def remarks(identity: Identity, each: list[start.Look]) -> list[str]:
    """What is unusual about the weights."""
    found = []
    for layer, look in zip(identity.network.layers, each, strict=True):
        if look.verdict in ("constant", "not finite"):
            continue
        full = min(look.sampled)
        remarkable = {
            f"only {look.levels} different weights: it was quantized": look.levels <= 256 < layer.weight.size,
            f"{look.zeros:.0%} of its weights at 0: it was pruned": look.zeros > 0.01,
            f"{look.dead} dead units, without weights, of {look.sampled[0]} looked at": look.dead,
            f"rank {look.rank}, of {full}": look.rank + look.dead < 0.9 * full,
        }
        found += [f"{layer.name} has {words}" for words, is_so in remarkable.items() if is_so]
    return found


def _starts_as(known: Known, identity: Identity, each: list[start.Look]) -> bool:
    """Whether weights and biases have the deviations and values that a known network starts from."""
    return all(
        start.same_std(look.std, std(spec.init_std, math.prod(layer.weight.shape[1:])), math.prod(look.sampled))
        and look.bias == getattr(spec, "init_bias", 0.0)
        for layer, look, spec in zip(identity.network.layers, each, known.model.layers().values(), strict=True)
    )
