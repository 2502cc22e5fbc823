"""Text: encoders, decoders with and without past, sequence to sequence."""

import onnx
import torch
from optimum.exporters.onnx import export
from optimum.exporters.tasks import TasksManager
from optimum.onnx import merge_decoders
from torch import nn

import exporters
import hub
import samples
from family import Family, Made, generator

# Ids of the cut vocabularies. The first ones are special words.
VOCABULARY = 2048
IDS = samples.words(5, VOCABULARY)
ENCODER_RULES = [("input_ids", IDS), ("attention_mask", samples.masked()), ("token_type_ids", samples.words(0, 2)), ("*position_ids", samples.words(0, 8))]
ENCODER_SIZES = [{"batch_size": 3, "sequence_length": 11}, {"batch_size": 1, "sequence_length": 29}]
CHOICE_SIZES = [{"batch_size": 2, "num_choices": 3, "sequence_length": 11}, {"batch_size": 1, "num_choices": 5, "sequence_length": 23}]


def encoder(name, kind, task, pad=0, **options):
    sizes = CHOICE_SIZES if task == "multiple-choice" else ENCODER_SIZES
    rules = (
        [("attention_mask", lambda rng, shape: samples.mask((shape[0] * shape[1], shape[2])).reshape(shape)), *ENCODER_RULES]
        if task == "multiple-choice"
        else ENCODER_RULES
    )
    return hub.one(name, "text encoders", kind, task, {"vocab_size": VOCABULARY, "pad_token_id": pad} | options, sizes, rules, pad)


# The widths of BERT-mini, for architectures that differ from BERT in more than widths.
SMALL = {"hidden_size": 256, "num_attention_heads": 4, "intermediate_size": 1024, "num_hidden_layers": 3}

ENCODERS = [
    encoder("bert", "bert", "fill-mask", num_hidden_layers=1),
    encoder("bert-ner", "bert", "token-classification", num_labels=9, **SMALL),
    encoder("bert-choice", "bert", "multiple-choice", **SMALL),
    encoder("minilm", "bert", "feature-extraction", hidden_size=384, intermediate_size=1536, num_hidden_layers=4),
    encoder("distilbert", "distilbert", "text-classification", n_layers=3, dim=256, hidden_dim=1024, n_heads=4),
    encoder("roberta", "roberta", "text-classification", pad=1, max_position_embeddings=514, type_vocab_size=1, **SMALL),
    encoder("roberta-qa", "roberta", "question-answering", pad=1, max_position_embeddings=514, type_vocab_size=1, **SMALL),
    encoder("albert", "albert", "feature-extraction", hidden_size=768, num_attention_heads=12, intermediate_size=3072, num_hidden_layers=4),
    encoder("mpnet", "mpnet", "feature-extraction", pad=1, max_position_embeddings=514, **SMALL),
    encoder(
        "deberta-v2",
        "deberta-v2",
        "text-classification",
        hidden_size=384,
        num_attention_heads=6,
        intermediate_size=1536,
        num_hidden_layers=3,
        relative_attention=True,
        position_buckets=256,
        norm_rel_ebd="layer_norm",
        share_att_key=True,
        pos_att_type="p2c|c2p",
        position_biased_input=False,
        type_vocab_size=0,
        max_relative_positions=-1,
    ),
    encoder(
        "deberta",
        "deberta",
        "feature-extraction",
        relative_attention=True,
        pos_att_type="c2p|p2c",
        position_biased_input=False,
        type_vocab_size=0,
        **SMALL,
    ),
    encoder(
        "modernbert",
        "modernbert",
        "fill-mask",
        hidden_size=384,
        intermediate_size=576,
        num_attention_heads=6,
        num_hidden_layers=4,
        cls_token_id=1,
        sep_token_id=2,
        bos_token_id=1,
        eos_token_id=2,
        attn_implementation="eager",
        local_attention=8,
    ),
    encoder("electra", "electra", "text-classification", num_hidden_layers=4),
    encoder("xlm-roberta", "xlm-roberta", "fill-mask", pad=1, max_position_embeddings=514, type_vocab_size=1, **SMALL),
    encoder("mobilebert", "mobilebert", "question-answering", num_hidden_layers=4),
    encoder("squeezebert", "squeezebert", "text-classification", embedding_size=256, **SMALL),
    encoder(
        "convbert", "convbert", "feature-extraction", hidden_size=384, num_attention_heads=8, intermediate_size=1536, embedding_size=128, num_hidden_layers=3
    ),
    encoder("roformer", "roformer", "fill-mask", embedding_size=256, max_position_embeddings=512, **SMALL),
    encoder("nystromformer", "nystromformer", "feature-extraction", segment_means_seq_len=64, **SMALL),
    encoder(
        "esm",
        "esm",
        "fill-mask",
        pad=1,
        vocab_size=VOCABULARY,
        hidden_size=320,
        num_attention_heads=20,
        intermediate_size=1280,
        num_hidden_layers=4,
        position_embedding_type="rotary",
        mask_token_id=4,
        token_dropout=True,
    ),
]

