//! A BERT that a seed makes: small enough to be loaded at once, real enough that every operator of the family runs.

use std::path::{Path, PathBuf};

use safetensors::tensor::{Dtype, SafeTensorError, TensorView};
use serde_json::json;

use rand::{RngExt as _, SeedableRng as _, rngs::Xoshiro256PlusPlus};

/// Token ids are below this.
pub const VOCABULARY: u32 = 128;
/// Most tokens of a row.
pub const TOKENS_MAX: usize = 64;

const WIDTH: usize = 32;
const INNER: usize = 64;
const HEADS: usize = 4;
const LAYERS: usize = 2;
const TYPES: usize = 2;

/// Why the model cannot be written.
#[derive(Debug, thiserror::Error)]
#[expect(missing_docs, reason = "fields are what the messages say")]
pub enum WriteError {
    #[error("{path} cannot be written: {source}")]
    Io { path: PathBuf, source: std::io::Error },
    #[error("the weights cannot be written: {0}")]
    Weights(#[from] SafeTensorError),
}

/// Writes a sentence-embedding model without tokenizer into `folder`: `[1, 32]` per row of token ids, mean pooling.
///
/// # Errors
/// The folder cannot be written.
pub fn write(folder: &Path, seed: u64) -> Result<(), WriteError> {
    let config = json!({
        "architectures": ["BertModel"],
        "model_type": "bert",
        "hidden_act": "gelu",
        "hidden_size": WIDTH,
        "intermediate_size": INNER,
        "layer_norm_eps": 1e-12,
        "max_position_embeddings": TOKENS_MAX,
        "num_attention_heads": HEADS,
        "num_hidden_layers": LAYERS,
        "pad_token_id": 0,
        "type_vocab_size": TYPES,
        "vocab_size": VOCABULARY,
    });
    let modules = json!([
        { "idx": 0, "name": "0", "path": "", "type": "sentence_transformers.models.Transformer" },
        { "idx": 1, "name": "1", "path": "1_Pooling", "type": "sentence_transformers.models.Pooling" },
    ]);
    let pooling = json!({
        "word_embedding_dimension": WIDTH,
        "pooling_mode_cls_token": false,
        "pooling_mode_mean_tokens": true,
        "pooling_mode_max_tokens": false,
        "pooling_mode_mean_sqrt_len_tokens": false,
    });
    let weights = weights(seed);
    let views = weights
        .iter()
        .map(|(name, shape, bytes)| {
            Ok((name.as_str(), TensorView::new(Dtype::F32, shape.clone(), bytes)?))
        })
        .collect::<Result<Vec<_>, SafeTensorError>>()?;
    let write = |path: PathBuf, bytes: &[u8]| {
        std::fs::write(&path, bytes).map_err(|source| WriteError::Io { path, source })
    };
    let pooling_folder = folder.join("1_Pooling");
    std::fs::create_dir_all(&pooling_folder)
        .map_err(|source| WriteError::Io { path: pooling_folder.clone(), source })?;
    write(folder.join("config.json"), config.to_string().as_bytes())?;
    write(folder.join("modules.json"), modules.to_string().as_bytes())?;
    write(pooling_folder.join("config.json"), pooling.to_string().as_bytes())?;
    write(folder.join("model.safetensors"), &safetensors::serialize(views, None)?)
}

type Weight = (String, Vec<usize>, Vec<u8>);

fn weights(seed: u64) -> Vec<Weight> {
    let mut random = Xoshiro256PlusPlus::seed_from_u64(seed);
    let mut weights = Vec::new();
    let mut add = |name: String, shape: &[usize], centre: f32, spread: f32| {
        let count: usize = shape.iter().product();
        let bytes = (0..count)
            .flat_map(|_| (centre + spread * random.random_range(-1.0..1.0_f32)).to_le_bytes())
            .collect();
        weights.push((name, shape.to_vec(), bytes));
    };
    let tables = [("word", VOCABULARY as usize), ("position", TOKENS_MAX), ("token_type", TYPES)];
    for (table, rows) in tables {
        add(format!("embeddings.{table}_embeddings.weight"), &[rows, WIDTH], 0.0, 1.0);
    }
    let mut norms = vec!["embeddings.LayerNorm".to_owned()];
    let mut linears = Vec::new();
    for layer in 0..LAYERS {
        let layer = format!("encoder.layer.{layer}");
        for part in ["query", "key", "value"] {
            linears.push((format!("{layer}.attention.self.{part}"), WIDTH, WIDTH));
        }
        linears.push((format!("{layer}.attention.output.dense"), WIDTH, WIDTH));
        linears.push((format!("{layer}.intermediate.dense"), WIDTH, INNER));
        linears.push((format!("{layer}.output.dense"), INNER, WIDTH));
        norms.push(format!("{layer}.attention.output.LayerNorm"));
        norms.push(format!("{layer}.output.LayerNorm"));
    }
    for (name, from, to) in linears {
        // Keeps the variance of what passes through: Glorot and Bengio, 2010, section 4.2.1.
        let spread = (6.0 / (from + to) as f32).sqrt();
        add(format!("{name}.weight"), &[to, from], 0.0, spread);
        add(format!("{name}.bias"), &[to], 0.0, 0.1);
    }
    for name in norms {
        add(format!("{name}.weight"), &[WIDTH], 1.0, 0.1);
        add(format!("{name}.bias"), &[WIDTH], 0.0, 0.1);
    }
    weights
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_seed_makes_one_small_model() {
        assert_eq!(weights(1), weights(1));
        assert_ne!(weights(1), weights(2));
        let bytes: usize = weights(1).iter().map(|(_, _, bytes)| bytes.len()).sum();
        assert!(bytes <= 100_000, "{bytes} bytes");
    }
}
