//! NomicBERT and GTE (the architectures `nomic_bert`, `new` and `gte`): BERT with rotary positions and gated units. They differ
//! in names, biases and activations.
//! Sources: Nussbaum et al., "Nomic Embed: Training a Reproducible Long Context Text Embedder", 4.1; Zhang et al., "mGTE:
//! Generalized Long-Context Text Representation and Reranking Models for Multilingual Text Retrieval", 2.1; Shazeer, "GLU
//! Variants Improve Transformer", 2.

use super::{
    Encoded, Graph, HfError,
    config::{Activation, Config},
    graph::Wired,
    layers::Heads,
    masks::{Sight, Tokens},
    rotary::{Rope, Rotary},
};

const ANCHOR: &str = "embeddings.word_embeddings.weight";

/// Fields of NomicBERT have names of GPT-2 in older files.
const OLDER: [(&str, &str); 5] = [
    ("n_embd", "hidden_size"),
    ("n_layer", "num_hidden_layers"),
    ("n_head", "num_attention_heads"),
    ("n_inner", "intermediate_size"),
    ("layer_norm_epsilon", "layer_norm_eps"),
];

#[derive(serde::Deserialize)]
struct Fields {
    hidden_size: usize,
    num_hidden_layers: usize,
    num_attention_heads: usize,
    intermediate_size: usize,
    vocab_size: usize,
    type_vocab_size: usize,
    layer_norm_eps: f32,
}

/// What differs between the architectures: names of weights, below those of the layer, and which layers have a bias.
struct Names {
    layers: &'static str,
    /// Queries, keys and values, below one another.
    packed: &'static str,
    packed_bias: bool,
    attended: &'static str,
    attended_bias: bool,
    attention_norm: &'static str,
    up: Up,
    up_bias: bool,
    down: &'static str,
    down_bias: bool,
    norm: &'static str,
    embeddings_norm: &'static str,
}

