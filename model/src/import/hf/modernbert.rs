//! ModernBERT: rotary positions, normalization before each half of a layer, gated units, and most layers see only neighbours.
//! Source: Warner et al., "Smarter, Better, Faster, Longer: A Modern Bidirectional Encoder", 2.1.

use super::{
    Encoded, Graph, HfError,
    config::Config,
    graph::Value,
    layers::Heads,
    masks::{Sight, Tokens},
    rotary::{Rope, Rotary, Turning},
};

const ANCHOR: &str = "embeddings.tok_embeddings.weight";
const GLOBAL: &str = "full_attention";
const LOCAL: &str = "sliding_attention";
/// Most layers with kinds of their own, which are written down before any weight is looked for.
const LAYERS_MAX: usize = 1024;

#[derive(serde::Deserialize)]
struct Fields {
    hidden_size: usize,
    num_hidden_layers: usize,
    num_attention_heads: usize,
    intermediate_size: usize,
    vocab_size: usize,
    #[serde(default = "epsilon")]
    norm_eps: f32,
    #[serde(default)]
    norm_bias: bool,
    #[serde(default)]
    attention_bias: bool,
    #[serde(default)]
    mlp_bias: bool,
    #[serde(default = "activation")]
    hidden_activation: String,
    #[serde(default = "window")]
    local_attention: usize,
    #[serde(default = "every")]
    global_attn_every_n_layers: usize,
    layer_types: Option<Vec<String>>,
}

// The defaults of transformers.

fn epsilon() -> f32 {
    1e-5
}

fn activation() -> String {
    "gelu".to_owned()
}

fn window() -> usize {
    128
}

fn every() -> usize {
    3
}

impl Fields {
    /// Whether each layer sees only neighbours.
    fn locals(&self, config: &Config) -> Result<Vec<bool>, HfError> {
        let layers = self.num_hidden_layers;
        if layers > LAYERS_MAX {
            return Err(config.unsupported(format!("{layers} layers, the limit is {LAYERS_MAX}")));
        }
        let Some(types) = &self.layer_types else {
            let every = self.global_attn_every_n_layers;
            if every == 0 {
                return Err(config.unsupported("global_attn_every_n_layers 0"));
            }
            return Ok((0..layers).map(|layer| !layer.is_multiple_of(every)).collect());
        };
        kinds(config, types, layers)
    }
}

/// Whether each layer sees only neighbours, by the names of its kind.
pub(super) fn kinds(
    config: &Config,
    types: &[String],
    layers: usize,
) -> Result<Vec<bool>, HfError> {
    if types.len() != layers {
        let got = types.len();
        return Err(config.unsupported(format!("{got} layer_types for {layers} layers")));
    }
    let kind = |name: &String| match name.as_str() {
        GLOBAL => Ok(false),
        LOCAL => Ok(true),
        other => Err(config.unsupported(format!("layer_types {other:?}"))),
    };
    types.iter().map(kind).collect()
}

/// The base of the angles of each kind of layer: its field in older files, and its default.
pub(super) struct Bases {
    pub(super) global: (&'static str, f64),
    pub(super) local: (&'static str, f64),
}

/// What is known of the layers of a model with two kinds of them.
pub(super) struct Kinds<'a> {
    pub(super) bases: Bases,
    /// What global layers and local ones see.
    pub(super) sights: [Sight; 2],
    pub(super) heads: Heads,
    pub(super) positions: usize,
    /// Whether each layer is local.
    pub(super) locals: &'a [bool],
}

/// The angles for queries and keys, and the mask, of a kind of layer.
pub(super) type Kind = ([Turning; 2], Value);

impl Kinds<'_> {
    /// Wires masks and angles for global layers and for local ones, if there are any.
    pub(super) fn wire(
        &self,
        graph: &mut Graph,
        config: &Config,
        tokens: &mut Tokens,
    ) -> Result<[Option<Kind>; 2], HfError> {
        let mut kind = |is_local: bool, name: &str, layers: &str, (field, base), sight| {
            if !self.locals.contains(&is_local) {
                return Ok(None);
            }
            let rope = Rope::read(config, Some(layers), field, base)?;
            let (name, dim) = (format!("rotary.{name}"), self.heads.dim);
            let rotary = Rotary::wire(graph, &name, rope, dim, self.positions, tokens)?;
            let turnings = rotary.turnings(graph, self.heads)?;
            let hiding = tokens.hiding(graph, &format!("{name}.mask"), sight);
            Ok::<_, HfError>(Some((turnings, hiding)))
        };
        let [global, local] = self.sights;
        let global = kind(false, "global", GLOBAL, self.bases.global, global)?;
        let local = kind(true, "local", LOCAL, self.bases.local, local)?;
        Ok([global, local])
    }
}

