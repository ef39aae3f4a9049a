"""The same network and training step in PyTorch, where groups stand for the towers. PyTorch is optional."""

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn import functional

from alexnet_jax.config import Config
from alexnet_jax.errors import UserError
from alexnet_jax.layers import Model

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}


class Net(nn.Module):
    """Logits [B, classes] of images [B, 3, S, S], for models whose layers PyTorch has too.

    Parameters are initialized by PyTorch's defaults; layers have the names of ours.
    """

    def __init__(self, spec: Model):
        super().__init__()
        operations = {operation for _, conv in spec.convs() for operation in conv.then}
        if "map_norm" in operations or not all(conv.shared for _, conv in spec.convs()):
            raise UserError("the network in PyTorch has no normalization within maps and no locally connected layers")
        if spec.dropout_scaling != "test" and spec.dropout_scaling != "training":
            raise UserError(f"dropout_scaling {spec.dropout_scaling} is not known here")
        self.spec, side, maps = spec, spec.image_size, 3
        for name, conv in spec.convs():
            groups = 1 if conv.exchange or name == "conv1" else spec.towers
            setattr(self, name, nn.Conv2d(maps, conv.features, conv.kernel, conv.stride, groups=groups))
            side = (side + sum(conv.padding) - conv.kernel) // conv.stride + 1
            side = spec.pool.output(side) if "pool" in conv.then else side
            maps = conv.features
        inputs = maps * side * side
        for name, dense in spec.hidden():
            setattr(self, name, nn.Linear(inputs, dense.features))
            inputs = dense.features
        self.fc8 = nn.Linear(inputs, spec.num_classes)

    def forward(self, x: Any) -> Any:
        spec = self.spec
        for name, conv in spec.convs():
            before, after = conv.padding
            x = getattr(self, name)(functional.pad(x, (before, after, before, after)) if after else x)
            for operation in conv.then:
                x = self._operation(operation, x)
        x = x.flatten(1)
        for name, dense in spec.hidden():
            x = self._operation("activation", getattr(self, name)(x))
            x = functional.dropout(x, spec.dropout_rate, self.training) if dense.dropout else x
        return self.fc8(x)

    def _operation(self, name: str, x: Any) -> Any:
        spec = self.spec
        if name == "activation":
            return functional.relu(x) if spec.activation == "relu" else torch.tanh(x)
        if name == "pool":
            return functional.max_pool2d(x, spec.pool.window, spec.pool.stride, ceil_mode=spec.pool.ceil)
        lrn = spec.lrn  # PyTorch divides alpha by the size of the window
        halves = x.chunk(1 if lrn.across_towers else spec.towers, dim=1)
        return torch.cat(
            [functional.local_response_norm(half, lrn.n, lrn.alpha * lrn.n, lrn.beta, lrn.k) for half in halves], dim=1
        )


def variants(device: str) -> dict[str, dict[str, Any]]:
    """Ways to run it: name -> arguments of `stepper`. The fastest differs from machine to machine."""
    modes = ["default", "max-autotune"] if device == "cuda" else ["default"]
    compiled = {f"compile{'' if mode == 'default' else ' ' + mode}": {"compile_mode": mode} for mode in modes}
    return {
        f"torch {name}{' channels_last' if last else ''}": settings | {"channels_last": last}
        for name, settings in ({"eager": {"compile_mode": None}} | compiled).items()
        for last in (False, True)
    }


def stepper(
    config: Config, device: str, train: bool, compile_mode: str | None, channels_last: bool
) -> Callable[[], None]:
    """A function that makes one step (or, without `train`, one forward pass) on images that are on the device already.

    The step is cross-entropy, its gradients, and SGD with momentum and weight decay in one fused call.
    """
    rng = np.random.default_rng(0)
    batch, size = config.train.batch_size, config.model.image_size
    net = Net(config.model).to(device).train(train)
    images = torch.tensor(rng.normal(0, 60, (batch, 3, size, size)).astype(np.float32), device=device)
    labels = torch.tensor(rng.integers(0, config.model.num_classes, batch), device=device)
    if channels_last:
        net, images = net.to(memory_format=torch.channels_last), images.contiguous(memory_format=torch.channels_last)
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.normal_(0, 0.01)
    optimizer = torch.optim.SGD(
        net.parameters(),
        config.optim.learning_rate,
        config.optim.momentum,
        weight_decay=config.optim.weights.weight_decay,
        fused=True,
    )
    run = net if compile_mode is None else torch.compile(net, mode=compile_mode)
    narrow = config.train.compute_dtype != "float32"

    def forward() -> Any:
        with torch.autocast(device, DTYPES[config.train.compute_dtype], enabled=narrow):
            return run(images)

    def step() -> None:
        if train:
            optimizer.zero_grad(set_to_none=True)
            functional.cross_entropy(forward(), labels).backward()
            optimizer.step()
        else:
            with torch.no_grad():
                forward()
        if device == "cuda":
            torch.cuda.synchronize()

    return step