PAST = "past_sequence_length"
DECODE_SIZES = [
    {"batch_size": 3, PAST: 7, "sequence_length": 1},
    {"batch_size": 2, PAST: 0, "sequence_length": 9},
    {"batch_size": 1, PAST: 5, "sequence_length": 4},
]
PROMPT_SIZES = [{"batch_size": 3, "sequence_length": 11}, {"batch_size": 1, "sequence_length": 29}]
DECODER_RULES = [
    ("input_ids", IDS),
    ("attention_mask", samples.masked("left")),
    ("position_ids", samples.words(0, 2)),
    ("past_key_values*", samples.normal(0.7)),
]


def decoder(name, kind, **options):
    """Two models: one for whole prompts, one that gets the keys and values of earlier tokens."""
    options = {"vocab_size": VOCABULARY, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2} | options
    return [
        hub.one(name, "text decoders", kind, "text-generation", options, PROMPT_SIZES, DECODER_RULES),
        hub.one(f"{name}-past", "text decoders", kind, "text-generation-with-past", options, DECODE_SIZES, DECODER_RULES),
    ]


def merged_decoder(name, kind, **options):
    """The older form: one file whose `If` chooses between a graph with and one without past."""
    options = {"vocab_size": VOCABULARY, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2} | options

    def make(folder):
        model = hub.built(kind, "text-generation", options)
        configure = TasksManager.get_exporter_config_constructor(model=model, exporter="onnx", task="text-generation")
        paths = []
        for with_past in (False, True):
            config = configure(model.config, task="text-generation", use_past=True, use_past_in_inputs=with_past, float_dtype="fp32")
            paths.append(folder / f"part{int(with_past)}.onnx")
            export(model, config, paths[-1], opset=config.DEFAULT_ONNX_OPSET)
        path = folder / "merged.onnx"
        merge_decoders(paths[0], paths[1], save_path=path, strict=False)
        name_mask_length(path)
        # Without a past, transformers' runtime passes one of length 1, which the graph ignores.
        whole = {"batch_size": 2, "sequence_length": 9, PAST: 1, MASK: 9, "branch": False}
        step = {"batch_size": 3, "sequence_length": 1, PAST: 7, MASK: 8, "branch": True}
        yield Made(name, path, hub.sets(path, name, [step, whole], DECODER_RULES))

    return Family("text decoders", f"{hub.SOURCE} ({kind}, merged decoders)", [name], make)


MASK = "attention_mask_sequence_length"


def name_mask_length(path):
    """Merging takes the inputs of the graph without past, where the mask is as long as the words. Earlier versions of optimum named its length so."""
    model = onnx.load(path)
    for port in model.graph.input:
        if port.name == "attention_mask":
            port.type.tensor_type.shape.dim[1].dim_param = MASK
    onnx.save(model, path)


