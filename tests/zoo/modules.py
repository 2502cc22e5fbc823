"""Small networks in plain torch with features that known networks lack: sequences, data-dependent sizes, control flow, rare layers."""

import math

import numpy as np
import torch
import torchvision
from torch import Tensor, nn
from torch.nn import functional

import exporters
import samples
from exporters import DYNAMO, TORCHSCRIPT
from family import Family, Made, generator, liven


class Recurrent(nn.Module):
    """Two bidirectional layers over a length that is not fixed: [batch, time, 40] to [batch, time, 12] and the last states."""

    def __init__(self, kind):
        super().__init__()
        self.recurrent = kind(40, 64, num_layers=2, bidirectional=True, batch_first=True)
        self.scores = nn.Linear(128, 12)

    def forward(self, sound):
        hidden, states = self.recurrent(sound)
        last = states[0] if isinstance(states, tuple) else states
        return self.scores(hidden), last


class Packed(nn.Module):
    """Rows of different lengths through a packed sequence."""

    def __init__(self):
        super().__init__()
        self.recurrent = nn.LSTM(24, 48, batch_first=True, bidirectional=True)
        self.scores = nn.Linear(96, 9)

    def forward(self, words, lengths):
        packed = nn.utils.rnn.pack_padded_sequence(words, lengths, batch_first=True)
        hidden, _ = nn.utils.rnn.pad_packed_sequence(self.recurrent(packed)[0], batch_first=True)
        return self.scores(hidden)


class Autoencoder(nn.Module):
    """A convolutional variational autoencoder. Its noise is an input."""

    def __init__(self):
        super().__init__()
        down = lambda inside, outside: nn.Sequential(nn.Conv2d(inside, outside, 4, 2, 1), nn.GroupNorm(4, outside), nn.SiLU())
        up = lambda inside, outside: nn.Sequential(nn.ConvTranspose2d(inside, outside, 3, 2, 1, output_padding=1), nn.GroupNorm(4, outside), nn.SiLU())
        self.encode = nn.Sequential(down(3, 32), down(32, 64), down(64, 128), nn.Conv2d(128, 16, 1))
        self.decode = nn.Sequential(nn.Conv2d(8, 128, 1), up(128, 64), up(64, 32), up(32, 16), nn.Conv2d(16, 3, 3, padding=1, padding_mode="reflect"))

    def forward(self, pixels, noise):
        mean, log_variance = self.encode(pixels).chunk(2, dim=1)
        latent = mean + noise * torch.exp(0.5 * log_variance.clamp(-10, 10))
        return torch.sigmoid(self.decode(latent)), mean, log_variance


class Spectrum(nn.Module):
    """Log mel features of sound, by a short-time Fourier transform: [batch, samples] to [batch, 40, frames]."""

    def __init__(self, complex_numbers):
        super().__init__()
        self.complex_numbers = complex_numbers
        self.register_buffer("window", torch.hann_window(400))
        self.register_buffer("mel", mel_filters(40, 201, 16000))

    def forward(self, sound):
        found = torch.stft(sound, 400, 160, 400, self.window, center=True, pad_mode="reflect", return_complex=self.complex_numbers)
        power = found.real**2 + found.imag**2 if self.complex_numbers else (found**2).sum(-1)
        mel = torch.matmul(self.mel, power)
        level = torch.log10(mel.clamp(min=1e-10))
        return (torch.maximum(level, level.amax(dim=(1, 2), keepdim=True) - 8.0) + 4.0) / 4.0


def mel_filters(filters, bins, rate):
    """Triangular filters, equally wide in mel (O'Shaughnessy 1987): [filters, bins]."""
    mel = lambda hertz: 2595 * np.log10(1 + hertz / 700)
    edges = 700 * (10 ** (np.linspace(0, mel(rate / 2), filters + 2) / 2595) - 1)
    places = np.linspace(0, rate / 2, bins)
    rising = (places - edges[:-2, None]) / (edges[1:-1] - edges[:-2])[:, None]
    falling = (edges[2:, None] - places) / (edges[2:] - edges[1:-1])[:, None]
    return torch.from_numpy(np.clip(np.minimum(rising, falling), 0, None).astype(np.float32))


