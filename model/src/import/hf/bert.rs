//! BERT and what differs little from it: RoBERTa, XLM-RoBERTa, CamemBERT, ELECTRA.
//! Sources: Devlin et al., "BERT: Pre-training of Deep Bidirectional Transformers for Language Understanding"; Vaswani et al.,
//! "Attention Is All You Need", figure 1, left; Liu et al., "RoBERTa"; Clark et al., "ELECTRA".

use super::{
    Encoded, Graph, HfError,
    config::{Activation, Config},
    graph::Wired,
    layers::Heads,
    masks::{Sight, Tokens},
};

/// A name that every model has.
const ANCHOR: &str = "embeddings.word_embeddings.weight";

#[derive(serde::Deserialize)]
struct Fields {
    hidden_size: usize,
    num_hidden_layers: usize,
    num_attention_heads: usize,
    intermediate_size: usize,
    vocab_size: usize,
    max_position_embeddings: usize,
    type_vocab_size: usize,
    #[serde(default = "epsilon")]
    layer_norm_eps: f32,
    hidden_act: String,
    pad_token_id: Option<i64>,
    /// Only in ELECTRA.
    embedding_size: Option<usize>,
}

/// The default of transformers.
pub(super) fn epsilon() -> f32 {
    1e-12
}

/// How positions are counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Positions {
    /// From 0 on.
    FromZero,
    /// From after the padding token's number on, without padding: RoBERTa.
    AfterPadding,
}

/// The sizes of the layers, which MPNet has, too.
pub(super) struct Sizes {
    pub(super) width: usize,
    pub(super) inner: usize,
    pub(super) epsilon: f32,
    pub(super) activation: Activation,
}

/// Wires the encoder.
pub(super) fn encoder(
    graph: &mut Graph,
    config: &Config,
    positions: Positions,
) -> Result<Encoded, HfError> {
    let fields: Fields = config.typed()?;
    config.only("position_embedding_type", "absolute")?;
    config.only("is_decoder", false)?;
    config.only("add_cross_attention", false)?;
    let width = fields.hidden_size;
    let embedded = fields.embedding_size.unwrap_or(width);
    config.check_sizes(&[("hidden_size", width), ("embedding_size", embedded)])?;
    let heads =
        Heads::of(fields.num_attention_heads, config.head_dim(width, fields.num_attention_heads)?);
    let sizes = Sizes {
        width,
        inner: fields.intermediate_size,
        epsilon: fields.layer_norm_eps,
        activation: config.activation("hidden_act", &fields.hidden_act)?,
    };
    if !fields
        .pad_token_id
        .is_none_or(|id| (0..fields.max_position_embeddings as i64).contains(&id))
    {
        return Err(config.unsupported(format!("pad_token_id {:?}", fields.pad_token_id)));
    }
    graph.find_prefix(ANCHOR)?;
    let mut tokens = Tokens::declare(graph);
    let hiding = tokens.hiding(graph, "mask.additive", Sight::Whole);
    let mut x = embeddings(graph, &fields, embedded, positions, &tokens)?;
    if embedded != width {
        x = graph.linear("embeddings_project", &x, embedded, width)?;
    }
    for index in 0..fields.num_hidden_layers {
        let name = format!("encoder.layer.{index}");
        let own = format!("{name}.attention.self");
        let [query, key, value] = ["query", "key", "value"]
            .map(|part| graph.linear(&format!("{own}.{part}"), &x, width, width));
        let qkv = [&query?[..], &key?, &value?];
        let context = graph.attention(&own, qkv, heads, heads.scale(), &hiding);
        let dense = format!("{name}.attention.output.dense");
        let attended = graph.linear(&dense, &context, width, width)?;
        let sum = graph.node(&format!("{name}.attention.residual"), "Add", &[&attended, &x], &[]);
        let norm = format!("{name}.attention.output.LayerNorm");
        let attended = graph.layer_norm(&norm, &sum, width, sizes.epsilon)?;
        x = feed_forward(graph, &name, &attended, &sizes)?;
    }
    Ok(Encoded { hidden: x, tokens, width })
}

/// Words, positions and the one token type of plain text.
fn embeddings(
    graph: &mut Graph,
    fields: &Fields,
    width: usize,
    positions: Positions,
    tokens: &Tokens,
) -> Wired {
    let Fields { vocab_size, max_position_embeddings, type_vocab_size, .. } = *fields;
    let words = graph.embedding("embeddings.word_embeddings", &tokens.ids, vocab_size, width)?;
    let types =
        graph.weight("embeddings.token_type_embeddings.weight", &[type_vocab_size, width])?;
    let ends = [("embeddings.first", 0), ("embeddings.second", 1)];
    let [start, end] = ends.map(|(name, at)| graph.integers(name, &[at]));
    let first = graph.slice("embeddings.token_type", &types, [&start, &end], 0);
    let name = "embeddings.position_embeddings";
    let table = graph.weight(&format!("{name}.weight"), &[max_position_embeddings, width])?;
    let positions = match positions {
        Positions::FromZero => tokens.first_rows(graph, name, &table),
        Positions::AfterPadding => {
            let places = tokens.counted_positions(graph, fields.pad_token_id.unwrap_or(1));
            graph.node(name, "Gather", &[&table, &places], &[])
        }
    };
    let typed = graph.node("embeddings.words_and_types", "Add", &[&words, &first], &[]);
    let sum = graph.node("embeddings.sum", "Add", &[&typed, &positions], &[]);
    graph.layer_norm("embeddings.LayerNorm", &sum, width, fields.layer_norm_eps)
}

/// The second half of a layer, normalized after the sum.
pub(super) fn feed_forward(graph: &mut Graph, name: &str, x: &str, sizes: &Sizes) -> Wired {
    let Sizes { width, inner, epsilon, activation } = *sizes;
    let up = graph.linear(&format!("{name}.intermediate.dense"), x, width, inner)?;
    let active = graph.activation(&format!("{name}.intermediate.activation"), &up, activation);
    let down = graph.linear(&format!("{name}.output.dense"), &active, inner, width)?;
    let sum = graph.node(&format!("{name}.residual"), "Add", &[&down, x], &[]);
    graph.layer_norm(&format!("{name}.output.LayerNorm"), &sum, width, epsilon)
}
