//! DistilBERT: BERT without token types, under other names.
//! Source: Sanh et al., "DistilBERT, a distilled version of BERT: smaller, faster, cheaper and lighter".

use super::{
    Encoded, Graph, HfError,
    config::Config,
    layers::Heads,
    masks::{Sight, Tokens},
};

const ANCHOR: &str = "embeddings.word_embeddings.weight";
/// It is not in the configuration.
const EPSILON: f32 = 1e-12;

#[derive(serde::Deserialize)]
struct Fields {
    dim: usize,
    n_layers: usize,
    n_heads: usize,
    hidden_dim: usize,
    vocab_size: usize,
    max_position_embeddings: usize,
    activation: String,
}

pub(super) fn encoder(graph: &mut Graph, config: &Config) -> Result<Encoded, HfError> {
    let fields: Fields = config.typed()?;
    let (width, inner) = (fields.dim, fields.hidden_dim);
    config.check_sizes(&[("dim", width)])?;
    let heads = Heads::of(fields.n_heads, config.head_dim(width, fields.n_heads)?);
    let activation = config.activation("activation", &fields.activation)?;
    graph.find_prefix(ANCHOR)?;
    let mut tokens = Tokens::declare(graph);
    let hiding = tokens.hiding(graph, "mask.additive", Sight::Whole);
    let words =
        graph.embedding("embeddings.word_embeddings", &tokens.ids, fields.vocab_size, width)?;
    let name = "embeddings.position_embeddings";
    let table =
        graph.weight(&format!("{name}.weight"), &[fields.max_position_embeddings, width])?;
    let positions = tokens.first_rows(graph, name, &table);
    let sum = graph.node("embeddings.sum", "Add", &[&words, &positions], &[]);
    let mut x = graph.layer_norm("embeddings.LayerNorm", &sum, width, EPSILON)?;
    for index in 0..fields.n_layers {
        let name = format!("transformer.layer.{index}");
        let own = format!("{name}.attention");
        let [query, key, value] = ["q_lin", "k_lin", "v_lin"]
            .map(|part| graph.linear(&format!("{own}.{part}"), &x, width, width));
        let qkv = [&query?[..], &key?, &value?];
        let context = graph.attention(&own, qkv, heads, heads.scale(), &hiding);
        let attended = graph.linear(&format!("{own}.out_lin"), &context, width, width)?;
        let sum = graph.node(&format!("{own}.residual"), "Add", &[&attended, &x], &[]);
        let attended = graph.layer_norm(&format!("{name}.sa_layer_norm"), &sum, width, EPSILON)?;
        let up = graph.linear(&format!("{name}.ffn.lin1"), &attended, width, inner)?;
        let active = graph.activation(&format!("{name}.ffn.activation"), &up, activation);
        let down = graph.linear(&format!("{name}.ffn.lin2"), &active, inner, width)?;
        let sum = graph.node(&format!("{name}.residual"), "Add", &[&down, &attended], &[]);
        x = graph.layer_norm(&format!("{name}.output_layer_norm"), &sum, width, EPSILON)?;
    }
    Ok(Encoded { hidden: x, tokens, width })
}
