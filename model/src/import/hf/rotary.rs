//! Rotary positions: pairs of features are turned by an angle that grows with the position.
//! Source: Su et al., "RoFormer: Enhanced Transformer with Rotary Position Embedding", 3.2.2 and 3.4.2.

use super::{
    HfError,
    config::Config,
    graph::{Attribute, Graph, Value},
    layers::Heads,
    masks::Tokens,
};
use crate::import::onnx::Weight;

/// Most numbers of the two tables together, which have as many for each position as a head has features.
const TABLE_MAX: usize = 1 << 24;
/// Most features of a head.
const DIM_MAX: usize = 1 << 10;
/// Most features of all heads together.
const WIDTH_MAX: usize = 1 << 20;

/// How fast the pairs of features turn.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Rope {
    theta: f64,
    scaling: Scaling,
}

/// What is done to the angles so that a model takes longer texts than it was trained with.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Scaling {
    None,
    /// Positions are closer together. Source: Chen et al., "Extending Context Window of Large Language Models via Positional
    /// Interpolation", eq. 4.
    Linear(f64),
    /// The slowest pair turns slower by the factor, the fastest one does not, as in the modules of the architecture `new`.
    Ntk(f64),
}

impl Rope {
    /// From `rope_parameters` or, in older files, from `rope_scaling` and a field for the base. In `rope_parameters` there may
    /// be one object for each kind of layer.
    ///
    /// # Errors
    /// A kind of scaling that is not supported.
    pub(super) fn read(
        config: &Config,
        layers: Option<&str>,
        theta_field: &str,
        theta: f64,
    ) -> Result<Rope, HfError> {
        let theta = config.get(theta_field).and_then(serde_json::Value::as_f64).unwrap_or(theta);
        let parameters = config.object("rope_parameters");
        let parameters = match layers {
            Some(layers) => parameters.and_then(|all| match all.object(layers) {
                Some(own) => Some(own),
                // Without an object for each kind, all kinds share one.
                None => all.get("rope_type").is_some().then_some(all),
            }),
            None => parameters,
        };
        let Some(parameters) = parameters.or_else(|| config.object("rope_scaling")) else {
            return Rope { theta, scaling: Scaling::None }.checked(config);
        };
        let number = |name: &str| parameters.get(name).and_then(serde_json::Value::as_f64);
        let kind = parameters.get("rope_type").or_else(|| parameters.get("type"));
        let kind = kind.and_then(serde_json::Value::as_str).unwrap_or("default");
        parameters.only("partial_rotary_factor", 1.0)?;
        let factor = || {
            number("factor")
                .filter(|factor| factor.is_finite() && *factor > 0.0)
                .ok_or_else(|| config.unsupported(format!("rope type {kind:?} without a factor")))
        };
        let scaling = match kind {
            "default" => Scaling::None,
            "linear" => Scaling::Linear(factor()?),
            "ntk" => {
                parameters.only("mixed_b", serde_json::Value::Null)?;
                Scaling::Ntk(factor()?)
            }
            other => return Err(config.unsupported(format!("rope type {other:?}"))),
        };
        Rope { theta: number("rope_theta").unwrap_or(theta), scaling }.checked(config)
    }

    fn checked(self, config: &Config) -> Result<Rope, HfError> {
        if self.theta.is_finite() && self.theta > 0.0 {
            return Ok(self);
        }
        Err(config.unsupported(format!("a rope base of {}", self.theta)))
    }

    /// Angles of the pairs per position, in the precision of F32, in which PyTorch computes them.
    fn frequencies(self, dim: usize) -> Vec<f32> {
        let (theta, divisor) = match self.scaling {
            Scaling::None => (self.theta, 1.0),
            Scaling::Linear(factor) => (self.theta, factor),
            Scaling::Ntk(factor) => (self.theta * factor, factor.powf(2.0 / dim as f64)),
        };
        let pair = |at: usize| theta.powf(-((2 * at) as f64) / dim as f64) / divisor;
        (0..dim / 2).map(|at| pair(at) as f32).collect()
    }
}

/// The angles of all positions, for one kind of layer.
pub(super) struct Rotary {
    name: String,
    dim: usize,
    /// `[S, dim / 2]`, F32.
    cos: Value,
    sin: Value,
}

/// The angles for packed heads, `[S, heads * dim]`.
pub(super) struct Turning {
    cos: Value,
    /// Negative for the first feature of a pair.
    sin: Value,
    /// Where the other feature of each pair is, `[heads * dim]`.
    others: Value,
}