class Warp(nn.Module):
    """A spatial transformer (Jaderberg 2015): predicts an affine map and samples the picture by it, in three modes."""

    def __init__(self):
        super().__init__()
        self.look = nn.Sequential(nn.Conv2d(3, 8, 7, 4), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 6))

    def forward(self, pixels):
        map = 0.2 * torch.tanh(self.look(pixels)).view(-1, 2, 3) + torch.eye(2, 3)
        grid = functional.affine_grid(map, list(pixels.shape), align_corners=False)
        return (
            functional.grid_sample(pixels, grid, align_corners=False),
            functional.grid_sample(pixels, grid * 1.2, padding_mode="border", align_corners=True),
            functional.grid_sample(pixels, grid, mode="nearest", padding_mode="reflection", align_corners=False),
        )


class Deformable(nn.Module):
    def __init__(self):
        super().__init__()
        self.offsets = nn.Conv2d(3, 18, 3, padding=1)
        self.weights = nn.Conv2d(3, 9, 3, padding=1)
        self.convolve = torchvision.ops.DeformConv2d(3, 16, 3, padding=1)

    def forward(self, pixels):
        return self.convolve(pixels, self.offsets(pixels), torch.sigmoid(self.weights(pixels)))


class Causal(nn.Module):
    """Attention by einsum, with a causal mask of `triu` and a bias that falls with the distance."""

    def __init__(self):
        super().__init__()
        self.inward = nn.Linear(96, 288, bias=False)
        self.outward = nn.Linear(96, 96)

    def forward(self, words):
        batch, length, width = words.shape
        query, key, value = self.inward(words).view(batch, length, 3, 6, 16).permute(2, 0, 3, 1, 4).unbind(0)
        scores = torch.einsum("bhqd,bhkd->bhqk", query, key) / 4
        places = torch.arange(length, device=words.device)
        slope = torch.exp2(-torch.arange(1, 7, dtype=torch.float32))[:, None, None]
        scores = scores - slope * (places[:, None] - places[None, :]).abs()
        hidden = torch.triu(torch.ones(length, length, dtype=torch.bool, device=words.device), diagonal=1)
        scores = scores.masked_fill(hidden, float("-inf"))
        mixed = torch.einsum("bhqk,bhkd->bqhd", scores.softmax(-1), value)
        return self.outward(mixed.reshape(batch, length, width))


class Encoder(nn.Module):
    """torch's own transformer encoder with a padding mask."""

    def __init__(self):
        super().__init__()
        layer = nn.TransformerEncoderLayer(64, 4, 128, activation="gelu", batch_first=True, norm_first=True)
        self.layers = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)

    def forward(self, words, hidden):
        return self.layers(words, src_key_padding_mask=hidden)


class Ranking(nn.Module):
    """Sums, orders and places: cumsum, top k, sort, gather, scatter, one-hot, masked sums."""

    def forward(self, scores, groups):
        best, where = torch.topk(scores, 4, dim=-1)
        ordered, order = torch.sort(scores, dim=-1, descending=True)
        running = torch.cumsum(ordered.softmax(-1), dim=-1)
        # Nucleus sampling's filter: entries beyond 0.8 of the probability are dropped, the others scattered back to their places.
        kept = torch.where(running > 0.8, torch.zeros_like(ordered), ordered)
        back = torch.zeros_like(scores).scatter(-1, order, kept)
        sums = torch.zeros(scores.shape[0], 5, dtype=scores.dtype).scatter_add(1, groups, scores)
        counts = functional.one_hot(groups, 5).sum(1)
        return best, where, back, sums, counts, torch.gather(sums, 1, groups)


