//! The table of cases: cells, directions, lengths and activations against the formulas of the standard in `f64`.

use flotilla_program::{Activation, Cell, Op, Recurrent};
use flotilla_tensor::DType;

use crate::suite::{Array, Case, Sketch, Tolerance};

/// Steps, sequences and hidden units.
#[derive(Clone, Copy)]
struct Sizes {
    steps: usize,
    batch: usize,
    hidden: usize,
}

const SMALL: Sizes = Sizes { steps: 4, batch: 3, hidden: 5 };

pub(crate) fn cases() -> Vec<Case> {
    use Activation::{
        Affine, Elu, HardSigmoid, LeakyRelu, Relu, ScaledTanh, Sigmoid, Softplus, Softsign, Tanh,
        ThresholdedRelu,
    };
    let rnn = |activation| Cell::Rnn { activation };
    let gru = |reset_after| Cell::Gru { activations: [Sigmoid, Tanh], reset_after };
    let lstm = |peepholes, input_forget| Cell::Lstm {
        activations: [Sigmoid, Tanh, Tanh],
        peepholes,
        input_forget,
    };
    let cells = [
        ("rnn", rnn(Tanh)),
        ("gru", gru(false)),
        ("gru, reset after", gru(true)),
        ("lstm", lstm(false, false)),
        ("lstm, peepholes", lstm(true, false)),
        ("lstm, input and forget", lstm(true, true)),
    ];
    let mut cases = Vec::new();
    for (name, cell) in cells {
        for (reverse, lengths, clip) in [
            (false, false, None),
            (true, false, Some(0.3)),
            (false, true, None),
            (true, true, None),
        ] {
            let op = Recurrent { cell: cell.clone(), reverse, lengths, clip };
            cases.push(case(name, op, SMALL));
        }
    }
    let activations = [
        Relu,
        Affine(0.5, 0.1),
        LeakyRelu(0.1),
        ThresholdedRelu(0.2),
        ScaledTanh(0.7, 1.5),
        HardSigmoid(0.2, 0.5),
        Elu(0.9),
        Softsign,
        Softplus,
    ];
    for activation in activations {
        let op = Recurrent { cell: rnn(activation), reverse: false, lengths: false, clip: None };
        cases.push(case(&format!("rnn of {activation:?}"), op, SMALL));
    }
    for (name, cell, hidden) in [
        ("rnn", rnn(Tanh), 2100),
        ("gru", gru(false), 1030),
        ("gru, reset after", gru(true), 1030),
        ("lstm", lstm(true, false), 1030),
    ] {
        let op = Recurrent { cell, reverse: hidden > 2000, lengths: true, clip: None };
        let case = case(&format!("wide {name}"), op, Sizes { hidden, ..SMALL });
        cases.push(case.everywhere_if(name == "gru"));
    }
    let op = Recurrent { cell: gru(false), reverse: false, lengths: false, clip: None };
    let many = Sizes { steps: 3000, batch: 2, hidden: 3 };
    cases.push(case("many steps of gru", op, many).everywhere_if(false));
    cases
}

fn case(name: &str, op: Recurrent, sizes: Sizes) -> Case {
    let Sizes { steps, batch, hidden } = sizes;
    let (gates, states, extra) = match &op.cell {
        Cell::Rnn { .. } => (1, 1, 0),
        Cell::Gru { reset_after, .. } => (3, 1, usize::from(*reset_after)),
        Cell::Lstm { peepholes, .. } => (4, 2, if *peepholes { 3 } else { 0 }),
    };
    let shares = Array::noise(4700, &[steps, batch, gates * hidden]);
    // With large sums an activation would give only its limits.
    let scale = (5.0 / hidden as f64).sqrt();
    let weights =
        Array::noise(4701, &[gates * hidden, hidden]).map(|x| f64::from((x * scale) as f32));
    let initial = Array::noise(4702, &[batch, states * hidden]);
    let lengths = Array::of(DType::I32, &[batch], [2.0, 4.0, 0.0][..batch].to_vec());
    let extras = Array::noise(4703, &[extra * hidden]);
    let mut expected = Array::build(DType::F32, &[steps + 1, batch, 2 * hidden], |_| 0.0);
    for row in 0..batch {
        let length = if op.lengths { lengths.numbers[row] as usize } else { steps };
        let mut state: Vec<f64> = (0..hidden).map(|unit| initial.at(&[row, unit])).collect();
        let mut beside: Vec<f64> = (0..hidden)
            .map(|unit| if states == 2 { initial.at(&[row, hidden + unit]) } else { 0.0 })
            .collect();
        for step in 0..length {
            let time = if op.reverse { length - 1 - step } else { step };
            let share = |gate: usize, unit: usize| shares.at(&[time, row, gate * hidden + unit]);
            let product = |gate: usize, unit: usize, state: &[f64]| -> f64 {
                let weights = &weights.numbers[(gate * hidden + unit) * hidden..][..hidden];
                weights.iter().zip(state).map(|(weight, other)| weight * other).sum()
            };
            advance(&op, &share, &product, &extras.numbers, &mut state, &mut beside);
            write(&mut expected, sizes, time, row, &state, &beside);
        }
        write(&mut expected, sizes, steps, row, &state, &beside);
    }
    let mut inputs = vec![&shares, &weights, &initial];
    if op.lengths {
        inputs.push(&lengths);
    }
    if extra > 0 {
        inputs.push(&extras);
    }
    let name = format!(
        "recurrent/{name}{}{}{}",
        if op.reverse { ", reverse" } else { "" },
        if op.lengths { ", lengths" } else { "" },
        if op.clip.is_some() { ", clip" } else { "" }
    );
    Sketch::single(&name, Op::Recurrent(op), &inputs, &expected, Tolerance::Approximate)
}

