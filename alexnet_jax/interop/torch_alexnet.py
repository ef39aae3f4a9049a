"""`load(FILE)` opens in PyTorch what `alexnet export` wrote. This module needs only torch and safetensors."""

import json

import torch
from torch import nn
from torch.nn import functional


class AlexNet(nn.Module):
    """Logits [B, classes] of images [B, 3, S, S] in 0..255 minus their mean. Groups of convolutions are towers."""

    def __init__(self, model: dict, state: dict):
        super().__init__()
        self.model, self.convs = model, [name for i in range(1, 7) if model[name := f"conv{i}"]]
        self.hidden = [name for name in ("fc6", "fc7") if model[name]]
        for name in (*self.convs, *self.hidden, "fc8"):
            out, fan_in, *kernel = state[f"{name}.weight"].shape
            groups = 1 if name == "conv1" or model[name]["exchange"] else model["towers"]
            conv = [fan_in * groups, out, kernel, model[name]["stride"]] if kernel else []
            setattr(self, name, nn.Conv2d(*conv, groups=groups) if kernel else nn.Linear(fan_in, out))
        self.activation = nn.ReLU() if model["activation"] == "relu" else nn.Tanh()
        self.pool = nn.MaxPool2d(model["pool"]["window"], model["pool"]["stride"], ceil_mode=model["pool"]["ceil"])
        self.load_state_dict(state)

    def forward(self, x):
        for name in self.convs:
            before, after = self.model[name]["padding"]
            x = functional.pad(x, (before, after, before, after)) if after else x
            x = getattr(self, name)(x)
            for operation in self.model[name]["then"]:
                x = getattr(self, operation)(x)
        x, rate = x.flatten(1), self.model["dropout_rate"]
        for name in self.hidden:
            x = self.activation(getattr(self, name)(x))
            if self.model[name]["dropout"]:
                x = functional.dropout(x, rate, self.training)  # scales up in training, which "test" undoes
                x = x * (1 - rate) if self.model["dropout_scaling"] == "test" else x
        return self.fc8(x)

    def lrn(self, x):
        n, alpha, beta, k = (self.model["lrn"][name] for name in ("n", "alpha", "beta", "k"))
        towers = x.chunk(1 if self.model["lrn"]["across_towers"] else self.model["towers"], dim=1)
        return torch.cat([functional.local_response_norm(tower, n, alpha * n, beta, k) for tower in towers], dim=1)

    def map_norm(self, x):
        n, alpha, beta = (self.model["map_norm"][name] for name in ("n", "alpha", "beta"))
        return x / (1 + alpha * functional.avg_pool2d(x * x, n, 1, n // 2, divisor_override=1)) ** beta


def load(path):
    """The network of a .safetensors or .pth file, its class names, and its preprocessing.

    The last is a function of stored images, [B, size, size, 3] uint8, RGB, that returns the network's input.
    """
    if str(path).endswith(".pth"):
        file = torch.load(path, weights_only=True)
        state, metadata = file["state_dict"], file["alexnet_jax"]
    else:
        from safetensors import safe_open

        with safe_open(path, "pt") as file:
            state = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
            metadata = file.metadata()["alexnet_jax"]
    metadata = json.loads(metadata)
    mean, model = state.pop("mean_image"), metadata["config"]["model"]
    start = (len(mean) - model["image_size"]) // 2
    centre = slice(start, start + model["image_size"])

    def preprocess(images):
        return (images.float() - mean)[:, centre, centre].permute(0, 3, 1, 2)

    return AlexNet(model, state).eval(), metadata["classes"], preprocess
