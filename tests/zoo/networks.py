"""Networks for pictures from torchvision, timm and ultralytics: random weights, real structure."""

import importlib.metadata
import os
from pathlib import Path

import timm
import torch
import torchvision
from timm.models import mlp_mixer
from torch import nn
from torchvision.models import detection, segmentation

import exporters
import samples
from family import Family, Made, calibrate, generator, liven, standardize

TORCHVISION = f"torchvision {torchvision.__version__.split('+')[0]}"
BATCH = {0: "batch"}
SPATIAL = {0: "batch", 2: "height", 3: "width"}


def pixels(name, *shape):
    """Pictures as a tensor, [batch, 3, height, width]."""
    batch, height, width = shape
    return torch.from_numpy(samples.pictures(generator(name), batch, height, width))


def prepared(name, model, size):
    """A network whose activations are those of a trained one, with scores that differ from picture to picture."""
    model = liven(model.eval())
    images = pixels(f"{name} calibration", 6, *size)
    calibrate(model, images)
    standardize([last_layer(model)], lambda: model(images), 0, 1)
    return model


def last_layer(model):
    layers = [part for part in model.modules() if isinstance(part, (nn.Linear, nn.Conv2d)) and part.bias is not None]
    # timm's networks name their classifier; in others it is the last layer.
    known = model.get_classifier() if hasattr(model, "get_classifier") else None
    return known if known in layers else layers[-1]


def classifier(name, build, size, dims, exporter="torchscript", opset=17, traced=None, shapes=None, group="torchvision", source=TORCHVISION):
    """A family of one model that takes pictures. `shapes`: (batch, height, width) of the data sets."""
    shapes = shapes or ([(3, *size), (1, size[0] + 32, size[1] - 32)] if dims is SPATIAL else [(3, *size), (1, *size)])

    def make(folder):
        model = prepared(name, build(), size)
        image = pixels(name, 2, *(traced or size))
        path = folder / "exported.onnx"
        if exporter == "torchscript":
            exporters.torchscript(model, (image,), path, ["pixels"], ["scores"], {"pixels": dims, "scores": BATCH}, opset)
        else:
            exporters.dynamo(model, (image,), path, ["pixels"], ["scores"], [dims], opset)
        yield Made(name, path, [{"pixels": pixels(f"{name} {shape}", *shape).numpy()} for shape in shapes])

    exporter_name = exporters.TORCHSCRIPT if exporter == "torchscript" else exporters.DYNAMO
    return Family(group, f"{source}, {exporter_name}", [name], make)


def vision_transformer(width=768):
    """ViT-B/16 of 1 layer, or ViT-S/16 of 3."""
    return torchvision.models.VisionTransformer(
        image_size=224, patch_size=16, num_layers=3 if width < 768 else 1, num_heads=width // 64, hidden_dim=width, mlp_dim=4 * width
    )


def narrow_vision_transformer():
    return vision_transformer(384)


def swin():
    """Swin-T, narrower and with fewer layers in its last stages."""
    return torchvision.models.SwinTransformer([4, 4], 64, [2, 2, 2, 1], [2, 4, 8, 16], [7, 7], stochastic_depth_prob=0.2)


def swin_v2():
    return torchvision.models.SwinTransformer(
        [4, 4],
        64,
        [2, 2, 2, 1],
        [2, 4, 8, 16],
        [8, 8],
        block=torchvision.models.swin_transformer.SwinTransformerBlockV2,
        downsample_layer=torchvision.models.swin_transformer.PatchMergingV2,
    )


def convnext():
    """ConvNeXt-T, half as wide and with fewer blocks."""
    block = torchvision.models.convnext.CNBlockConfig
    return torchvision.models.ConvNeXt([block(48, 96, 2), block(96, 192, 2), block(192, 384, 3), block(384, None, 1)])


def models(name):
    return lambda: getattr(torchvision.models, name)(weights=None)


