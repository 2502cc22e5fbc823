"""Writes small ONNX models whose dimensions are symbols, or decided by data, with what they must give.

Run with the packages of tests/conformance/requirements.txt: `python make.py`. Expected outputs come from onnx's reference
evaluator, or from NumPy where that is wrong.
"""

import json
import struct
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto as T
from onnx import helper as h
from onnx.reference import ReferenceEvaluator

HERE = Path(__file__).parent
NAMES = {"float32": "F32", "int64": "I64", "bool": "BOOL", "int32": "I32"}
rng = np.random.default_rng(1)
cases = []


def value(name, shape, dtype=T.FLOAT):
    return h.make_tensor_value_info(name, dtype, shape)


def floats(name, numbers):
    return h.make_tensor(name, T.FLOAT, [len(numbers)], numbers)


def integers(name, numbers, shape=None):
    return h.make_tensor(name, T.INT64, [len(numbers)] if shape is None else shape, numbers)


def case(name, nodes, inputs, outputs, feeds, constants=(), expected=None):
    graph = h.make_graph(nodes, name, inputs, outputs, list(constants))
    model = h.make_model(graph, opset_imports=[h.make_opsetid("", 21)], ir_version=10)
    onnx.checker.check_model(model)
    results = ReferenceEvaluator(model).run(None, feeds) if expected is None else expected
    folder = HERE / name
    folder.mkdir(exist_ok=True)
    onnx.save(model, folder / "model.onnx")
    header, data = {}, b""
    named = [("in." + key, array) for key, array in feeds.items()]
    named += [("out." + output.name, array) for output, array in zip(outputs, results)]
    for key, array in named:
        array = np.asarray(array)
        bytes_ = np.ascontiguousarray(array).tobytes()
        offsets = [len(data), len(data) + len(bytes_)]
        header[key] = {"dtype": NAMES[str(array.dtype)], "shape": list(array.shape), "data_offsets": offsets}
        data += bytes_
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    (folder / "io.safetensors").write_bytes(struct.pack("<Q", len(text)) + text + data)
    facts = {"name": name, "kind": "node", "data": ["io.safetensors"], "no_data": None}
    facts |= {"operators": sorted({node.op_type for node in nodes}), "domains": [""], "types": ["float"]}
    cases.append(facts | {"kinds": ["tensor"], "wide_integers": False, "random_dropout": False})


def noise(*shape):
    return rng.standard_normal(shape).astype(np.float32)


image = noise(1, 2, 5, 7)
for mode, coordinates, nearest, scale in [
    ("nearest", "half_pixel", "round_prefer_floor", 2.0),
    ("nearest", "asymmetric", "floor", 2.0),
    ("nearest", "half_pixel_symmetric", "ceil", 3.0),
    ("nearest", "align_corners", "round_prefer_ceil", 3.0),
    ("linear", "half_pixel", "floor", 2.0),
    ("linear", "asymmetric", "floor", 2.0),
    ("linear", "pytorch_half_pixel", "floor", 0.5),
    ("linear", "align_corners", "floor", 3.0),
]:
    attributes = {"mode": mode, "coordinate_transformation_mode": coordinates, "nearest_mode": nearest}
    case(
        f"resize_{mode}_{coordinates}_{scale:g}",
        [h.make_node("Resize", ["x", "", "s"], ["y"], **attributes)],
        [value("x", ["b", 2, "h", "w"])],
        [value("y", ["b", 2, None, None])],
        {"x": image},
        [floats("s", [1, 1, scale, scale])],
    )
case(
    "resize_to_another_size",
    [
        h.make_node("Shape", ["like"], ["size"]),
        h.make_node("Resize", ["x", "", "", "size"], ["y"], mode="linear"),
    ],
    [value("x", ["b", 2, "h", "w"]), value("like", ["b", 2, "h2", "w2"])],
    [value("y", ["b", 2, None, None])],
    {"x": image, "like": noise(1, 2, 9, 4)},
)
for mode in ["constant", "reflect", "edge", "wrap"]:
    case(
        f"pad_{mode}",
        [h.make_node("Pad", ["x", "pads"], ["y"], mode=mode)],
        [value("x", ["b", 2, "h", "w"])],
        [value("y", ["b", 2, None, None])],
        {"x": image},
        [integers("pads", [0, 0, 1, 3, 0, 0, 2, 0])],
    )
