//! The modules that sentence-transformers adds after an encoder: pooling, then dense layers and normalizations of the vector.
//! Source: Reimers and Gurevych, "Sentence-BERT", 3.

use tract_onnx::pb::{ModelProto, ValueInfoProto, type_proto::Value as TypeValue};

use super::{
    Graph, HfError, ImportError, Resolver, Tensors,
    config::{Activation, Config},
    graph::{Value, Wired},
    masks::Tokens,
    pooling::Pooling,
    read_json,
};
use crate::{import::onnx::Weight, resolver::confined};

/// A model with more nodes, and their weights.
type Extended = (ModelProto, Vec<(String, Weight)>);

/// The file that lists the modules.
pub(in crate::import) const FILE: &str = "modules.json";
/// The pooling of folders without that file.
const POOLING: &str = "1_Pooling/config.json";
/// Where the library's own modules are; others have code of their own.
const LIBRARY: &str = "sentence_transformers.";
/// Most modules of a model.
const MODULES_MAX: usize = 64;

/// The minimum of `torch.nn.functional.normalize`.
const NORM_MIN: f32 = 1e-12;
/// The default of `torch.nn.LayerNorm`.
const EPSILON: f32 = 1e-5;

/// The output that is the vector of a text.
const OUTPUT: &str = "sentence_embedding";
/// Outputs that are vectors of tokens, as exporters name them.
const TOKEN_OUTPUTS: [&str; 2] = ["last_hidden_state", "token_embeddings"];

/// What is done with the vectors of a text's tokens.
#[derive(Clone, Debug, Default)]
pub(in crate::import) struct Modules {
    /// Where the encoder's files are: `""`, or a folder that ends in `/`.
    pub(in crate::import) encoder: String,
    /// None for a plain encoder.
    pub(super) pooling: Option<Pooling>,
    steps: Vec<Step>,
}

/// A module that changes the vector of a text.
#[derive(Clone, Debug)]
enum Step {
    Dense { folder: String, config: Config },
    LayerNorm { folder: String, config: Config },
    Normalize,
}

#[derive(serde::Deserialize)]
struct Module {
    #[serde(default)]
    path: String,
    r#type: String,
}

#[derive(serde::Deserialize)]
struct Dense {
    in_features: usize,
    out_features: usize,
    #[serde(default = "yes")]
    bias: bool,
    #[serde(default = "tanh")]
    activation_function: String,
}

#[derive(serde::Deserialize)]
struct Norm {
    dimension: usize,
}

// The defaults of sentence-transformers.

fn yes() -> bool {
    true
}

fn tanh() -> String {
    "torch.nn.modules.activation.Tanh".to_owned()
}

impl Modules {
    /// From `modules.json`; without it, from the pooling of `1_Pooling`, if there is any.
    pub(in crate::import) fn read(resolver: &dyn Resolver) -> Result<Modules, ImportError> {
        let mut read = Modules::default();
        if !resolver.exists(FILE) {
            if resolver.exists(POOLING) {
                read.pooling = Some(Pooling::of(&Config::read(resolver, POOLING)?)?);
            }
            return Ok(read);
        }
        let modules: Vec<Module> = read_json(resolver, FILE)?;
        let unsupported = |what: String| HfError::Unsupported { file: FILE.to_owned(), what };
        if modules.len() > MODULES_MAX {
            let what = format!("{} modules, the limit is {MODULES_MAX}", modules.len());
            return Err(unsupported(what).into());
        }
        for (index, module) in modules.iter().enumerate() {
            read.add(resolver, index, module)?;
        }
        Ok(read)
    }