fn write(
    expected: &mut Array,
    Sizes { batch, hidden, .. }: Sizes,
    time: usize,
    row: usize,
    state: &[f64],
    beside: &[f64],
) {
    let start = (time * batch + row) * 2 * hidden;
    expected.numbers[start..][..hidden].copy_from_slice(state);
    expected.numbers[start + hidden..][..hidden].copy_from_slice(beside);
}

/// One step. Source: ONNX operators, "RNN", "GRU", "LSTM", section "Equations".
fn advance(
    op: &Recurrent,
    share: &dyn Fn(usize, usize) -> f64,
    product: &dyn Fn(usize, usize, &[f64]) -> f64,
    extra: &[f64],
    state: &mut Vec<f64>,
    beside: &mut Vec<f64>,
) {
    let hidden = state.len();
    let units = || 0..hidden;
    let clipped = |x: f64| op.clip.map_or(x, |clip| x.clamp(-f64::from(clip), f64::from(clip)));
    let gate = |gate: usize, unit: usize, more: f64| {
        clipped(share(gate, unit) + product(gate, unit, state) + more)
    };
    match &op.cell {
        Cell::Rnn { activation } => {
            *state = units().map(|unit| exact(*activation, gate(0, unit, 0.0))).collect();
        }
        Cell::Gru { activations: [f, g], reset_after } => {
            let z: Vec<f64> = units().map(|unit| exact(*f, gate(0, unit, 0.0))).collect();
            let r: Vec<f64> = units().map(|unit| exact(*f, gate(1, unit, 0.0))).collect();
            let rh: Vec<f64> = units().map(|unit| r[unit] * state[unit]).collect();
            let h = units().map(|unit| {
                let recurrent = if *reset_after {
                    r[unit] * (product(2, unit, state) + extra[unit])
                } else {
                    product(2, unit, &rh)
                };
                exact(*g, clipped(share(2, unit) + recurrent))
            });
            let new: Vec<f64> = h
                .enumerate()
                .map(|(unit, h)| (1.0 - z[unit]) * h + z[unit] * state[unit])
                .collect();
            *state = new;
            // The value kept beside the state is the reset state, if the product uses it.
            *beside = if *reset_after { vec![0.0; hidden] } else { rh };
        }
        Cell::Lstm { activations: [f, g, h], peepholes, input_forget } => {
            let p = |index: usize, unit: usize, cell: f64| {
                if *peepholes { extra[index * hidden + unit] * cell } else { 0.0 }
            };
            let mut next = Vec::new();
            for unit in units() {
                let old = beside[unit];
                let i = exact(*f, gate(0, unit, p(0, unit, old)));
                let forget =
                    if *input_forget { 1.0 - i } else { exact(*f, gate(2, unit, p(2, unit, old))) };
                let c = forget * old + i * exact(*g, gate(3, unit, 0.0));
                let o = exact(*f, gate(1, unit, p(1, unit, c)));
                next.push((o * exact(*h, c), c));
            }
            (*state, *beside) = next.into_iter().unzip();
        }
    }
}

fn exact(activation: Activation, x: f64) -> f64 {
    let wide = f64::from;
    match activation {
        Activation::Tanh => x.tanh(),
        Activation::Sigmoid => 1.0 / (1.0 + (-x).exp()),
        Activation::Relu => x.max(0.0),
        Activation::Affine(alpha, beta) => wide(alpha) * x + wide(beta),
        Activation::LeakyRelu(alpha) => {
            if x < 0.0 {
                wide(alpha) * x
            } else {
                x
            }
        }
        Activation::ThresholdedRelu(alpha) => {
            if x > wide(alpha) {
                x
            } else {
                0.0
            }
        }
        Activation::ScaledTanh(alpha, beta) => wide(alpha) * (wide(beta) * x).tanh(),
        Activation::HardSigmoid(alpha, beta) => (wide(alpha) * x + wide(beta)).clamp(0.0, 1.0),
        Activation::Elu(alpha) => {
            if x < 0.0 {
                wide(alpha) * x.exp_m1()
            } else {
                x
            }
        }
        Activation::Softsign => x / (1.0 + x.abs()),
        Activation::Softplus => x.exp().ln_1p(),
    }
}
