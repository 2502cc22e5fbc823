"""Pictures, and pictures with text, by architectures of transformers."""

import torch
import transformers
from torch import nn

import exporters
import hub
import samples
from family import Family, Made, calibrate, generator, liven, standardize

GROUP, BOTH = "vision", "vision and text"
VOCABULARY = 2048


def pictured(rng, shape):
    batch, _, height, width = shape
    return samples.pictures(rng, batch, height, width, 0.5, 0.5)


def points(rng, shape):
    """Points within a picture whose longer side is 512."""
    return rng.uniform(40, 470, shape)


RULES = [
    ("pixel_values", pictured),
    ("pixel_mask", samples.constant(1)),
    ("input_ids", samples.words(5, VOCABULARY)),
    ("attention_mask", samples.masked()),
    ("input_points", points),
    ("input_labels", samples.words(0, 2)),
    ("image_*embeddings", samples.normal(0.5)),
    ("decoder_input_ids", samples.words(5, VOCABULARY)),
    ("encoder_hidden_states", samples.normal(0.5)),
    ("past_key_values*", samples.normal(0.7)),
    ("bool_masked_pos", samples.words(0, 2)),
]


def sizes(*shapes, **more):
    return [{"batch_size": batch, "num_channels": 3, "height": height, "width": width} | more for batch, height, width in shapes]


def pictures(name, kind, task, shapes, unchecked=(), prepare=None, processor=None, **options):
    return hub.one(
        name, GROUP, kind, task, options, sizes(*shapes), RULES, prepare=prepare, processor=processor, pictures=(4, *shapes[0][1:]), unchecked=unchecked
    )


def bright(model):
    """Depths are clipped at 0; an untrained head may give negative ones everywhere."""
    last = [part for part in model.head.modules() if isinstance(part, nn.Conv2d)][-1]
    with torch.no_grad():
        last.weight.mul_(4)
        last.bias.fill_(0.5)


def square(side):
    return [(3, side, side), (1, side, side)]


def softened(model):
    """With random weights, attention selects single places, and each layer multiplies rounding errors."""
    with torch.no_grad():
        for part in model.modules():
            if hasattr(part, "queries_keys_values"):
                part.queries_keys_values.batch_norm.weight.mul_(0.3)
    images = torch.from_numpy(samples.pictures(generator("softened"), 6, 224, 224, 0.5, 0.5))
    calibrate(model, pixel_values=images)
    standardize([model.classifier.linear], lambda: model(pixel_values=images), 0, 1)


def ordered(model):
    """Queries are selected by their scores: without this all scores are about equal, and rounding decides."""
    images = torch.from_numpy(samples.pictures(generator("ordered"), 2, 320, 320, 0.5, 0.5))
    standardize([model.model.enc_score_head], lambda: model(pixel_values=images), -2, 1)


RESNET = {
    "model_type": "rt_detr_resnet",
    "layer_type": "basic",
    "depths": [2, 2, 2, 2],
    "hidden_sizes": [32, 64, 128, 256],
    "embedding_size": 32,
    "out_features": ["stage2", "stage3", "stage4"],
}
DINOV2 = {
    "model_type": "dinov2",
    "hidden_size": 384,
    "num_attention_heads": 6,
    "num_hidden_layers": 4,
    "image_size": 196,
    "patch_size": 14,
    "reshape_hidden_states": False,
    "out_features": ["stage1", "stage2", "stage3", "stage4"],
    "apply_layernorm": True,
}
TEXT_TOWER = {"vocab_size": VOCABULARY, "num_hidden_layers": 2, "bos_token_id": 1, "eos_token_id": VOCABULARY - 1, "pad_token_id": 1}

