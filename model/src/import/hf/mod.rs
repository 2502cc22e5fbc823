//! Hugging Face directories: `config.json`, `model.safetensors` and, for sentence-transformers, `modules.json` with its
//! pooling. Each architecture has its own file, which writes an ONNX graph, so that everything that reads ONNX can read
//! these models.

mod bert;
mod graph;
mod pooling;
mod weights;

use serde::de::DeserializeOwned;
use tract_onnx::pb::{ModelProto, TensorProto, tensor_proto::DataType};

use super::{Family, ImportError, Resolver, onnx::Weight};
use graph::Graph;
use pooling::Pooling;
use weights::WeightFile;

/// A folder with this file is a Hugging Face model.
pub(super) const CONFIG: &str = "config.json";
/// The file that lists the modules that sentence-transformers adds after the encoder.
pub(super) const MODULES: &str = "modules.json";
const WEIGHTS: &str = "model.safetensors";

/// Why a Hugging Face directory cannot be imported.
#[derive(Debug, thiserror::Error)]
#[expect(missing_docs, reason = "fields are what the messages say")]
pub enum HfError {
    #[error("{file} is invalid: {reason}")]
    Config { file: String, reason: String },
    #[error("architecture {model_type:?} is not supported; supported: bert")]
    Architecture { model_type: String },
    #[error("{file} asks for {what}, which is not supported")]
    Unsupported { file: String, what: String },
    #[error("{file} is damaged or cut short: {reason}")]
    Weights { file: String, reason: String },
    #[error("{file} has no tensor {tensor}")]
    Tensor { file: String, tensor: String },
    #[error("{file}: tensor {tensor} has the shape {got:?}, the configuration makes it {want:?}")]
    Shape { file: String, tensor: String, got: Vec<usize>, want: Vec<usize> },
    #[error("{file}: tensor {tensor} holds {dtype}; F32, F16 and BF16 can be read")]
    Type { file: String, tensor: String, dtype: String },
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
    pad_token_id: Option<usize>,
}

/// A model as an ONNX graph.
pub(super) struct Model {
    /// Without the weights.
    pub(super) graph: ModelProto,
    /// Tensors of the graph, by name.
    pub(super) weights: Vec<(String, Weight)>,
    pub(super) family: Family,
}

impl Model {
    /// The graph with the weights in it.
    pub(super) fn into_onnx(self) -> ModelProto {
        let Model { mut graph, weights, .. } = self;
        let tensors = weights.into_iter().map(|(name, Weight { shape, bytes })| TensorProto {
            name,
            dims: shape.iter().map(|&dim| dim as i64).collect(),
            data_type: DataType::Float as i32,
            raw_data: bytes.into(),
            ..TensorProto::default()
        });
        graph.graph.get_or_insert_default().initializer.extend(tensors);
        graph
    }
}

/// Reads the model of a folder.
pub(super) fn model(resolver: &dyn Resolver) -> Result<Model, ImportError> {
    let ModelType { model_type } = read_json(resolver, CONFIG)?;
    let config: bert::Config = match model_type.as_str() {
        "bert" => read_json(resolver, CONFIG)?,
        _ => return Err(HfError::Architecture { model_type }.into()),
    };
    config.check()?;
    let pooling = Pooling::load(resolver)?;
    let bytes = resolver.read(WEIGHTS)?;
    let weights = WeightFile::parse(WEIGHTS, &bytes, resolver.storage())?;
    let mut graph = Graph::new(&weights);
    let (hidden, mask) = bert::encoder(&mut graph, &config)?;
    let family = match pooling {
        Some(pooling) => {
            pooling.wire(&mut graph, &hidden, &mask);
            Family::TextEmbedding { size: config.hidden_size }
        }
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
        Some("roberta" | "xlm-roberta" | "camembert") => config.pad_token_id.unwrap_or(1) + 1,
        _ => 0,
    };
    Ok((
        config.max_position_embeddings.map(|positions| positions.saturating_sub(offset)),
        config.vocab_size,
    ))
}

fn read_json<T: DeserializeOwned>(resolver: &dyn Resolver, file: &str) -> Result<T, ImportError> {
    let bytes = resolver.read(file)?;
    serde_json::from_slice(&bytes).map_err(|error| {
        HfError::Config { file: file.to_owned(), reason: error.to_string() }.into()
    })
}
