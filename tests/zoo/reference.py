"""Facts of a model's file, and its outputs by native onnxruntime."""

import re
from dataclasses import dataclass

import numpy as np
import onnx
import onnxruntime
from onnx import TensorProto
from safetensors.numpy import save_file

# Least and greatest useful magnitude of a float output: below it is rounding, above it is close to overflow.
LARGEST_MIN, LARGEST_MAX = 1e-2, 1e3


class Degenerate(Exception):
    """Outputs in which a fault would not be visible."""


@dataclass
class Facts:
    """What a file says about itself."""

    opsets: dict[str, int]
    nodes: int
    # Names of the symbolic dimensions of the inputs, in order.
    dims: list[str]
    inputs: dict[str, list[str | int | None]]
    external: bool
    notes: list[str]

    @staticmethod
    def of(path):
        model = onnx.load(path, load_external_data=False)
        inputs = {port.name: shape(port) for port in free_inputs(model.graph)}
        dims = list(dict.fromkeys(dim for known in inputs.values() for dim in known if isinstance(dim, str)))
        notes = []
        if any(dim is None for known in inputs.values() for dim in known):
            notes.append("inputs have dimensions without a name")
        kinds = sorted({TensorProto.DataType.Name(tensor.data_type).lower() for tensor in tensors(model)} - {"float", "int64", "int32", "bool"})
        if kinds:
            notes.append(f"weights of {', '.join(kinds)}")
        if model.functions:
            notes.append(f"{len(model.functions)} local functions")
        random = sorted({node.op_type for node in nodes(model) if node.op_type.startswith("Random")})
        if random:
            notes.append(f"draws random numbers ({', '.join(random)}), which its outputs do not depend on")
        external = any(tensor.data_location == TensorProto.EXTERNAL for tensor in tensors(model))
        used = set(domains(model))
        opsets = {opset.domain: opset.version for opset in model.opset_import if opset.domain in used or not opset.domain}
        return Facts(opsets, sum(1 for _ in nodes(model)), dims, inputs, external, notes)

    def sizes(self, inputs):
        """The sizes of the symbolic dimensions in a data set."""
        known = {}
        for name, value in inputs.items():
            known.update({dim: size for dim, size in zip(self.inputs[name], value.shape, strict=True) if isinstance(dim, str)})
        return known


def free_inputs(graph):
    initial = {tensor.name for tensor in graph.initializer}
    return [port for port in graph.input if port.name not in initial]


def shape(port):
    dims = []
    for dim in port.type.tensor_type.shape.dim:
        # Old exporters write -1 or ? for unknown dimensions.
        if dim.dim_param and dim.dim_param != "?":
            dims.append(dim.dim_param)
        else:
            dims.append(dim.dim_value if dim.dim_value > 0 else None)
    return dims


def nodes(model):
    """All nodes: the graph's, nested ones and those of functions."""
    waiting = [model.graph.node, *(function.node for function in model.functions)]
    while waiting:
        for node in waiting.pop():
            yield node
            for attribute in node.attribute:
                waiting.extend(graph.node for graph in (attribute.g, *attribute.graphs) if graph.node)


def domains(model):
    return (node.domain for node in nodes(model))


def tensors(model):
    yield from model.graph.initializer
    for node in nodes(model):
        for attribute in node.attribute:
            if attribute.HasField("t"):
                yield attribute.t
            if attribute.HasField("g"):
                yield from attribute.g.initializer


@dataclass
class Run:
    """One data set."""

    inputs: dict[str, np.ndarray]
    outputs: dict[str, np.ndarray]
    # "unoptimized", or "optimized" if onnxruntime cannot run the model without optimizations.
    reference: str
    # Per float output: the largest difference that onnxruntime's own optimizations make, by the output's largest magnitude.
    spread: dict[str, float]
    largest: dict[str, float]


def session(path, level):
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = level
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.log_severity_level = 3
    return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])


def run(path, inputs, unchecked=()):
    levels = onnxruntime.GraphOptimizationLevel
    try:
        plain, kind = session(path, levels.ORT_DISABLE_ALL), "unoptimized"
        names = [port.name for port in plain.get_outputs()]
        values = plain.run(None, inputs)
    except Exception as error:
        kind = f"optimized, since unoptimized failed: {' '.join(str(error).split())[:300]}"
        plain = session(path, levels.ORT_ENABLE_ALL)
        names = [port.name for port in plain.get_outputs()]
        values = plain.run(None, inputs)
    outputs = dict(zip(names, values, strict=True))
    largest = {name: check(name, value, unchecked) for name, value in outputs.items()}
    return Run(inputs, outputs, kind, spread(path, inputs, outputs), {name: size for name, size in largest.items() if size is not None})


def spread(path, inputs, outputs):
    try:
        again = session(path, onnxruntime.GraphOptimizationLevel.ORT_ENABLE_ALL).run(None, inputs)
    except Exception as error:
        return {"error": " ".join(str(error).split())[:300]}
    found = {}
    for (name, value), other in zip(outputs.items(), again, strict=True):
        if value.shape != other.shape:
            found[name] = f"shape {list(other.shape)} instead of {list(value.shape)}"
        elif not value.size:
            found[name] = 0.0
        elif value.dtype.kind == "f":
            finite = np.isfinite(value) & np.isfinite(other)
            scale = float(np.abs(value[finite]).max(initial=1e-30))
            found[name] = float(f"{np.abs(value[finite].astype(np.float64) - other[finite]).max(initial=0) / scale:.3g}")
        else:
            found[name] = float(f"{np.mean(value != other):.3g}")
    return found


def check(name, value, unchecked):
    """Returns the largest magnitude of a float output. Refuses outputs in which a fault would not be visible."""
    if not isinstance(value, np.ndarray):
        raise Degenerate(f"output {name} is no tensor but {type(value).__name__}")
    loose = any(re.fullmatch(pattern, name) for pattern in unchecked)
    size = float(np.abs(value[np.isfinite(value)]).max(initial=0)) if value.dtype.kind == "f" else None
    size = None if size is None else float(f"{size:.4g}")
    if loose:
        return size
    if value.size == 0:
        raise Degenerate(f"output {name} is empty: {list(value.shape)}")
    if value.dtype.kind == "f" and not np.isfinite(value).all():
        raise Degenerate(f"output {name} has {int((~np.isfinite(value)).sum())} of {value.size} elements that are not finite")
    if value.size > 1 and (value == value.flatten()[0]).all():
        raise Degenerate(f"all {value.size} elements of output {name} are {value.flatten()[0]}")
    if size is not None and not LARGEST_MIN <= size <= LARGEST_MAX:
        raise Degenerate(f"the largest magnitude of output {name} is {size:.3g}, it should be in {LARGEST_MIN}..{LARGEST_MAX}")
    return size


def write(path, run):
    tensors = {f"in.{name}": value for name, value in run.inputs.items()} | {f"out.{name}": value for name, value in run.outputs.items()}
    save_file({name: np.ascontiguousarray(value).reshape(value.shape) for name, value in tensors.items()}, path)