/// The first layers of a unit: what is gated, and the gate.
enum Up {
    /// In two matrices.
    Apart([&'static str; 2]),
    /// Below one another in one.
    Packed(&'static str),
}

/// Wires NomicBERT.
pub(super) fn nomic(
    graph: &mut Graph,
    config: &Config,
    positions: usize,
) -> Result<Encoded, HfError> {
    for (name, want) in [
        ("prenorm", false),
        ("parallel_block", false),
        ("use_rms_norm", false),
        ("causal", false),
        ("rotary_emb_interleaved", false),
    ] {
        config.only(name, want)?;
    }
    config.only("rotary_emb_fraction", 1.0)?;
    for name in ["rotary_emb_scale_base", "rotary_scaling_factor"] {
        config.only(name, serde_json::Value::Null)?;
    }
    for name in ["num_experts", "moe_every_n_layers"] {
        config.only(name, 0)?;
    }
    let is = |name: &str| config.get(name).and_then(serde_json::Value::as_bool).unwrap_or(false);
    let name = config.get("activation_function").or_else(|| config.get("hidden_act"));
    let activation = match name.and_then(serde_json::Value::as_str).unwrap_or("swiglu") {
        "swiglu" | "silu" => Activation::Silu,
        "geglu" => Activation::Gelu,
        "glu" => Activation::Sigmoid,
        other => return Err(config.unsupported(format!("activation_function {other:?}"))),
    };
    let names = Names {
        layers: "encoder.layers",
        packed: "attn.Wqkv",
        packed_bias: is("qkv_proj_bias"),
        attended: "attn.out_proj",
        attended_bias: is("qkv_proj_bias"),
        attention_norm: "norm1",
        up: Up::Apart(["mlp.fc11", "mlp.fc12"]),
        up_bias: is("mlp_fc1_bias"),
        down: "mlp.fc2",
        down_bias: is("mlp_fc2_bias"),
        norm: "norm2",
        embeddings_norm: "emb_ln",
    };
    let rope = Rope::read(config, None, "rotary_emb_base", 1000.0)?;
    let config = config.clone().renamed(&OLDER);
    encoder(graph, &config, positions, &names, activation, rope)
}

/// Wires GTE.
pub(super) fn gte(
    graph: &mut Graph,
    config: &Config,
    positions: usize,
) -> Result<Encoded, HfError> {
    config.only("position_embedding_type", "rope")?;
    config.only("layer_norm_type", "layer_norm")?;
    config.only("pack_qkv", true)?;
    for name in ["logn_attention_scale", "logn_attention_clip1"] {
        config.only(name, false)?;
    }
    let name = config.get("hidden_act").and_then(serde_json::Value::as_str).unwrap_or("gelu");
    let activation = config.activation("hidden_act", name)?;
    let names = Names {
        layers: "encoder.layer",
        packed: "attention.qkv_proj",
        packed_bias: true,
        attended: "attention.o_proj",
        attended_bias: true,
        attention_norm: "attn_ln",
        up: Up::Packed("mlp.up_gate_proj"),
        up_bias: false,
        down: "mlp.down_proj",
        down_bias: true,
        norm: "mlp_ln",
        embeddings_norm: "embeddings.LayerNorm",
    };
    let rope = Rope::read(config, None, "rope_theta", 160_000.0)?;
    encoder(graph, config, positions, &names, activation, rope)
}

fn encoder(
    graph: &mut Graph,
    config: &Config,
    positions: usize,
    names: &Names,
    activation: Activation,
    rope: Rope,
) -> Result<Encoded, HfError> {
    let fields: Fields = config.typed()?;
    let (width, inner) = (fields.hidden_size, fields.intermediate_size);
    config.check_sizes(&[("hidden_size", width), ("intermediate_size", inner)])?;
    let count = fields.num_attention_heads;
    let heads = Heads::of(count, config.head_dim(width, count)?);
    let epsilon = fields.layer_norm_eps;
    graph.find_prefix(ANCHOR)?;
    let mut tokens = Tokens::declare(graph);
    let hiding = tokens.hiding(graph, "mask.additive", Sight::Whole);
    let rotary = Rotary::wire(graph, "rotary", rope, heads.dim, positions, &tokens)?;
    let turning = rotary.turning(graph, count)?;
    let words = embeddings(graph, &fields, &tokens)?;
    let mut x = graph.layer_norm(names.embeddings_norm, &words, width, epsilon)?;
    for index in 0..fields.num_hidden_layers {
        let name = format!("{}.{index}", names.layers);
        let own = format!("{name}.attention");
        let parts = [("query", width), ("key", width), ("value", width)];
        let packed = format!("{name}.{}", names.packed);
        let sizes = [width, 3 * width];
        let qkv = graph.linear_parts(&packed, &x, sizes, names.packed_bias, &parts)?;
        let query = turning.apply(graph, &format!("{own}.query"), &qkv[0]);
        let key = turning.apply(graph, &format!("{own}.key"), &qkv[1]);
        let context = graph.attention(&own, [&query, &key, &qkv[2]], heads, heads.scale(), &hiding);
        let attended = format!("{name}.{}", names.attended);
        let attended = graph.linear_if(&attended, &context, [width, width], names.attended_bias)?;
        let sum = graph.node(&format!("{own}.residual"), "Add", &[&attended, &x], &[]);
        let norm = format!("{name}.{}", names.attention_norm);
        let attended = graph.layer_norm(&norm, &sum, width, epsilon)?;
        let (up, gate) = match &names.up {
            Up::Apart([up, gate]) => {
                let [up, gate] = [up, gate].map(|part| {
                    let part = format!("{name}.{part}");
                    graph.linear_if(&part, &attended, [width, inner], names.up_bias)
                });
                (up?, gate?)
            }
            Up::Packed(both) => {
                let (both, sizes) = (format!("{name}.{both}"), [width, 2 * inner]);
                let parts = [("up", inner), ("gate", inner)];
                let mut parts =
                    graph.linear_parts(&both, &attended, sizes, names.up_bias, &parts)?;
                let gate = parts.swap_remove(1);
                (parts.swap_remove(0), gate)
            }
        };
        let gate = graph.activation(&format!("{name}.mlp.activation"), &gate, activation);
        let gated = graph.node(&format!("{name}.mlp.gated"), "Mul", &[&up, &gate], &[]);
        let down = format!("{name}.{}", names.down);
        let down = graph.linear_if(&down, &gated, [inner, width], names.down_bias)?;
        let sum = graph.node(&format!("{name}.residual"), "Add", &[&down, &attended], &[]);
        x = graph.layer_norm(&format!("{name}.{}", names.norm), &sum, width, epsilon)?;
    }
    Ok(Encoded { hidden: x, tokens, width })
}

/// Words and, where there are any, the one token type of plain text.
fn embeddings(graph: &mut Graph, fields: &Fields, tokens: &Tokens) -> Wired {
    let width = fields.hidden_size;
    let name = "embeddings.word_embeddings";
    let words = graph.embedding(name, &tokens.ids, fields.vocab_size, width)?;
    if fields.type_vocab_size == 0 {
        return Ok(words);
    }
    let name = "embeddings.token_type_embeddings.weight";
    let types = graph.weight(name, &[fields.type_vocab_size, width])?;
    let ends = [("embeddings.first", 0), ("embeddings.second", 1)];
    let [start, end] = ends.map(|(name, at)| graph.integers(name, &[at]));
    let first = graph.slice("embeddings.token_type", &types, [&start, &end], 0);
    Ok(graph.node("embeddings.words_and_types", "Add", &[&words, &first], &[]))
}
