//! Hugging Face directories: `config.json`, `model.safetensors` (or several files with an index) and, for
//! sentence-transformers, `modules.json` with its modules. Each architecture has its own file, which writes an ONNX graph, so
//! that everything that reads ONNX can read these models.

mod albert;
mod bert;
mod config;
mod decoder;
mod distilbert;
mod gated;
mod gemma;
mod graph;
mod layers;
mod masks;
mod modernbert;
mod modules;
mod mpnet;
mod pooling;
mod rotary;
mod weights;

use serde::de::DeserializeOwned;
use tract_onnx::pb::{ModelProto, TensorProto, tensor_proto::DataType};

use super::{Family, ImportError, Resolver, onnx::Weight};
use crate::text::TokenLimits;
use bert::Positions;
use config::Config;
use graph::Graph;
use masks::Tokens;
pub(super) use modules::{FILE as MODULES, Modules};
pub(super) use weights::PICKLE;
use weights::Tensors;

/// A folder with this file is a Hugging Face model.
pub(super) const CONFIG: &str = "config.json";

/// Positions of a model that has no table of them, where no file says how long texts may be.
const POSITIONS: usize = 2048;

/// The architectures, by `model_type`.
const ARCHITECTURES: [&str; 17] = [
    "albert",
    "bert",
    "camembert",
    "distilbert",
    "electra",
    "gemma3_text",
    "gte",
    "llama",
    "mistral",
    "modernbert",
    "mpnet",
    "new",
    "nomic_bert",
    "qwen2",
    "qwen3",
    "roberta",
    "xlm-roberta",
];

/// Why a Hugging Face directory cannot be imported.
#[derive(Debug, thiserror::Error)]
#[expect(missing_docs, reason = "fields are what the messages say")]
pub enum HfError {
    #[error("{file} is invalid: {reason}")]
    Config { file: String, reason: String },
    #[error(
        "architecture {model_type:?} is not supported; supported: {}",
        ARCHITECTURES.join(", ")
    )]
    Architecture { model_type: String },
    #[error("{file} asks for {what}, which is not supported")]
    Unsupported { file: String, what: String },
    #[error("{file} is damaged or cut short: {reason}")]
    Weights { file: String, reason: String },
    #[error("{file} has no tensor {tensor}")]
    Tensor { file: String, tensor: String },
    #[error("{file} has both {first} and {second}, and only one of them can be meant")]
    Both { file: String, first: String, second: String },
    #[error("{file}: tensor {tensor} has the shape {got:?}, the configuration makes it {want:?}")]
    Shape { file: String, tensor: String, got: Vec<usize>, want: Vec<usize> },
    #[error("{file}: tensor {tensor} holds {dtype}; F32, F16 and BF16 can be read")]
    Type { file: String, tensor: String, dtype: String },
    #[error(
        "{file} contains Python objects, and reading it would run its code; save the weights as {} instead, with \
         save_pretrained(.., safe_serialization=True)",
        weights::WHOLE
    )]
    Pickle { file: String },
}

#[derive(serde::Deserialize)]
struct ModelType {
    model_type: String,
}

/// The fields of `config.json` that every tokenized model has.
#[derive(serde::Deserialize)]
struct TokenConfig {
    model_type: Option<String>,
    vocab_size: Option<usize>,
    max_position_embeddings: Option<usize>,
    /// Its name in GPT-2 and NomicBERT.
    n_positions: Option<usize>,
    pad_token_id: Option<i64>,
}

/// What an encoder computes.
struct Encoded {
    /// The last hidden state, `[B, S, width]`.
    hidden: graph::Value,
    tokens: Tokens,
    width: usize,
}

/// A model as an ONNX graph.
pub(super) struct Model {
    /// Without the weights.
    pub(super) graph: ModelProto,
    /// Tensors of the graph, by name.
    pub(super) weights: Vec<(String, Weight)>,
    pub(super) family: Family,
}

/// The graph with the weights in it.
pub(super) fn with_weights(mut model: ModelProto, weights: Vec<(String, Weight)>) -> ModelProto {
    let tensors = weights.into_iter().map(|(name, Weight { shape, bytes })| TensorProto {
        name,
        dims: shape.iter().map(|&dim| dim as i64).collect(),
        data_type: DataType::Float as i32,
        raw_data: bytes.into(),
        ..TensorProto::default()
    });
    model.graph.get_or_insert_default().initializer.extend(tensors);
    model
}