    fn add(
        &mut self,
        resolver: &dyn Resolver,
        index: usize,
        module: &Module,
    ) -> Result<(), ImportError> {
        let Module { path, r#type } = module;
        let kind = r#type.strip_prefix(LIBRARY).and_then(|name| name.rsplit('.').next());
        let folder = match path.as_str() {
            "" => String::new(),
            path => format!("{}/", confined(path)?),
        };
        let described = |folder: &str| Config::read(resolver, &format!("{folder}config.json"));
        match kind {
            Some("Transformer") if index == 0 => self.encoder = folder,
            Some("Pooling") if self.pooling.is_none() && index > 0 => {
                self.pooling = Some(Pooling::of(&described(&folder)?)?);
            }
            // Nothing is dropped after training.
            Some("Dropout") => {}
            Some("Normalize") if self.pooling.is_some() => {
                let file = format!("{folder}config.json");
                if resolver.exists(&file) {
                    of_sentences(&Config::read(resolver, &file)?)?;
                }
                self.steps.push(Step::Normalize);
            }
            Some("Dense") if self.pooling.is_some() => {
                let config = described(&folder)?;
                of_sentences(&config)?;
                config.only("use_residual", false)?;
                self.steps.push(Step::Dense { folder, config });
            }
            Some("LayerNorm") if self.pooling.is_some() => {
                let config = described(&folder)?;
                self.steps.push(Step::LayerNorm { folder, config });
            }
            _ => {
                let what = format!("module {} in {path:?}", r#type);
                return Err(HfError::Unsupported { file: FILE.to_owned(), what }.into());
            }
        }
        Ok(())
    }

    /// Whether pooling leaves a prompt's tokens out.
    pub(in crate::import) fn excludes_prompt(&self) -> bool {
        self.pooling.as_ref().is_some_and(|pooling| !pooling.includes_prompt())
    }

    /// From the hidden state `[B, S, width]` to the output `sentence_embedding`. The first `prompt` tokens are those of the
    /// prompt. Returns the size of the vector, or None without pooling.
    pub(super) fn wire(
        &self,
        graph: &mut Graph,
        resolver: &dyn Resolver,
        hidden: &str,
        tokens: &mut Tokens,
        width: usize,
        prompt: usize,
    ) -> Result<Option<usize>, ImportError> {
        let Some(pooling) = &self.pooling else { return Ok(None) };
        let mut x = pooling.wire(graph, hidden, tokens, prompt)?;
        let mut width = width.saturating_mul(pooling.parts());
        for (index, step) in self.steps.iter().enumerate() {
            let name = format!("module.{index}");
            (x, width) = match step {
                Step::Normalize => (normalized(graph, &name, &x), width),
                Step::Dense { folder, config } => {
                    graph.begin(&format!("{name}."), Tensors::read(resolver, folder)?);
                    let dense: Dense = config.typed()?;
                    check_width(config, "in_features", dense.in_features, width)?;
                    (wire_dense(graph, config, &dense, &x)?, dense.out_features)
                }
                Step::LayerNorm { folder, config } => {
                    graph.begin(&format!("{name}."), Tensors::read(resolver, folder)?);
                    let Norm { dimension } = config.typed()?;
                    check_width(config, "dimension", dimension, width)?;
                    (graph.layer_norm("norm", &x, dimension, EPSILON)?, dimension)
                }
            };
            graph.begin("", Tensors::default());
        }
        graph.output(OUTPUT, &x);
        Ok(Some(width))
    }

    /// Adds pooling to the graph of an ONNX file whose outputs are vectors of tokens. None if there is no pooling, or if the
    /// file has an output for texts already.
    pub(in crate::import) fn extend(
        &self,
        model: &ModelProto,
        file: &str,
        resolver: &dyn Resolver,
        prompt: usize,
    ) -> Result<Option<Extended>, ImportError> {
        if self.pooling.is_none() {
            return Ok(None);
        }
        let declared = model.graph.as_ref();
        let [inputs, outputs] =
            declared.map(|graph| [&graph.input[..], &graph.output[..]]).unwrap_or_default();
        let Some(hidden) = token_output(outputs) else { return Ok(None) };
        let unsupported = |what: String| HfError::Unsupported { file: FILE.to_owned(), what };
        let has = |name: &str| inputs.iter().any(|input| input.name == name);
        if !has("input_ids") {
            let names: Vec<&str> = inputs.iter().map(|input| input.name.as_str()).collect();
            return Err(unsupported(format!(
                "pooling of tokens, but {file} has no input_ids; its inputs are {}",
                names.join(", ")
            ))
            .into());
        }
        let has_mask = has("attention_mask");
        let width = declared_width(hidden);
        let hidden = hidden.name.clone();
        let mut graph = Graph::of_file(model.clone(), file)?;
        let mut tokens = Tokens::of_file(&mut graph, has_mask);
        // It may be of half precision.
        let hidden = graph.cast("hidden", &hidden, super::masks::FLOAT);
        graph.clear_outputs();
        let first = self.steps.iter().find_map(|step| match step {
            Step::Dense { config, .. } => Some((config, "in_features")),
            Step::LayerNorm { config, .. } => Some((config, "dimension")),
            Step::Normalize => None,
        });
        // A file that leaves the size open has the one that the modules take.
        let width = width.or_else(|| {
            let size = first.and_then(|(config, field)| config.get(field)?.as_u64())?;
            let parts = self.pooling.as_ref().map_or(1, Pooling::parts);
            Some(usize::try_from(size).ok()? / parts.max(1))
        });
        let width = width.unwrap_or_default();
        self.wire(&mut graph, resolver, &hidden, &mut tokens, width, prompt)?;
        Ok(Some(graph.finish()))
    }
}

/// The output with a vector for each token, if no output has one for each text.
fn token_output(outputs: &[ValueInfoProto]) -> Option<&ValueInfoProto> {
    if outputs.iter().any(|output| output.name == OUTPUT) {
        return None;
    }
    let named =
        TOKEN_OUTPUTS.iter().find_map(|name| outputs.iter().find(|output| output.name == *name));
    let has_tokens = |output: &ValueInfoProto| dims(output).is_none_or(|dims| dims.len() == 3);
    match outputs {
        _ if named.is_some() => named.filter(|output| has_tokens(output)),
        [only] => Some(only).filter(|output| has_tokens(output)),
        _ => None,
    }
}

fn dims(port: &ValueInfoProto) -> Option<&[tract_onnx::pb::tensor_shape_proto::Dimension]> {
    let TypeValue::TensorType(tensor) = port.r#type.as_ref()?.value.as_ref()?;
    Some(&tensor.shape.as_ref()?.dim)
}

fn declared_width(port: &ValueInfoProto) -> Option<usize> {
    use tract_onnx::pb::tensor_shape_proto::dimension::Value;
    match dims(port)?.last()?.value.as_ref()? {
        Value::DimValue(size) => usize::try_from(*size).ok(),
        Value::DimParam(_) => None,
    }
}

/// Refuses modules for vectors of tokens, as ColBERT has them.
fn of_sentences(config: &Config) -> Result<(), HfError> {
    config.only("module_input_name", OUTPUT)?;
    config.only("module_output_name", OUTPUT)
}

fn check_width(config: &Config, field: &str, got: usize, want: usize) -> Result<(), HfError> {
    config.check_sizes(&[(field, got)])?;
    if got == want {
        return Ok(());
    }
    Err(config.unsupported(format!("{field} {got}, the vector before it has {want} numbers")))
}

fn wire_dense(graph: &mut Graph, config: &Config, dense: &Dense, x: &str) -> Wired {
    let path = &dense.activation_function;
    let activation = Activation::of_torch(path)
        .ok_or_else(|| config.unsupported(format!("activation_function {path:?}")))?;
    config.check_sizes(&[("out_features", dense.out_features)])?;
    let sizes = [dense.in_features, dense.out_features];
    let y = graph.linear_if("linear", x, sizes, dense.bias)?;
    Ok(graph.activation("activation", &y, activation))
}

/// To length 1.
fn normalized(graph: &mut Graph, name: &str, vector: &str) -> Value {
    let square = graph.node(&format!("{name}.square"), "Mul", &[vector, vector], &[]);
    let sum = graph.sum(&format!("{name}.sum"), &square, 1);
    let norm = graph.node(&format!("{name}.root"), "Sqrt", &[&sum], &[]);
    let norm = graph.with_number(&format!("{name}.norm"), "Max", &norm, NORM_MIN);
    graph.node(&format!("{name}.unit"), "Div", &[vector, &norm], &[])
}