LLAMA = {"hidden_size": 576, "intermediate_size": 1536, "num_attention_heads": 9, "num_key_value_heads": 3, "num_hidden_layers": 2}
NARROW_LLAMA = {"hidden_size": 256, "intermediate_size": 704, "num_attention_heads": 8, "num_key_value_heads": 2, "num_hidden_layers": 3}
DECODERS = [
    *decoder("gpt2", "gpt2", n_embd=512, n_head=8, n_layer=1),
    merged_decoder("gpt2-merged", "gpt2", n_embd=256, n_head=4, n_layer=3),
    *decoder("qwen3", "qwen3", hidden_size=512, intermediate_size=1536, num_attention_heads=8, num_key_value_heads=4, head_dim=128, num_hidden_layers=1),
    *decoder("qwen2", "qwen2", hidden_size=448, intermediate_size=1216, num_attention_heads=7, num_key_value_heads=1, num_hidden_layers=2),
    *decoder("llama", "llama", **LLAMA),
    merged_decoder("llama-merged", "llama", **NARROW_LLAMA),
    *decoder("opt", "opt", hidden_size=256, ffn_dim=1024, num_attention_heads=4, num_hidden_layers=2, word_embed_proj_dim=128, do_layer_norm_before=False),
    *decoder("gpt-neox", "gpt_neox", hidden_size=256, intermediate_size=1024, num_attention_heads=4, num_hidden_layers=2, rotary_pct=0.25),
    *decoder("gpt-neo", "gpt_neo", hidden_size=256, num_layers=2, attention_types=[[["global", "local"], 1]], num_heads=16, window_size=6),
    *decoder("bloom", "bloom", hidden_size=256, n_layer=2, n_head=8),
    *decoder("phi", "phi", hidden_size=256, intermediate_size=1024, num_attention_heads=4, num_hidden_layers=2, partial_rotary_factor=0.5),
    *decoder("gemma", "gemma", hidden_size=256, intermediate_size=1024, num_attention_heads=4, num_key_value_heads=1, head_dim=64, num_hidden_layers=2),
    *decoder("mpt", "mpt", d_model=256, n_heads=8, n_layers=2, expansion_ratio=4),
    *decoder("smollm3", "smollm3", hidden_size=256, intermediate_size=704, num_attention_heads=4, num_key_value_heads=2, num_hidden_layers=4),
]

TEXT_RULES = [
    ("input_ids", IDS),
    ("decoder_input_ids", IDS),
    ("*attention_mask", samples.masked()),
    ("encoder_hidden_states", samples.normal(0.5)),
    ("past_key_values*", samples.normal(0.7)),
]


def sequence_parts(prefix, pad, rules=TEXT_RULES):
    """The files of a sequence-to-sequence export and the sizes that they are given."""
    sizes = lambda batch, encoder, decoder, past: {
        "batch_size": batch,
        "encoder_sequence_length": encoder,
        "sequence_length": encoder,
        "encoder_sequence_length_out": encoder,
        "decoder_sequence_length": decoder,
        "past_decoder_sequence_length": past,
    }
    return [
        (f"{prefix}-encoder", "encoder_model", [sizes(3, 11, 0, 0), sizes(1, 29, 0, 0)], rules, pad),
        (f"{prefix}-decoder", "decoder_model", [sizes(3, 11, 6, 0), sizes(1, 29, 4, 0)], rules, pad),
        (f"{prefix}-decoder-past", "decoder_with_past_model", [sizes(3, 11, 1, 7), sizes(1, 29, 1, 3)], rules, pad),
        (f"{prefix}-decoder-merged", "decoder_model_merged", [sizes(3, 11, 1, 7), sizes(2, 8, 5, 1) | {"branch": False}], rules, pad),
    ]


def sequence(prefix, kind, pad, **options):
    options = {"vocab_size": VOCABULARY, "pad_token_id": pad} | options
    return hub.several("sequence to sequence", kind, "text2text-generation-with-past", options, sequence_parts(prefix, pad))


BART = {"encoder_layers": 2, "decoder_layers": 2, "max_position_embeddings": 256}
SEQUENCES = [
    sequence("t5", "t5", 0, num_layers=2, num_decoder_layers=1, decoder_start_token_id=0),
    sequence(
        "flan-t5",
        "t5",
        0,
        num_layers=2,
        num_decoder_layers=2,
        d_model=256,
        d_ff=512,
        num_heads=6,
        feed_forward_proj="gated-gelu",
        tie_word_embeddings=False,
        decoder_start_token_id=0,
    ),
    sequence(
        "bart",
        "bart",
        1,
        d_model=384,
        encoder_ffn_dim=1536,
        decoder_ffn_dim=1536,
        encoder_attention_heads=6,
        decoder_attention_heads=6,
        **BART,
    ),
    sequence(
        "marian",
        "marian",
        0,
        d_model=256,
        encoder_ffn_dim=1024,
        decoder_ffn_dim=1024,
        encoder_attention_heads=8,
        decoder_attention_heads=8,
        decoder_start_token_id=0,
        eos_token_id=2,
        scale_embedding=True,
        **BART,
    ),
    sequence("m2m-100", "m2m_100", 1, d_model=256, encoder_ffn_dim=1024, decoder_ffn_dim=1024, encoder_attention_heads=4, decoder_attention_heads=4, **BART),
    hub.one(
        "bart-classify",
        "text encoders",
        "bart",
        "text-classification",
        {"vocab_size": VOCABULARY, "d_model": 256, "encoder_attention_heads": 4, "decoder_attention_heads": 4, "encoder_ffn_dim": 1024, "decoder_ffn_dim": 1024}
        | BART,
        ENCODER_SIZES,
        [("input_ids", lambda rng, shape: ended(rng, shape)), *ENCODER_RULES],
        1,
    ),
]


