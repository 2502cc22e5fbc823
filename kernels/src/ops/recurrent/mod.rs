//! Recurrent layers, one direction at a time: a dispatch or two per step, each of which reads what the one before has
//! written. The input's share in the gates is a matrix product that comes before.

#[cfg(not(target_arch = "wasm32"))]
mod table;

use flotilla_program::{Activation, Cell, DType, Recurrent, Unary};

#[cfg(not(target_arch = "wasm32"))]
pub(crate) use table::cases;

use super::{Kernel, Launch, Operand, Shader, math};
use crate::call::{Call, Signature};

/// Which of a node's shaders: one step, the reset that a GRU's hidden gate waits for, and the last row.
const STEP: usize = 0;
const FINISH: usize = 1;
const RESET: usize = 2;

struct Geometry {
    steps: usize,
    batch: usize,
    hidden: usize,
    /// Width of the state before the first step.
    initial: usize,
}

fn gates(cell: &Cell) -> usize {
    match cell {
        Cell::Rnn { .. } => 1,
        Cell::Gru { .. } => 3,
        Cell::Lstm { .. } => 4,
    }
}

/// What the last input is per hidden unit, when the cell has one.
fn extra(cell: &Cell) -> Option<usize> {
    match cell {
        Cell::Rnn { .. } => None,
        Cell::Gru { reset_after, .. } => reset_after.then_some(1),
        Cell::Lstm { peepholes, .. } => peepholes.then_some(3),
    }
}

/// Whether the hidden gate's product must wait until the whole state is reset.
fn resets_before(cell: &Cell) -> bool {
    match cell {
        Cell::Gru { reset_after, .. } => !reset_after,
        Cell::Rnn { .. } | Cell::Lstm { .. } => false,
    }
}

fn geometry(op: &Recurrent, call: &Call<'_>) -> Result<Geometry, String> {
    let gates = gates(&op.cell);
    let (shares, weights) = (call.input(0), call.input(1));
    let (&[steps, batch, _], &[_, hidden]) = (shares, weights) else {
        return Err(format!("gates of shape {shares:?} and weights of shape {weights:?}"));
    };
    call.expect_input(0, &[steps, batch, gates * hidden])?;
    call.expect_input(1, &[gates * hidden, hidden])?;
    let initial = if matches!(op.cell, Cell::Lstm { .. }) { 2 * hidden } else { hidden };
    call.expect_input(2, &[batch, initial])?;
    if op.lengths {
        call.expect_input(3, &[batch])?;
    }
    if let Some(extra) = extra(&op.cell) {
        call.expect_input(call.inputs() - 1, &[extra * hidden])?;
    }
    call.expect_output(&[steps + 1, batch, 2 * hidden])?;
    Ok(Geometry { steps, batch, hidden, initial })
}

impl Kernel for Recurrent {
    fn supports(&self, signature: &Signature<'_>) -> Result<(), String> {
        let extra = extra(&self.cell).is_some();
        signature.expect_operands(3 + usize::from(self.lengths) + usize::from(extra))?;
        let mut floats = vec![signature.input(0), signature.input(1), signature.input(2)];
        floats.push(signature.output());
        if extra {
            floats.push(signature.input(signature.node.inputs.len() - 1));
        }
        if let Some(other) = floats.iter().find(|value| value.dtype != DType::F32) {
            return Err(format!("an operand is {:?}, F32 is needed", other.dtype));
        }
        if self.lengths && signature.input(3).dtype != DType::I32 {
            return Err(format!("lengths are {:?}, I32 is needed", signature.input(3).dtype));
        }
        Ok(())
    }

    fn shaders(&self, _signature: &Signature<'_>) -> Vec<Shader> {
        let shader = |name: &str, body: &str| {
            let mut reads = vec![("gates", "f32"), ("weights", "f32"), ("initial", "f32")];
            if self.lengths {
                reads.push(("lengths", "i32"));
            }
            if extra(&self.cell).is_some() {
                reads.push(("extra", "f32"));
            }
            let text = format!(
                "{}{}{}{body}",
                self.declarations(),
                include_str!("recurrent.wgsl"),
                self.functions()
            );
            Shader::new(&format!("Recurrent, {name}"), &reads, "f32", &text)
        };
        let mut shaders = vec![
            shader("step", &entry(&self.step_wgsl())),
            shader("finish", include_str!("finish.wgsl")),
        ];
        if resets_before(&self.cell) {
            let reset = "    let reset = first_activation(clipped(share(1u, time, row, unit) + before(1u, row, unit)));
    output[place + params.hidden + unit] = reset * state(row, unit);\n";
            shaders.push(shader("reset", &entry(reset)));
        }
        shaders
    }