class Dense(nn.Module):
    """Of a segmentation network's dictionary, the main output."""

    def __init__(self, inner):
        super().__init__()
        self.inner = inner

    def forward(self, pixels):
        return self.inner(pixels)["out"]


def dense(name):
    return lambda: Dense(getattr(segmentation, name)(weights=None, weights_backbone=None, num_classes=21))


def fcn():
    """The head of torchvision's FCN on a small backbone."""
    backbone = torchvision.models._utils.IntermediateLayerGetter(torchvision.models.resnet18(weights=None), {"layer4": "out"})
    return Dense(segmentation.FCN(backbone, segmentation.fcn.FCNHead(512, 21)))


def segmented(name, build, exporter, opset):
    def make(folder):
        model = prepared(name, build(), (160, 192))
        image, path = pixels(name, 2, 128, 160), folder / "exported.onnx"
        if exporter == "torchscript":
            exporters.torchscript(model, (image,), path, ["pixels"], ["map"], {"pixels": SPATIAL, "map": SPATIAL}, opset)
        else:
            exporters.dynamo(model, (image,), path, ["pixels"], ["map"], [SPATIAL], opset)
        yield Made(name, path, [{"pixels": pixels(f"{name} {shape}", *shape).numpy()} for shape in ((1, 192, 160), (2, 128, 224))])

    return Family("torchvision segmentation", f"{TORCHVISION}, {exporters.TORCHSCRIPT if exporter == 'torchscript' else exporters.DYNAMO}", [name], make)


class Boxes(nn.Module):
    """A detector for one picture, whose three results are tensors."""

    def __init__(self, inner):
        super().__init__()
        self.inner = inner

    def forward(self, pixels):
        found = self.inner([pixels])[0]
        return found["boxes"], found["scores"], found["labels"]


def detector(name, build, layers, mean, std, size, shapes, opset, exporter="torchscript"):
    """`layers` gives a model's last layers, whose outputs are to have `mean` and `std`. `size` is traced, the data sets have `shapes`."""

    def make(folder):
        model = liven(build().eval())
        images = [torch.from_numpy(samples.pictures(generator(f"{name} {index}"), 1, *size, 0, 1)[0]) for index in range(3)]
        calibrate(model, images)
        for layer in layers(model):
            standardize([layer], lambda: model(images), mean, std)
        path = folder / "exported.onnx"
        outputs = ["boxes", "scores", "labels"]
        if exporter == "torchscript":
            dims = {"pixels": {1: "height", 2: "width"}} | {output: {0: "found"} for output in outputs}
            exporters.torchscript(Boxes(model), (images[0],), path, ["pixels"], outputs, dims, opset)
        else:
            exporters.dynamo(Boxes(model), (images[0],), path, ["pixels"], outputs, [{1: "height", 2: "width"}], opset)
        sets = [{"pixels": samples.pictures(generator(f"{name} {shape}"), 1, *shape, 0, 1)[0]} for shape in shapes]
        yield Made(name, path, sets)

    return Family("torchvision detection", f"{TORCHVISION}, {exporters.TORCHSCRIPT if exporter == 'torchscript' else exporters.DYNAMO}", [name], make)


def ssdlite():
    return detection.ssdlite320_mobilenet_v3_large(weights=None, weights_backbone=None, num_classes=21, score_thresh=0.2, detections_per_img=50)


def faster_rcnn():
    return detection.fasterrcnn_mobilenet_v3_large_320_fpn(
        weights=None,
        weights_backbone=None,
        num_classes=21,
        box_score_thresh=0.2,
        rpn_post_nms_top_n_test=60,
        box_detections_per_img=30,
    )


def retinanet():
    backbone = detection.backbone_utils.resnet_fpn_backbone(
        backbone_name="resnet18",
        weights=None,
        trainable_layers=5,
        returned_layers=[2, 3, 4],
        extra_blocks=torchvision.ops.feature_pyramid_network.LastLevelP6P7(256, 256),
    )
    return detection.RetinaNet(backbone, num_classes=21, min_size=224, max_size=320, score_thresh=0.3, topk_candidates=100, detections_per_img=40)