class Graph(nn.Module):
    """Messages along the edges of a graph, summed and maximized per node."""

    def __init__(self):
        super().__init__()
        self.message = nn.Linear(32, 16)
        self.gates = nn.Linear(48, 32)
        self.change = nn.Linear(48, 16)

    def forward(self, nodes, edges):
        source, target = edges[0], edges[1]
        sent = torch.relu(self.message(torch.cat([nodes[source], nodes[target]], dim=-1)))
        place = target[:, None].expand_as(sent)
        total = torch.zeros_like(nodes).scatter_add(0, place, sent)
        most = torch.zeros_like(nodes).scatter_reduce(0, place, sent, "amax")
        heard = torch.cat([total, most, nodes], dim=-1)
        keep, reset = torch.sigmoid(self.gates(heard)).chunk(2, dim=-1)
        return keep * nodes + (1 - keep) * torch.tanh(self.change(torch.cat([total, most, reset * nodes], dim=-1)))


class Found(nn.Module):
    """Data-dependent sizes: the places of large values, and the values there."""

    def forward(self, heat):
        places = torch.nonzero(heat > 1.0)
        values = heat[heat > 1.0]
        return places, values * 2 + 1, values.sum()[None]


class Distinct(nn.Module):
    def forward(self, words):
        found, inverse, counts = torch.unique(words, return_inverse=True, return_counts=True)
        return found, inverse, counts


class Boxes(nn.Module):
    """Suppression of overlapping boxes, then pooling of a feature map in the remaining ones."""

    def forward(self, boxes, scores, features):
        kept = torchvision.ops.nms(boxes, scores, 0.4)
        chosen = boxes[kept]
        index = torch.zeros(chosen.shape[0], 1, dtype=chosen.dtype)
        looked = torchvision.ops.roi_align(features, torch.cat([index, chosen], dim=1), 5, 0.25, 2, True)
        return kept, scores[kept], looked


@torch.jit.script
def scan(decay: Tensor, driven: Tensor, read: Tensor) -> Tensor:
    """A state-space layer (Mamba) step by step: the loop's length is that of the input."""
    state = torch.zeros_like(driven[:, 0])
    outputs: list[Tensor] = []
    for step in range(driven.shape[1]):
        state = decay[:, step] * state + driven[:, step]
        outputs.append((state * read[:, step].unsqueeze(1)).sum(-1))
    return torch.stack(outputs, dim=1)


class Scan(nn.Module):
    def __init__(self):
        super().__init__()
        self.inward = nn.Linear(32, 32 + 8 + 8)
        self.rates = nn.Parameter(torch.log(torch.arange(1, 9, dtype=torch.float32)).repeat(32, 1))
        self.outward = nn.Linear(32, 32)

    def forward(self, words):
        step, driven, read = self.inward(words).split([32, 8, 8], dim=-1)
        step = functional.softplus(step).unsqueeze(-1)
        decay = torch.exp(-step * torch.exp(self.rates))
        return self.outward(scan(decay, step * driven.unsqueeze(2) * words.unsqueeze(-1), read))


class Refine(nn.Module):
    """A loop with a condition: halves the step until the change is small. Newton's square root, per row."""

    def forward(self, numbers):
        return refine(numbers)


@torch.jit.script
def refine(numbers: Tensor):
    guess = torch.ones_like(numbers)
    turns = 0
    while bool((guess * guess - numbers).abs().max() > 1e-3) and turns < 30:
        guess = 0.5 * (guess + numbers / guess)
        turns += 1
    return guess, torch.tensor([turns])


@torch.jit.script
def choose(pixels: Tensor, weight: Tensor) -> Tensor:
    """Dark and bright pictures run different branches."""
    if bool(pixels.mean() > 0):
        chosen = torch.conv2d(pixels, weight, padding=1)
    else:
        chosen = torch.relu(pixels) - 0.5
    return chosen


