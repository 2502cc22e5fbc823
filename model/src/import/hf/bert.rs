//! BERT. Source: Devlin et al., "BERT: Pre-training of Deep Bidirectional Transformers for Language Understanding";
//! Vaswani et al., "Attention Is All You Need", figure 1, left.

use tract_onnx::{
    prelude::{OutletId, tvec},
    tract_hir::internal::tract_core::ops::{
        array::Slice,
        element_wise::ElementWiseOp,
        math,
        nn::{Softmax, SoftmaxKind, gelu_approximate::gelu_approximate, gelu_exact::gelu_exact},
    },
};

use super::{CONFIG, Graph, HfError};

/// What of `config.json` the architecture depends on.
#[derive(serde::Deserialize)]
pub(super) struct Config {
    pub(super) hidden_size: usize,
    num_hidden_layers: usize,
    num_attention_heads: usize,
    intermediate_size: usize,
    vocab_size: usize,
    max_position_embeddings: usize,
    type_vocab_size: usize,
    layer_norm_eps: f32,
    hidden_act: String,
    position_embedding_type: Option<String>,
}

impl Config {
    pub(super) fn check(&self) -> Result<(), HfError> {
        let fail = |what: String| Err(HfError::Unsupported { file: CONFIG.to_owned(), what });
        let Config { hidden_size, num_attention_heads, .. } = self;
        if self.position_embedding_type.as_deref().is_some_and(|kind| kind != "absolute") {
            return fail(format!("position_embedding_type {:?}", self.position_embedding_type));
        }
        if *num_attention_heads == 0 || *hidden_size == 0 || hidden_size % num_attention_heads != 0
        {
            return fail(format!("{num_attention_heads} heads of a hidden size of {hidden_size}"));
        }
        self.activation().map(|_| ())
    }

    fn activation(&self) -> Result<ElementWiseOp, HfError> {
        Ok(match self.hidden_act.as_str() {
            "gelu" => gelu_exact(),
            "gelu_new" | "gelu_pytorch_tanh" => gelu_approximate(false),
            other => {
                return Err(HfError::Unsupported {
                    file: CONFIG.to_owned(),
                    what: format!("hidden_act {other:?}"),
                });
            }
        })
    }
}

/// Wires the encoder; gives the last hidden state `[B, S, hidden]` and the attention mask `[B, S]` as F32.
pub(super) fn encoder(
    graph: &mut Graph<'_>,
    config: &Config,
) -> Result<(OutletId, OutletId), HfError> {
    let ids = graph.tokens("input_ids")?;
    let mask = graph.tokens("attention_mask")?;
    let mask = graph.cast_float("mask", mask)?;
    let additive = additive_mask(graph, mask)?;
    let mut x = embeddings(graph, config, ids)?;
    for index in 0..config.num_hidden_layers {
        x = layer(graph, config, &format!("encoder.layer.{index}"), x, additive)?;
    }
    Ok((x, mask))
}

/// 0 where a token counts and the lowest number where it does not, as `[B, 1, 1, S]`.
fn additive_mask(graph: &mut Graph<'_>, mask: OutletId) -> Result<OutletId, HfError> {
    let minus = graph.binary_const("mask.minus_one", math::sub(), mask, 1.0)?;
    let additive = graph.binary_const("mask.additive", math::mul(), minus, f32::MAX)?;
    let additive = graph.add_axis("mask.heads", 1, additive)?;
    graph.add_axis("mask.queries", 1, additive)
}

/// Words, positions and the one token type of plain text.
fn embeddings(graph: &mut Graph<'_>, config: &Config, ids: OutletId) -> Result<OutletId, HfError> {
    let Config { hidden_size: width, vocab_size, max_position_embeddings, type_vocab_size, .. } =
        *config;
    let words = graph.embedding("embeddings.word_embeddings", ids, vocab_size, width)?;
    let types =
        graph.weight("embeddings.token_type_embeddings.weight", &[type_vocab_size, width])?;
    let first = graph.wire("embeddings.token_type", Slice::new(0, 0, 1), &[types])?;
    let table =
        graph.weight("embeddings.position_embeddings.weight", &[max_position_embeddings, width])?;
    let seq = graph.seq().clone();
    let positions = graph.wire("embeddings.positions", Slice::new(0, 0, seq), &[table])?;
    let typed = graph.add("embeddings.words_and_types", words, first)?;
    let sum = graph.add("embeddings.sum", typed, positions)?;
    graph.layer_norm("embeddings.LayerNorm", sum, width, config.layer_norm_eps)
}

fn layer(
    graph: &mut Graph<'_>,
    config: &Config,
    name: &str,
    x: OutletId,
    mask: OutletId,
) -> Result<OutletId, HfError> {
    let (width, inner, epsilon) =
        (config.hidden_size, config.intermediate_size, config.layer_norm_eps);
    let context = attention(graph, config, &format!("{name}.attention.self"), x, mask)?;
    let attended =
        graph.linear(&format!("{name}.attention.output.dense"), context, width, width)?;
    let sum = graph.add(&format!("{name}.attention.residual"), attended, x)?;
    let x = graph.layer_norm(&format!("{name}.attention.output.LayerNorm"), sum, width, epsilon)?;
    let up = graph.linear(&format!("{name}.intermediate.dense"), x, width, inner)?;
    let active =
        graph.wire(&format!("{name}.intermediate.activation"), config.activation()?, &[up])?;
    let down = graph.linear(&format!("{name}.output.dense"), active, inner, width)?;
    let sum = graph.add(&format!("{name}.residual"), down, x)?;
    graph.layer_norm(&format!("{name}.output.LayerNorm"), sum, width, epsilon)
}

/// `softmax(q k^T / sqrt(head_dim) + mask) v` per head; letters: b batch, q and k positions, h head, d within a head.
fn attention(
    graph: &mut Graph<'_>,
    config: &Config,
    name: &str,
    x: OutletId,
    mask: OutletId,
) -> Result<OutletId, HfError> {
    let (width, heads) = (config.hidden_size, config.num_attention_heads);
    let head_dim = width / heads;
    let mut project = |part: &str| {
        let projected = graph.linear(&format!("{name}.{part}"), x, width, width)?;
        graph.reshape(&format!("{name}.{part}.heads"), 2, &[width], &[heads, head_dim], projected)
    };
    let (query, key, value) = (project("query")?, project("key")?, project("value")?);
    let scores = graph.einsum(&format!("{name}.scores"), "bqhd,bkhd->bhqk", query, key)?;
    let scale = (head_dim as f32).sqrt().recip();
    let scaled = graph.binary_const(&format!("{name}.scaled"), math::mul(), scores, scale)?;
    let masked = graph.add(&format!("{name}.masked"), scaled, mask)?;
    let softmax = Softmax::new(tvec!(3), None, SoftmaxKind::Softmax);
    let weights = graph.wire(&format!("{name}.weights"), softmax, &[masked])?;
    let context = graph.einsum(&format!("{name}.context"), "bhqk,bkhd->bqhd", weights, value)?;
    graph.reshape(&format!("{name}.joined"), 2, &[heads, head_dim], &[width], context)
}
