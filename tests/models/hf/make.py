"""Writes tiny Hugging Face folders with random weights, with what PyTorch computes of them.

Run with torch 2.15, transformers 5.24, sentence-transformers 6.2 and tokenizers: `python make.py [NAME ..]`. Each folder is as
`SentenceTransformer.save` writes it, but for what a case changes on purpose. `io.safetensors` has a padded batch: `in.NAME`
and `out.sentence_embedding`. `texts.json` has texts with their tokens and their vectors, where a folder has a tokenizer.
"""

import json
import shutil
import sys
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer import modules as st
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors
from transformers import AutoConfig, AutoModel, PreTrainedTokenizerFast

HERE = Path(__file__).parent
TEXTS = ["a fox", "The quick brown fox jumps", " ", "é fox, the fox! the fox jumps over the lazy dog and the fox again"]
LENGTHS = [11, 4, 1]
VOCABULARY = 96
SIZES = dict(hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=24, vocab_size=VOCABULARY)


def randomized(model, scale=0.35):
    """Weights that are large enough for every part of the model to show in the result."""
    for name, weight in model.named_parameters():
        if "norm" in name.lower() and weight.dim() == 1:
            start = 1.0 if name.endswith("weight") and not getattr(model, "counts_from_1", False) else 0.0
            weight.data = start + 0.2 * torch.randn_like(weight)
        elif weight.dim() == 1:
            weight.data = 0.2 * torch.randn_like(weight)
        else:
            weight.data = scale * torch.randn_like(weight)
    return model


