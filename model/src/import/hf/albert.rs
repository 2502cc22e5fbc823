//! ALBERT: BERT whose layers share their weights in groups, and whose embeddings are narrower.
//! Source: Lan et al., "ALBERT: A Lite BERT for Self-supervised Learning of Language Representations", 3.1.

use super::{
    Encoded, Graph, HfError,
    config::Config,
    layers::Heads,
    masks::{Sight, Tokens},
};

const ANCHOR: &str = "embeddings.word_embeddings.weight";
/// Most layers: their weights are shared, so a small file may ask for any number of them.
const LAYERS_MAX: usize = 256;

#[derive(serde::Deserialize)]
struct Fields {
    hidden_size: usize,
    embedding_size: usize,
    num_hidden_layers: usize,
    num_hidden_groups: usize,
    inner_group_num: usize,
    num_attention_heads: usize,
    intermediate_size: usize,
    vocab_size: usize,
    max_position_embeddings: usize,
    type_vocab_size: usize,
    #[serde(default = "epsilon")]
    layer_norm_eps: f32,
    hidden_act: String,
}

/// The default of transformers.
fn epsilon() -> f32 {
    1e-12
}

pub(super) fn encoder(graph: &mut Graph, config: &Config) -> Result<Encoded, HfError> {
    let fields: Fields = config.typed()?;
    config.only("position_embedding_type", "absolute")?;
    let (width, inner, embedded) =
        (fields.hidden_size, fields.intermediate_size, fields.embedding_size);
    config.check_sizes(&[("hidden_size", width), ("embedding_size", embedded)])?;
    let (layers, groups, inside) =
        (fields.num_hidden_layers, fields.num_hidden_groups, fields.inner_group_num);
    let most = layers.max(groups).max(inside).max(layers.saturating_mul(inside));
    if most > LAYERS_MAX || groups == 0 {
        return Err(config.unsupported(format!(
            "{layers} layers in {groups} groups of {inside}, the limit is {LAYERS_MAX}"
        )));
    }
    let count = fields.num_attention_heads;
    let heads = Heads::of(count, config.head_dim(width, count)?);
    let activation = config.activation("hidden_act", &fields.hidden_act)?;
    let epsilon = fields.layer_norm_eps;
    graph.find_prefix(ANCHOR)?;
    let mut tokens = Tokens::declare(graph);
    let hiding = tokens.hiding(graph, "mask.additive", Sight::Whole);
    let words =
        graph.embedding("embeddings.word_embeddings", &tokens.ids, fields.vocab_size, embedded)?;
    let name = "embeddings.token_type_embeddings";
    let types = graph.weight(&format!("{name}.weight"), &[fields.type_vocab_size, embedded])?;
    let ends = [("embeddings.first", 0), ("embeddings.second", 1)];
    let [start, end] = ends.map(|(name, at)| graph.integers(name, &[at]));
    let first = graph.slice("embeddings.token_type", &types, [&start, &end], 0);
    let name = "embeddings.position_embeddings";
    let rows = fields.max_position_embeddings;
    let table = graph.weight(&format!("{name}.weight"), &[rows, embedded])?;
    let positions = tokens.first_rows(graph, name, &table);
    let typed = graph.node("embeddings.words_and_types", "Add", &[&words, &first], &[]);
    let sum = graph.node("embeddings.sum", "Add", &[&typed, &positions], &[]);
    let normed = graph.layer_norm("embeddings.LayerNorm", &sum, embedded, epsilon)?;
    let mut x = graph.linear("encoder.embedding_hidden_mapping_in", &normed, embedded, width)?;
    for layer in 0..layers {
        let group = layer * groups / layers;
        for part in 0..inside {
            let weights = format!("encoder.albert_layer_groups.{group}.albert_layers.{part}");
            // Names of values must differ where those of weights do not.
            graph.enter(&format!("layer.{layer}."));
            let own = format!("{weights}.attention");
            let [query, key, value] = ["query", "key", "value"]
                .map(|part| graph.linear(&format!("{own}.{part}"), &x, width, width));
            let qkv = [&query?[..], &key?, &value?];
            let context = graph.attention(&own, qkv, heads, heads.scale(), &hiding);
            let attended = graph.linear(&format!("{own}.dense"), &context, width, width)?;
            let sum = graph.node(&format!("{own}.residual"), "Add", &[&attended, &x], &[]);
            let attended = graph.layer_norm(&format!("{own}.LayerNorm"), &sum, width, epsilon)?;
            let up = graph.linear(&format!("{weights}.ffn"), &attended, width, inner)?;
            let active = graph.activation(&format!("{weights}.activation"), &up, activation);
            let down = graph.linear(&format!("{weights}.ffn_output"), &active, inner, width)?;
            let sum = graph.node(&format!("{weights}.residual"), "Add", &[&down, &attended], &[]);
            let norm = format!("{weights}.full_layer_layer_norm");
            x = graph.layer_norm(&norm, &sum, width, epsilon)?;
            graph.enter("");
        }
    }
    Ok(Encoded { hidden: x, tokens, width })
}
