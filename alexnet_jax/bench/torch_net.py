"""The same network and training step in PyTorch, where groups stand for the towers. PyTorch is optional."""

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch.nn import functional

from alexnet_jax.inference import activations
from alexnet_jax.interop import layouts
from alexnet_jax.interop.torch_alexnet import AlexNet
from alexnet_jax.model_config import Model
from alexnet_jax.run_config import Config

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}


def net(spec: Model) -> AlexNet:
    """The network of a model that PyTorch has all layers for, with zeros in all places. Raises UserError otherwise."""
    layouts.check(spec)
    shapes = activations.shapes(spec)[0]
    zeros = {layer: {kind: np.zeros(shape, np.float32) for kind, shape in of.items()} for layer, of in shapes.items()}
    state = {name: torch.from_numpy(array) for name, array in layouts.to_torch(spec, zeros).items()}
    return AlexNet(spec.model_dump(), state)


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
    model = net(config.model).to(device).train(train)
    images = torch.tensor(rng.normal(0, 60, (batch, 3, size, size)).astype(np.float32), device=device)
    labels = torch.tensor(rng.integers(0, config.model.num_classes, batch), device=device)
    if channels_last:
        model, images = (x.to(memory_format=torch.channels_last) for x in (model, images))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(0, 0.01)
    optimizer = torch.optim.SGD(
        model.parameters(),
        config.optim.learning_rate,
        config.optim.momentum,
        weight_decay=config.optim.weights.weight_decay,
        fused=True,
    )
    run = model if compile_mode is None else torch.compile(model, mode=compile_mode)
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