def ssdlite_heads(model):
    return [level[-1] for level in model.head.classification_head.module_list]


def faster_rcnn_heads(model):
    return [model.rpn.head.cls_logits, model.roi_heads.box_predictor.cls_score]


def class_heads(model):
    return [model.head.classification_head.cls_logits]


class Flow(nn.Module):
    """RAFT (small) with a fixed number of updates: the last flow, [batch, 2, height, width]."""

    def __init__(self):
        super().__init__()
        self.inner = torchvision.models.optical_flow.raft_small(weights=None)

    def forward(self, before, after):
        return self.inner(before, after, num_flow_updates=3)[-1]


def raft(folder):
    name = "raft-small"
    model = liven(Flow().eval())
    images = [torch.from_numpy(samples.pictures(generator(f"{name} {index}"), 1, 128, 160, 0.5, 0.5)) for index in range(2)]
    calibrate(model, *images)
    path = folder / "exported.onnx"
    exporters.torchscript(model, tuple(images), path, ["before", "after"], ["flow"], {}, 17)
    sets = [{port: samples.pictures(generator(f"{name} {port}"), 1, 128, 160, 0.5, 0.5) for port in ("before", "after")}]
    yield Made(name, path, sets)


TORCHVISION_FAMILIES = [
    classifier("mobilenet-v2", models("mobilenet_v2"), (224, 224), SPATIAL, opset=13),
    classifier("mobilenet-v2-dynamo", models("mobilenet_v2"), (224, 224), SPATIAL, "dynamo", 18),
    classifier("mobilenet-v3-small", models("mobilenet_v3_small"), (224, 224), SPATIAL, opset=17),
    classifier("mobilenet-v3-large-dynamo", models("mobilenet_v3_large"), (192, 192), SPATIAL, "dynamo", 20),
    classifier("efficientnet-b0", models("efficientnet_b0"), (224, 224), SPATIAL, opset=11),
    classifier("efficientnet-b0-dynamo", models("efficientnet_b0"), (192, 192), BATCH, "dynamo", 18),
    classifier("resnet18", models("resnet18"), (224, 224), SPATIAL, opset=9),
    classifier("resnet50", models("resnet50"), (192, 192), SPATIAL, opset=17),
    classifier("swin-t", swin, (224, 224), BATCH, opset=17),
    classifier("swin-t-dynamo", swin, (224, 224), BATCH, "dynamo", 18),
    classifier("swin-v2-t", swin_v2, (256, 256), BATCH, opset=17),
    classifier("convnext-t", convnext, (128, 128), SPATIAL, opset=17),
    classifier("convnext-t-dynamo", convnext, (128, 128), SPATIAL, "dynamo", 18),
    classifier("vit-b-16", vision_transformer, (224, 224), BATCH, opset=14),
    classifier("vit-s-16-dynamo", narrow_vision_transformer, (224, 224), BATCH, "dynamo", 18),
    classifier("densenet121", models("densenet121"), (128, 128), SPATIAL, opset=12),
    classifier("shufflenet-v2", models("shufflenet_v2_x1_0"), (224, 224), SPATIAL, opset=13),
    classifier("shufflenet-v2-dynamo", models("shufflenet_v2_x1_0"), (224, 224), SPATIAL, "dynamo", 18),
    classifier("squeezenet", models("squeezenet1_1"), (224, 224), SPATIAL, opset=10),
    classifier("regnet-y-400mf", models("regnet_y_400mf"), (224, 224), SPATIAL, opset=17),
    classifier("mnasnet", models("mnasnet0_5"), (224, 224), SPATIAL, opset=13),
    classifier(
        "googlenet",
        lambda: torchvision.models.googlenet(weights=None, aux_logits=False, init_weights=False, transform_input=True),
        (224, 224),
        SPATIAL,
        opset=13,
    ),
    segmented("deeplabv3-mobilenet", dense("deeplabv3_mobilenet_v3_large"), "torchscript", 17),
    segmented("fcn-resnet18", fcn, "torchscript", 13),
    segmented("lraspp-mobilenet", dense("lraspp_mobilenet_v3_large"), "torchscript", 11),
    segmented("lraspp-mobilenet-dynamo", dense("lraspp_mobilenet_v3_large"), "dynamo", 18),
    detector("ssdlite320", ssdlite, ssdlite_heads, 0, 2, (240, 320), ((300, 260), (240, 320)), 17),
    detector("faster-rcnn-mobilenet", faster_rcnn, faster_rcnn_heads, 0, 2, (240, 320), ((300, 240), (240, 320)), 16),
    detector("retinanet-resnet18", retinanet, class_heads, -4, 1.5, (224, 256), ((256, 224), (224, 256)), 17),
    Family("torchvision", f"{TORCHVISION}, {exporters.TORCHSCRIPT}", ["raft-small"], raft),
]