    fn launches(&self, call: &Call<'_>) -> Result<Vec<Launch>, String> {
        let Geometry { steps, batch, hidden, initial } = geometry(self, call)?;
        let total = batch * hidden;
        let launch = |shader: usize, step: usize| {
            let params = [total, batch, hidden, steps, step, initial, 0, 0]
                .map(|number| number as u32)
                .to_vec();
            let iterations = if shader == FINISH { 0 } else { gates(&self.cell) * hidden };
            Launch::new(shader, call.inputs(), params, total, iterations)
        };
        let mut launches = Vec::new();
        for step in 0..steps {
            if resets_before(&self.cell) {
                launches.push(launch(RESET, step));
            }
            launches.push(launch(STEP, step));
        }
        launches.push(launch(FINISH, 0));
        Ok(launches)
    }

    fn compute(
        &self,
        call: &Call<'_>,
        operands: &[Operand<'_>],
        output: &mut [u32],
    ) -> Result<(), String> {
        let geometry = geometry(self, call)?;
        let Geometry { steps, batch, hidden, initial } = geometry;
        let shares = operands[0].f32();
        let state = State {
            cell: &self.cell,
            clip: self.clip.unwrap_or(f32::INFINITY),
            weights: operands[1].f32(),
            extra: operands.last().filter(|_| extra(&self.cell).is_some()).map(|last| last.f32()),
            hidden,
        };
        let width = gates(&self.cell) * hidden;
        let output: &mut [f32] = bytemuck::cast_slice_mut(output);
        output.fill(0.0);
        let row_of = |time: usize, row: usize| (time * batch + row) * 2 * hidden;
        let mut before = vec![0.0; 2 * hidden];
        for row in 0..batch {
            let length = if self.lengths {
                usize::try_from(operands[3].i32()[row]).unwrap_or(0).min(steps)
            } else {
                steps
            };
            before.fill(0.0);
            before[..initial].copy_from_slice(&operands[2].f32()[row * initial..][..initial]);
            for step in 0..length {
                let time = if self.reverse { length - 1 - step } else { step };
                let share = &shares[(time * batch + row) * width..][..width];
                state.step(share, &mut before);
                output[row_of(time, row)..][..2 * hidden].copy_from_slice(&before);
            }
            output[row_of(steps, row)..][..2 * hidden].copy_from_slice(&before);
        }
        Ok(())
    }
}

/// What a step on the cpu needs.
struct State<'a> {
    cell: &'a Cell,
    clip: f32,
    weights: &'a [f32],
    extra: Option<&'a [f32]>,
    hidden: usize,
}