def wordpiece(length=64, lowercase=True):
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", ",", "!", "a", "fox", "the", "quick", "brown", "jump", "##s", "over"]
    words += ["lazy", "dog", "and", "again", "e", "query", ":"]
    words += [f"[unused{index}]" for index in range(VOCABULARY - len(words))]
    tokenizer = Tokenizer(models.WordPiece({word: index for index, word in enumerate(words)}, unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=lowercase, strip_accents=True)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.decoder = decoders.WordPiece()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", pair="[CLS] $A [SEP] $B [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    names = dict(pad_token="[PAD]", unk_token="[UNK]", cls_token="[CLS]", sep_token="[SEP]", mask_token="[MASK]")
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, model_max_length=length, **names)


def byte_level(ends, pad, length=64):
    """Bytes of ASCII and a few merges; `ends` are the special tokens before and after a text."""
    specials = ["<s>", "<pad>", "</s>", "<unk>"]
    letters = [chr(code) for code in range(33, 127) if chr(code) not in "\"#$%&()*+-./<=>?@[]^_`{|}~;0123456789"] + ["Ġ", "Ã", "©"]
    merges = [("Ġ", "f"), ("Ġf", "o"), ("Ġfo", "x"), ("t", "h"), ("Ġ", "th"), ("Ġth", "e")]
    words = specials + letters + ["".join(pair) for pair in merges]
    assert len(words) <= VOCABULARY, len(words)
    vocabulary = {word: index for index, word in enumerate(words)}
    tokenizer = Tokenizer(models.BPE(vocabulary, merges, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    single = " ".join([*ends[0], "$A", *ends[1]])
    named = [(name, vocabulary[name]) for name in {*ends[0], *ends[1]}]
    tokenizer.post_processor = processors.TemplateProcessing(single=single, special_tokens=named)
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, model_max_length=length, pad_token=pad, unk_token="<unk>")


def unigram(length=64):
    """As SentencePiece has it: spaces are a letter, and a text begins with one."""
    pieces = [("<s>", 0.0), ("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0)]
    pieces += [("▁" + word, -3.0 - index / 10) for index, word in enumerate("fox the a quick brown over lazy dog and".split())]
    pieces += [(letter, -8.0 - index / 10) for index, letter in enumerate("▁abcdefghijklmnopqrstuvwxyzTé,!:")]
    tokenizer = Tokenizer(models.Unigram(pieces, unk_id=3))
    tokenizer.normalizer = normalizers.NFKC()
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>", special_tokens=[("<s>", 0), ("</s>", 2)]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, model_max_length=length, pad_token="<pad>", unk_token="<unk>", bos_token="<s>", eos_token="</s>"
    )


def encoder(model_type, **fields):
    config = AutoConfig.for_model(model_type, **fields)
    model = AutoModel.from_config(config)
    model.counts_from_1 = model_type == "gemma3_text"
    return randomized(model).eval().float()


def case(name, seed, model, tokenizer, *modules, prompts=None, default=None, sentence=None, change=None, dtype=None, again=None):
    if len(sys.argv) > 1 and name not in sys.argv[1:]:
        return
    torch.manual_seed(seed)
    model = model()
    for module in modules:
        randomized(module)
    folder = HERE / name
    shutil.rmtree(folder, ignore_errors=True)
    plain = HERE / ".plain"
    shutil.rmtree(plain, ignore_errors=True)
    if dtype is not None:
        # Weights of half precision, which are computed with in full precision.
        model = model.to(dtype)
    model.save_pretrained(plain)
    tokenizer.save_pretrained(plain)
    if sentence is not None:
        (plain / "sentence_bert_config.json").write_text(json.dumps(sentence))
    transformer = st.Transformer(str(plain), model_kwargs={"dtype": torch.float32, "attn_implementation": "eager"}, **(sentence or {}))
    if again is not None:
        again(transformer.model)
    whole = SentenceTransformer(modules=[transformer, *modules], prompts=prompts, default_prompt_name=default, device="cpu")
    whole.save(str(folder), create_model_card=False)
    for file in plain.glob("*.safetensors*"):
        shutil.copy(file, folder)
    if sentence is not None:
        # As older versions write it: the library would put what it says into the tokenizer.
        for file in ["sentence_bert_config.json", "tokenizer.json", "tokenizer_config.json"]:
            shutil.copy(plain / file, folder)
    shutil.rmtree(plain)
    for file in ["README.md", "configuration.json"]:
        (folder / file).unlink(missing_ok=True)
    generator = torch.Generator().manual_seed(seed)
    pad = tokenizer.pad_token_id
    ids = torch.full((len(LENGTHS), max(LENGTHS)), pad)
    mask = torch.zeros_like(ids)
    for row, length in enumerate(LENGTHS):
        ids[row, :length] = torch.randint(4, VOCABULARY, (length,), generator=generator)
        mask[row, :length] = 1
    features = {"input_ids": ids, "attention_mask": mask}
    given = {**features}
    if default is not None:
        given["prompt_length"] = transformer._get_prompt_length(prompts[default])
    with torch.no_grad():
        result = whole(given)["sentence_embedding"].float()
    io = {f"in.{key}": value for key, value in features.items()} | {"out.sentence_embedding": result.contiguous()}
    save_file(io, folder / "io.safetensors")
    # One text at a time, so that padding plays no part.
    rows = []
    for prompt in [None, *sorted(prompts or {})]:
        for text in TEXTS:
            if whole[-1].__class__ is st.Pooling and not whole[-1].include_prompt and prompt not in (None, default):
                continue
            chosen = whole._resolve_prompt(None, prompt)
            tokens = whole.preprocess([text], prompt=chosen)["input_ids"][0].tolist()
            vector = whole.encode([text], prompt_name=prompt, convert_to_numpy=True)[0].tolist()
            rows.append({"prompt": prompt, "text": text, "ids": tokens, "vector": [round(x, 7) for x in vector]})
    (folder / "texts.json").write_text(json.dumps(rows, ensure_ascii=False, indent=0))
    if change is not None:
        change(folder)
    size = sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())
    print(f"{name}: {size} bytes, {sorted(str(file.relative_to(folder)) for file in folder.rglob('*') if file.is_file())}")
    assert size < 100_000, size


def renamed(rename):
    """Weights under other names."""

    def change(folder):
        file = folder / "model.safetensors"
        save_file({rename(name): tensor for name, tensor in load_file(file).items()}, file, {"format": "pt"})

    return change


def sharded(folder):
    """Weights in two files with an index."""
    tensors = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    names = sorted(tensors)
    files = {}
    for part, own in enumerate([names[::2], names[1::2]]):
        file = f"model-0000{part + 1}-of-00002.safetensors"
        save_file({name: tensors[name] for name in own}, folder / file, {"format": "pt"})
        files |= {name: file for name in own}
    index = {"metadata": {"total_size": 0}, "weight_map": files}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index, indent=0))


