//! MPNet: BERT without token types, with positions as in RoBERTa and numbers for the distance of two tokens that are added to
//! the scores of all layers.
//! Source: Song et al., "MPNet: Masked and Permuted Pre-training for Language Understanding"; the distances are divided into
//! buckets as in Raffel et al., "Exploring the Limits of Transfer Learning with a Unified Text-to-Text Transformer", 2.1.

use super::{
    Encoded, Graph, HfError,
    bert::{Sizes, feed_forward},
    config::Config,
    graph::{Attribute, Value},
    layers::Heads,
    masks::{Sight, Tokens},
};

const ANCHOR: &str = "embeddings.word_embeddings.weight";
/// The padding token's number, which transformers does not take from the configuration.
const PADDING: i64 = 1;
/// What transformers goes by, whatever the configuration says.
const BUCKETS: usize = 32;
/// From this distance on all tokens are in the last bucket.
const DISTANCE_MAX: usize = 128;

#[derive(serde::Deserialize)]
struct Fields {
    hidden_size: usize,
    num_hidden_layers: usize,
    num_attention_heads: usize,
    intermediate_size: usize,
    vocab_size: usize,
    max_position_embeddings: usize,
    #[serde(default = "super::bert::epsilon")]
    layer_norm_eps: f32,
    hidden_act: String,
}

pub(super) fn encoder(graph: &mut Graph, config: &Config) -> Result<Encoded, HfError> {
    let fields: Fields = config.typed()?;
    config.only("relative_attention_num_buckets", BUCKETS)?;
    let width = fields.hidden_size;
    config.check_sizes(&[("hidden_size", width)])?;
    let count = fields.num_attention_heads;
    let heads = Heads::of(count, config.head_dim(width, count)?);
    let sizes = Sizes {
        width,
        inner: fields.intermediate_size,
        epsilon: fields.layer_norm_eps,
        activation: config.activation("hidden_act", &fields.hidden_act)?,
    };
    graph.find_prefix(ANCHOR)?;
    let mut tokens = Tokens::declare(graph);
    let words =
        graph.embedding("embeddings.word_embeddings", &tokens.ids, fields.vocab_size, width)?;
    let places = tokens.counted_positions(graph, PADDING);
    let rows = fields.max_position_embeddings;
    let positions = graph.embedding("embeddings.position_embeddings", &places, rows, width)?;
    let sum = graph.node("embeddings.sum", "Add", &[&words, &positions], &[]);
    let mut x = graph.layer_norm("embeddings.LayerNorm", &sum, width, sizes.epsilon)?;

    let hiding = tokens.hiding(graph, "mask.additive", Sight::Whole);
    let bias = distance_bias(graph, &mut tokens, rows, count)?;
    let mask = graph.node("mask.with_distances", "Add", &[&bias, &hiding], &[]);
    for index in 0..fields.num_hidden_layers {
        let name = format!("encoder.layer.{index}");
        let own = format!("{name}.attention.attn");
        let [query, key, value] =
            ["q", "k", "v"].map(|part| graph.linear(&format!("{own}.{part}"), &x, width, width));
        let qkv = [&query?[..], &key?, &value?];
        let context = graph.attention(&own, qkv, heads, heads.scale(), &mask);
        let attended = graph.linear(&format!("{own}.o"), &context, width, width)?;
        let sum = graph.node(&format!("{name}.attention.residual"), "Add", &[&attended, &x], &[]);
        let norm = format!("{name}.attention.LayerNorm");
        let attended = graph.layer_norm(&norm, &sum, width, sizes.epsilon)?;
        x = feed_forward(graph, &name, &attended, &sizes)?;
    }
    Ok(Encoded { hidden: x, tokens, width })
}

/// A number for each head and each pair of tokens, `[1, heads, S, S]`.
fn distance_bias(
    graph: &mut Graph,
    tokens: &mut Tokens,
    positions: usize,
    heads: usize,
) -> Result<Value, HfError> {
    let name = "encoder.relative_attention_bias";
    let table = graph.weight(&format!("{name}.weight"), &[BUCKETS, heads])?;
    // Further away all are in one bucket, so the table of distances needs no more rows.
    let most = positions.clamp(1, DISTANCE_MAX + 1) as i64;
    let buckets: Vec<i64> = (-most..=most).map(bucket).collect();
    let buckets = graph.integers(&format!("{name}.buckets"), &buckets);
    let table = graph.node(&format!("{name}.distances"), "Gather", &[&table, &buckets], &[]);
    let rows = tokens.distances(graph, most);
    let [least, largest] = [("least", 0), ("largest", 2 * most)]
        .map(|(end, number)| graph.integer(&format!("{name}.{end}"), number));
    let rows = graph.node(&format!("{name}.from"), "Max", &[&rows, &least], &[]);
    let rows = graph.node(&format!("{name}.rows"), "Min", &[&rows, &largest], &[]);
    let bias = graph.node(&format!("{name}.pairs"), "Gather", &[&table, &rows], &[]);
    let order = [Attribute::Ints("perm", &[2, 0, 1])];
    let bias = graph.node(&format!("{name}.heads"), "Transpose", &[&bias], &order);
    Ok(graph.unsqueeze(name, &bias, &[0]))
}

/// The bucket of a key so far behind a query: half of the buckets are for keys before it, half for keys behind it. Of each
/// half, half are for one distance, and the others for ranges that grow with the distance.
fn bucket(distance: i64) -> i64 {
    let half = BUCKETS / 2;
    let exact = half / 2;
    let side = if distance > 0 { half } else { 0 };
    let distance = distance.unsigned_abs() as usize;
    if distance < exact {
        return (side + distance) as i64;
    }
    // In F32, as PyTorch computes it: at the ends of a range the precision decides.
    let ratio = (distance as f32 / exact as f32).ln();
    let ratio = ratio / (DISTANCE_MAX as f64 / exact as f64).ln() as f32;
    let further = (ratio * (half - exact) as f32) as usize;
    (side + (exact + further).min(half - 1)) as i64
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Numbers of `MPNetEncoder.relative_position_bucket` of transformers 5.24.
    #[test]
    fn buckets_are_those_of_pytorch() {
        let distances =
            [-200, -128, -64, -40, -32, -16, -9, -8, -7, -1, 0, 1, 7, 8, 20, 45, 91, 200];
        let want = [15, 15, 14, 12, 12, 10, 8, 8, 7, 1, 0, 17, 23, 24, 26, 28, 31, 31];
        assert_eq!(distances.map(bucket), want);
    }
}