case(
    "trilu",
    [h.make_node("Trilu", ["x", "k"], ["y"], upper=0)],
    [value("x", ["b", 2, "h", "w"])],
    [value("y", ["b", 2, "h", "w"])],
    {"x": image},
    [integers("k", [1], [])],
)
case(
    "tile",
    [h.make_node("Tile", ["x", "r"], ["y"])],
    [value("x", ["b", 2, "h", "w"])],
    [value("y", [None, 2, None, "w"])],
    {"x": image},
    [integers("r", [2, 1, 3, 1])],
)
case(
    "reverse_sequence",
    [h.make_node("ReverseSequence", ["x", "n"], ["y"], batch_axis=0, time_axis=1)],
    [value("x", ["b", "t", 3]), value("n", ["b"], T.INT64)],
    [value("y", ["b", "t", 3])],
    {"x": noise(3, 4, 3), "n": np.array([4, 1, 3])},
)
case(
    "blocks",
    [
        h.make_node("SpaceToDepth", ["x"], ["s"], blocksize=2),
        h.make_node("DepthToSpace", ["s"], ["y"], blocksize=2, mode="CRD"),
    ],
    [value("x", ["b", 2, "h", 6])],
    [value("y", ["b", 2, None, None])],
    {"x": noise(1, 2, 4, 6)},
)
case(
    "spectrum",
    [
        h.make_node("STFT", ["x", "step", "window"], ["s"]),
        h.make_node("ReduceSumSquare", ["s", "axes"], ["y"], keepdims=0),
    ],
    [value("x", ["b", 40, 1])],
    [value("y", ["b", None, None])],
    {"x": noise(2, 40, 1)},
    [integers("step", [4], []), floats("window", np.hanning(8).tolist()), integers("axes", [-1])],
)
case(
    "positions_are_divided_as_floats",
    [
        h.make_node("Shape", ["x"], ["n"]),
        h.make_node("Squeeze", ["n"], ["count"]),
        h.make_node("Range", ["zero", "count", "one"], ["i"]),
        h.make_node("Cast", ["i"], ["f"], to=T.FLOAT),
        h.make_node("Mul", ["f", "half"], ["halves"]),
        h.make_node("Floor", ["halves"], ["whole"]),
        h.make_node("Sub", ["halves", "whole"], ["part"]),
        h.make_node("Mul", ["part", "x"], ["parts"]),
        h.make_node("Add", ["x", "parts"], ["y"]),
    ],
    [value("x", ["n"])],
    [value("y", ["n"])],
    {"x": noise(5)},
    [integers("zero", [0], []), integers("one", [1], []), h.make_tensor("half", T.FLOAT, [], [0.5])],
)

sparse = noise(4, 5) * (rng.random((4, 5)) > 0.5)
picks = [
    h.make_node("NonZero", ["x"], ["i"]),
    h.make_node("Transpose", ["i"], ["places"], perm=[1, 0]),
    h.make_node("GatherND", ["x", "places"], ["picked"]),
    h.make_node("Relu", ["picked"], ["y"]),
]
outputs = [value("y", [None]), value("places", [None, 2], T.INT64)]
for name, array in [("some", sparse), ("none", np.zeros((3, 2), np.float32))]:
    case(f"counted_places_{name}", picks, [value("x", ["a", "b"])], outputs, {"x": array.astype(np.float32)})
case(
    "sum_of_counted",
    [*picks, h.make_node("ReduceSum", ["y"], ["sum"], keepdims=0)],
    [value("x", ["a", "b"])],
    [value("sum", [])],
    {"x": sparse.astype(np.float32)},
)
case(
    "count_as_a_number",
    [h.make_node("NonZero", ["x"], ["i"]), h.make_node("Shape", ["i"], ["size"])],
    [value("x", ["a", "b"])],
    [value("size", [2], T.INT64)],
    {"x": sparse.astype(np.float32)},
)
boxes = rng.random((1, 20, 4)).astype(np.float32)
boxes[..., 2:] = boxes[..., :2] + 0.4
case(
    "counted_boxes",
    [
        h.make_node("NonMaxSuppression", ["boxes", "scores", "most", "overlap", "score"], ["selected"]),
        h.make_node("Gather", ["selected", "two"], ["which"], axis=1),
        h.make_node("Squeeze", ["boxes", "zero"], ["all"]),
        h.make_node("Gather", ["all", "which"], ["y"], axis=0),
    ],
    [value("boxes", [1, 20, 4]), value("scores", [1, 3, 20])],
    [value("y", [None, 4]), value("selected", [None, 3], T.INT64)],
    {"boxes": boxes, "scores": rng.random((1, 3, 20)).astype(np.float32)},
    [integers("most", [6]), floats("overlap", [0.4]), floats("score", [0.3]), integers("two", [2], []), integers("zero", [0])],
)
letters = rng.integers(0, 4, (6, 3)).astype(np.float32)
counts = [value("i", [None], T.INT64), value("inverse", [None], T.INT64), value("c", [None], T.INT64)]
for name, attributes, shape in [
    ("elements", {}, [None]),
    ("rows", {"axis": 0}, [None, None]),
    ("columns", {"axis": 1}, [None, None]),
    ("elements_as_they_come", {"sorted": 0}, [None]),
]:
    expected = None
    if "sorted" in attributes:
        y, i, inverse, c = np.unique(letters.reshape(-1), True, True, True)
        order = np.argsort(i)
        expected = [y[order], i[order], np.argsort(order)[inverse], c[order]]
    case(
        f"counted_{name}",
        [h.make_node("Unique", ["x"], ["y", "i", "inverse", "c"], **attributes)],
        [value("x", ["a", "b"])],
        [value("y", shape), *counts],
        {"x": letters},
        expected=expected,
    )