class Choose(nn.Module):
    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.randn(3, 3, 3, 3) * 0.2)

    def forward(self, pixels):
        return choose(pixels, self.weight)


class Sizes(nn.Module):
    """Pictures made larger and smaller in every mode."""

    def forward(self, pixels):
        resize = functional.interpolate
        return (
            resize(pixels, scale_factor=2, mode="nearest"),
            resize(pixels, scale_factor=1.5, mode="bilinear", align_corners=False),
            resize(pixels, size=[20, 30], mode="bilinear", align_corners=True),
            resize(pixels, scale_factor=2, mode="bicubic", align_corners=False),
            functional.pixel_shuffle(pixels.repeat(1, 4, 1, 1), 2),
            functional.pixel_unshuffle(pixels, 2),
        )


class Pools(nn.Module):
    def forward(self, pixels):
        return (
            functional.max_pool2d(pixels, 3, 2, 1, dilation=1, ceil_mode=True),
            functional.max_pool2d(pixels, 2, dilation=2),
            functional.avg_pool2d(pixels, 3, 2, 1, ceil_mode=True, count_include_pad=False),
            functional.avg_pool2d(pixels, (2, 3), (1, 2), count_include_pad=True),
            functional.adaptive_avg_pool2d(pixels, (1, 1)),
            functional.lp_pool2d(pixels.abs() + 0.1, 2.0, 3, 2),
            functional.adaptive_max_pool2d(pixels, 1),
        )


class Convolutions(nn.Module):
    """Convolutions in one, two and three dimensions: groups, dilation, strides, transposed."""

    def __init__(self):
        super().__init__()
        self.one = nn.Conv1d(8, 16, 5, stride=2, padding=2, groups=4)
        self.back = nn.ConvTranspose1d(16, 8, 4, stride=2, padding=1, groups=2)
        self.two = nn.Conv2d(1, 6, (3, 5), stride=(2, 1), padding=(1, 4), dilation=(1, 2))
        self.three = nn.Conv3d(1, 4, 3, padding=1, stride=(1, 2, 2))
        self.transposed = nn.ConvTranspose2d(6, 4, 3, stride=2, padding=1, output_padding=1, dilation=2)
        self.volume = nn.ConvTranspose3d(4, 1, 2, stride=2)

    def forward(self, wave):
        line = self.back(torch.tanh(self.one(wave)))
        plane = self.transposed(torch.tanh(self.two(line[:, None])))
        cube = self.volume(torch.tanh(self.three(line.unflatten(1, (2, 4))[:, None])))
        return line, plane, cube


class Activations(nn.Module):
    def __init__(self):
        super().__init__()
        self.slope = nn.PReLU(6)

    def forward(self, numbers):
        first, second = functional.glu(numbers, dim=1), numbers[:, :6]
        values = [
            functional.gelu(second),
            functional.gelu(second, approximate="tanh"),
            functional.silu(second),
            functional.mish(second),
            functional.softplus(second, beta=2),
            functional.elu(second, 0.7),
            functional.celu(second, 1.3),
            functional.selu(second),
            functional.hardswish(second),
            functional.hardsigmoid(second),
            functional.hardtanh(second, -0.5, 0.8),
            functional.leaky_relu(second, 0.1),
            functional.relu6(second * 4),
            functional.softsign(second),
            functional.logsigmoid(second),
            functional.softshrink(second, 0.3),
            functional.hardshrink(second, 0.3),
            self.slope(second),
            functional.tanhshrink(second),
            functional.log_softmax(second, 1),
            functional.softmin(second, 2),
            first,
        ]
        return torch.stack(values, dim=1)


class Root(nn.Module):
    """torch's RMSNorm as models wrote it before torch had one, which the TorchScript exporter does not know."""

    def __init__(self, width):
        super().__init__()
        self.scale = nn.Parameter(torch.ones(width))

    def forward(self, values):
        return self.scale * (values * torch.rsqrt(values.pow(2).mean(-1, keepdim=True) + 1e-5))