def configured(remove=(), **fields):
    """The configuration as older versions and the hub's files have it."""

    def change(folder):
        file = folder / "config.json"
        config = json.loads(file.read_text())
        for name in remove:
            config.pop(name, None)
        file.write_text(json.dumps(config | fields, indent=1))

    return change


def each(*changes):
    def change(folder):
        for one in changes:
            one(folder)

    return change


def mean(**fields):
    return st.Pooling(16, "mean", **fields)


def tensorflow_names(name):
    return "bert." + name.replace("LayerNorm.weight", "LayerNorm.gamma").replace("LayerNorm.bias", "LayerNorm.beta")


position = dict(max_position_embeddings=64, type_vocab_size=2)
after_padding = dict(max_position_embeddings=66, pad_token_id=1, bos_token_id=0, eos_token_id=2)
ends = (["<s>"], ["</s>"])

case("bert", 1, lambda: encoder("bert", **SIZES, **position), wordpiece(), mean(), st.Normalize(), change=renamed(tensorflow_names))
case(
    "bert-modules", 2, lambda: encoder("bert", hidden_act="gelu_new", **SIZES, **position), wordpiece(lowercase=False),
    st.Pooling(16, ("weightedmean", "cls", "max", "mean_sqrt_len_tokens", "lasttoken", "mean")),
    st.Dense(96, 12, activation_function=torch.nn.Tanh()), st.LayerNorm(12), st.Dense(12, 8, bias=False, activation_function=torch.nn.Identity()),
    st.Normalize(), prompts={"query": "query: ", "document": ""}, default="query", sentence={"max_seq_length": 9, "do_lower_case": True},
)
case(
    "bert-prompt", 3, lambda: encoder("bert", hidden_act="relu", **SIZES, **position), wordpiece(), mean(include_prompt=False),
    prompts={"query": "the query: "}, default="query",
)
case("roberta", 4, lambda: encoder("roberta", **SIZES, **after_padding, type_vocab_size=1), byte_level(ends, "<pad>"), mean(), dtype=torch.float16)
case("xlm-roberta", 5, lambda: encoder("xlm-roberta", **SIZES, **after_padding, type_vocab_size=1), unigram(), st.Pooling(16, "cls"), change=sharded)
case(
    "mpnet", 6, lambda: encoder("mpnet", **SIZES, **after_padding, relative_attention_num_buckets=32), byte_level(ends, "<pad>"), mean(),
)
case(
    "distilbert", 7, lambda: encoder(
        "distilbert", dim=16, n_layers=2, n_heads=2, hidden_dim=24, vocab_size=VOCABULARY, max_position_embeddings=64
    ), wordpiece(), mean(), change=renamed(lambda name: "distilbert." + name),
)
case(
    "albert", 8, lambda: encoder("albert", embedding_size=8, num_hidden_groups=2, inner_group_num=1, **(SIZES | {"num_hidden_layers": 4}), **position),
    wordpiece(), mean(),
)
case("electra", 9, lambda: encoder("electra", embedding_size=8, **SIZES, **position), wordpiece(), mean())
case(
    "modernbert", 10, lambda: encoder(
        "modernbert", **(SIZES | {"num_hidden_layers": 4}), max_position_embeddings=64, local_attention=4, global_attn_every_n_layers=3, pad_token_id=0
    ), wordpiece(), mean(), dtype=torch.bfloat16,
)
case(
    "modernbert-old", 11, lambda: encoder(
        "modernbert", **(SIZES | {"num_hidden_layers": 3}), max_position_embeddings=64, local_attention=6, global_attn_every_n_layers=2, pad_token_id=0,
        norm_bias=True, attention_bias=True, mlp_bias=True,
    ), wordpiece(), mean(), change=each(
        configured(remove=["layer_types", "rope_parameters"], global_attn_every_n_layers=2, global_rope_theta=160000.0, local_rope_theta=10000.0),
        renamed(lambda name: "model." + name),
    ),
)
case(
    "nomic", 12, lambda: encoder("nomic_bert", **SIZES, **position), wordpiece(), mean(), st.Normalize(), change=configured(
        remove=["hidden_size", "num_hidden_layers", "num_attention_heads", "intermediate_size", "layer_norm_eps", "max_position_embeddings",
                "rope_parameters", "hidden_act", "head_dim"],
        n_embd=16, n_layer=2, n_head=2, n_inner=24, layer_norm_epsilon=1e-12, n_positions=64, rotary_emb_base=1000, rotary_emb_fraction=1.0,
        rotary_emb_interleaved=False, rotary_emb_scale_base=None, rotary_scaling_factor=None, prenorm=False, activation_function="swiglu",
        qkv_proj_bias=False, mlp_fc1_bias=False, mlp_fc2_bias=False, use_rms_norm=False, parallel_block=False, causal=False,
    ),
)
case("gte", 13, lambda: encoder("gte", **SIZES, **position, pad_token_id=0), wordpiece(), st.Pooling(16, "cls"))


