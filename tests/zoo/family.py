"""Shared by the modules that make models: families, seeds, and weights with which faults are visible."""

import random
import zlib
from dataclasses import dataclass, field
from pathlib import Path
from collections.abc import Callable, Iterator

import numpy as np
import torch


# Least standard deviation of a channel of scores, as a part of its largest magnitude.
VARIATION_MIN = 0.01


@dataclass
class Made:
    """A model as it was made: a file and data sets, each a dictionary of inputs."""

    name: str
    path: Path | None = None
    sets: list[dict[str, np.ndarray]] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    # Outputs that may be constant, empty or of an unusual magnitude.
    unchecked: tuple[str, ...] = ()
    source: str | None = None
    error: str | None = None


@dataclass
class Family:
    """Models that come from one export."""

    group: str
    source: str
    names: list[str]
    # Called with an empty folder to write to.
    make: Callable[[Path], Iterator[Made]]


def seed(text):
    number = zlib.crc32(text.encode())
    random.seed(number)
    np.random.seed(number)
    torch.manual_seed(number)
    torch.set_num_threads(1)


def generator(text):
    """A numpy generator whose seed is a name."""
    return np.random.default_rng(zlib.crc32(text.encode()))


def liven(model):
    """Moves parameters off their initial constants.

    A fresh network has biases of 0, scales of 1 and the statistics 0 and 1: a runtime that forgets one of them would pass.
    """
    with torch.no_grad():
        for value in model.parameters():
            if value.is_floating_point() and value.numel() and bool((value == value.flatten()[0]).all()):
                first = float(value.flatten()[0])
                # A scale of nearly 0 (ConvNeXt's layer scale) is raised, so that its branch affects the result.
                spread = 0.1 if first == 1 else 0.05
                base = first if first == 0 or abs(first) >= 0.05 else 0.5
                value.copy_(base + spread * torch.randn_like(value))
        for name, value in model.named_buffers():
            if name.endswith("running_mean"):
                value.normal_(0, 0.1)
            elif name.endswith("running_var"):
                value.uniform_(0.5, 1.5)
    return model


def calibrate(model, *inputs, **named):
    """Gives batch normalizations the statistics of a forward pass, as training does: random weights alone explode or vanish."""
    norms = [part for part in model.modules() if isinstance(part, torch.nn.modules.batchnorm._BatchNorm)]
    before = [(part.momentum, part.training) for part in norms]
    model.eval()
    for part in norms:
        part.momentum = 1.0
        part.train()
    with torch.no_grad():
        model(*inputs, **named)
    for part, (momentum, _) in zip(norms, before, strict=True):
        part.momentum = momentum
        # The variation of an almost constant channel is rounding, which must not be scaled up.
        part.running_var.clamp_(min=0.05 * float(part.running_var.mean()))
    return model.eval()


def standardize(layers, forward, mean, std):
    """Scales the channels of last layers to a mean and a deviation over all places of one forward pass.

    The scores of a detector that is not trained are all about the same: no box would pass the threshold, or all in the same class.
    """
    seen = {layer: [] for layer in layers}
    hooks = [layer.register_forward_hook(lambda layer, _, output: seen[layer].append(output.detach())) for layer in layers]
    with torch.no_grad():
        forward()
        for hook in hooks:
            hook.remove()
        for layer, outputs in seen.items():
            # Channels are a linear layer's last dimension and a convolution's second.
            linear = isinstance(layer, torch.nn.Linear)
            channels = torch.cat([output.flatten(0, -2).T if linear else output.transpose(0, 1).flatten(1) for output in outputs], dim=1)
            # The variation of an almost constant channel is rounding, which must not be scaled up to scores.
            least = (channels - layer.bias[:, None]).abs().amax(1) * VARIATION_MIN
            scale = std / torch.maximum(channels.std(1), least).clamp(min=1e-12)
            layer.weight.mul_(scale.view(-1, *[1] * (layer.weight.ndim - 1)))
            layer.bias.copy_((layer.bias - channels.mean(1)) * scale + mean)
