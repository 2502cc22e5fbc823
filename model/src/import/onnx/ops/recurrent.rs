//! Recurrent layers. The input's share in the gates is one matrix product for all steps; the rest is an operator of the
//! program.

use anyhow::{Result, bail};
use flotilla_program::{Activation, Cell, Op, Recurrent, dim::ToDim as _};
use flotilla_tensor::DType;

use crate::import::onnx::{
    contract::Labelled,
    facts::Var,
    wiring::{Wire, Wiring},
};

pub(super) const OPERATORS: &[(&str, Wire)] =
    &[("GRU", |w| layer(w, Kind::Gru)), ("LSTM", lstm), ("RNN", |w| layer(w, Kind::Rnn))];

#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Rnn,
    Gru,
    Lstm,
}

impl Kind {
    fn gates(self) -> usize {
        match self {
            Kind::Rnn => 1,
            Kind::Gru => 3,
            Kind::Lstm => 4,
        }
    }

    fn activations(self) -> &'static [&'static str] {
        match self {
            Kind::Rnn => &["Tanh"],
            Kind::Gru => &["Sigmoid", "Tanh"],
            Kind::Lstm => &["Sigmoid", "Tanh", "Tanh"],
        }
    }
}

/// The layer `LSTM` of a node, of these operands.
pub(super) fn lstm(w: &mut Wiring<'_, '_>) -> Result<Vec<Var>> {
    layer(w, Kind::Lstm)
}

fn layer(w: &mut Wiring<'_, '_>, kind: Kind) -> Result<Vec<Var>> {
    let dtype = w.dtype(w.input(0)?);
    let batch_first = w.int("layout")?.unwrap_or(0) != 0;
    let directions: &[bool] = match w.text("direction")?.unwrap_or("forward") {
        "forward" => &[false],
        "reverse" => &[true],
        "bidirectional" => &[false, true],
        other => bail!("direction {other:?} is not known"),
    };
    let activations = activations(w, kind, directions.len())?;

    let x = operand(w, 0)?;
    let x = if batch_first { w.transpose(x, &[1, 0, 2])? } else { x };
    let mut rows = Vec::new();
    for (at, (&reverse, activations)) in directions.iter().zip(activations).enumerate() {
        let direction = Direction { kind, at, reverse, batch_first };
        rows.push(direction.wire(w, x, &activations)?);
    }

    let steps = w.shape(x)[0].clone();
    let hidden = w.dim(rows[0], 2).over(2);
    let mut all = Vec::new();
    let mut last: [Vec<Var>; 2] = [Vec::new(), Vec::new()];
    for row in rows {
        let steps_of_all = w.slice(row, 0, 0, &steps)?;
        let states = w.slice(steps_of_all, 2, 0, &hidden)?;
        all.push(w.unsqueeze(states, 1)?);
        let end = w.slice(row, 0, &steps, &steps + 1)?;
        last[0].push(w.slice(end, 2, 0, &hidden)?);
        last[1].push(w.slice(end, 2, &hidden, &hidden * 2)?);
    }
    // `[steps, directions, batch, hidden]` and `[directions, batch, hidden]`, or the same with the batch in front.
    let mut results = vec![w.concat(1, &all)?];
    let states = if kind == Kind::Lstm { 2 } else { 1 };
    for last in &last[..states] {
        results.push(w.concat(0, last)?);
    }
    if batch_first {
        results[0] = w.transpose(results[0], &[2, 0, 1, 3])?;
        for result in &mut results[1..] {
            *result = w.transpose(*result, &[1, 0, 2])?;
        }
    }
    results.into_iter().map(|result| w.unrounded(result, dtype)).collect()
}

/// A required operand, as `F32`.
fn operand(w: &mut Wiring<'_, '_>, index: usize) -> Result<Var> {
    let var = w.input(index)?;
    w.unrounded(var, DType::F32)
}

struct Direction {
    kind: Kind,
    at: usize,
    reverse: bool,
    batch_first: bool,
}

impl Direction {
    /// This direction's part of an operand whose first dimension is the directions.
    fn part(&self, w: &mut Wiring<'_, '_>, index: usize) -> Result<Var> {
        let all = operand(w, index)?;
        let part = w.slice(all, 0, self.at, self.at + 1)?;
        w.squeeze(part, 0)
    }

    /// A state before the first step, `[batch, hidden]`; zeros if it is left out.
    fn initial(&self, w: &mut Wiring<'_, '_>, index: usize, x: Var, hidden: usize) -> Result<Var> {
        if w.optional(index).is_none() {
            let zero = w.scalar(DType::F32, 0.0);
            let batch = w.shape(x)[1].clone();
            return w.broadcast_to(zero, &[batch, hidden.to_dim()]);
        }
        let all = operand(w, index)?;
        let axis = usize::from(self.batch_first);
        let part = w.slice(all, axis, self.at, self.at + 1)?;
        w.squeeze(part, axis)
    }