class Norms(nn.Module):
    def __init__(self, root=None):
        super().__init__()
        self.group, self.instance, self.batch = nn.GroupNorm(3, 12), nn.InstanceNorm2d(12, affine=True), nn.BatchNorm2d(12)
        self.layer, self.root = nn.LayerNorm([12]), root or nn.RMSNorm(12, eps=1e-5)
        self.plain = nn.LayerNorm(12, elementwise_affine=False)
        self.local = nn.LocalResponseNorm(3)

    def forward(self, pixels):
        last = pixels.permute(0, 2, 3, 1)
        unit = functional.normalize(pixels, dim=1)
        return self.group(pixels), self.instance(pixels), self.batch(pixels), self.layer(last), self.root(last), self.plain(last), self.local(pixels), unit


class Experts(nn.Module):
    """A mixture of experts: each word goes to the two best of four."""

    def __init__(self):
        super().__init__()
        self.gate = nn.Linear(32, 4)
        self.up, self.down = nn.Parameter(torch.randn(4, 32, 64) / 6), nn.Parameter(torch.randn(4, 64, 32) / 8)

    def forward(self, words):
        weights, chosen = torch.topk(self.gate(words).softmax(-1), 2, dim=-1)
        weights = weights / weights.sum(-1, keepdim=True)
        share = torch.zeros(*words.shape[:-1], 4).scatter(-1, chosen, weights)
        every = torch.einsum("bld,edh->bleh", words, self.up)
        return torch.einsum("bleh,ehd,ble->bld", functional.silu(every), self.down, share)


class Whole(nn.Module):
    """Integers and truth values: division, remainders, bits, comparisons."""

    def forward(self, left, right):
        return (
            torch.div(left, right, rounding_mode="floor"),
            torch.div(left, right, rounding_mode="trunc"),
            torch.remainder(left, right),
            torch.fmod(left, right),
            left & right,
            left | right,
            left ^ right,
            torch.bitwise_left_shift(right, 2),
            (left > right) & ~(left == 3),
            left.clamp(-4, 9) % 5,
            torch.sign(left) * left.abs(),
            left.float() / right.float(),
            torch.argmax(left, dim=1),
            torch.any(left > 10, dim=1),
            torch.cumsum(left, 1),
            torch.max(left, dim=1).values,
        )


class Rotary(nn.Module):
    """Angles, powers, rounding, and indices computed from them."""

    def forward(self, words, places):
        rates = torch.pow(torch.tensor(10000.0), -torch.arange(0, 16, 2, dtype=torch.float32) / 16)
        angles = places.unsqueeze(-1).to(torch.float32) * rates
        even, odd = words[..., 0::2], words[..., 1::2]
        turned = torch.stack([even * angles.cos() - odd * angles.sin(), even * angles.sin() + odd * angles.cos()], dim=-1).flatten(-2)
        near = torch.clamp((torch.log(places.float() + 1) / math.log(64) * 8).floor().long(), max=7)
        table = torch.linspace(-1, 1, 8)
        return turned, table[near], torch.roll(turned, 2, dims=1), torch.flip(turned, [1]), turned.round(decimals=2), torch.atan2(even, odd + 2)