/// Whether a folder has weights that can be read.
pub(super) fn has_weights(resolver: &dyn Resolver, folder: &str) -> bool {
    Tensors::are_in(resolver, folder)
}

/// Whether the configuration names an architecture that is supported.
pub(super) fn is_known(resolver: &dyn Resolver, folder: &str) -> Result<bool, ImportError> {
    let ModelType { model_type } = read_json(resolver, &format!("{folder}{CONFIG}"))?;
    Ok(ARCHITECTURES.contains(&model_type.as_str()))
}

/// Reads the model of a folder. The first `prompt` tokens of each text are those of the prompt.
pub(super) fn model(
    resolver: &dyn Resolver,
    modules: &Modules,
    limits: TokenLimits,
    prompt: usize,
) -> Result<Model, ImportError> {
    let config = Config::read(resolver, &format!("{}{CONFIG}", modules.encoder))?;
    let ModelType { model_type } = config.typed()?;
    if !ARCHITECTURES.contains(&model_type.as_str()) {
        return Err(HfError::Architecture { model_type }.into());
    }
    let mut graph = Graph::new(Tensors::read(resolver, &modules.encoder)?);
    let positions = limits.length_max.unwrap_or(POSITIONS);
    let encoded = match model_type.as_str() {
        "albert" => albert::encoder(&mut graph, &config),
        "bert" | "electra" => bert::encoder(&mut graph, &config, Positions::FromZero),
        "roberta" | "xlm-roberta" | "camembert" => {
            bert::encoder(&mut graph, &config, Positions::AfterPadding)
        }
        "distilbert" => distilbert::encoder(&mut graph, &config),
        "gemma3_text" => gemma::encoder(&mut graph, &config, positions),
        "gte" | "new" => gated::gte(&mut graph, &config, positions),
        "nomic_bert" => gated::nomic(&mut graph, &config, positions),
        "llama" => decoder::encoder(&mut graph, &config, positions, decoder::Kind::Llama),
        "mistral" => decoder::encoder(&mut graph, &config, positions, decoder::Kind::Mistral),
        "qwen2" => decoder::encoder(&mut graph, &config, positions, decoder::Kind::Qwen2),
        "qwen3" => decoder::encoder(&mut graph, &config, positions, decoder::Kind::Qwen3),
        "modernbert" => modernbert::encoder(&mut graph, &config, positions),
        "mpnet" => mpnet::encoder(&mut graph, &config),
        _ => return Err(HfError::Architecture { model_type }.into()),
    };
    let Encoded { hidden, mut tokens, width } = encoded?;
    let size = modules.wire(&mut graph, resolver, &hidden, &mut tokens, width, prompt)?;
    let family = match size {
        Some(size) => Family::TextEmbedding { size },
        None => {
            graph.output("last_hidden_state", &hidden);
            Family::Tensors
        }
    };
    let (graph, weights) = graph.finish();
    Ok(Model { graph, weights, family })
}

/// Most positions and the number of tokens, from `config.json` if there is one.
pub(super) fn token_config(
    resolver: &dyn Resolver,
) -> Result<(Option<usize>, Option<usize>), ImportError> {
    if !resolver.exists(CONFIG) {
        return Ok((None, None));
    }
    let config: TokenConfig = read_json(resolver, CONFIG)?;
    // RoBERTa counts positions from after the padding token's.
    let offset = match config.model_type.as_deref() {
        Some("roberta" | "xlm-roberta" | "camembert") => {
            usize::try_from(config.pad_token_id.unwrap_or(1)).unwrap_or(0).saturating_add(1)
        }
        // The same, with a number that is not in the configuration.
        Some("mpnet") => 2,
        _ => 0,
    };
    let positions = config.max_position_embeddings.or(config.n_positions);
    Ok((positions.map(|positions| positions.saturating_sub(offset)), config.vocab_size))
}

pub(super) fn read_json<T: DeserializeOwned>(
    resolver: &dyn Resolver,
    file: &str,
) -> Result<T, ImportError> {
    let bytes = resolver.read(file)?;
    serde_json::from_slice(&bytes).map_err(|error| {
        HfError::Config { file: file.to_owned(), reason: error.to_string() }.into()
    })
}
