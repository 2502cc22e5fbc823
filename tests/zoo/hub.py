"""Architectures of transformers with random weights, written by optimum-onnx as its command line does."""

import importlib.metadata

import torch
import transformers
from optimum.exporters.onnx import onnx_export_from_model
from optimum.exporters.tasks import TasksManager

import samples
from exporters import TORCH
from family import Family, Made, calibrate, generator, liven

SOURCE = f"transformers {transformers.__version__}, optimum-onnx {importlib.metadata.version('optimum-onnx')}, torch {TORCH}"


def built(kind, task, options):
    """A model of `kind` for `task`; its widths are the real ones, its depth and its vocabulary are cut."""
    config = transformers.AutoConfig.for_model(kind, **options)
    return liven(TasksManager.get_model_class_for_task(task.removesuffix("-with-past"), model_type=kind).from_config(config).eval())


def exported(model, folder, task, **options):
    """The files of an export by their stems."""
    onnx_export_from_model(model, folder, task=task, do_validation=False, **options)
    return {path.stem: path for path in folder.glob("*.onnx")}


def settle(inputs, pad=0):
    """Makes inputs consistent: masked tokens are padding, positions count the tokens that are not masked."""
    mask = inputs.get("attention_mask")
    if mask is None or mask.ndim != 2:
        return inputs
    ids = inputs.get("input_ids")
    if ids is not None and ids.shape[0] == mask.shape[0] and ids.shape[1] <= mask.shape[1]:
        ids[mask[:, mask.shape[1] - ids.shape[1] :] == 0] = pad
    positions = inputs.get("position_ids")
    if positions is not None:
        counted = (mask.cumsum(axis=1) - 1).clip(0)
        positions[:] = counted[:, mask.shape[1] - positions.shape[1] :]
    return inputs


def sets(path, name, sizes, rules, pad=0):
    """One data set for each dictionary of sizes. Its `branch`, if present, says whether a merged decoder uses its past."""
    made = []
    for index, known in enumerate(sizes):
        branch = ("use_cache_branch", samples.constant(known.get("branch", True)))
        made.append(settle(samples.fill(path, generator(f"{name} {index}"), known, [branch, *rules]), pad))
    return made


def one(name, group, kind, task, options, sizes, rules, pad=0, prepare=None, processor=None, pictures=None, unchecked=(), **export):
    """A family of one model that is one file.

    `processor`: for some kinds optimum takes sizes of pictures from it. `pictures`: the shape of some that give the statistics of batch normalizations.
    """

    def make(folder):
        model = built(kind, task, options)
        if pictures:
            calibrate(model, pixel_values=torch.from_numpy(samples.pictures(generator(f"{name} calibration"), *pictures, 0.5, 0.5)))
        if prepare:
            prepare(model)
        if processor:
            processor.save_pretrained(folder / "processor")
            model.config._name_or_path = str(folder / "processor")
        files = exported(model, folder, task, **export)
        path = files.get("model") or next(iter(files.values()))
        yield Made(name, path, sets(path, name, sizes, rules, pad), unchecked=unchecked)

    return Family(group, f"{SOURCE} ({kind}, {task})", [name], make)


def several(group, kind, task, options, parts, prepare=None, **export):
    """A family of several files. `parts`: (name, stem of the file, sizes, rules, pad)."""

    def make(folder):
        model = built(kind, task, options)
        if prepare:
            prepare(model)
        files = exported(model, folder, task, **export)
        for name, stem, sizes, rules, pad in parts:
            if stem not in files:
                yield Made(name, error=f"the export wrote {', '.join(sorted(files))} and no {stem}")
                continue
            try:
                # If a merged decoder has a past, its outputs for the encoder's keys are empty.
                yield Made(name, files[stem], sets(files[stem], name, sizes, rules, pad), unchecked=(r"present.*encoder.*",) if "merged" in stem else ())
            except Exception as error:
                yield Made(name, error=str(error))

    return Family(group, f"{SOURCE} ({kind}, {task})", [part[0] for part in parts], make)