class Patches(nn.Module):
    """Pictures cut into windows and put together, padded in every mode."""

    def forward(self, pixels):
        columns = functional.unfold(pixels, 4, stride=4)
        batch, channels, height, width = pixels.shape
        windows = pixels.view(batch, channels, height // 8, 8, width // 8, 8).permute(0, 2, 4, 3, 5, 1).reshape(-1, 64, channels)
        pad = functional.pad
        return (
            columns.transpose(1, 2),
            windows.mean(1),
            pad(pixels, (1, 2, 3, 0), value=0.5),
            pad(pixels, (2, 1, 1, 2), mode="reflect"),
            pad(pixels, (2, 1, 1, 2), mode="replicate"),
            pad(pixels, (-1, -1, 2, -2)),
            pad(pixels, (3, 2, 1, 1), mode="circular"),
            torch.tril(pixels[:, 0]),
            pixels[:, :, ::2, 1::3],
            pixels[:, [2, 0, 1]],
        )


SPATIAL = {0: "batch", 2: "height", 3: "width"}
SEQUENCE = {0: "batch", 1: "length"}


def made(name, build, inputs, outputs, dims, traced, sets, exporter, opset, unchecked=()):
    """`inputs` maps names to functions of (generator, shape); `traced` and each of `sets` give their shapes in order."""

    def values(rng, shapes):
        return {port: maker(rng, shape) for (port, maker), shape in zip(inputs.items(), shapes, strict=True)}

    def make(folder):
        model = liven(build().eval())
        arguments = tuple(torch.from_numpy(np.ascontiguousarray(value)) for value in values(generator(f"{name} traced"), traced).values())
        path = folder / "exported.onnx"
        if exporter is TORCHSCRIPT:
            exporters.torchscript(model, arguments, path, list(inputs), outputs, dict(zip(inputs, dims, strict=True)), opset)
        else:
            exporters.dynamo(model, arguments, path, list(inputs), outputs, list(dims), opset)
        known = exporters.input_names(path)
        data = [values(generator(f"{name} {index}"), shapes) for index, shapes in enumerate(sets)]
        yield Made(name, path, [{port: value for port, value in one.items() if port in known} for one in data], unchecked=unchecked)

    return Family("plain torch", exporter, [name], make)


def both(name, *arguments, opsets=(17, 18), **named):
    """The same network through both exporters."""
    return [made(name, *arguments, TORCHSCRIPT, opsets[0], **named), made(f"{name}-dynamo", *arguments, DYNAMO, opsets[1], **named)]


def floats(rng, shape):
    return rng.normal(0, 1, shape).astype(np.float32)


def pixels(rng, shape):
    return samples.pictures(rng, shape[0], shape[2], shape[3])


def sound(rng, shape):
    return samples.sounds(rng, *shape)


def lengths(rng, shape):
    # The first row has the length of the padded tensor, the greatest; lengths are in descending order.
    return np.array([7, 5, 2][: shape[0]] if shape[0] == 3 else [20, 11], dtype=np.int64)


def integers(low, high):
    return lambda rng, shape: rng.integers(low, high, shape, dtype=np.int64)


def hidden(rng, shape):
    return samples.mask(shape) == 0


def boxes(rng, shape):
    corner = rng.uniform(0, 80, (shape[0], 2))
    return np.concatenate([corner, corner + rng.uniform(15, 60, (shape[0], 2))], axis=1).astype(np.float32)


def out(count):
    return [f"out{index}" for index in range(count)]


FAMILIES = [
    *both("bilstm", lambda: Recurrent(nn.LSTM), {"sound": floats}, ["scores", "last"], [SEQUENCE], [(2, 10, 40)], [[(3, 17, 40)], [(1, 5, 40)]]),
    *both("bigru", lambda: Recurrent(nn.GRU), {"sound": floats}, ["scores", "last"], [SEQUENCE], [(2, 10, 40)], [[(3, 17, 40)], [(1, 5, 40)]]),
    made(
        "rnn-tanh", lambda: Recurrent(nn.RNN), {"sound": floats}, ["scores", "last"], [SEQUENCE], [(2, 10, 40)], [[(3, 17, 40)], [(1, 5, 40)]], TORCHSCRIPT, 14
    ),
    made(
        "packed-lstm",
        Packed,
        {"words": floats, "lengths": lengths},
        ["scores"],
        [SEQUENCE, {0: "batch"}],
        [(3, 7, 24), (3,)],
        [[(2, 20, 24), (2,)], [(3, 7, 24), (3,)]],
        TORCHSCRIPT,
        17,
    ),
    *both(
        "conv-vae",
        Autoencoder,
        {"pixels": pixels, "noise": floats},
        ["picture", "mean", "log_variance"],
        [SPATIAL, {0: "batch", 2: "rows", 3: "columns"}],
        [(2, 3, 64, 64), (2, 8, 8, 8)],
        [[(3, 3, 48, 80), (3, 8, 6, 10)], [(1, 3, 64, 64), (1, 8, 8, 8)]],
    ),
    made(
        "stft", lambda: Spectrum(False), {"sound": sound}, ["levels"], [{0: "batch", 1: "samples"}], [(2, 8000)], [[(3, 11200)], [(1, 5000)]], TORCHSCRIPT, 17
    ),
    made(
        "stft-dynamo", lambda: Spectrum(True), {"sound": sound}, ["levels"], [{0: "batch", 1: "samples"}], [(2, 8000)], [[(3, 11200)], [(1, 5000)]], DYNAMO, 18
    ),
    made("spatial-transformer", Warp, {"pixels": pixels}, out(3), [SPATIAL], [(2, 3, 32, 40)], [[(3, 3, 48, 36)], [(1, 3, 32, 40)]], TORCHSCRIPT, 20),
    # The dynamo exporter makes the sizes of an affine grid constants.
    made("spatial-transformer-dynamo", Warp, {"pixels": pixels}, out(3), [{0: "batch"}], [(2, 3, 32, 40)], [[(3, 3, 32, 40)], [(1, 3, 32, 40)]], DYNAMO, 20),
    made("deformable-dynamo", Deformable, {"pixels": pixels}, ["features"], [SPATIAL], [(2, 3, 24, 32)], [[(1, 3, 20, 28)], [(3, 3, 16, 16)]], DYNAMO, 19),
    *both("causal-einsum", Causal, {"words": floats}, ["output"], [SEQUENCE], [(2, 10, 96)], [[(3, 17, 96)], [(1, 5, 96)]], opsets=(14, 18)),
    # The TorchScript exporter makes batch and length constants inside torch's attention.
    made(
        "transformer-encoder",
        Encoder,
        {"words": floats, "hidden": hidden},
        ["output"],
        [{}, {}],
        [(2, 10, 64), (2, 10)],
        [[(2, 10, 64), (2, 10)]],
        TORCHSCRIPT,
        17,
    ),
    made(
        "transformer-encoder-dynamo",
        Encoder,
        {"words": floats, "hidden": hidden},
        ["output"],
        [SEQUENCE, SEQUENCE],
        [(2, 10, 64), (2, 10)],
        [[(3, 17, 64), (3, 17)], [(2, 6, 64), (2, 6)]],
        DYNAMO,
        18,
    ),
    *both(
        "ranking",
        Ranking,
        {"scores": floats, "groups": integers(0, 5)},
        ["best", "best_places", "back", "sums", "counts", "gathered"],
        [SEQUENCE, SEQUENCE],
        [(2, 10), (2, 10)],
        [[(3, 21), (3, 21)], [(1, 6), (1, 6)]],
    ),
    *both(
        "graph-network",
        Graph,
        {"nodes": floats, "edges": integers(0, 6)},
        ["states"],
        [{0: "nodes"}, {1: "edges"}],
        [(7, 16), (2, 20)],
        [[(12, 16), (2, 41)], [(6, 16), (2, 9)]],
        opsets=(18, 18),
    ),
    *both("nonzero", Found, {"heat": floats}, ["places", "values", "sum"], [{0: "rows", 1: "columns"}], [(12, 9)], [[(20, 15)], [(7, 30)]]),
    *both("unique", Distinct, {"words": integers(0, 30)}, ["found", "inverse", "counts"], [{0: "length"}], [(20,)], [[(57,)], [(11,)]]),
    *both(
        "nms-roi-align",
        Boxes,
        {"boxes": boxes, "scores": lambda rng, shape: rng.uniform(0, 1, shape).astype(np.float32), "features": floats},
        ["kept", "kept_scores", "looked"],
        [{0: "boxes"}, {0: "boxes"}, {2: "rows", 3: "columns"}],
        [(30, 4), (30,), (1, 8, 36, 36)],
        [[(50, 4), (50,), (1, 8, 40, 36)], [(12, 4), (12,), (1, 8, 36, 44)]],
    ),
    made("scripted-scan", Scan, {"words": floats}, ["output"], [SEQUENCE], [(2, 10, 32)], [[(3, 14, 32)], [(1, 5, 32)]], TORCHSCRIPT, 17),
    made(
        "scripted-while",
        Refine,
        {"numbers": lambda rng, shape: rng.uniform(0.5, 60, shape).astype(np.float32)},
        ["roots", "turns"],
        [{0: "length"}],
        [(8,)],
        [[(13,)], [(1,)]],
        TORCHSCRIPT,
        17,
    ),
    made(
        "scripted-if",
        Choose,
        {"pixels": lambda rng, shape: (rng.normal(0.6 if shape[0] > 1 else -0.6, 1, shape)).astype(np.float32)},
        ["features"],
        [SPATIAL],
        [(2, 3, 16, 16)],
        [[(2, 3, 20, 24)], [(1, 3, 16, 18)]],
        TORCHSCRIPT,
        17,
    ),
    *both("resize", Sizes, {"pixels": pixels}, out(6), [SPATIAL], [(2, 3, 32, 32)], [[(3, 3, 24, 36)], [(1, 3, 32, 40)]]),
    *both("pools", Pools, {"pixels": pixels}, out(7), [SPATIAL], [(2, 3, 32, 32)], [[(3, 3, 25, 36)], [(1, 3, 31, 40)]]),
    *both("convolutions", Convolutions, {"wave": floats}, ["line", "plane", "cube"], [{0: "batch"}], [(1, 8, 32)], [[(1, 8, 32)]]),
    *both("activations", Activations, {"numbers": floats}, ["stacked"], [{0: "batch", 2: "length"}], [(2, 12, 9)], [[(3, 12, 20)], [(1, 12, 7)]]),
    made("norms", lambda: Norms(Root(12)), {"pixels": floats}, out(8), [SPATIAL], [(2, 12, 8, 8)], [[(3, 12, 6, 11)], [(1, 12, 9, 7)]], TORCHSCRIPT, 17),
    made("norms-dynamo", Norms, {"pixels": floats}, out(8), [SPATIAL], [(2, 12, 8, 8)], [[(3, 12, 6, 11)], [(1, 12, 9, 7)]], DYNAMO, 18),
    made("norms-dynamo-op23", Norms, {"pixels": floats}, out(8), [SPATIAL], [(2, 12, 8, 8)], [[(3, 12, 6, 11)]], DYNAMO, 23),
    *both("experts", Experts, {"words": floats}, ["output"], [SEQUENCE], [(2, 10, 32)], [[(3, 17, 32)], [(1, 5, 32)]]),
    made(
        "integers-dynamo",
        Whole,
        {"left": integers(-9, 12), "right": integers(1, 6)},
        out(16),
        [SEQUENCE, SEQUENCE],
        [(2, 10), (2, 10)],
        [[(4, 9), (4, 9)], [(3, 13), (3, 13)]],
        DYNAMO,
        18,
    ),
    *both(
        "rotary",
        Rotary,
        {"words": floats, "places": integers(0, 60)},
        out(6),
        [SEQUENCE, SEQUENCE],
        [(2, 10, 16), (2, 10)],
        [[(3, 17, 16), (3, 17)], [(1, 5, 16), (1, 5)]],
    ),
    *both("patches", Patches, {"pixels": pixels}, out(10), [SPATIAL], [(2, 3, 32, 32)], [[(3, 3, 24, 40)], [(1, 3, 16, 24)]]),
]