def scaled_by_ntk(factor):
    """GTE with the angles of its own code on the hub: the base times the factor, and the angles by the factor's power 2 / dim."""
    model = encoder("gte", **(SIZES | {"num_attention_heads": 4}), max_position_embeddings=64, type_vocab_size=0, pad_token_id=0)
    dim = 4
    powers = torch.arange(0, dim, 2, dtype=torch.float64) / dim
    frequencies = 1.0 / (500000.0 * factor) ** powers / factor ** (2 / dim)
    model.rotary_emb.inv_freq.data = frequencies.float()
    return model


class Scaled:
    """The library loads the model anew, so its angles are set again."""

    def __init__(self, factor):
        self.factor = factor

    def __call__(self, model):
        model.rotary_emb.inv_freq.data = scaled_by_ntk(self.factor).rotary_emb.inv_freq.data


case(
    "gte-new", 19, lambda: scaled_by_ntk(2.0), wordpiece(), st.Pooling(16, "cls"), st.Normalize(), again=Scaled(2.0), change=each(
        configured(
            remove=["rope_parameters"], model_type="new", rope_theta=500000, rope_scaling={"type": "ntk", "factor": 2.0}, pack_qkv=True,
            position_embedding_type="rope", layer_norm_type="layer_norm", logn_attention_scale=False, logn_attention_clip1=False, unpad_inputs=False,
        ),
        renamed(lambda name: "new." + name),
    ),
)
decoder = SIZES | dict(num_attention_heads=4, num_key_value_heads=2, max_position_embeddings=64)
case(
    "qwen3", 14, lambda: encoder("qwen3", **decoder, head_dim=6), byte_level(([], ["</s>"]), "<pad>"), st.Pooling(16, "lasttoken"), st.Normalize(),
    prompts={"query": "Instruct: find the fox\nQuery:", "document": ""},
)
case("qwen2", 15, lambda: encoder(
    "qwen2", **decoder, use_sliding_window=True, sliding_window=4, max_window_layers=1), byte_level(([], ["</s>"]), "<pad>"), st.Pooling(16, "lasttoken"),
)
case("llama", 16, lambda: encoder("llama", **decoder), byte_level((["<s>"], []), "<pad>"), mean())
case("mistral", 17, lambda: encoder("mistral", **decoder, sliding_window=5), byte_level((["<s>"], ["</s>"]), "<pad>"), st.Pooling(16, "lasttoken"))
case(
    "gemma", 18, lambda: encoder(
        "gemma3_text", **(decoder | {"num_hidden_layers": 3, "num_key_value_heads": 1}), head_dim=6, query_pre_attn_scalar=7, sliding_window=6,
        use_bidirectional_attention=True, layer_types=["sliding_attention", "full_attention", "sliding_attention"],
    ), byte_level((["<s>"], ["</s>"]), "<pad>"), mean(), st.Dense(16, 24, bias=False, activation_function=torch.nn.Identity()),
    st.Dense(24, 16, bias=False, activation_function=torch.nn.Identity()), st.Normalize(), prompts={"query": "task: search result | query: "},
)
