"""Files that onnxruntime has optimized offline, as people publish them: with its own fused operators of the domain com.microsoft."""

import onnxruntime
import torchvision
from onnxruntime.transformers.optimizer import optimize_model

import exporters
import hub
import networks
import text
import vision
from family import Family, Made

SOURCE = f"onnxruntime {onnxruntime.__version__}"


def fused(name, kind, task, options, recipe, heads, width, sizes, rules, pad=0):
    """Optimized by onnxruntime.transformers.optimizer, which recognizes architectures."""

    def make(folder):
        plain = hub.exported(hub.built(kind, task, options), folder, task)["model"]
        path = folder / "optimized.onnx"
        optimize_model(str(plain), model_type=recipe, num_heads=heads, hidden_size=width, opt_level=0, use_gpu=False).save_model_to_file(str(path))
        yield Made(name, path, hub.sets(path, name, sizes, rules, pad))

    return Family("optimized", f"{SOURCE} transformers optimizer, {hub.SOURCE} ({kind})", [name], make)


def rewritten(name, build, level, dims, opset):
    """Optimized by a session, which saves the graph that it would run. Layouts that depend on the processor are excluded."""

    def make(folder):
        model = networks.prepared(name, build(), (224, 224))
        plain, path = folder / "plain.onnx", folder / "optimized.onnx"
        exporters.torchscript(model, (networks.pixels(name, 2, 224, 224),), plain, ["pixels"], ["scores"], {"pixels": dims, "scores": networks.BATCH}, opset)
        options = onnxruntime.SessionOptions()
        options.graph_optimization_level, options.optimized_model_filepath, options.log_severity_level = level, str(path), 3
        onnxruntime.InferenceSession(str(plain), options, providers=["CPUExecutionProvider"])
        yield Made(name, path, [{"pixels": networks.pixels(f"{name} {batch}", batch, 224, 224).numpy()} for batch in (3, 1)])

    return Family("optimized", f"{SOURCE} session, {networks.TORCHVISION}, {exporters.TORCHSCRIPT}", [name], make)


LEVEL = onnxruntime.GraphOptimizationLevel
TEXT = {"vocab_size": text.VOCABULARY, **text.SMALL}
FAMILIES = [
    fused("bert-ort", "bert", "feature-extraction", TEXT, "bert", 4, 256, text.ENCODER_SIZES, text.ENCODER_RULES),
    fused(
        "distilbert-ort",
        "distilbert",
        "text-classification",
        {"vocab_size": text.VOCABULARY, "n_layers": 3, "dim": 256, "hidden_dim": 1024, "n_heads": 4},
        "bert",
        4,
        256,
        text.ENCODER_SIZES,
        text.ENCODER_RULES,
    ),
    fused(
        "gpt2-ort",
        "gpt2",
        "text-generation",
        {"vocab_size": text.VOCABULARY, "n_layer": 3, "n_embd": 256, "n_head": 4},
        "gpt2",
        4,
        256,
        text.PROMPT_SIZES,
        text.DECODER_RULES,
    ),
    fused("vit-ort", "vit", "image-classification", vision.VIT_SMALL, "vit", 6, 384, vision.sizes((3, 224, 224), (1, 224, 224)), vision.RULES),
    fused("clip-vision-ort", "clip_vision_model", "feature-extraction", vision.VIT_SMALL, "clip", 6, 384, vision.sizes((2, 224, 224)), vision.RULES),
    rewritten("mobilenet-v3-ort-basic", lambda: torchvision.models.mobilenet_v3_small(weights=None), LEVEL.ORT_ENABLE_BASIC, networks.SPATIAL, 17),
    rewritten("resnet18-ort-extended", lambda: torchvision.models.resnet18(weights=None), LEVEL.ORT_ENABLE_EXTENDED, networks.SPATIAL, 17),
    rewritten("vit-s-16-ort-extended", networks.narrow_vision_transformer, LEVEL.ORT_ENABLE_EXTENDED, networks.BATCH, 17),
]