PICTURES = [
    pictures("vit", "vit", "image-classification", square(224), num_hidden_layers=3, hidden_size=384, num_attention_heads=6, intermediate_size=1536),
    pictures(
        "deit-tiny",
        "deit",
        "image-classification",
        square(224),
        hidden_size=192,
        num_attention_heads=3,
        intermediate_size=768,
        architectures=["DeiTForImageClassification"],
    ),
    pictures("segformer-b0", "segformer", "semantic-segmentation", [(1, 192, 256), (2, 160, 160)], num_labels=19),
    pictures(
        "detr",
        "detr",
        "object-detection",
        [(1, 256, 320), (2, 224, 224)],
        backbone="resnet18",
        encoder_layers=2,
        decoder_layers=2,
        use_pretrained_backbone=False,
        encoder_ffn_dim=1024,
        decoder_ffn_dim=1024,
        num_queries=20,
    ),
    pictures(
        "table-transformer",
        "table-transformer",
        "object-detection",
        [(1, 256, 320), (2, 224, 224)],
        backbone="resnet18",
        encoder_layers=1,
        decoder_layers=2,
        use_pretrained_backbone=False,
        num_queries=15,
    ),
    pictures(
        "rt-detr",
        "rt_detr",
        "object-detection",
        [(1, 320, 320)],
        backbone_config=RESNET,
        encoder_in_channels=[64, 128, 256],
        decoder_layers=3,
        hidden_expansion=0.5,
        num_queries=30,
        decoder_in_channels=[256, 256, 256],
        anchor_image_size=None,
        prepare=ordered,
    ),
    pictures(
        "yolos",
        "yolos",
        "object-detection",
        [(1, 224, 320)],
        hidden_size=192,
        num_attention_heads=3,
        intermediate_size=768,
        num_hidden_layers=4,
        image_size=[224, 320],
    ),
    pictures("swin", "swin", "image-classification", square(224), embed_dim=64, num_heads=[2, 4, 8, 16], depths=[2, 2, 2, 1]),
    pictures(
        "swinv2", "swinv2", "image-classification", square(256), embed_dim=64, num_heads=[2, 4, 8, 16], depths=[2, 2, 2, 1], image_size=256, window_size=8
    ),
    pictures(
        "swin2sr",
        "swin2sr",
        "image-to-image",
        [(1, 64, 64), (1, 48, 80)],
        embed_dim=60,
        depths=[2, 2],
        num_heads=[6, 6],
        upscale=2,
        upsampler="pixelshuffledirect",
    ),
    pictures(
        "dinov2",
        "dinov2",
        "feature-extraction",
        [(2, 224, 224), (1, 196, 252)],
        hidden_size=384,
        num_attention_heads=6,
        num_hidden_layers=4,
        image_size=224,
        patch_size=14,
        processor=transformers.BitImageProcessor(size={"shortest_edge": 224}, crop_size={"height": 224, "width": 224}),
    ),
    pictures("convnextv2", "convnextv2", "image-classification", [(2, 224, 224), (1, 192, 256)], hidden_sizes=[40, 80, 160, 320], depths=[2, 2, 6, 2]),
    pictures("mobilevit", "mobilevit", "image-classification", [(2, 256, 256)]),
    pictures(
        "levit",
        "levit",
        "image-classification",
        square(224),
        hidden_sizes=[128, 256, 384],
        num_attention_heads=[4, 6, 8],
        depths=[2, 2, 2],
        architectures=["LevitForImageClassification"],
        prepare=softened,
    ),
    pictures(
        "beit",
        "beit",
        "image-classification",
        square(224),
        hidden_size=384,
        num_attention_heads=6,
        intermediate_size=1536,
        num_hidden_layers=3,
        use_relative_position_bias=True,
    ),
    pictures("poolformer", "poolformer", "image-classification", [(2, 224, 224)], depths=[1, 1, 2, 1]),
    pictures("pvt", "pvt", "image-classification", square(224), depths=[1, 1, 1, 1]),
    pictures(
        "regnet",
        "regnet",
        "image-classification",
        [(2, 224, 224), (1, 192, 256)],
        embedding_size=32,
        hidden_sizes=[48, 104, 208, 440],
        depths=[2, 3, 6, 3],
        groups_width=8,
    ),
    pictures(
        "donut-swin",
        "donut-swin",
        "feature-extraction",
        [(1, 224, 224)],
        image_size=[224, 224],
        embed_dim=96,
        depths=[2, 2, 2],
        num_heads=[3, 6, 12],
        window_size=7,
    ),
    pictures(
        "maskformer",
        "maskformer",
        "image-segmentation",
        [(1, 224, 224)],
        backbone_config={
            "model_type": "swin",
            "embed_dim": 48,
            "num_heads": [2, 4, 8, 16],
            "depths": [1, 1, 2, 1],
            "out_features": ["stage1", "stage2", "stage3", "stage4"],
        },
        decoder_config={"model_type": "detr", "decoder_layers": 2, "encoder_layers": 0, "num_queries": 30},
    ),
]