impl Rotary {
    /// Makes the tables of so many positions.
    ///
    /// # Errors
    /// Heads whose features are not pairs.
    pub(super) fn wire(
        graph: &mut Graph,
        name: &str,
        rope: Rope,
        dim: usize,
        positions: usize,
        tokens: &Tokens,
    ) -> Result<Rotary, HfError> {
        if !dim.is_multiple_of(2) || !(1..=DIM_MAX).contains(&dim) {
            return Err(unsupported(format!(
                "rotary positions with heads of {dim} features, an even number up to {DIM_MAX} is possible"
            )));
        }
        let positions = positions.clamp(1, TABLE_MAX / dim);
        let frequencies = rope.frequencies(dim);
        let mut table = |part: &str, function: fn(f32) -> f32| {
            let angles = (0..positions).flat_map(|position| {
                frequencies.iter().map(move |&frequency| position as f32 * frequency)
            });
            let bytes = angles.flat_map(|angle| function(angle).to_le_bytes());
            let bytes = graph.tensors().storage().keep(bytes.collect());
            let name = format!("{name}.{part}");
            let weight = Weight { shape: vec![positions, dim / 2], bytes };
            let table = graph.table(&format!("{name}.table"), weight);
            tokens.first_rows(graph, &name, &table)
        };
        // The angle is rounded to F32, as PyTorch does, but its cosine is computed in more precision.
        let cos = table("cos", |angle| f64::from(angle).cos() as f32);
        let sin = table("sin", |angle| f64::from(angle).sin() as f32);
        Ok(Rotary { name: name.to_owned(), dim, cos, sin })
    }

    /// The angles for so many heads. The first half of a head's features are the first ones of the pairs.
    ///
    /// # Errors
    /// They have too many features.
    pub(super) fn turning(&self, graph: &mut Graph, heads: usize) -> Result<Turning, HfError> {
        let Rotary { name, dim, cos, sin } = self;
        let (width, half) = (heads.saturating_mul(*dim), dim / 2);
        if width > WIDTH_MAX {
            return Err(unsupported(format!(
                "rotary positions with {heads} heads of {dim} features, the limit is {WIDTH_MAX} together"
            )));
        }
        let name = format!("{name}.{heads}");
        let is_first = |at: usize| at % dim < half;
        let pairs: Vec<i64> = (0..width).map(|at| (at % dim % half) as i64).collect();
        let others = |at: usize| if is_first(at) { at + half } else { at - half };
        let others: Vec<i64> = (0..width).map(|at| others(at) as i64).collect();
        let signs: Vec<f32> = (0..width).map(|at| if is_first(at) { -1.0 } else { 1.0 }).collect();
        let pairs = graph.integers(&format!("{name}.pairs"), &pairs);
        let signs = graph.numbers(&format!("{name}.signs"), &signs);
        let others = graph.integers(&format!("{name}.others"), &others);
        let columns = [Attribute::Int("axis", 1)];
        let cos = graph.node(&format!("{name}.cos"), "Gather", &[cos, &pairs], &columns);
        let sin = graph.node(&format!("{name}.sin.sizes"), "Gather", &[sin, &pairs], &columns);
        let sin = graph.node(&format!("{name}.sin"), "Mul", &[&sin, &signs], &[]);
        Ok(Turning { cos, sin, others })
    }

    /// The angles for the heads of queries and for those of keys.
    ///
    /// # Errors
    /// As [`Rotary::turning`].
    pub(super) fn turnings(
        &self,
        graph: &mut Graph,
        heads: Heads,
    ) -> Result<[Turning; 2], HfError> {
        let queries = self.turning(graph, heads.count)?;
        let keys = if heads.shared == heads.count {
            let Turning { cos, sin, others } = &queries;
            Turning { cos: cos.clone(), sin: sin.clone(), others: others.clone() }
        } else {
            self.turning(graph, heads.shared)?
        };
        Ok([queries, keys])
    }
}

fn unsupported(what: String) -> HfError {
    HfError::Unsupported { file: super::CONFIG.to_owned(), what }
}

impl Turning {
    /// Turns packed heads, `[B, S, heads * dim]`.
    pub(super) fn apply(&self, graph: &mut Graph, name: &str, x: &str) -> Value {
        let Turning { cos, sin, others } = self;
        let columns = [Attribute::Int("axis", 2)];
        let other = graph.node(&format!("{name}.others"), "Gather", &[x, others], &columns);
        let kept = graph.node(&format!("{name}.kept"), "Mul", &[x, cos], &[]);
        let crossed = graph.node(&format!("{name}.crossed"), "Mul", &[&other, sin], &[]);
        graph.node(&format!("{name}.rotated"), "Add", &[&kept, &crossed], &[])
    }
}
