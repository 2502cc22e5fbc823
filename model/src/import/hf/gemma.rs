//! Gemma 3 and EmbeddingGemma: as [`decoder`](super::decoder), with more normalizations, whose scales are counted from 1, with
//! local and global layers, and, for embeddings, with attention in both directions.
//! Sources: Gemma Team, "Gemma 3 Technical Report", 2; Vera et al., "EmbeddingGemma", 2.1.

use super::{
    Encoded, Graph, HfError,
    config::Config,
    decoder::{Unit, check_heads, gated_unit},
    layers::Heads,
    masks::{Sight, Tokens},
    modernbert::{Bases, Kinds, kinds},
};

const ANCHOR: &str = "embed_tokens.weight";
/// Added to the scales of normalizations.
const OFFSET: f32 = 1.0;
/// Most layers, whose kinds are written down before any weight is looked for.
const LAYERS_MAX: usize = 1024;

#[derive(serde::Deserialize)]
struct Fields {
    hidden_size: usize,
    num_hidden_layers: usize,
    num_attention_heads: usize,
    num_key_value_heads: usize,
    head_dim: usize,
    intermediate_size: usize,
    vocab_size: usize,
    rms_norm_eps: f32,
    hidden_activation: String,
    #[serde(default)]
    attention_bias: bool,
    query_pre_attn_scalar: f64,
    sliding_window: Option<usize>,
    layer_types: Option<Vec<String>>,
    #[serde(default = "pattern")]
    sliding_window_pattern: usize,
    #[serde(default)]
    use_bidirectional_attention: bool,
}

/// The default of transformers.
fn pattern() -> usize {
    6
}

impl Fields {
    /// Whether each layer sees only neighbours.
    fn locals(&self, config: &Config) -> Result<Vec<bool>, HfError> {
        let (layers, every) = (self.num_hidden_layers, self.sliding_window_pattern);
        if layers > LAYERS_MAX || every == 0 {
            return Err(config.unsupported(format!(
                "{layers} layers of which every {every}th is global, the limit is {LAYERS_MAX}"
            )));
        }
        match &self.layer_types {
            Some(types) => kinds(config, types, layers),
            None => Ok((1..=layers).map(|layer| !layer.is_multiple_of(every)).collect()),
        }
    }
}

pub(super) fn encoder(
    graph: &mut Graph,
    config: &Config,
    positions: usize,
) -> Result<Encoded, HfError> {
    let older = [("_sliding_window_pattern", "sliding_window_pattern")];
    let fields: Fields = config.clone().renamed(&older).typed()?;
    config.only("attn_logit_softcapping", serde_json::Value::Null)?;
    let (width, inner) = (fields.hidden_size, fields.intermediate_size);
    config.check_sizes(&[("hidden_size", width), ("intermediate_size", inner)])?;
    let heads = Heads {
        count: fields.num_attention_heads,
        shared: fields.num_key_value_heads,
        dim: fields.head_dim,
    };
    check_heads(config, heads)?;
    let scalar = fields.query_pre_attn_scalar;
    if !(scalar.is_finite() && scalar > 0.0) {
        return Err(config.unsupported(format!("query_pre_attn_scalar {scalar}")));
    }
    let scale = scalar.sqrt().recip() as f32;
    let activation = config.activation("hidden_activation", &fields.hidden_activation)?;
    let unit = Unit { width, inner, bias: false, activation };
    let (epsilon, bias) = (fields.rms_norm_eps, fields.attention_bias);
    let locals = fields.locals(config)?;
    let window = fields.sliding_window;
    if window.is_none() && locals.contains(&true) {
        return Err(config.unsupported("layers that are local without a sliding_window"));
    }
    let window = window.unwrap_or(0);
    let sights = if fields.use_bidirectional_attention {
        // The window is what a token sees in both directions together.
        [Sight::Whole, Sight::Near(window / 2)]
    } else {
        [Sight::Causal, Sight::CausalNear(window)]
    };
    graph.find_prefix(ANCHOR)?;
    let mut tokens = Tokens::declare(graph);
    let bases =
        Bases { global: ("rope_theta", 1_000_000.0), local: ("rope_local_base_freq", 10_000.0) };
    let kinds = Kinds { bases, sights, heads, positions, locals: &locals };
    let kinds = kinds.wire(graph, config, &mut tokens)?;
    let words = graph.embedding("embed_tokens", &tokens.ids, fields.vocab_size, width)?;
    let root = (width as f32).sqrt();
    let mut x = graph.with_number("embed_tokens.scaled", "Mul", &words, root);
    let norm =
        |graph: &mut Graph, name: &str, x: &str| graph.rms_norm(name, x, width, epsilon, OFFSET);
    for (index, &is_local) in locals.iter().enumerate() {
        let Some(([of_queries, of_keys], hiding)) = &kinds[usize::from(is_local)] else {
            continue;
        };
        let name = format!("layers.{index}");
        let normed = norm(graph, &format!("{name}.input_layernorm"), &x)?;
        let own = format!("{name}.self_attn");
        let parts = [
            ("q_proj", heads.width()),
            ("k_proj", heads.shared_width()),
            ("v_proj", heads.shared_width()),
        ];
        let [query, key, value] = parts.map(|(part, size)| {
            graph.linear_if(&format!("{own}.{part}"), &normed, [width, size], bias)
        });
        let sizes = [heads.count, heads.dim];
        let query =
            graph.rms_norm_of_heads(&format!("{own}.q_norm"), &query?, sizes, epsilon, OFFSET)?;
        let sizes = [heads.shared, heads.dim];
        let key =
            graph.rms_norm_of_heads(&format!("{own}.k_norm"), &key?, sizes, epsilon, OFFSET)?;
        let query = of_queries.apply(graph, &format!("{own}.query"), &query);
        let key = of_keys.apply(graph, &format!("{own}.key"), &key);
        let context = graph.attention(&own, [&query, &key, &value?], heads, scale, hiding);
        let out = format!("{own}.o_proj");
        let attended = graph.linear_if(&out, &context, [heads.width(), width], bias)?;
        let attended = norm(graph, &format!("{name}.post_attention_layernorm"), &attended)?;
        x = graph.node(&format!("{own}.residual"), "Add", &[&x, &attended], &[]);
        let normed = norm(graph, &format!("{name}.pre_feedforward_layernorm"), &x)?;
        let down = gated_unit(graph, &format!("{name}.mlp"), &normed, &unit)?;
        let down = norm(graph, &format!("{name}.post_feedforward_layernorm"), &down)?;
        x = graph.node(&format!("{name}.residual"), "Add", &[&x, &down], &[]);
    }
    let hidden = norm(graph, "norm", &x)?;
    Ok(Encoded { hidden, tokens, width })
}
