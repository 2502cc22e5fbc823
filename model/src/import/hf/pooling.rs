//! What sentence-transformers puts behind an encoder: pooling over tokens, then normalization.
//! Source: Reimers and Gurevych, "Sentence-BERT", 3.

use tract_onnx::{
    prelude::OutletId,
    tract_hir::internal::{
        AxisOp,
        tract_core::ops::{array::Slice, math, nn::Reducer},
    },
};

use super::{Graph, HfError, ImportError, MODULES, Resolver, read_json};
use crate::import::resolver::confined;

/// Keeps a text without tokens from dividing by zero, as sentence-transformers does.
const COUNT_MIN: f32 = 1e-9;
/// `torch.nn.functional.normalize`'s own.
const NORM_MIN: f32 = 1e-12;
/// What sentence-transformers puts in the place of tokens that do not count before taking a maximum.
const MASKED_OUT: f32 = -1e9;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Mode {
    Mean,
    MeanBySqrtLength,
    Cls,
    Max,
}

/// How a text's vector is made of its tokens' vectors.
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
    /// The library's own default: the mean.
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
    /// From `modules.json`; `None` where there is none, which is a plain encoder.
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
    pub(super) fn wire(
        &self,
        graph: &mut Graph<'_>,
        hidden: OutletId,
        mask: OutletId,
    ) -> Result<(), HfError> {
        let mask = graph.add_axis("pooling.mask", 2, mask)?;
        let pooled = match self.mode {
            Mode::Cls => graph.wire("pooling.first", Slice::new(1, 0, 1), &[hidden])?,
            Mode::Mean => {
                let (sum, count) = masked_sum(graph, hidden, mask)?;
                graph.binary("pooling.mean", math::div(), sum, count)?
            }
            Mode::MeanBySqrtLength => {
                let (sum, count) = masked_sum(graph, hidden, mask)?;
                let root = graph.wire("pooling.root", math::sqrt(), &[count])?;
                graph.binary("pooling.mean", math::div(), sum, root)?
            }
            Mode::Max => {
                // h * mask + (1 - mask) * MASKED_OUT is h where the token counts.
                let counted = graph.binary("pooling.counted", math::mul(), hidden, mask)?;
                let minus = graph.binary_const("pooling.minus_one", math::sub(), mask, 1.0)?;
                let out = graph.binary_const("pooling.out", math::mul(), minus, -MASKED_OUT)?;
                let masked = graph.add("pooling.masked", counted, out)?;
                graph.reduce("pooling.max", Reducer::Max, 1, masked)?
            }
        };
        let pooled = graph.wire("pooling.vector", AxisOp::Rm(1), &[pooled])?;
        let vector = if self.normalize { normalized(graph, pooled)? } else { pooled };
        graph.output("sentence_embedding", vector)
    }
}

fn masked_sum(
    graph: &mut Graph<'_>,
    hidden: OutletId,
    mask: OutletId,
) -> Result<(OutletId, OutletId), HfError> {
    let counted = graph.binary("pooling.counted", math::mul(), hidden, mask)?;
    let sum = graph.reduce("pooling.sum", Reducer::Sum, 1, counted)?;
    let count = graph.reduce("pooling.count", Reducer::Sum, 1, mask)?;
    let count = graph.binary_const("pooling.count_min", math::max(), count, COUNT_MIN)?;
    Ok((sum, count))
}

/// To length 1.
fn normalized(graph: &mut Graph<'_>, vector: OutletId) -> Result<OutletId, HfError> {
    let square = graph.wire("normalize.square", math::square(), &[vector])?;
    let sum = graph.reduce("normalize.sum", Reducer::Sum, 1, square)?;
    let norm = graph.wire("normalize.root", math::sqrt(), &[sum])?;
    let norm = graph.binary_const("normalize.norm", math::max(), norm, NORM_MIN)?;
    graph.binary("normalize.unit", math::div(), vector, norm)
}