def ended(rng, shape):
    """Words whose rows end with the word 2: the classifier reads the output at the last one."""
    ids = samples.tokens(rng, shape, 5, VOCABULARY)
    ids[:, max(shape[1] - 6, 1)] = 2
    return ids


class Embedding(nn.Module):
    """Sentence embeddings: the mean over unmasked tokens, normalized to length 1."""

    def __init__(self, inner):
        super().__init__()
        self.inner = inner

    def forward(self, input_ids, attention_mask):
        hidden = self.inner(input_ids=input_ids, attention_mask=attention_mask).last_hidden_state
        weight = attention_mask.unsqueeze(-1).to(hidden.dtype)
        return nn.functional.normalize((hidden * weight).sum(1) / weight.sum(1).clamp(min=1e-9), dim=-1)


class Logits(nn.Module):
    """A decoder's logits without its past."""

    def __init__(self, inner):
        super().__init__()
        self.inner = inner

    def forward(self, input_ids, attention_mask):
        return self.inner(input_ids=input_ids, attention_mask=attention_mask, use_cache=False).logits


def by_torch(name, kind, task, wrap, opset, side="right", shapes=((3, 9), (1, 30)), **options):
    """A model of transformers through torch's own dynamo exporter."""

    def make(folder):
        model = wrap(hub.built(kind, task, {"vocab_size": VOCABULARY} | options))
        rng = generator(f"{name} traced")
        ids, mask = torch.from_numpy(samples.tokens(rng, (2, 13), 5, VOCABULARY)), torch.from_numpy(samples.mask((2, 13), side))
        dims = {0: "batch", 1: "words"}
        path = exporters.dynamo(
            model,
            (ids, mask),
            folder / "exported.onnx",
            ["input_ids", "attention_mask"],
            ["output"],
            {"input_ids": dims, "attention_mask": dims},
            opset,
        )
        made = []
        for shape in shapes:
            rng = generator(f"{name} {shape}")
            made.append(hub.settle({"input_ids": samples.tokens(rng, shape, 5, VOCABULARY), "attention_mask": samples.mask(shape, side)}))
        yield Made(name, path, made)

    return Family("text by torch", f"transformers, {exporters.DYNAMO} ({kind})", [name], make)


MINILM = {"hidden_size": 384, "intermediate_size": 1536, "num_attention_heads": 12, "num_hidden_layers": 3}
BY_TORCH = [
    by_torch("minilm-embedding-dynamo", "bert", "feature-extraction", Embedding, 18, **MINILM),
    by_torch("minilm-embedding-dynamo-op23", "bert", "feature-extraction", Embedding, 23, **MINILM),
    by_torch(
        "modernbert-embedding-dynamo",
        "modernbert",
        "feature-extraction",
        Embedding,
        18,
        hidden_size=384,
        intermediate_size=576,
        num_attention_heads=6,
        num_hidden_layers=3,
        local_attention=8,
        pad_token_id=0,
        cls_token_id=1,
        sep_token_id=2,
        bos_token_id=1,
        eos_token_id=2,
    ),
    by_torch("gpt2-dynamo", "gpt2", "text-generation", Logits, 18, "left", n_embd=256, n_head=4, n_layer=3),
    by_torch("llama-dynamo", "llama", "text-generation", Logits, 18, "left", **NARROW_LLAMA),
    # RotaryEmbedding of opset 23, as the exporter writes it here, supports one row only.
    by_torch(
        "qwen3-dynamo-op23",
        "qwen3",
        "text-generation",
        Logits,
        23,
        "left",
        ((1, 9), (1, 30)),
        hidden_size=512,
        intermediate_size=1536,
        num_attention_heads=8,
        num_key_value_heads=4,
        head_dim=64,
        num_hidden_layers=2,
    ),
]

FAMILIES = [*ENCODERS, *DECODERS, *SEQUENCES, *BY_TORCH]
