"""The same network and training step in PyTorch, with groups for towers. PyTorch is optional."""

import os

import jax
import numpy as np
import torch
from torch.nn import functional

from alexnet_jax import model
from alexnet_jax.bench import contenders
from alexnet_jax.interop import networks
from alexnet_jax.interop.torch_alexnet import AlexNet
from alexnet_jax.model_config import Model
from alexnet_jax.run_config import Config


def net(spec: Model) -> AlexNet:
    """An untrained model in PyTorch. Raises UserError if PyTorch lacks one of its layers."""
    networks.check_layers(spec)
    params = jax.device_get(jax.jit(lambda key: model.init(spec, key))(jax.random.key(0, impl="rbg")))
    return AlexNet(spec.model_dump(), {name: torch.tensor(x) for name, x in networks.to_torch(spec, params).items()})


def program(
    config: Config, device: str, train: bool, compile_mode: str | None, channels_last: bool
) -> contenders.Program:
    """A training step, with fused SGD, or a forward pass, on images that are on the device."""
    torch.set_num_threads(len(os.sched_getaffinity(0)))
    rounded = config.train.matmul_precision != "highest"  # TF32, as in our step: PyTorch has it for convolutions only
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = rounded
    torch.backends.cudnn.benchmark = True  # try cuDNN's kernels and take the fastest, as XLA does
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

    wait, memory = lambda _: None, contenders.resident
    if device == "cuda":
        wait, memory = lambda _: torch.cuda.synchronize(), torch.cuda.max_memory_allocated
    return contenders.Program(step, wait, memory, contenders.ahead(device))