impl State<'_> {
    /// Takes the state of one sequence one step further.
    fn step(&self, share: &[f32], before: &mut [f32]) {
        let hidden = self.hidden;
        let (state, beside) = before.split_at_mut(hidden);
        let clipped = |x: f32| x.clamp(-self.clip, self.clip);
        let product = |gate: usize, unit: usize, state: &[f32]| {
            dot(&self.weights[(gate * hidden + unit) * hidden..][..hidden], state)
        };
        let gate = |gate: usize, unit: usize, state: &[f32]| {
            share[gate * hidden + unit] + product(gate, unit, state)
        };
        let extra = |index: usize| self.extra.map_or(0.0, |extra| extra[index]);
        let old = state.to_vec();
        match self.cell {
            Cell::Rnn { activation } => {
                for (unit, value) in state.iter_mut().enumerate() {
                    *value = apply(*activation, clipped(gate(0, unit, &old)));
                }
            }
            Cell::Gru { activations: [outer, inner], reset_after } => {
                let reset = |unit: usize| apply(*outer, clipped(gate(1, unit, &old)));
                if !reset_after {
                    beside
                        .iter_mut()
                        .enumerate()
                        .for_each(|(unit, x)| *x = reset(unit) * old[unit]);
                }
                for (unit, value) in state.iter_mut().enumerate() {
                    let update = apply(*outer, clipped(gate(0, unit, &old)));
                    let sum = if *reset_after {
                        share[2 * hidden + unit]
                            + reset(unit) * (product(2, unit, &old) + extra(unit))
                    } else {
                        gate(2, unit, beside)
                    };
                    let new = apply(*inner, clipped(sum));
                    *value = (1.0 - update) * new + update * old[unit];
                }
            }
            Cell::Lstm { activations: [gates, inner, out], peepholes, input_forget } => {
                let peephole = |index: usize, unit: usize, cell: f32| {
                    if *peepholes { extra(index * hidden + unit) * cell } else { 0.0 }
                };
                for unit in 0..hidden {
                    let cell = beside[unit];
                    let sum = gate(0, unit, &old) + peephole(0, unit, cell);
                    let input = apply(*gates, clipped(sum));
                    let forget = if *input_forget {
                        1.0 - input
                    } else {
                        let sum = gate(2, unit, &old) + peephole(2, unit, cell);
                        apply(*gates, clipped(sum))
                    };
                    let candidate = apply(*inner, clipped(gate(3, unit, &old)));
                    let cell = forget * cell + input * candidate;
                    let sum = gate(1, unit, &old) + peephole(1, unit, cell);
                    beside[unit] = cell;
                    state[unit] = apply(*gates, clipped(sum)) * apply(*out, cell);
                }
            }
        }
    }
}

/// Sums of eight lanes, which the compiler makes one vector.
fn dot(a: &[f32], b: &[f32]) -> f32 {
    let mut lanes = [0.0f32; 8];
    let ((a_chunks, a_rest), (b_chunks, b_rest)) = (a.as_chunks::<8>(), b.as_chunks::<8>());
    for (a, b) in a_chunks.iter().zip(b_chunks) {
        for lane in 0..8 {
            lanes[lane] += a[lane] * b[lane];
        }
    }
    let rest: f32 = a_rest.iter().zip(b_rest).map(|(a, b)| a * b).sum();
    lanes.iter().sum::<f32>() + rest
}

fn apply(activation: Activation, x: f32) -> f32 {
    match activation {
        Activation::Tanh => math::tanh(x),
        Activation::Sigmoid => math::sigmoid(x),
        Activation::Relu => x.max(0.0),
        Activation::Affine(alpha, beta) => alpha * x + beta,
        Activation::LeakyRelu(alpha) => {
            if x < 0.0 {
                alpha * x
            } else {
                x
            }
        }
        Activation::ThresholdedRelu(alpha) => {
            if x > alpha {
                x
            } else {
                0.0
            }
        }
        Activation::ScaledTanh(alpha, beta) => alpha * math::tanh(beta * x),
        Activation::HardSigmoid(alpha, beta) => (alpha * x + beta).clamp(0.0, 1.0),
        Activation::Elu(alpha) => {
            if x < 0.0 {
                alpha * (math::exp(x) - 1.0)
            } else {
                x
            }
        }
        Activation::Softsign => x / (1.0 + x.abs()),
        Activation::Softplus => x.max(0.0) + (1.0 + math::exp(-x.abs())).ln(),
    }
}

/// The same in WGSL.
fn activation_wgsl(name: &str, activation: Activation) -> String {
    let result = match activation {
        Activation::Tanh => "own_tanh(x)".to_owned(),
        Activation::Sigmoid => "own_sigmoid(x)".to_owned(),
        Activation::Relu => "max(x, 0.0)".to_owned(),
        Activation::Affine(alpha, beta) => format!("f32({alpha:?}) * x + f32({beta:?})"),
        Activation::LeakyRelu(alpha) => format!("select(x, f32({alpha:?}) * x, x < 0.0)"),
        Activation::ThresholdedRelu(alpha) => format!("select(0.0, x, x > f32({alpha:?}))"),
        Activation::ScaledTanh(alpha, beta) => {
            format!("f32({alpha:?}) * own_tanh(f32({beta:?}) * x)")
        }
        Activation::HardSigmoid(alpha, beta) => {
            format!("clamp(f32({alpha:?}) * x + f32({beta:?}), 0.0, 1.0)")
        }
        Activation::Elu(alpha) => {
            format!("select(x, f32({alpha:?}) * (exp(min(x, 0.0)) - 1.0), x < 0.0)")
        }
        Activation::Softsign => "x / (1.0 + abs(x))".to_owned(),
        Activation::Softplus => "max(x, 0.0) + log(1.0 + exp(-abs(x)))".to_owned(),
    };
    format!("fn {name}(x: f32) -> f32 {{ return {result}; }}\n")
}

