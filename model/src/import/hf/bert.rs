//! BERT. Source: Devlin et al., "BERT: Pre-training of Deep Bidirectional Transformers for Language Understanding";
//! Vaswani et al., "Attention Is All You Need", figure 1, left.

use super::{
    CONFIG, Graph, HfError,
    graph::{Attribute, Value},
};

/// The fields of `config.json` that determine the architecture.
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

    /// How GELU is computed, as the operator names it.
    fn activation(&self) -> Result<&'static str, HfError> {
        match self.hidden_act.as_str() {
            "gelu" => Ok("none"),
            "gelu_new" | "gelu_pytorch_tanh" => Ok("tanh"),
            other => Err(HfError::Unsupported {
                file: CONFIG.to_owned(),
                what: format!("hidden_act {other:?}"),
            }),
        }
    }
}

/// Wires the encoder; returns the last hidden state `[B, S, hidden]` and the attention mask `[B, S]` as F32.
pub(super) fn encoder(graph: &mut Graph<'_>, config: &Config) -> Result<(Value, Value), HfError> {
    let ids = graph.tokens("input_ids");
    let mask = graph.tokens("attention_mask");
    let mask = graph.node("mask", "Cast", &[&mask], &[Attribute::Int("to", 1)]);
    let additive = additive_mask(graph, &mask);
    let mut x = embeddings(graph, config, &ids)?;
    for index in 0..config.num_hidden_layers {
        x = layer(graph, config, &format!("encoder.layer.{index}"), &x, &additive)?;
    }
    Ok((x, mask))
}

/// 0 for a token that counts and the lowest number for one that does not, as `[B, 1, 1, S]`.
fn additive_mask(graph: &mut Graph<'_>, mask: &str) -> Value {
    let minus = graph.with_number("mask.minus_one", "Sub", mask, 1.0);
    let additive = graph.with_number("mask.additive", "Mul", &minus, f32::MAX);
    graph.unsqueeze("mask.heads", &additive, &[1, 2])
}

/// Words, positions and the one token type of plain text.
fn embeddings(graph: &mut Graph<'_>, config: &Config, ids: &str) -> Result<Value, HfError> {
    let Config { hidden_size: width, vocab_size, max_position_embeddings, type_vocab_size, .. } =
        *config;
    let words = graph.embedding("embeddings.word_embeddings", ids, vocab_size, width)?;
    let types =
        graph.weight("embeddings.token_type_embeddings.weight", &[type_vocab_size, width])?;
    let start = graph.integers("embeddings.start", &[0]);
    let end = graph.integers("embeddings.end", &[1]);
    let first = graph.slice("embeddings.token_type", &types, [&start, &end], 0);
    let table =
        graph.weight("embeddings.position_embeddings.weight", &[max_position_embeddings, width])?;
    let length = [Attribute::Int("start", 1), Attribute::Int("end", 2)];
    let length = graph.node("embeddings.length", "Shape", &[ids], &length);
    let positions = graph.slice("embeddings.positions", &table, [&start, &length], 0);
    let typed = graph.node("embeddings.words_and_types", "Add", &[&words, &first], &[]);
    let sum = graph.node("embeddings.sum", "Add", &[&typed, &positions], &[]);
    graph.layer_norm("embeddings.LayerNorm", &sum, width, config.layer_norm_eps)
}

fn layer(
    graph: &mut Graph<'_>,
    config: &Config,
    name: &str,
    x: &str,
    mask: &str,
) -> Result<Value, HfError> {
    let (width, inner, epsilon) =
        (config.hidden_size, config.intermediate_size, config.layer_norm_eps);
    let context = attention(graph, config, &format!("{name}.attention.self"), x, mask)?;
    let attended =
        graph.linear(&format!("{name}.attention.output.dense"), &context, width, width)?;
    let sum = graph.node(&format!("{name}.attention.residual"), "Add", &[&attended, x], &[]);
    let x =
        graph.layer_norm(&format!("{name}.attention.output.LayerNorm"), &sum, width, epsilon)?;
    let up = graph.linear(&format!("{name}.intermediate.dense"), &x, width, inner)?;
    let gelu = [Attribute::Text("approximate", config.activation()?)];
    let active = graph.node(&format!("{name}.intermediate.activation"), "Gelu", &[&up], &gelu);
    let down = graph.linear(&format!("{name}.output.dense"), &active, inner, width)?;
    let sum = graph.node(&format!("{name}.residual"), "Add", &[&down, &x], &[]);
    graph.layer_norm(&format!("{name}.output.LayerNorm"), &sum, width, epsilon)
}

/// `softmax(q k^T / sqrt(head_dim) + mask) v` per head.
fn attention(
    graph: &mut Graph<'_>,
    config: &Config,
    name: &str,
    x: &str,
    mask: &str,
) -> Result<Value, HfError> {
    let (width, heads) = (config.hidden_size, config.num_attention_heads);
    let head_dim = width / heads;
    let mut project = |part: &str, order: &[i64]| {
        let projected = graph.linear(&format!("{name}.{part}"), x, width, width)?;
        let split = [0, 0, heads as i64, head_dim as i64];
        let split = graph.reshape(&format!("{name}.{part}.heads"), &projected, &split);
        let order = [Attribute::Ints("perm", order)];
        Ok::<Value, HfError>(graph.node(
            &format!("{name}.{part}.turned"),
            "Transpose",
            &[&split],
            &order,
        ))
    };
    let query = project("query", &[0, 2, 1, 3])?;
    let key = project("key", &[0, 2, 3, 1])?;
    let value = project("value", &[0, 2, 1, 3])?;
    let scores = graph.node(&format!("{name}.scores"), "MatMul", &[&query, &key], &[]);
    let scale = (head_dim as f32).sqrt().recip();
    let scaled = graph.with_number(&format!("{name}.scaled"), "Mul", &scores, scale);
    let masked = graph.node(&format!("{name}.masked"), "Add", &[&scaled, mask], &[]);
    let axis = [Attribute::Int("axis", -1)];
    let weights = graph.node(&format!("{name}.weights"), "Softmax", &[&masked], &axis);
    let context = graph.node(&format!("{name}.context"), "MatMul", &[&weights, &value], &[]);
    let back = [Attribute::Ints("perm", &[0, 2, 1, 3])];
    let context = graph.node(&format!("{name}.rows"), "Transpose", &[&context], &back);
    Ok(graph.reshape(&format!("{name}.joined"), &context, &[0, 0, width as i64]))
}