def resmlp():
    """ResMLP-12 of 4 blocks."""
    return mlp_mixer.MlpMixer(patch_size=16, num_blocks=4, embed_dim=384, mlp_ratio=4, block_layer=mlp_mixer.ResBlock, norm_layer=mlp_mixer.Affine)


def image_model(name, size, dims, exporter="torchscript", opset=17, build=None, shapes=None, **options):
    source = f"timm {timm.__version__}"
    build = build or (lambda: timm.create_model(name, pretrained=False, exportable=True, **options))
    suffix = "-dynamo" if exporter == "dynamo" else ""
    return classifier(f"timm-{name.replace('_', '-')}{suffix}", build, size, dims, exporter, opset, shapes=shapes, group="timm", source=source)


TIMM_FAMILIES = [
    image_model("mobilevit_xs", (224, 224), BATCH),
    image_model("mobilevitv2_050", (224, 224), BATCH, "dynamo", 18),
    image_model("efficientformer_l1", (224, 224), BATCH, depths=(1, 1, 2, 2)),
    image_model("levit_128s", (224, 224), BATCH),
    image_model("mixer_s32_224", (224, 224), BATCH, build=lambda: mlp_mixer.MlpMixer(patch_size=32, num_blocks=2)),
    image_model("resmlp_12_224", (224, 224), BATCH, "dynamo", 18, build=resmlp),
    image_model("edgenext_xx_small", (224, 224), BATCH),
    image_model("edgenext_xx_small", (224, 224), BATCH, "dynamo", 18),
    image_model("fastvit_t8", (224, 224), BATCH),
    image_model("ghostnet_100", (224, 224), SPATIAL),
    image_model("repvgg_a0", (224, 224), SPATIAL, opset=12),
    image_model("coat_tiny", (224, 224), BATCH),
    image_model("tiny_vit_5m_224", (224, 224), BATCH, depths=(1, 1, 2, 1)),
    image_model("convmixer_768_32", (224, 224), SPATIAL, opset=13, build=lambda: timm.models.ConvMixer(768, 6, 7, 7), shapes=[(3, 224, 224), (1, 252, 252)]),
    image_model("xcit_nano_12_p16_224", (224, 224), BATCH, "dynamo", 18),
    image_model("pvt_v2_b0", (224, 224), BATCH),
    image_model("cait_xxs24_224", (224, 224), BATCH, depth=4),
    image_model("eva02_tiny_patch14_224", (224, 224), BATCH, "dynamo", 18, depth=4),
    image_model("mobilenetv4_conv_small", (224, 224), SPATIAL, opset=17),
    image_model("repvit_m0_9", (224, 224), BATCH, "dynamo", 18),
    image_model("lcnet_050", (224, 224), SPATIAL, opset=11),
    image_model("lambda_resnet26t", (256, 256), BATCH),
]


