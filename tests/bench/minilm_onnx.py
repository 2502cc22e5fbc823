"""Writes a sentence-embedding BERT as ONNX: `minilm_onnx.py MODEL_FOLDER FILE.onnx`.

The same weights that Flotilla reads, in the operators that PyTorch's exporter gives for such a model (MatMul, Add, Erf,
LayerNormalization, Softmax), so that onnxruntime-web can apply all of its fusions. Linear weights are stored transposed,
as the exporter stores them after folding constants.

Inputs `input_ids` and `attention_mask`, int64 [batch, sequence]; output `sentence_embedding`, float32 [batch, hidden]: mean
over the tokens that the mask admits, divided by its length.
"""

import json
import math
import struct
import sys
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

OPSET = 17


def read_safetensors(path):
    """Every float32 tensor of a safetensors file, by name."""
    data = path.read_bytes()
    (header_bytes,) = struct.unpack_from("<Q", data)
    start = 8 + header_bytes
    tensors = {}
    for name, entry in json.loads(data[8:start]).items():
        if name == "__metadata__" or entry["dtype"] != "F32":
            continue
        begin, end = entry["data_offsets"]
        flat = np.frombuffer(data[start + begin : start + end], dtype="<f4")
        tensors[name] = flat.reshape(entry["shape"])
    return tensors


class Graph:
    """Collects nodes and constants."""

    def __init__(self):
        self.nodes = []
        self.constants = []

    def constant(self, name, values):
        self.constants.append(numpy_helper.from_array(np.ascontiguousarray(values), name))
        return name

    def node(self, op, inputs, output, **attributes):
        self.nodes.append(helper.make_node(op, inputs, [output], name=output, **attributes))
        return output


