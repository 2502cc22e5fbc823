//! The modules that sentence-transformers adds after an encoder: pooling over tokens, then
//! normalization.
//! Source: Reimers and Gurevych, "Sentence-BERT", 3.

use super::{
    Graph, HfError, ImportError, MODULES, Resolver,
    graph::{Attribute, Value},
    read_json,
};
use crate::resolver::confined;

/// Prevents a division by zero for a text without tokens, as in sentence-transformers.
const COUNT_MIN: f32 = 1e-9;
/// The minimum of `torch.nn.functional.normalize`.
const NORM_MIN: f32 = 1e-12;
/// The number that sentence-transformers uses for masked tokens before a maximum.
const MASKED_OUT: f32 = -1e9;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Mode {
    Mean,
    MeanBySqrtLength,
    Cls,
    Max,
}

/// How a text's vector is computed from its tokens' vectors.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Pooling {
    mode: Mode,
    normalize: bool,
}

#[derive(serde::Deserialize)]
struct Module {
    #[serde(default)]
    path: String,
    r#type: String,
}

#[derive(serde::Deserialize)]
#[serde(default)]
struct PoolingConfig {
    pooling_mode_cls_token: bool,
    pooling_mode_max_tokens: bool,
    pooling_mode_mean_tokens: bool,
    pooling_mode_mean_sqrt_len_tokens: bool,
    pooling_mode_weightedmean_tokens: bool,
    pooling_mode_lasttoken: bool,
}

impl Default for PoolingConfig {
    /// The library's default: the mean.
    fn default() -> PoolingConfig {
        PoolingConfig {
            pooling_mode_cls_token: false,
            pooling_mode_max_tokens: false,
            pooling_mode_mean_tokens: true,
            pooling_mode_mean_sqrt_len_tokens: false,
            pooling_mode_weightedmean_tokens: false,
            pooling_mode_lasttoken: false,
        }
    }
}

impl PoolingConfig {
    fn mode(&self, file: &str) -> Result<Mode, HfError> {
        let unsupported =
            |what: &str| HfError::Unsupported { file: file.to_owned(), what: what.to_owned() };
        if self.pooling_mode_weightedmean_tokens || self.pooling_mode_lasttoken {
            return Err(unsupported("a weighted mean or the last token"));
        }
        let modes = [
            (self.pooling_mode_cls_token, Mode::Cls),
            (self.pooling_mode_max_tokens, Mode::Max),
            (self.pooling_mode_mean_tokens, Mode::Mean),
            (self.pooling_mode_mean_sqrt_len_tokens, Mode::MeanBySqrtLength),
        ];
        let mut chosen = modes.iter().filter(|(chosen, _)| *chosen).map(|(_, mode)| *mode);
        match (chosen.next(), chosen.next()) {
            (Some(mode), None) => Ok(mode),
            (None, _) => Err(unsupported("no pooling at all")),
            (Some(_), Some(_)) => Err(unsupported("several poolings at once")),
        }
    }
}

impl Pooling {
    /// From `modules.json`; `None` if there is none, which means a plain encoder.
    pub(super) fn load(resolver: &dyn Resolver) -> Result<Option<Pooling>, ImportError> {
        if !resolver.exists(MODULES) {
            return Ok(None);
        }
        let modules: Vec<Module> = read_json(resolver, MODULES)?;
        let unsupported = |what: String| HfError::Unsupported { file: MODULES.to_owned(), what };
        let mut mode = None;
        let mut normalize = false;
        for module in &modules {
            let kind = module.r#type.rsplit('.').next().unwrap_or_default();
            match kind {
                "Transformer" if module.path.is_empty() => {}
                "Pooling" if mode.is_none() => {
                    let folder = confined(&module.path)?;
                    let file = format!("{folder}/config.json");
                    mode = Some(read_json::<PoolingConfig>(resolver, &file)?.mode(&file)?);
                }
                "Normalize" if mode.is_some() => normalize = true,
                _ => {
                    return Err(unsupported(format!(
                        "module {} in {:?}",
                        module.r#type, module.path
                    ))
                    .into());
                }
            }
        }
        Ok(mode.map(|mode| Pooling { mode, normalize }))
    }

    /// From the hidden state `[B, S, hidden]` and the mask `[B, S]` to the output `sentence_embedding`.
    pub(super) fn wire(&self, graph: &mut Graph<'_>, hidden: &str, mask: &str) {
        let mask = graph.unsqueeze("pooling.mask", mask, &[2]);
        let pooled = match self.mode {
            Mode::Cls => {
                let ends = [("pooling.start", 0), ("pooling.end", 1)];
                let [start, end] = ends.map(|(name, at)| graph.integers(name, &[at]));
                graph.slice("pooling.first", hidden, [&start, &end], 1)
            }
            Mode::Mean => {
                let (sum, count) = masked_sum(graph, hidden, &mask);
                graph.node("pooling.mean", "Div", &[&sum, &count], &[])
            }
            Mode::MeanBySqrtLength => {
                let (sum, count) = masked_sum(graph, hidden, &mask);
                let root = graph.node("pooling.root", "Sqrt", &[&count], &[]);
                graph.node("pooling.mean", "Div", &[&sum, &root], &[])
            }
            Mode::Max => {
                // h * mask + (1 - mask) * MASKED_OUT is h for a token that counts.
                let counted = graph.node("pooling.counted", "Mul", &[hidden, &mask], &[]);
                let minus = graph.with_number("pooling.minus_one", "Sub", &mask, 1.0);
                let out = graph.with_number("pooling.out", "Mul", &minus, -MASKED_OUT);
                let masked = graph.node("pooling.masked", "Add", &[&counted, &out], &[]);
                let axes = graph.integers("pooling.max.axes", &[1]);
                let keep = [Attribute::Int("keepdims", 1)];
                graph.node("pooling.max", "ReduceMax", &[&masked, &axes], &keep)
            }
        };
        let axes = graph.integers("pooling.vector.axes", &[1]);
        let pooled = graph.node("pooling.vector", "Squeeze", &[&pooled, &axes], &[]);
        let vector = if self.normalize { normalized(graph, &pooled) } else { pooled };
        graph.output("sentence_embedding", &vector);
    }
}

fn masked_sum(graph: &mut Graph<'_>, hidden: &str, mask: &str) -> (Value, Value) {
    let counted = graph.node("pooling.counted", "Mul", &[hidden, mask], &[]);
    let sum = graph.sum("pooling.sum", &counted, 1);
    let count = graph.sum("pooling.count", mask, 1);
    let count = graph.with_number("pooling.count_min", "Max", &count, COUNT_MIN);
    (sum, count)
}

/// To length 1.
fn normalized(graph: &mut Graph<'_>, vector: &str) -> Value {
    let square = graph.node("normalize.square", "Mul", &[vector, vector], &[]);
    let sum = graph.sum("normalize.sum", &square, 1);
    let norm = graph.node("normalize.root", "Sqrt", &[&sum], &[]);
    let norm = graph.with_number("normalize.norm", "Max", &norm, NORM_MIN);
    graph.node("normalize.unit", "Div", &[vector, &norm], &[])
}
