//! Decoders that make embeddings of texts: Qwen3, Qwen2, Llama, Mistral. Each token sees those before it, and the text's vector
//! is usually the last token's.
//! Sources: Yang et al., "Qwen3 Technical Report", 2; Zhang et al., "Qwen3 Embedding", 2; Touvron et al., "LLaMA", 2.2.

use super::{
    Encoded, Graph, HfError,
    config::{Activation, Config},
    graph::Wired,
    layers::Heads,
    masks::{Sight, Tokens},
    rotary::{Rope, Rotary},
};

const ANCHOR: &str = "embed_tokens.weight";
/// Most layers, whose kinds are written down before any weight is looked for.
const LAYERS_MAX: usize = 1024;

/// What differs between the architectures.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// Queries and keys are normalized, and layers may be local.
    Qwen3,
    /// Queries, keys and values have a bias, and layers may be local.
    Qwen2,
    Llama,
    /// All layers may be local.
    Mistral,
}

#[derive(serde::Deserialize)]
struct Fields {
    hidden_size: usize,
    num_hidden_layers: usize,
    num_attention_heads: usize,
    num_key_value_heads: Option<usize>,
    head_dim: Option<usize>,
    intermediate_size: usize,
    vocab_size: usize,
    rms_norm_eps: f32,
    hidden_act: String,
    #[serde(default)]
    attention_bias: bool,
    #[serde(default)]
    mlp_bias: bool,
    #[serde(default)]
    use_sliding_window: bool,
    sliding_window: Option<usize>,
    max_window_layers: Option<usize>,
    layer_types: Option<Vec<String>>,
}

impl Fields {
    /// Whether each layer sees only the tokens shortly before.
    fn locals(&self, kind: Kind, config: &Config) -> Result<Vec<bool>, HfError> {
        let layers = self.num_hidden_layers;
        if layers > LAYERS_MAX {
            return Err(config.unsupported(format!("{layers} layers, the limit is {LAYERS_MAX}")));
        }
        if let Some(types) = &self.layer_types {
            return super::modernbert::kinds(config, types, layers);
        }
        let first = match kind {
            Kind::Llama => layers,
            Kind::Mistral => 0,
            Kind::Qwen3 | Kind::Qwen2 if !self.use_sliding_window => layers,
            Kind::Qwen3 | Kind::Qwen2 => self.max_window_layers.unwrap_or(28),
        };
        let is_local = |layer| self.sliding_window.is_some() && layer >= first;
        Ok((0..layers).map(is_local).collect())
    }
}

/// The sizes of a gated unit.
pub(super) struct Unit {
    pub(super) width: usize,
    pub(super) inner: usize,
    pub(super) bias: bool,
    pub(super) activation: Activation,
}