def build(config, weights):
    hidden = config["hidden_size"]
    heads = config["num_attention_heads"]
    head = hidden // heads
    epsilon = config["layer_norm_eps"]
    if config["hidden_act"] != "gelu":
        raise SystemExit(f"activation {config['hidden_act']} is not written here, only gelu")
    g = Graph()
    by_heads = g.constant("by_heads", np.array([0, 0, heads, head], np.int64))
    by_hidden = g.constant("by_hidden", np.array([0, 0, hidden], np.int64))
    zero = g.constant("zero", np.array([0], np.int64))
    first_axis = g.constant("first_axis", np.array([1], np.int64))
    second_axis = g.constant("second_axis", np.array([2], np.int64))
    last_axis = g.constant("last_axis", np.array([-1], np.int64))
    root_of_two = g.constant("root_of_two", np.float32(math.sqrt(2)))
    half = g.constant("half", np.float32(0.5))
    one = g.constant("one", np.float32(1))
    scale = g.constant("scale", np.float32(math.sqrt(head)))
    lowest = g.constant("lowest", np.float32(np.finfo(np.float32).min))
    shortest = g.constant("shortest", np.float32(1e-12))

    def layer_norm(x, prefix):
        gamma = g.constant(f"{prefix}.gamma", weights[f"{prefix}.weight"])
        beta = g.constant(f"{prefix}.beta", weights[f"{prefix}.bias"])
        return g.node("LayerNormalization", [x, gamma, beta], f"{prefix}.out", axis=-1, epsilon=epsilon)

    def linear(x, prefix):
        matrix = g.constant(f"{prefix}.matrix", weights[f"{prefix}.weight"].T)
        bias = g.constant(f"{prefix}.bias", weights[f"{prefix}.bias"])
        product = g.node("MatMul", [x, matrix], f"{prefix}.product")
        return g.node("Add", [bias, product], f"{prefix}.out")

    def by_head(x, prefix, permutation):
        split = g.node("Reshape", [x, by_heads], f"{prefix}.split")
        return g.node("Transpose", [split], f"{prefix}.heads", perm=permutation)

    # Positions 0 to the sequence's length, and the first token type for every token.
    shape = g.node("Shape", ["input_ids"], "shape")
    length = g.node("Slice", [shape, first_axis, second_axis, zero], "length")
    positions = g.constant("positions", weights["embeddings.position_embeddings.weight"][None])
    types = g.constant("types", weights["embeddings.token_type_embeddings.weight"][0])
    words = g.constant("words", weights["embeddings.word_embeddings.weight"])
    word = g.node("Gather", [words, "input_ids"], "word", axis=0)
    typed = g.node("Add", [word, types], "typed")
    position = g.node("Slice", [positions, zero, length, first_axis], "position")
    x = g.node("Add", [typed, position], "embedded")
    x = layer_norm(x, "embeddings.LayerNorm")

    # 0 for tokens, the lowest number for padding; [batch, 1, 1, sequence].
    by_query = g.node("Unsqueeze", ["attention_mask", first_axis], "mask_by_query")
    by_key = g.node("Unsqueeze", [by_query, second_axis], "mask_by_key")
    present = g.node("Cast", [by_key], "mask_present", to=TensorProto.FLOAT)
    absent = g.node("Sub", [one, present], "mask_absent")
    admitted = g.node("Mul", [absent, lowest], "mask_added")

    for index in range(config["num_hidden_layers"]):
        layer = f"encoder.layer.{index}"
        attention = f"{layer}.attention.self"
        query = by_head(linear(x, f"{attention}.query"), f"{attention}.query", [0, 2, 1, 3])
        key = by_head(linear(x, f"{attention}.key"), f"{attention}.key", [0, 2, 3, 1])
        value = by_head(linear(x, f"{attention}.value"), f"{attention}.value", [0, 2, 1, 3])
        scores = g.node("MatMul", [query, key], f"{attention}.scores")
        scaled = g.node("Div", [scores, scale], f"{attention}.scaled")
        masked = g.node("Add", [scaled, admitted], f"{attention}.masked")
        shares = g.node("Softmax", [masked], f"{attention}.shares", axis=-1)
        context = g.node("MatMul", [shares, value], f"{attention}.context")
        joined = g.node("Transpose", [context], f"{attention}.joined", perm=[0, 2, 1, 3])
        flat = g.node("Reshape", [joined, by_hidden], f"{attention}.flat")
        attended = linear(flat, f"{layer}.attention.output.dense")
        x = g.node("Add", [attended, x], f"{layer}.attention.residual")
        x = layer_norm(x, f"{layer}.attention.output.LayerNorm")

        inner = linear(x, f"{layer}.intermediate.dense")
        divided = g.node("Div", [inner, root_of_two], f"{layer}.gelu.divided")
        erf = g.node("Erf", [divided], f"{layer}.gelu.erf")
        raised = g.node("Add", [erf, one], f"{layer}.gelu.raised")
        product = g.node("Mul", [inner, raised], f"{layer}.gelu.product")
        gelu = g.node("Mul", [product, half], f"{layer}.gelu.out")
        outer = linear(gelu, f"{layer}.output.dense")
        x = g.node("Add", [outer, x], f"{layer}.output.residual")
        x = layer_norm(x, f"{layer}.output.LayerNorm")

    mask = g.node("Cast", ["attention_mask"], "mask", to=TensorProto.FLOAT)
    column = g.node("Unsqueeze", [mask, last_axis], "mask_column")
    kept = g.node("Mul", [x, column], "kept")
    total = g.node("ReduceSum", [kept, first_axis], "total", keepdims=0)
    count = g.node("ReduceSum", [column, first_axis], "count", keepdims=0)
    mean = g.node("Div", [total, count], "mean")
    norm = g.node("ReduceL2", [mean], "norm", axes=[-1], keepdims=1)
    divisor = g.node("Max", [norm, shortest], "divisor")
    g.node("Div", [mean, divisor], "sentence_embedding")

    tokens = ["batch", "sequence"]
    return helper.make_graph(
        g.nodes,
        "sentence_embedding",
        [
            helper.make_tensor_value_info("input_ids", TensorProto.INT64, tokens),
            helper.make_tensor_value_info("attention_mask", TensorProto.INT64, tokens),
        ],
        [helper.make_tensor_value_info("sentence_embedding", TensorProto.FLOAT, ["batch", hidden])],
        g.constants,
    )


def main():
    folder, target = Path(sys.argv[1]), Path(sys.argv[2])
    config = json.loads((folder / "config.json").read_text())
    weights = read_safetensors(folder / "model.safetensors")
    graph = build(config, weights)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=8)
    onnx.checker.check_model(model, full_check=True)
    # Written under another name first, so that an interrupted run leaves no incomplete file.
    aside = target.with_suffix(".part")
    onnx.save(model, aside)
    aside.replace(target)


if __name__ == "__main__":
    main()
