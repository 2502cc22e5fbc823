"""Both exporters of torch."""

import onnx
import torch

TORCH = torch.__version__.split("+")[0]
TORCHSCRIPT, DYNAMO = f"torch {TORCH}, TorchScript exporter", f"torch {TORCH}, dynamo exporter"


def torchscript(model, arguments, path, inputs, outputs, dims, opset=17):
    """`dims` has, by name of an input or output, its symbolic dimensions: {axis: name}."""
    torch.onnx.export(
        model,
        arguments,
        str(path),
        input_names=inputs,
        output_names=outputs,
        dynamic_axes=dims,
        opset_version=opset,
        dynamo=False,
    )
    return path


def dynamo(model, arguments, path, inputs, outputs, dims, opset=18):
    """`dims` has, by argument, its symbolic dimensions: {axis: name}, or a list of such for an argument that is a list."""
    torch.onnx.export(
        model,
        arguments,
        str(path),
        input_names=inputs,
        output_names=outputs,
        dynamic_shapes=dims,
        opset_version=opset,
        dynamo=True,
        external_data=False,
        verbose=False,
    )
    return path


def input_names(path):
    return [port.name for port in onnx.load(path, load_external_data=False).graph.input]
