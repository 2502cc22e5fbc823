"""Writes the ONNX backend test suite as files that the conformance runner reads.

    python export.py TARGET_FOLDER

Every case becomes TARGET_FOLDER/<name>/model.onnx and, per data set, io.safetensors (io.1.safetensors, ..) with the
tensors `in.NAME` and `out.NAME`. A data set that safetensors cannot hold (strings, sequences, optionals, types of less than a
byte) is left out; the index says why. TARGET_FOLDER/index.json has the facts of every case that the runner's rules of scope
are about; nothing is decided here.

The node cases come from onnx's own generator, the others from the data folders of the onnx package. Of the real networks the
package has light forms: weights are ConstantOfShape nodes, inputs are made as onnx's runner makes them, outputs are there.
"""

import glob
import json
import os
import shutil
import struct
import sys
import warnings

import numpy as np
import onnx
from onnx import AttributeProto, TensorProto, TypeProto, numpy_helper
from onnx.backend.test.case.node import collect_testcases
from onnx.backend.test.loader import DATA_DIR

# Names in safetensors of the element types that it can hold.
SAFETENSORS = {
    "float32": "F32", "float16": "F16", "bfloat16": "BF16", "float64": "F64",
    "int64": "I64", "int32": "I32", "int16": "I16", "int8": "I8",
    "uint64": "U64", "uint32": "U32", "uint16": "U16", "uint8": "U8", "bool": "BOOL",
}
# Attributes whose number names an element type (operators Cast, EyeLike, QuantizeLinear, LayerNormalization and others).
TYPE_ATTRIBUTES = {"to", "dtype", "output_dtype", "output_datatype", "stash_type", "softmax_precision", "qk_matmul_precision", "precision"}


class Unwritable(Exception):
    """A data set has what safetensors cannot hold."""


def type_name(number):
    return TensorProto.DataType.Name(number).lower()


class Facts:
    """What a case is made of, nested graphs and functions included."""

    def __init__(self):
        self.operators = set()
        self.domains = set()
        self.types = set()
        self.kinds = set()
        # An integer that 32 bits of its signedness do not hold occurs in a tensor.
        self.wide = False
        self.random_dropout = False

    def model(self, model, given):
        self.domains.update(opset.domain for opset in model.opset_import)
        self.graph(model.graph, given)
        for function in model.functions:
            self.nodes(function.node, {})

    def graph(self, graph, given):
        for value in (*graph.input, *graph.output, *graph.value_info):
            self.type(value.type)
        known = dict(given)
        for tensor in graph.initializer:
            self.tensor(tensor)
            known[tensor.name] = tensor
        for tensor in graph.sparse_initializer:
            self.kinds.add("sparse")
            self.tensor(tensor.values)
        self.nodes(graph.node, known)

    def nodes(self, nodes, known):
        known = dict(known)
        for node in nodes:
            self.operators.add(node.op_type)
            self.domains.add(node.domain)
            for attribute in node.attribute:
                self.attribute(attribute)
                if node.op_type == "Constant" and attribute.type == AttributeProto.TENSOR:
                    known[node.output[0]] = attribute.t
            if node.op_type == "Dropout":
                self.dropout(node, known)

    def dropout(self, node, known):
        """Dropout draws random numbers when it trains and its ratio is not 0."""
        name = lambda index: node.input[index] if len(node.input) > index else ""
        number = lambda index, default: default if not name(index) else scalar(known.get(name(index)))
        ratio, training = number(1, 0.5), number(2, False)
        if training is None or training:
            self.random_dropout |= ratio is None or ratio != 0

    def attribute(self, attribute):
        if attribute.type == AttributeProto.INT and attribute.name in TYPE_ATTRIBUTES and attribute.i:
            self.types.add(type_name(attribute.i))
        if attribute.type in (AttributeProto.STRING, AttributeProto.STRINGS):
            self.strings(attribute)
        for tensor in ((attribute.t,) if attribute.type == AttributeProto.TENSOR else attribute.tensors):
            self.tensor(tensor)
        for graph in ((attribute.g,) if attribute.type == AttributeProto.GRAPH else attribute.graphs):
            self.graph(graph, {})
        for proto in ((attribute.tp,) if attribute.type == AttributeProto.TYPE_PROTO else attribute.type_protos):
            self.type(proto)

    def strings(self, attribute):
        # Most strings are options such as `mode`; these ones are data.
        if attribute.name in ("value_string", "value_strings", "cats_strings", "keys_strings", "values_strings", "classlabels_strings"):
            self.types.add("string")

    def tensor(self, tensor):
        self.types.add(type_name(tensor.data_type))
        if tensor.data_type in (TensorProto.INT64, TensorProto.UINT64):
            self.array(numpy_helper.to_array(tensor))

    def array(self, array):
        if array.dtype == np.int64 and array.size:
            self.wide |= int(array.max()) > 2**31 - 1 or int(array.min()) < -(2**31)
        if array.dtype == np.uint64 and array.size:
            self.wide |= int(array.max()) > 2**32 - 1

    def type(self, proto):
        which = proto.WhichOneof("value")
        if which == "tensor_type":
            self.kinds.add("tensor")
            self.types.add(type_name(proto.tensor_type.elem_type))
        elif which == "sequence_type":
            self.kinds.add("sequence")
            self.type(proto.sequence_type.elem_type)
        elif which == "optional_type":
            self.kinds.add("optional")
            self.type(proto.optional_type.elem_type)
        elif which == "map_type":
            self.kinds.add("map")
            self.types.add(type_name(proto.map_type.key_type))
            self.type(proto.map_type.value_type)
        elif which == "sparse_tensor_type":
            self.kinds.add("sparse")
            self.types.add(type_name(proto.sparse_tensor_type.elem_type))


