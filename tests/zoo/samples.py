"""Inputs of ordinary ranges: pictures, text in pictures, sounds, words, masks."""

import fnmatch

import numpy as np
import onnx
from PIL import Image, ImageDraw, ImageFilter, ImageFont

import reference

IMAGENET_MEAN, IMAGENET_STD = np.float32([0.485, 0.456, 0.406]), np.float32([0.229, 0.224, 0.225])


def picture(rng, height, width):
    """A picture of smooth colours, shapes and some noise, RGB in 0..1, [height, width, 3]."""
    coarse = Image.fromarray(rng.integers(0, 256, (6, 6, 3), dtype=np.uint8)).resize((width, height), Image.Resampling.BICUBIC)
    draw = ImageDraw.Draw(coarse)
    for _ in range(8):
        x, y = rng.integers(0, width), rng.integers(0, height)
        wide, high = rng.integers(width // 12 + 2, width // 3 + 3), rng.integers(height // 12 + 2, height // 3 + 3)
        box = [int(x), int(y), int(x + wide), int(y + high)]
        colour = tuple(int(part) for part in rng.integers(0, 256, 3))
        (draw.ellipse if rng.random() < 0.5 else draw.rectangle)(box, fill=colour)
    soft = np.asarray(coarse.filter(ImageFilter.GaussianBlur(1)), dtype=np.float32) / 255
    return np.clip(soft + rng.normal(0, 0.03, soft.shape), 0, 1).astype(np.float32)


def pictures(rng, batch, height, width, mean=IMAGENET_MEAN, std=IMAGENET_STD):
    """[batch, 3, height, width], normalized."""
    rows = [(picture(rng, height, width) - mean) / std for _ in range(batch)]
    return np.ascontiguousarray(np.stack(rows).transpose(0, 3, 1, 2), dtype=np.float32)


def written(text, height, width, size, lines=1):
    """Dark text on paper, grey in 0..1, [height, width]."""
    page = Image.new("L", (width, height), 235)
    draw = ImageDraw.Draw(page)
    font = ImageFont.load_default(size)
    for line in range(lines):
        draw.text((size // 3, line * height // lines + (height // lines - size) // 2), text[line % len(text)], fill=30, font=font)
    return np.asarray(page, dtype=np.float32) / 255


def tokens(rng, shape, low, high):
    """Ids of words, 64 bit, in low..high."""
    return rng.integers(low, high, shape, dtype=np.int64)


def mask(shape, side="right"):
    """[batch, length] of ones; every row but the first has some zeros at one end."""
    value = np.ones(shape, dtype=np.int64)
    for row in range(1, shape[0]):
        cut = min(1 + row, shape[1] - 1)
        if side == "right":
            value[row, shape[1] - cut :] = 0
        else:
            value[row, :cut] = 0
    return value


def sound(rng, samples, rate=16000):
    """A voice-like sound in -1..1: harmonics of a gliding pitch, syllables, a little noise. [samples]"""
    time = np.arange(samples) / rate
    pitch = rng.uniform(100, 220) * (1 + 0.1 * np.sin(2 * np.pi * rng.uniform(0.5, 2) * time))
    phase = 2 * np.pi * np.cumsum(pitch) / rate
    voice = sum(rng.uniform(0.3, 1) / number * np.sin(number * phase + rng.uniform(0, 6)) for number in range(1, 20))
    syllables = 0.55 + 0.45 * np.sin(2 * np.pi * rng.uniform(2, 5) * time + rng.uniform(0, 6))
    value = voice * syllables + rng.normal(0, 0.05, samples)
    return (0.5 * value / np.abs(value).max()).astype(np.float32)


def sounds(rng, batch, samples, rate=16000):
    return np.stack([sound(rng, samples, rate) for _ in range(batch)])


def normalized(sound):
    """Zero mean and unit variance, as the feature extractors of speech models do."""
    return ((sound - sound.mean(-1, keepdims=True)) / (sound.std(-1, keepdims=True) + 1e-7)).astype(np.float32)


def fill(path, rng, sizes, rules):
    """Inputs for every port of a model.

    `sizes` gives its symbolic dimensions; a dimension that is a formula of names (`past + sequence`) is computed. `rules` pairs a pattern of
    names with a function of (generator, shape); the first that matches is taken. A tensor of floats without a rule is normal.
    """
    inputs = {}
    for port in reference.free_inputs(onnx.load(path, load_external_data=False).graph):
        shape = [size(dim, sizes, port.name) for dim in reference.shape(port)]
        kind = onnx.helper.tensor_dtype_to_np_dtype(port.type.tensor_type.elem_type)
        maker = next((maker for pattern, maker in rules if fnmatch.fnmatch(port.name, pattern)), None)
        if maker is None and kind.kind == "f":
            maker = normal(1)
        if maker is None:
            raise ValueError(f"no rule makes input {port.name} of {kind}")
        value = np.asarray(maker(rng, shape), dtype=kind)
        if list(value.shape) != shape:
            raise ValueError(f"input {port.name} should have the shape {shape}, its rule made {list(value.shape)}")
        inputs[port.name] = value
    return inputs


def size(dim, sizes, port):
    if isinstance(dim, int):
        return dim
    if dim in sizes:
        return sizes[dim]
    try:
        return int(eval(dim, {"__builtins__": {}}, dict(sizes)))
    except Exception:
        raise ValueError(f"input {port} has the dimension {dim!r}, for which there is no size") from None


def normal(scale):
    return lambda rng, shape: rng.normal(0, scale, shape)


def words(low, high):
    return lambda rng, shape: tokens(rng, shape, low, high)


def masked(side="right"):
    return lambda rng, shape: mask(shape, side)


def constant(value):
    return lambda rng, shape: np.full(shape, value)