pub(super) fn encoder(
    graph: &mut Graph,
    config: &Config,
    positions: usize,
    kind: Kind,
) -> Result<Encoded, HfError> {
    let fields: Fields = config.typed()?;
    config.only("is_causal", true)?;
    config.only("use_bidirectional_attention", false)?;
    let width = fields.hidden_size;
    let heads = heads(config, &fields)?;
    let inner = fields.intermediate_size;
    config.check_sizes(&[("hidden_size", width), ("intermediate_size", inner)])?;
    let activation = config.activation("hidden_act", &fields.hidden_act)?;
    let bias = fields.mlp_bias && kind == Kind::Llama;
    let unit = Unit { width, inner, bias, activation };
    let epsilon = fields.rms_norm_eps;
    let (qkv_bias, out_bias) = match kind {
        Kind::Qwen2 => (true, false),
        Kind::Mistral => (false, false),
        Kind::Qwen3 | Kind::Llama => (fields.attention_bias, fields.attention_bias),
    };
    let locals = fields.locals(kind, config)?;
    graph.find_prefix(ANCHOR)?;
    let mut tokens = Tokens::declare(graph);
    let whole = tokens.hiding(graph, "mask.causal", Sight::Causal);
    let near = match fields.sliding_window.filter(|_| locals.contains(&true)) {
        Some(window) => tokens.hiding(graph, "mask.near", Sight::CausalNear(window)),
        None if locals.contains(&true) => {
            return Err(config.unsupported("layers that are local without a sliding_window"));
        }
        None => whole.clone(),
    };
    let rope = Rope::read(config, None, "rope_theta", 10_000.0)?;
    let rotary = Rotary::wire(graph, "rotary", rope, heads.dim, positions, &tokens)?;
    let [of_queries, of_keys] = rotary.turnings(graph, heads)?;
    let mut x = graph.embedding("embed_tokens", &tokens.ids, fields.vocab_size, width)?;
    for (index, is_local) in locals.into_iter().enumerate() {
        let name = format!("layers.{index}");
        let normed = graph.rms_norm(&format!("{name}.input_layernorm"), &x, width, epsilon, 0.0)?;
        let own = format!("{name}.self_attn");
        let parts = [
            ("q_proj", heads.width()),
            ("k_proj", heads.shared_width()),
            ("v_proj", heads.shared_width()),
        ];
        let [query, key, value] = parts.map(|(part, size)| {
            graph.linear_if(&format!("{own}.{part}"), &normed, [width, size], qkv_bias)
        });
        let (mut query, mut key, value) = (query?, key?, value?);
        if kind == Kind::Qwen3 {
            let norm = |part: &str| format!("{own}.{part}_norm");
            let sizes = [heads.count, heads.dim];
            query = graph.rms_norm_of_heads(&norm("q"), &query, sizes, epsilon, 0.0)?;
            let sizes = [heads.shared, heads.dim];
            key = graph.rms_norm_of_heads(&norm("k"), &key, sizes, epsilon, 0.0)?;
        }
        let query = of_queries.apply(graph, &format!("{own}.query"), &query);
        let key = of_keys.apply(graph, &format!("{own}.key"), &key);
        let hiding = if is_local { &near } else { &whole };
        let context = graph.attention(&own, [&query, &key, &value], heads, heads.scale(), hiding);
        let out = format!("{own}.o_proj");
        let attended = graph.linear_if(&out, &context, [heads.width(), width], out_bias)?;
        x = graph.node(&format!("{own}.residual"), "Add", &[&x, &attended], &[]);
        let norm = format!("{name}.post_attention_layernorm");
        let normed = graph.rms_norm(&norm, &x, width, epsilon, 0.0)?;
        let down = gated_unit(graph, &format!("{name}.mlp"), &normed, &unit)?;
        x = graph.node(&format!("{name}.residual"), "Add", &[&x, &down], &[]);
    }
    let hidden = graph.rms_norm("norm", &x, width, epsilon, 0.0)?;
    Ok(Encoded { hidden, tokens, width })
}

fn heads(config: &Config, fields: &Fields) -> Result<Heads, HfError> {
    let count = fields.num_attention_heads;
    let dim = match fields.head_dim {
        Some(dim) => dim,
        None => config.head_dim(fields.hidden_size, count)?,
    };
    let heads = Heads { count, shared: fields.num_key_value_heads.unwrap_or(count), dim };
    check_heads(config, heads)?;
    Ok(heads)
}

/// Refuses heads that do not share evenly.
pub(super) fn check_heads(config: &Config, heads: Heads) -> Result<(), HfError> {
    let Heads { count, shared, dim } = heads;
    config.check_sizes(&[
        ("num_attention_heads", count),
        ("num_key_value_heads", shared),
        ("head_dim", dim),
        ("heads * head_dim", count.saturating_mul(dim)),
    ])?;
    if !count.is_multiple_of(shared) {
        return Err(config.unsupported(format!("{count} heads that share {shared}")));
    }
    Ok(())
}

/// `down(activation(gate(x)) * up(x))`. Source: Shazeer, "GLU Variants Improve Transformer", 2.
pub(super) fn gated_unit(graph: &mut Graph, name: &str, x: &str, unit: &Unit) -> Wired {
    let Unit { width, inner, bias, activation } = *unit;
    let gate = graph.linear_if(&format!("{name}.gate_proj"), x, [width, inner], bias)?;
    let up = graph.linear_if(&format!("{name}.up_proj"), x, [width, inner], bias)?;
    let gate = graph.activation(&format!("{name}.activation"), &gate, activation);
    let gated = graph.node(&format!("{name}.gated"), "Mul", &[&gate, &up], &[]);
    graph.linear_if(&format!("{name}.down_proj"), &gated, [inner, width], bias)
}