pub(super) fn encoder(
    graph: &mut Graph,
    config: &Config,
    positions: usize,
) -> Result<Encoded, HfError> {
    let fields: Fields = config.typed()?;
    let (width, inner) = (fields.hidden_size, fields.intermediate_size);
    config.check_sizes(&[("hidden_size", width), ("intermediate_size", inner)])?;
    let count = fields.num_attention_heads;
    let heads = Heads::of(count, config.head_dim(width, count)?);
    let activation = config.activation("hidden_activation", &fields.hidden_activation)?;
    let locals = fields.locals(config)?;
    graph.find_prefix(ANCHOR)?;
    let mut tokens = Tokens::declare(graph);
    let bases =
        Bases { global: ("global_rope_theta", 160_000.0), local: ("local_rope_theta", 10_000.0) };
    let sights = [Sight::Whole, Sight::Near(fields.local_attention / 2)];
    let kinds = Kinds { bases, sights, heads, positions, locals: &locals };
    let kinds = kinds.wire(graph, config, &mut tokens)?;
    let norm = |graph: &mut Graph, name: &str, x: &str| {
        graph.layer_norm_if(name, x, width, fields.norm_eps, fields.norm_bias)
    };
    let words =
        graph.embedding("embeddings.tok_embeddings", &tokens.ids, fields.vocab_size, width)?;
    let mut x = norm(graph, "embeddings.norm", &words)?;
    for (index, &is_local) in locals.iter().enumerate() {
        let Some(([of_queries, of_keys], hiding)) = &kinds[usize::from(is_local)] else {
            continue;
        };
        let name = format!("layers.{index}");
        let normed =
            if index == 0 { x.clone() } else { norm(graph, &format!("{name}.attn_norm"), &x)? };
        let own = format!("{name}.attn");
        let parts = [("query", width), ("key", width), ("value", width)];
        let sizes = [width, 3 * width];
        let bias = fields.attention_bias;
        let qkv = graph.linear_parts(&format!("{own}.Wqkv"), &normed, sizes, bias, &parts)?;
        let query = of_queries.apply(graph, &format!("{own}.query"), &qkv[0]);
        let key = of_keys.apply(graph, &format!("{own}.key"), &qkv[1]);
        let context = graph.attention(&own, [&query, &key, &qkv[2]], heads, heads.scale(), hiding);
        let attended = graph.linear_if(&format!("{own}.Wo"), &context, [width, width], bias)?;
        x = graph.node(&format!("{own}.residual"), "Add", &[&x, &attended], &[]);
        let normed = norm(graph, &format!("{name}.mlp_norm"), &x)?;
        let own = format!("{name}.mlp");
        let (sizes, bias) = ([width, 2 * inner], fields.mlp_bias);
        let parts = [("input", inner), ("gate", inner)];
        let both = graph.linear_parts(&format!("{own}.Wi"), &normed, sizes, bias, &parts)?;
        let active = graph.activation(&format!("{own}.activation"), &both[0], activation);
        let gated = graph.node(&format!("{own}.gated"), "Mul", &[&active, &both[1]], &[]);
        let down = graph.linear_if(&format!("{own}.Wo"), &gated, [inner, width], bias)?;
        x = graph.node(&format!("{name}.residual"), "Add", &[&x, &down], &[]);
    }
    let hidden = norm(graph, "final_norm", &x)?;
    Ok(Encoded { hidden, tokens, width })
}