    /// `[steps + 1, batch, 2 * hidden]`; see [`Op::Recurrent`].
    fn wire(&self, w: &mut Wiring<'_, '_>, x: Var, activations: &[Activation]) -> Result<Var> {
        let kind = self.kind;
        let (weights, recurrent) = (self.part(w, 1)?, self.part(w, 2)?);
        let hidden = w.fixed_shape(recurrent)?[1];
        let width = kind.gates() * hidden;
        let reset_after = kind == Kind::Gru && w.flag("linear_before_reset")?;

        let (a, b) = (
            Labelled { var: x, labels: vec!['s', 'b', 'i'] },
            Labelled { var: weights, labels: vec!['g', 'i'] },
        );
        let mut shares = w.contract(a, b, &['s', 'b', 'g'])?;
        let mut extra = None;
        if w.optional(3).is_some() {
            let both = self.part(w, 3)?;
            let of_input = w.slice(both, 0, 0, width)?;
            let mut of_state = w.slice(both, 0, width, 2 * width)?;
            if reset_after {
                // The hidden gate's recurrent bias is reset with its product.
                let outer = w.slice(of_state, 0, 0, 2 * hidden)?;
                extra = Some(w.slice(of_state, 0, 2 * hidden, width)?);
                let zero = w.scalar(DType::F32, 0.0);
                let zeros = w.broadcast_to(zero, &[hidden.to_dim()])?;
                of_state = w.concat(0, &[outer, zeros])?;
            }
            let bias = w.add(of_input, of_state)?;
            shares = w.add(shares, bias)?;
        } else if reset_after {
            let zero = w.scalar(DType::F32, 0.0);
            extra = Some(w.broadcast_to(zero, &[hidden.to_dim()])?);
        }

        let mut initial = self.initial(w, 5, x, hidden)?;
        let peepholes = kind == Kind::Lstm && w.optional(7).is_some();
        if kind == Kind::Lstm {
            let cell = self.initial(w, 6, x, hidden)?;
            initial = w.concat(1, &[initial, cell])?;
            if peepholes {
                extra = Some(self.part(w, 7)?);
            }
        }
        let mut inputs = vec![shares, recurrent, initial];
        if let Some(lengths) = w.optional(4) {
            inputs.push(w.cast(lengths, DType::I32)?);
        }
        inputs.extend(extra);
        let op = Recurrent {
            cell: match (kind, activations) {
                (Kind::Rnn, &[activation]) => Cell::Rnn { activation },
                (Kind::Gru, &[outer, inner]) => {
                    Cell::Gru { activations: [outer, inner], reset_after }
                }
                (Kind::Lstm, &[gates, inner, out]) => Cell::Lstm {
                    activations: [gates, inner, out],
                    peepholes,
                    input_forget: w.flag("input_forget")?,
                },
                (_, other) => bail!("{} activations do not fit the cell", other.len()),
            },
            reverse: self.reverse,
            lengths: w.optional(4).is_some(),
            clip: w.float("clip")?.filter(|&clip| clip > 0.0),
        };
        let (steps, batch) = (w.shape(x)[0].clone(), w.shape(x)[1].clone());
        let shape = vec![steps + 1, batch, (2 * hidden).to_dim()];
        w.op(Op::Recurrent(op), &inputs, DType::F32, shape)
    }
}

/// Every direction's activations. Parameters are listed in the order of the activations that take them.
fn activations(w: &Wiring<'_, '_>, kind: Kind, directions: usize) -> Result<Vec<Vec<Activation>>> {
    let per_direction = kind.activations().len();
    let given = w.texts("activations")?.unwrap_or_default();
    let names: Vec<&str> =
        if given.is_empty() { kind.activations().repeat(directions) } else { given };
    if names.len() != per_direction * directions {
        bail!("{} activations are named, {per_direction} are needed per direction", names.len());
    }
    let numbers = |name: &str| -> Result<std::vec::IntoIter<f32>> {
        Ok(w.floats(name)?.unwrap_or_default().into_iter())
    };
    let (mut alphas, mut betas) = (numbers("activation_alpha")?, numbers("activation_beta")?);
    let mut all = Vec::new();
    for name in names {
        let mut alpha = |usual: f32| alphas.next().unwrap_or(usual);
        let mut beta = |usual: f32| betas.next().unwrap_or(usual);
        all.push(match name.to_lowercase().as_str() {
            "tanh" => Activation::Tanh,
            "sigmoid" => Activation::Sigmoid,
            "relu" => Activation::Relu,
            "affine" => Activation::Affine(alpha(1.0), beta(0.0)),
            "leakyrelu" => Activation::LeakyRelu(alpha(0.01)),
            "thresholdedrelu" => Activation::ThresholdedRelu(alpha(1.0)),
            "scaledtanh" => Activation::ScaledTanh(alpha(1.0), beta(1.0)),
            "hardsigmoid" => Activation::HardSigmoid(alpha(0.2), beta(0.5)),
            "elu" => Activation::Elu(alpha(1.0)),
            "softsign" => Activation::Softsign,
            "softplus" => Activation::Softplus,
            _ => bail!("activation {name:?} is not known"),
        });
    }
    let chunks = all.chunks(per_direction).map(<[Activation]>::to_vec);
    Ok(chunks.collect())
}