SIGLIP = {"hidden_size": 384, "intermediate_size": 1536, "num_attention_heads": 6}
NARROW_TEXT = {"hidden_size": 256, "intermediate_size": 1024, "num_attention_heads": 4}
VIT_SMALL = SIGLIP | {"num_hidden_layers": 2}
PAIRS = [
    hub.one(
        "clip",
        BOTH,
        "clip",
        "zero-shot-image-classification",
        {"text_config": TEXT_TOWER | NARROW_TEXT, "vision_config": VIT_SMALL},
        [{"text_batch_size": 4, "sequence_length": 9, "image_batch_size": 2, "batch_size": 2, "num_channels": 3, "height": 224, "width": 224}],
        [("input_ids", lambda rng, shape: ended(rng, shape)), *RULES],
        1,
    ),
    hub.one(
        "siglip",
        BOTH,
        "siglip",
        "zero-shot-image-classification",
        {
            "text_config": TEXT_TOWER | {"max_position_embeddings": 64, **SIGLIP},
            "vision_config": {"num_hidden_layers": 2, "image_size": 224, "patch_size": 16, **SIGLIP},
        },
        [{"text_batch_size": 4, "sequence_length": 64, "image_batch_size": 2, "batch_size": 2, "num_channels": 3, "height": 224, "width": 224}],
        RULES,
    ),
    hub.one(
        "owlvit",
        BOTH,
        "owlvit",
        "zero-shot-object-detection",
        {"text_config": TEXT_TOWER | {"max_position_embeddings": 16}, "vision_config": VIT_SMALL | {"image_size": 384}},
        [{"text_batch_size": 4, "sequence_length": 16, "image_batch_size": 2, "batch_size": 2, "num_channels": 3, "height": 384, "width": 384}],
        [("input_ids", lambda rng, shape: ended(rng, shape)), *RULES],
        1,
    ),
    hub.several(
        BOTH,
        "sam",
        "feature-extraction",
        {
            "vision_config": VIT_SMALL | {"global_attn_indexes": [1], "image_size": 512, "mlp_dim": 1536},
            "prompt_encoder_config": {"image_size": 512},
        },
        [
            ("sam-encoder", "vision_encoder", [{"batch_size": 1, "num_channels": 3, "height": 512, "width": 512}], RULES, 0),
            (
                "sam-decoder",
                "prompt_encoder_mask_decoder",
                [
                    {"batch_size": 1, "point_batch_size": 1, "nb_points_per_image": 5},
                    {"batch_size": 1, "point_batch_size": 3, "nb_points_per_image": 2},
                ],
                RULES,
                0,
            ),
        ],
    ),
    hub.one("clip-vision", BOTH, "clip_vision_model", "feature-extraction", VIT_SMALL, sizes((2, 224, 224)), RULES),
]


def ended(rng, shape):
    """Words whose last one has the highest id: the pooled output is read there."""
    ids = samples.tokens(rng, shape, 5, VOCABULARY - 1)
    ids[:, -3] = VOCABULARY - 1
    return ids


class First(nn.Module):
    """One named result of a model."""

    def __init__(self, inner, result):
        super().__init__()
        self.inner, self.result = inner, result

    def forward(self, pixel_values):
        return getattr(self.inner(pixel_values=pixel_values), self.result)


def by_torch(name, build, result, traced, shapes, exporter, opset, fixed=False):
    """A model of transformers that optimum does not know, by torch's own exporters."""

    def make(folder):
        model = First(liven(build().eval()), result)
        if result == "predicted_depth":
            bright(model.inner)
        dims = {0: "batch"} if fixed else {0: "batch", 2: "height", 3: "width"}
        image, path = torch.from_numpy(pictured(generator(f"{name} traced"), traced)), folder / "exported.onnx"
        if exporter is exporters.TORCHSCRIPT:
            exporters.torchscript(model, (image,), path, ["pixel_values"], ["output"], {"pixel_values": dims}, opset)
        else:
            exporters.dynamo(model, (image,), path, ["pixel_values"], ["output"], [dims], opset)
        yield Made(name, path, [{"pixel_values": pictured(generator(f"{name} {shape}"), shape)} for shape in shapes])

    return Family("vision by torch", f"transformers {transformers.__version__}, {exporter}", [name], make)