def yolo(name, config, sizes, **options):
    """A network of ultralytics as its own `export` writes it. `sizes`: (batch, height, width) of the data sets."""

    def make(folder):
        # ultralytics writes its settings to the folder that this variable names.
        os.environ["YOLO_CONFIG_DIR"] = str(folder)
        from ultralytics import YOLO

        os.chdir(folder)
        model = YOLO(config, verbose=False)
        liven(model.model.eval())
        soften(model.model)
        images = torch.from_numpy(samples.pictures(generator(name), 6, 256, 256, 0, 1))
        calibrate(model.model, images)
        head = model.model.model[-1]
        # Scores of classes; classifiers of whole pictures have no such branches.
        branches = [branch[-1] for part in ("cv3", "one2one_cv3") for branch in getattr(head, part, None) or []]
        if branches:
            standardize(branches, lambda: model.model(images), -4, 1.5)
        if hasattr(head, "cv4"):
            standardize([branch[-1] for branch in head.cv4], lambda: model.model(images), 0, 0.1)
        if hasattr(head, "linear"):
            standardize([head.linear], lambda: model.model(images), 0, 0.7)
        path = Path(model.export(format="onnx", device="cpu", verbose=False, **options))
        sets = [{"images": samples.pictures(generator(f"{name} {size}"), *size, 0, 1)} for size in sizes]
        yield Made(name, path, sets)

    version = importlib.metadata.version("ultralytics")
    return Family("ultralytics", f"ultralytics {version} ({config}), {exporters.TORCHSCRIPT}", [name], make)


def soften(model):
    """With random weights, attention selects single places, and each layer multiplies rounding errors by ten."""
    with torch.no_grad():
        for part in model.modules():
            inward = getattr(part, "qkv", None)
            if inward is not None and hasattr(inward, "bn"):
                inward.bn.weight.mul_(0.3)


YOLO_FAMILIES = [
    yolo("yolov8n", "yolov8n.yaml", [(1, 320, 256), (2, 224, 320)], dynamic=True, imgsz=320, simplify=False),
    yolo("yolov8n-slim", "yolov8n.yaml", [(1, 320, 320)], imgsz=320, simplify=True, opset=17),
    yolo("yolov8n-nms", "yolov8n.yaml", [(1, 320, 320)], imgsz=320, nms=True, conf=0.3, iou=0.5, max_det=50, simplify=False),
    yolo("yolov8n-seg", "yolov8n-seg.yaml", [(1, 320, 256), (2, 224, 320)], dynamic=True, imgsz=320, simplify=False),
    yolo("yolov8n-pose", "yolov8n-pose.yaml", [(1, 320, 256), (2, 224, 320)], dynamic=True, imgsz=320, simplify=False),
    yolo("yolov8n-obb", "yolov8n-obb.yaml", [(1, 320, 256), (2, 224, 320)], dynamic=True, imgsz=320, simplify=False),
    yolo("yolov8n-cls", "yolov8n-cls.yaml", [(3, 224, 224), (1, 160, 160)], dynamic=True, imgsz=224, simplify=False),
    yolo("yolov5n", "yolov5n.yaml", [(1, 320, 256), (2, 224, 320)], dynamic=True, imgsz=320, simplify=False, opset=12),
    yolo("yolov10n", "yolov10n.yaml", [(1, 320, 256), (2, 224, 320)], dynamic=True, imgsz=320, simplify=False),
    yolo("yolo11n", "yolo11n.yaml", [(1, 320, 256), (2, 224, 320)], dynamic=True, imgsz=320, simplify=True),
    yolo("yolo11n-seg-nms", "yolo11n-seg.yaml", [(1, 320, 320)], imgsz=320, nms=True, conf=0.3, iou=0.5, max_det=30, simplify=True),
    yolo("yolo12n", "yolo12n.yaml", [(1, 320, 256), (2, 224, 320)], dynamic=True, imgsz=320, simplify=False),
    yolo("yolo26n", "yolo26n.yaml", [(1, 320, 256), (2, 224, 320)], dynamic=True, imgsz=320, simplify=False),
]

FAMILIES = [*TORCHVISION_FAMILIES, *TIMM_FAMILIES, *YOLO_FAMILIES]