def scalar(value):
    """A number that is known before the run, else None."""
    if value is None:
        return None
    array = numpy_helper.to_array(value) if isinstance(value, TensorProto) else np.asarray(value)
    return array.item() if array.size == 1 else None


def array_of(value):
    if isinstance(value, TensorProto):
        value = numpy_helper.to_array(value)
    if value is None:
        raise Unwritable("an optional without a value")
    if isinstance(value, (list, tuple, dict)):
        raise Unwritable("a sequence or a map")
    array = np.asarray(value)
    if str(array.dtype) not in SAFETENSORS:
        raise Unwritable(f"elements of type {array.dtype}")
    return array


def save(path, tensors):
    """The format: https://huggingface.co/docs/safetensors, "Format"."""
    head, data = {}, []
    offset = 0
    for name, array in tensors:
        raw = np.ascontiguousarray(array).tobytes()
        if name in head:
            raise Unwritable(f"two tensors called {name}")
        head[name] = {
            "dtype": SAFETENSORS[str(array.dtype)],
            "shape": list(array.shape),
            "data_offsets": [offset, offset + len(raw)],
        }
        offset += len(raw)
        data.append(raw)
    text = json.dumps(head).encode()
    text += b" " * (-len(text) % 8)
    with open(path, "wb") as file:
        file.write(struct.pack("<Q", len(text)) + text + b"".join(data))


def free_inputs(graph):
    """The inputs that a caller gives: in old operator sets initializers are listed among the inputs."""
    initialized = {tensor.name for tensor in graph.initializer}
    return [value for value in graph.input if value.name not in initialized]