def depth_anything():
    return transformers.DepthAnythingForDepthEstimation(
        transformers.DepthAnythingConfig(
            backbone_config=transformers.AutoConfig.for_model(**DINOV2),
            reassemble_hidden_size=384,
            neck_hidden_sizes=[48, 96, 192, 384],
            fusion_hidden_size=64,
            patch_size=14,
        )
    )


def vit():
    return transformers.ViTForImageClassification(
        transformers.ViTConfig(num_hidden_layers=3, hidden_size=384, num_attention_heads=6, intermediate_size=1536, num_labels=1000)
    )


def segformer():
    return transformers.SegformerForSemanticSegmentation(transformers.SegformerConfig(num_labels=19))


BY_TORCH = [
    by_torch("depth-anything", depth_anything, "predicted_depth", (1, 3, 196, 196), [(1, 3, 168, 224), (2, 3, 196, 196)], exporters.TORCHSCRIPT, 17),
    by_torch(
        "depth-anything-dynamo", depth_anything, "predicted_depth", (2, 3, 196, 196), [(1, 3, 196, 196), (3, 3, 196, 196)], exporters.DYNAMO, 18, fixed=True
    ),
    by_torch("vit-dynamo", vit, "logits", (2, 3, 224, 224), [(3, 3, 224, 224), (1, 3, 224, 224)], exporters.DYNAMO, 18, fixed=True),
    by_torch("segformer-b0-dynamo", segformer, "logits", (2, 3, 160, 192), [(1, 3, 192, 256), (3, 3, 128, 160)], exporters.DYNAMO, 18),
]


def diffusion(folder):
    """Stable Diffusion with narrow layers: the text encoder, one step of the denoiser, both halves of the autoencoder."""
    import diffusers

    towers = {"block_out_channels": (64, 128), "layers_per_block": 1, "norm_num_groups": 16}
    unet = diffusers.UNet2DConditionModel(
        sample_size=32,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
        cross_attention_dim=256,
        attention_head_dim=8,
        **towers,
    )
    autoencoder = diffusers.AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2,
        latent_channels=4,
        sample_size=64,
        **towers,
    )
    encoder = transformers.CLIPTextModel(transformers.CLIPTextConfig(**TEXT_TOWER, hidden_size=256, intermediate_size=1024, num_attention_heads=4))
    for part in (unet, autoencoder, encoder):
        liven(part.eval())
    pipeline = diffusers.StableDiffusionPipeline(
        vae=autoencoder,
        text_encoder=encoder,
        tokenizer=None,
        unet=unet,
        scheduler=diffusers.DDIMScheduler(),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
    hub.onnx_export_from_model(pipeline, folder / "exported", task="text-to-image", do_validation=False)
    rules = [("input_ids", lambda rng, shape: ended(rng, shape)), ("timestep", samples.constant(481))]
    known = {
        "batch_size": 2,
        "sequence_length": 77,
        "height": 24,
        "width": 32,
        "num_channels": 4,
        "latent_height": 24,
        "latent_width": 32,
        "sample_height": 48,
        "sample_width": 64,
        "num_channels_latent": 4,
        "height_latent": 24,
        "width_latent": 32,
        "channels": 3,
    }
    for name in DIFFUSION:
        path = folder / "exported" / name.removeprefix("sd-").replace("-", "_") / "model.onnx"
        size = known | ({"num_channels": 3, "height": 48, "width": 64} if name == "sd-vae-encoder" else {})
        try:
            yield Made(name, path, hub.sets(path, name, [size, size | {"batch_size": 1}], rules))
        except Exception as error:
            yield Made(name, error=str(error))


DIFFUSION = ["sd-text-encoder", "sd-unet", "sd-vae-encoder", "sd-vae-decoder"]

FAMILIES = [*PICTURES, *PAIRS, *BY_TORCH, Family("diffusion", hub.SOURCE, DIFFUSION, diffusion)]
