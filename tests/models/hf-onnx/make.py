"""Writes tiny folders as exporters lay them out for browsers: `onnx/model.onnx`, whose output is a vector for each token, beside
sentence-transformers' modules.

Run with onnx 1.23, onnxruntime 1.32, torch 2.15 and sentence-transformers 6.2: `python make.py`. The hidden state is
onnxruntime's, and the modules are PyTorch's.
"""

import json
import shutil
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import torch
from onnx import TensorProto as T
from onnx import helper as h
from onnx import numpy_helper
from safetensors.torch import save_file
from sentence_transformers.sentence_transformer import modules as st

HERE = Path(__file__).parent
WORDS, WIDTH = 40, 8
MODULE = "sentence_transformers.models."


def case(name, opset, inputs, outputs, modules, half=False, listed=True, data=None):
    """`inputs` have types; `outputs` are the names of the graph's outputs, the first one the hidden state."""
    rng = np.random.default_rng(len(name))
    torch.manual_seed(len(name))
    weights = {key: rng.standard_normal(shape).astype(np.float32) / 2 for key, shape in
               {"words": (WORDS, WIDTH), "places": (16, WIDTH), "w": (WIDTH, WIDTH)}.items()}
    nodes = [h.make_node("Gather", ["words", "input_ids"], ["x0"])]
    x = "x0"
    if "position_ids" in inputs:
        nodes += [h.make_node("Gather", ["places", "position_ids"], ["x1"]), h.make_node("Add", [x, "x1"], ["x2"])]
        x = "x2"
    for number, key in enumerate(["attention_mask", "token_type_ids"]):
        # Both are used, so that no engine drops them.
        if key in inputs:
            axes = [h.make_node("Unsqueeze", [f"f{number}"], [f"u{number}"], axes=[2])]
            if opset >= 13:
                axes = [h.make_node("Unsqueeze", [f"f{number}", "two"], [f"u{number}"])]
            nodes += [h.make_node("Cast", [key], [f"f{number}"], to=T.FLOAT), *axes, h.make_node("Add", [x, f"u{number}"], [f"a{number}"])]
            x = f"a{number}"
    nodes += [h.make_node("MatMul", [x, "w"], ["m"]), h.make_node("Tanh", ["m"], ["t" if half else outputs[0]])]
    if half:
        nodes.append(h.make_node("Cast", ["t"], [outputs[0]], to=T.FLOAT16))
    for extra in outputs[1:]:
        nodes.append(h.make_node("ReduceMax", ["m"], [extra], axes=[1], keepdims=0))
    shape = ["batch", "tokens"]
    ports = [h.make_tensor_value_info(key, dtype, shape) for key, dtype in inputs.items()]
    results = [h.make_tensor_value_info(outputs[0], T.FLOAT16 if half else T.FLOAT, [*shape, WIDTH])]
    results += [h.make_tensor_value_info(extra, T.FLOAT, [shape[0], WIDTH]) for extra in outputs[1:]]
    constants = [numpy_helper.from_array(value, key) for key, value in weights.items()]
    if opset >= 13:
        constants.append(h.make_tensor("two", T.INT64, [1], [2]))
    model = h.make_model(h.make_graph(nodes, name, ports, results, constants), opset_imports=[h.make_opsetid("", opset)], ir_version=8)
    onnx.checker.check_model(model)
    folder = HERE / name
    shutil.rmtree(folder, ignore_errors=True)
    (folder / "onnx").mkdir(parents=True)
    whole = model.SerializeToString()
    # Large models have their weights in a file beside.
    external = {} if data is None else dict(save_as_external_data=True, location=data, size_threshold=0)
    onnx.save(model, folder / "onnx/model.onnx", **external)

    lengths = [6, 3, 1] if "attention_mask" in inputs else [6, 6, 6]
    feeds = {key: np.zeros((3, 6), np.int32 if dtype == T.INT32 else np.int64) for key, dtype in inputs.items()}
    mask = np.zeros((3, 6), np.int64)
    for row, length in enumerate(lengths):
        feeds["input_ids"][row, :length] = rng.integers(1, WORDS, length)
        mask[row, :length] = 1
    if "attention_mask" in feeds:
        feeds["attention_mask"][:] = mask
    if "position_ids" in feeds:
        feeds["position_ids"][:] = np.arange(6)
    session = onnxruntime.InferenceSession(whole, providers=["CPUExecutionProvider"])
    hidden = session.run([outputs[0]], feeds)[0].astype(np.float32)
    features = {"token_embeddings": torch.from_numpy(hidden), "attention_mask": torch.from_numpy(mask)}
    entries = [{"idx": 0, "name": "0", "path": "", "type": MODULE + "Transformer"}]
    for index, module in enumerate(modules):
        kind = type(module).__name__
        path = f"{index + 1}_{kind}"
        entries.append({"idx": index + 1, "name": str(index + 1), "path": path, "type": MODULE + kind})
        for parameter in module.parameters():
            parameter.data = torch.randn_like(parameter) / 2
        (folder / path).mkdir()
        module.save(str(folder / path))
        with torch.no_grad():
            features = module(features)
    if listed:
        (folder / "modules.json").write_text(json.dumps(entries, indent=1))
    io = {f"in.{key}": torch.from_numpy(value) for key, value in feeds.items()}
    save_file(io | {"out.sentence_embedding": features["sentence_embedding"].contiguous()}, folder / "io.safetensors")


LONG, INT = T.INT64, T.INT32
usual = {"input_ids": LONG, "attention_mask": LONG}
modes = ("cls", "max", "mean", "mean_sqrt_len_tokens", "weightedmean", "lasttoken")
case(
    "old-operators", 11, usual, ["last_hidden_state"],
    [st.Pooling(WIDTH, modes), st.Dense(48, 10, activation_function=torch.nn.GELU()), st.LayerNorm(10), st.Normalize()],
)
case("halves", 17, usual | {"token_type_ids": LONG}, ["token_embeddings"], [st.Pooling(WIDTH, "mean"), st.Normalize()], half=True)
case(
    "narrow-with-positions", 17, {"input_ids": INT, "attention_mask": INT, "position_ids": LONG}, ["last_hidden_state", "pooler_output"],
    [st.Pooling(WIDTH, "lasttoken")],
)
case("without-mask", 13, {"input_ids": LONG}, ["out"], [st.Pooling(WIDTH, "weightedmean")])
case("pooling-alone", 17, usual, ["last_hidden_state"], [st.Pooling(WIDTH, "cls")], listed=False, data="model.onnx_data")