def export(target, kind, name, model, data_sets):
    """Writes one case; gives its entry of the index."""
    folder = os.path.join(target, name)
    os.makedirs(folder)
    onnx.save(model, os.path.join(folder, "model.onnx"))
    facts, files, missing = Facts(), [], None
    given = {}
    for number, (inputs, outputs) in enumerate(data_sets):
        ports = model.graph.input if len(inputs) == len(model.graph.input) else free_inputs(model.graph)
        if len(ports) != len(inputs) or len(outputs) != len(model.graph.output):
            raise SystemExit(f"{name}: {len(inputs)} inputs and {len(outputs)} outputs for another number of ports")
        file = "io.safetensors" if number == 0 else f"io.{number}.safetensors"
        tensors = []
        for prefix, values, infos in (("in", inputs, ports), ("out", outputs, model.graph.output)):
            for value, info in zip(values, infos):
                if isinstance(value, TensorProto):
                    facts.types.add(type_name(value.data_type))
                try:
                    array = array_of(value)
                except Unwritable as reason:
                    missing = str(reason)
                    continue
                facts.array(array)
                tensors.append((f"{prefix}.{info.name}", array))
                if prefix == "in":
                    given[info.name] = array
        if missing is None:
            save(os.path.join(folder, file), tensors)
            files.append(file)
    facts.model(model, given)
    return {
        "name": name,
        "kind": kind,
        "data": files,
        "no_data": missing,
        "operators": sorted(facts.operators),
        "domains": sorted(facts.domains),
        "types": sorted(facts.types),
        "kinds": sorted(facts.kinds),
        "wide_integers": bool(facts.wide),
        "random_dropout": bool(facts.random_dropout),
    }


def node_cases():
    for case in collect_testcases():
        yield "node", case.name, case.model, case.data_sets


def read_value(path, proto):
    with open(path, "rb") as file:
        data = file.read()
    if proto.WhichOneof("value") == "tensor_type":
        tensor = TensorProto()
        tensor.ParseFromString(data)
        return tensor
    # Sequences and optionals: what is in them is of no use here.
    return []


def numbered(folder, prefix):
    count = len(glob.glob(os.path.join(folder, f"{prefix}_*.pb")))
    return [os.path.join(folder, f"{prefix}_{index}.pb") for index in range(count)]


def folder_cases(kind):
    for name in sorted(os.listdir(os.path.join(DATA_DIR, kind))):
        folder = os.path.join(DATA_DIR, kind, name)
        if not os.path.exists(os.path.join(folder, "model.onnx")):
            continue
        model = onnx.load(os.path.join(folder, "model.onnx"))
        sets = []
        for data in sorted(glob.glob(os.path.join(folder, "test_data_set_*"))):
            inputs = numbered(data, "input")
            ports = model.graph.input if len(inputs) == len(model.graph.input) else free_inputs(model.graph)
            outputs = numbered(data, "output")
            sets.append((
                [read_value(path, port.type) for path, port in zip(inputs, ports, strict=True)],
                [read_value(path, port.type) for path, port in zip(outputs, model.graph.output, strict=True)],
            ))
        yield kind, name, model, sets


def light_cases():
    """The inputs are those of `generate_dummy_data` in onnx/backend/test/runner/__init__.py: 0/n, 1/n, .. (n-1)/n."""
    for path in sorted(glob.glob(os.path.join(DATA_DIR, "light", "*.onnx"))):
        model = onnx.load(path)
        inputs = []
        for port in free_inputs(model.graph):
            shape = [dim.dim_value or 1 for dim in port.type.tensor_type.shape.dim]
            count = int(np.prod(shape))
            inputs.append((np.arange(count).reshape(shape) / count).astype(np.float32))
        stem = os.path.splitext(path)[0]
        outputs = [
            read_value(f"{stem}_output_{index}.pb", port.type)
            for index, port in enumerate(model.graph.output)
        ]
        yield "light", "test_" + os.path.basename(stem), model, [(inputs, outputs)]


def main():
    target = sys.argv[1]
    warnings.filterwarnings("ignore")
    # Cases that an earlier export wrote and this one does not would be read as cases of this one.
    shutil.rmtree(target, ignore_errors=True)
    os.makedirs(target)
    cases = []
    sources = [node_cases(), *map(folder_cases, ("simple", "pytorch-operator", "pytorch-converted")), light_cases()]
    for source in sources:
        for kind, name, model, data_sets in source:
            # Names are unique within a kind only.
            unique = name if kind == "node" else f"{name}@{kind}"
            cases.append(export(target, kind, unique, model, data_sets))
    # Written last: where it is, the export is complete.
    with open(os.path.join(target, "index.json"), "w") as file:
        json.dump({"onnx": onnx.__version__, "cases": cases}, file, indent=1)
    print(f"{len(cases)} cases")


if __name__ == "__main__":
    main()