/// A shader's `main` whose invocation has one unit of one sequence and does this in a step that the sequence has.
fn entry(step: &str) -> String {
    include_str!("step.wgsl").replace("    // STEP\n", step)
}

trait Text {
    fn declarations(&self) -> String;
    fn functions(&self) -> String;
    fn step_wgsl(&self) -> String;
}

impl Text for Recurrent {
    fn declarations(&self) -> String {
        let (gates, reverse) = (gates(&self.cell), self.reverse);
        let length = if self.lengths {
            "u32(clamp(lengths[row], 0, i32(params.steps)))"
        } else {
            "params.steps"
        };
        let clipped = match self.clip {
            Some(clip) => format!("clamp(x, -f32({clip:?}), f32({clip:?}))"),
            None => "x".to_owned(),
        };
        format!(
            "const GATES = {gates}u;
const REVERSE = {reverse};
fn length_of(row: u32) -> u32 {{ return {length}; }}
fn clipped(x: f32) -> f32 {{ return {clipped}; }}
"
        )
    }

    fn functions(&self) -> String {
        let activations = match &self.cell {
            Cell::Rnn { activation } => vec![*activation],
            Cell::Gru { activations, .. } => activations.to_vec(),
            Cell::Lstm { activations, .. } => activations.to_vec(),
        };
        let names = ["first_activation", "second_activation", "third_activation"];
        let mut text = math::wgsl(Unary::Tanh, "own_tanh", "f32");
        text += &math::wgsl(Unary::Sigmoid, "own_sigmoid", "f32");
        for (name, activation) in names.into_iter().zip(activations) {
            text += &activation_wgsl(name, activation);
        }
        text
    }

    fn step_wgsl(&self) -> String {
        match &self.cell {
            Cell::Rnn { .. } => {
                "    output[place + unit] = first_activation(clipped(share(0u, time, row, unit) + before(0u, row, unit)));
    output[place + params.hidden + unit] = 0.0;\n"
                    .to_owned()
            }
            Cell::Gru { reset_after, .. } => {
                let sum = if *reset_after {
                    "    let reset = first_activation(clipped(share(1u, time, row, unit) + before(1u, row, unit)));
    let sum = share(2u, time, row, unit) + reset * (before(2u, row, unit) + extra[unit]);\n"
                } else {
                    "    var sum = share(2u, time, row, unit);
    for (var other = 0u; other < params.hidden; other++) {
        sum += weights[(2u * params.hidden + unit) * params.hidden + other] * output[place + params.hidden + other];
    }\n"
                };
                format!(
                    "    let update = first_activation(clipped(share(0u, time, row, unit) + before(0u, row, unit)));
{sum}    let fresh = second_activation(clipped(sum));
    output[place + unit] = (1.0 - update) * fresh + update * state(row, unit);\n"
                )
            }
            Cell::Lstm { peepholes, input_forget, .. } => {
                let peephole = |index: usize, cell: &str| {
                    if *peepholes {
                        format!(" + extra[{index}u * params.hidden + unit] * {cell}")
                    } else {
                        String::new()
                    }
                };
                let forget = if *input_forget {
                    "1.0 - gate_in".to_owned()
                } else {
                    format!(
                        "first_activation(clipped(share(2u, time, row, unit) + before(2u, row, unit){}))",
                        peephole(2, "old_cell")
                    )
                };
                format!(
                    "    let old_cell = beside(row, unit);
    let gate_in = first_activation(clipped(share(0u, time, row, unit) + before(0u, row, unit){}));
    let forget = {forget};
    let fresh = second_activation(clipped(share(3u, time, row, unit) + before(3u, row, unit)));
    let cell = forget * old_cell + gate_in * fresh;
    let gate_out = first_activation(clipped(share(1u, time, row, unit) + before(1u, row, unit){}));
    output[place + unit] = gate_out * third_activation(cell);
    output[place + params.hidden + unit] = cell;\n",
                    peephole(0, "old_cell"),
                    peephole(1, "cell")
                )
            }
        }
    }
}
