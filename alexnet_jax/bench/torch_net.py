"""The same network and training step in PyTorch, with groups for towers. PyTorch is optional."""

from collections.abc import Callable
from typing import Any

import jax
import numpy as np
import torch
from torch.nn import functional

from alexnet_jax import model
from alexnet_jax.interop import networks
from alexnet_jax.interop.torch_alexnet import AlexNet
from alexnet_jax.model_config import Model
from alexnet_jax.run_config import Config


def net(spec: Model) -> AlexNet:
    """An untrained model in PyTorch. Raises UserError if PyTorch lacks one of its layers."""
    networks.check_layers(spec)
    params = jax.device_get(jax.jit(lambda key: model.init(spec, key))(jax.random.key(0, impl="rbg")))
    return AlexNet(spec.model_dump(), {name: torch.tensor(x) for name, x in networks.to_torch(spec, params).items()})


def variants(device: str) -> dict[str, dict[str, Any]]:
    """Ways to run the network: name -> arguments of `stepper`. Which is fastest differs from machine to machine."""
    modes = {"eager": None, "compile": "default"}
    modes |= {"compile max-autotune": "max-autotune"} if device == "cuda" else {}
    return {
        f"torch {name}{' channels_last' if last else ''}": {"compile_mode": mode, "channels_last": last}
        for name, mode in modes.items()
        for last in (False, True)
    }


def stepper(
    config: Config, device: str, train: bool, compile_mode: str | None, channels_last: bool
) -> Callable[[], None]:
    """A function that runs a training step, with fused SGD, or a forward pass, on images that are on the device."""
    rounded = config.train.matmul_precision != "highest"  # TF32, as in our step: PyTorch has it for convolutions only
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = rounded
    rng = np.random.default_rng(0)
    batch, size = config.train.batch_size, config.model.image_size
    network = net(config.model).to(device).train(train)
    images = torch.tensor(rng.normal(0, 60, (batch, 3, size, size)).astype(np.float32), device=device)
    labels = torch.tensor(rng.integers(0, config.model.num_classes, batch), device=device)
    if channels_last:
        network, images = (x.to(memory_format=torch.channels_last) for x in (network, images))
    rate, momentum, decay = config.optim.learning_rate, config.optim.momentum, config.optim.weights.weight_decay
    optimizer = torch.optim.SGD(network.parameters(), rate, momentum, weight_decay=decay, fused=True)
    compiled = network if compile_mode is None else torch.compile(network, mode=compile_mode)
    dtype = getattr(torch, config.train.compute_dtype)

    def step() -> None:
        with torch.set_grad_enabled(train), torch.autocast(device, dtype, enabled=dtype != torch.float32):
            logits = compiled(images)
        if train:
            functional.cross_entropy(logits, labels).backward()
            optimizer.step()
            optimizer.zero_grad()
        if device == "cuda":
            torch.cuda.synchronize()

    return step
