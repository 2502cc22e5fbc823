//! Models that the suites serve, and their expected answers.

use std::{
    fs,
    path::{Path, PathBuf},
};

use flotilla_program::{
    Expr, Node, Op, Port, Program, Source, Step, SymbolInfo, Unary, ValueId,
    dim::{Dim, Symbol},
};
use flotilla_tensor::DType;
use serde_json::{Value, json};

use crate::{place, skip::skip};

/// Name of the real model.
pub const MINILM: &str = "all-MiniLM-L6-v2";
/// Token ids that every model of [`small`] accepts.
pub const SMALL_VOCABULARY: u32 = 200;
/// Most tokens that they take.
pub const SMALL_TOKENS_MAX: usize = 64;

/// Folder of the real all-MiniLM-L6-v2; the test is skipped if setup could not download it.
pub fn minilm() -> Option<PathBuf> {
    let named = std::env::var_os("FLOTILLA_MINILM").map(PathBuf::from);
    let places = [
        named,
        Some(place::target().join("models").join(MINILM)),
        Some(flotilla::pull::models_dir().join(MINILM)),
    ];
    let found =
        places.into_iter().flatten().find(|folder| folder.join("model.safetensors").is_file());
    if found.is_none() {
        skip("all-MiniLM-L6-v2 is not here; `cargo xtask setup` gets it");
    }
    found
}

/// PyTorch's result for one text.
#[derive(Clone, Debug)]
pub struct Reference {
    /// The text.
    pub text: String,
    /// Its token ids.
    pub input_ids: Vec<u32>,
    /// Its embedding.
    pub embedding: Vec<f32>,
}

/// PyTorch's results for [`minilm`].
///
/// # Panics
/// The file differs from the committed one.
pub fn references() -> Vec<Reference> {
    let text = fs::read(place::file("models/minilm/reference.json")).expect("committed");
    let rows: Vec<Value> = serde_json::from_slice(&text).expect("JSON");
    rows.iter()
        .map(|row| Reference {
            text: row["text"].as_str().expect("a text").to_owned(),
            input_ids: ids(&row["input_ids"]),
            embedding: floats(&row["embedding"]),
        })
        .collect()
}

/// Makes a sentence-embedding model without tokenizer in `parent`, small enough to be loaded at once: BERT with random
/// weights, 32 dimensions, mean pooling.
///
/// # Panics
/// The folder cannot be written.
pub fn small(parent: &Path, name: &str) -> PathBuf {
    let folder = parent.join(name);
    fs::create_dir_all(folder.join("1_Pooling")).expect("a folder");
    for file in ["config.json", "model.safetensors"] {
        fs::copy(place::file("models/bert").join(file), folder.join(file)).expect("a copy");
    }
    let modules = json!([
        { "idx": 0, "name": "0", "path": "", "type": "sentence_transformers.models.Transformer" },
        { "idx": 1, "name": "1", "path": "1_Pooling", "type": "sentence_transformers.models.Pooling" },
    ]);
    let pooling = json!({
        "word_embedding_dimension": 32,
        "pooling_mode_cls_token": false,
        "pooling_mode_mean_tokens": true,
        "pooling_mode_max_tokens": false,
        "pooling_mode_mean_sqrt_len_tokens": false,
    });
    fs::write(folder.join("modules.json"), modules.to_string()).expect("written");
    fs::write(folder.join("1_Pooling/config.json"), pooling.to_string()).expect("written");
    folder
}

/// A program that computes a function of each element: of `x`, f32 of any one size, gives `y` of the same size.
pub fn elementwise(name: &str, function: Unary) -> Program {
    let value = |source| flotilla_program::Value {
        dtype: DType::F32,
        shape: vec![Dim::Symbol(Symbol(0))],
        source,
    };
    let port = |name: &str, value| Port {
        name: name.to_owned(),
        dtype: DType::F32,
        value: ValueId(value),
        high: None,
    };
    let steps = vec![Step::Input(0), Step::Unary(function, 0)];
    Program {
        symbols: vec![SymbolInfo::of_input("size")],
        values: vec![value(Source::Input), value(Source::Node)],
        nodes: vec![Node {
            name: name.to_owned(),
            op: Op::Elementwise(Expr { steps }),
            inputs: vec![ValueId(0)],
            outputs: vec![ValueId(1)],
        }],
        inputs: vec![port("x", 0)],
        outputs: vec![port("y", 1)],
        ..Program::new(name)
    }
}

/// A row of plausible token ids for MiniLM: `[CLS]`, words, `[SEP]`.
pub fn row(seed: usize, length: usize) -> Vec<u32> {
    let word = |at: usize| 2000 + ((seed * 131 + at * 17) % 3000) as u32;
    let mut ids: Vec<u32> = (0..length).map(word).collect();
    ids[0] = 101;
    ids[length - 1] = 102;
    ids
}

/// The embeddings of an answer in its order.
///
/// # Panics
/// The answer does not have OpenAI's format.
pub fn embeddings(answer: &Value) -> Vec<Vec<f32>> {
    assert_eq!(answer["object"], "list", "{answer}");
    let rows = answer["data"].as_array().expect("data");
    for (index, row) in rows.iter().enumerate() {
        assert_eq!(row["index"], json!(index), "{row}");
        assert_eq!(row["object"], "embedding", "{row}");
    }
    rows.iter().map(|row| floats(&row["embedding"])).collect()
}

/// A list of numbers.
///
/// # Panics
/// It is something else.
pub fn floats(value: &Value) -> Vec<f32> {
    let items = value.as_array().unwrap_or_else(|| panic!("not a list: {value}"));
    items.iter().map(|item| item.as_f64().expect("a number") as f32).collect()
}

fn ids(value: &Value) -> Vec<u32> {
    floats(value).into_iter().map(|id| id as u32).collect()
}

/// Largest difference of two vectors; infinite if they cannot be compared.
pub fn difference(a: &[f32], b: &[f32]) -> f32 {
    if a.len() != b.len() || a.is_empty() {
        return f32::INFINITY;
    }
    let differences = a.iter().zip(b).map(|(a, b)| (a - b).abs());
    // `max` would drop a NaN, which must not pass.
    differences.fold(0.0, |largest, difference| {
        if difference <= largest {
            largest
        } else if difference.is_nan() {
            f32::INFINITY
        } else {
            difference
        }
    })
}