case(
    "sequence_of_rows",
    [
        h.make_node("SplitToSequence", ["x"], ["rows"], axis=1, keepdims=0),
        h.make_node("SequenceAt", ["rows", "one"], ["second"]),
        h.make_node("Neg", ["second"], ["negative"]),
        h.make_node("SequenceInsert", ["rows", "negative", "last"], ["more"]),
        h.make_node("SequenceErase", ["more", "zero"], ["fewer"]),
        h.make_node("ConcatFromSequence", ["fewer"], ["y"], axis=-1, new_axis=1),
    ],
    [value("x", ["b", 3, "w"])],
    [value("y", ["b", "w", None])],
    {"x": noise(2, 3, 4)},
    [integers("zero", [0], []), integers("one", [1], []), integers("last", [-1], [])],
)
body = h.make_graph(
    [h.make_node("Relu", ["part"], ["positive"]), h.make_node("Mul", ["positive", "factor"], ["scaled"])],
    "body",
    [value("part", ["b", None]), value("factor", [1])],
    [value("scaled", ["b", None])],
)
case(
    "sequence_mapped",
    [
        h.make_node("SplitToSequence", ["x", "sizes"], ["parts"], axis=1),
        h.make_node("SequenceMap", ["parts", "f"], ["mapped"], body=body),
        h.make_node("ConcatFromSequence", ["mapped"], ["y"], axis=1),
    ],
    [value("x", ["b", 6]), value("f", [1])],
    [value("y", ["b", 6])],
    {"x": noise(2, 6), "f": noise(1)},
    [integers("sizes", [1, 3, 2])],
)
case(
    "counted_columns_of_a_condition",
    [h.make_node("Compress", ["x", "kept"], ["y"], axis=-1), h.make_node("Transpose", ["y"], ["t"])],
    [value("x", ["a", "b"]), value("kept", ["k"], T.BOOL)],
    [value("y", ["a", None]), value("t", [None, "a"])],
    {"x": noise(3, 5), "kept": np.array([True, False, True, True])},
)

long = np.array([[100_000, -2_000_000, 3], [7, -70, 700]], np.int64)
large = np.array([[1 << 30, 1 << 30, 5], [7, 8, 9]], np.int64)
turn = h.make_graph(
    [
        h.make_node("Mul", ["c", "three"], ["product"]),
        h.make_node("Add", ["product", "one"], ["next"]),
        h.make_node("Identity", ["go_on"], ["on"]),
    ],
    "turn",
    [value("i", [], T.INT64), value("go_on", [], T.BOOL), value("c", ["a", "b"], T.INT64)],
    [value("on", [], T.BOOL), value("next", ["a", "b"], T.INT64)],
    [integers("three", [3], []), integers("one", [1], [])],
)
for name, nodes, shape, constants, fitting, beyond in [
    (
        "summed",
        [h.make_node("ReduceSum", ["x"], ["y"])],
        [1, 1],
        [],
        long * 100,
        large,
    ),
    (
        "added_up",
        [h.make_node("CumSum", ["x", "one"], ["y"])],
        ["a", "b"],
        [integers("one", [1], [])],
        long,
        large,
    ),
    (
        "multiplied",
        [h.make_node("ReduceProd", ["x", "axes"], ["y"])],
        ["a", 1],
        [integers("axes", [1])],
        np.array([[30, -400, 5000], [0, 1 << 20, 1 << 20]], np.int64),
        long,
    ),
    (
        "matrices",
        [h.make_node("Transpose", ["x"], ["t"]), h.make_node("MatMul", ["x", "t"], ["y"])],
        ["a", "a"],
        [],
        long // 100,
        long,
    ),
    (
        "added_up_products",
        [h.make_node("Mul", ["x", "x"], ["p"]), h.make_node("CumSum", ["p", "one"], ["y"])],
        ["a", "b"],
        [integers("one", [1], [])],
        long // 100,
        long,
    ),
    (
        "of_turns",
        [
            h.make_node("GreaterOrEqual", ["x", "least"], ["some"]),
            h.make_node("Cast", ["some"], ["ones"], to=T.INT64),
            h.make_node("ReduceSum", ["ones"], ["count"], keepdims=0),
            h.make_node("Loop", ["count", "yes", "x"], ["y"], body=turn),
        ],
        ["a", "b"],
        [integers("least", [-(1 << 30)], []), h.make_tensor("yes", T.BOOL, [], [True])],
        long // 10,
        large,
    ),
]:
    for numbers, end in [(fitting, ""), (beyond, "_beyond_32_bits")]:
        case(
            f"integers_{name}{end}",
            nodes,
            [value("x", ["a", "b"], T.INT64)],
            [value("y", shape, T.INT64)],
            {"x": numbers},
            constants,
        )

(HERE / "index.json").write_text(json.dumps({"onnx": onnx.__version__, "cases": cases}, indent=1) + "\n")
