//! Recurrent layers, one direction at a time: a few dispatches per step, each of which reads the results of the one before.
//! The input's share in the gates is computed before by a matrix product.

#[cfg(not(target_arch = "wasm32"))]
mod table;

use flotilla_program::{Activation, Cell, Recurrent, Unary};
use flotilla_tensor::DType;

#[cfg(not(target_arch = "wasm32"))]
pub(crate) use table::cases;

use super::{
    Kernel, Launch, Memory, Operand, Shader, math,
    split::{self, Scratchpad},
};
use crate::call::{Call, Signature};

/// Widest hidden state whose products are computed in the step that needs them; for a wider one, a launch before the step
/// computes them.
const HIDDEN_MAX: usize = split::WHOLE_MAX;
/// Most elements of a state that one invocation multiplies if products are computed before the step.
const LENGTH_MAX: usize = 2048;
/// Most steps: units count them in floating-point numbers.
const STEPS_MAX: usize = 1 << 24;

/// A shader of a node.
#[derive(Clone, Copy, PartialEq)]
enum Part {
    /// Before the first step of any unit.
    Start,
    /// Products of the state before a step.
    Product,
    /// The reset before a GRU's hidden gate.
    Reset { products: bool },
    /// Products of the reset state.
    ResetProduct,
    /// A step, with or without products computed before.
    Step { products: bool },
    /// The last row.
    Finish,
}

/// The shaders that a node may need.
fn parts(op: &Recurrent, signature: &Signature<'_>) -> Vec<Part> {
    let resets = resets_before(&op.cell);
    let hidden = signature.fixed(1, 1);
    let mut parts = vec![Part::Start, Part::Finish];
    if hidden.is_none_or(|hidden| hidden <= HIDDEN_MAX as i64) {
        parts.push(Part::Step { products: false });
        parts.extend(resets.then_some(Part::Reset { products: false }));
    }
    if hidden.is_none_or(|hidden| hidden > HIDDEN_MAX as i64) {
        parts.extend([Part::Product, Part::Step { products: true }]);
        if resets {
            parts.extend([Part::Reset { products: true }, Part::ResetProduct]);
        }
    }
    parts
}

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

/// Elements of the last input per hidden unit, if the cell has one.
fn extra(cell: &Cell) -> Option<usize> {
    match cell {
        Cell::Rnn { .. } => None,
        Cell::Gru { reset_after, .. } => reset_after.then_some(1),
        Cell::Lstm { peepholes, .. } => peepholes.then_some(3),
    }
}

/// Whether the hidden gate's product needs the whole reset state.
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

    fn shaders(&self, signature: &Signature<'_>) -> Vec<Shader> {
        parts(self, signature).into_iter().map(|part| self.shader(part)).collect()
    }

    fn launches(&self, call: &Call<'_>) -> Result<Vec<Launch>, String> {
        let Geometry { steps, batch, hidden, initial } = geometry(self, call)?;
        if steps >= STEPS_MAX {
            return Err(format!("{steps} steps, the limit is {STEPS_MAX}"));
        }
        let all_gates = gates(&self.cell);
        let known = parts(self, &call.signature);
        let products = hidden > HIDDEN_MAX;
        let parts = split::parts(batch * all_gates * hidden, hidden, LENGTH_MAX);
        let sums = Scratchpad::default().take(batch * all_gates * hidden * parts);
        let launch = |part: Part, gate: usize, gates: usize| {
            let shader = known.iter().position(|&other| other == part).unwrap_or_default();
            let (total, iterations) = match part {
                Part::Product | Part::ResetProduct => {
                    (batch * gates * hidden * parts, hidden.div_ceil(parts))
                }
                Part::Step { .. } | Part::Reset { .. } if products => {
                    (batch * hidden, all_gates * parts)
                }
                Part::Step { .. } | Part::Reset { .. } => (batch * hidden, all_gates * hidden),
                Part::Start | Part::Finish => (batch * hidden, 0),
            };
            let params = [total, batch, hidden, steps, initial, parts, gate, gates]
                .map(|number| number as u32)
                .to_vec();
            let places = reads(self, part).into_iter().map(|(name, _)| match name {
                "products" => sums,
                "states" => Memory::Output,
                name => Memory::Input(input(self, name)),
            });
            let launch = Launch::new(shader, 0, params, total, iterations);
            let launch = launch.reading(places.collect::<Vec<_>>());
            if matches!(part, Part::Product | Part::ResetProduct) {
                launch.writing(sums)
            } else {
                launch
            }
        };
        let mut step = Vec::new();
        // In a cell that resets before the product, the hidden gate is the last one.
        let (at_once, last) = (all_gates - usize::from(resets_before(&self.cell)), all_gates - 1);
        if products {
            step.push(launch(Part::Product, 0, at_once));
        }
        if resets_before(&self.cell) {
            step.push(launch(Part::Reset { products }, 0, 0));
            if products {
                step.push(launch(Part::ResetProduct, last, 1));
            }
        }
        step.push(launch(Part::Step { products }, 0, 0));
        let mut launches = vec![launch(Part::Start, 0, 0)];
        (0..steps).for_each(|_| launches.extend_from_slice(&step));
        launches.push(launch(Part::Finish, 0, 0));
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

/// Inputs of a step on the cpu.
struct State<'a> {
    cell: &'a Cell,
    clip: f32,
    weights: &'a [f32],
    extra: Option<&'a [f32]>,
    hidden: usize,
}

impl State<'_> {
    /// Advances the state of one sequence by one step.
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

/// Products in eight lanes, which the compiler makes one vector. The sums of blocks are added as `f64`, so that long ones stay
/// exact.
fn dot(a: &[f32], b: &[f32]) -> f32 {
    const BLOCK: usize = 1024;
    let blocks = a.chunks(BLOCK).zip(b.chunks(BLOCK)).map(|(a, b)| {
        let mut lanes = [0.0f32; 8];
        let ((a_chunks, a_rest), (b_chunks, b_rest)) = (a.as_chunks::<8>(), b.as_chunks::<8>());
        for (a, b) in a_chunks.iter().zip(b_chunks) {
            for lane in 0..8 {
                lanes[lane] += a[lane] * b[lane];
            }
        }
        let rest: f32 = a_rest.iter().zip(b_rest).map(|(a, b)| a * b).sum();
        f64::from(lanes.iter().sum::<f32>() + rest)
    });
    blocks.sum::<f64>() as f32
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
                alpha * x.exp_m1()
            } else {
                x
            }
        }
        Activation::Softsign => x / (1.0 + x.abs()),
        Activation::Softplus => x.max(0.0) + math::exp(-x.abs()).ln_1p(),
    }
}

/// `exp(x) - 1` for numbers that are not positive, without losing the digits of small ones.
const EXP_LESS_1: &str = "fn less_1(x: f32) -> f32 {
    let near = x * (1.0 + x * (0.5 + x * (0.16666667 + x * (4.1666667e-2 + x * (8.3333333e-3 + x * (1.3888889e-3 + x * 1.9841270e-4))))));
    return select(exp(x) - 1.0, near, x > -0.5);
}
";

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
            format!("select(x, f32({alpha:?}) * less_1(min(x, 0.0)), x < 0.0)")
        }
        Activation::Softsign => "x / (1.0 + abs(x))".to_owned(),
        Activation::Softplus => "own_softplus(x)".to_owned(),
    };
    format!("fn {name}(x: f32) -> f32 {{ return {result}; }}\n")
}

/// The buffers that a shader reads, by name.
fn reads(op: &Recurrent, part: Part) -> Vec<(&'static str, &'static str)> {
    let names: &[&str] = match part {
        Part::Start => &[],
        Part::Product | Part::ResetProduct => &["weights", "initial", "lengths", "states"],
        Part::Step { products: true } => &["gates", "initial", "lengths", "extra", "products"],
        Part::Step { products: false } => &["gates", "weights", "initial", "lengths", "extra"],
        Part::Reset { products: true } => &["gates", "initial", "lengths", "products"],
        Part::Reset { products: false } => &["gates", "weights", "initial", "lengths"],
        Part::Finish => &["initial", "lengths"],
    };
    let is_there = |name: &&str| match *name {
        "lengths" => op.lengths,
        "extra" => extra(&op.cell).is_some(),
        _ => true,
    };
    let typed = |name: &'static str| (name, if name == "lengths" { "i32" } else { "f32" });
    names.iter().copied().filter(is_there).map(typed).collect()
}

/// Which of the node's inputs has this name.
fn input(op: &Recurrent, name: &str) -> usize {
    match name {
        "gates" => 0,
        "weights" => 1,
        "initial" => 2,
        "lengths" => 3,
        _ => 3 + usize::from(op.lengths),
    }
}

trait Text {
    fn shader(&self, part: Part) -> Shader;
    fn declarations(&self) -> String;
    fn functions(&self) -> String;
    fn step_wgsl(&self) -> String;
}

impl Text for Recurrent {
    fn shader(&self, part: Part) -> Shader {
        let reset = "    let reset = first_activation(clipped(share(1u, time, row, unit) + before(1u, row, unit)));
    output[place + params.hidden + unit] = reset * state(row, unit);\n";
        let count = "output[count_of(row, unit)] = f32(step + 1u);";
        let entry = |products: bool, count: &str, step: &str| {
            let before =
                if products { include_str!("products.wgsl") } else { include_str!("sums.wgsl") };
            let main = include_str!("step.wgsl").replace("// COUNT", count);
            let main = main.replace("    // STEP\n", step);
            let states = include_str!("states.wgsl");
            format!("{states}{before}{}{main}", self.functions())
        };
        let product =
            |reset: bool| format!("const RESET = {reset};\n{}", include_str!("product.wgsl"));
        let (name, body) = match part {
            Part::Start => ("start", include_str!("start.wgsl").to_owned()),
            Part::Product => ("products", product(false)),
            Part::ResetProduct => ("products of what was reset", product(true)),
            Part::Reset { products } => ("reset", entry(products, "", reset)),
            Part::Step { products } => ("step", entry(products, count, &self.step_wgsl())),
            Part::Finish => ("finish", include_str!("finish.wgsl").to_owned()),
        };
        // Only the start does not use lengths.
        let declarations = match part {
            Part::Start => {
                "const REVERSE = false;\nfn length_of(row: u32) -> u32 { return 0u; }\n".to_owned()
            }
            _ => self.declarations(),
        };
        let text = format!("{declarations}{}{body}", include_str!("recurrent.wgsl"));
        Shader::new(&format!("Recurrent, {name}"), &reads(self, part), "f32", &text)
    }

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
        text += &math::wgsl(Unary::Softplus, "own_softplus", "f32");
        text += EXP_LESS_1;
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
                    "    let sum = share(2u, time, row, unit) + after_reset(2u, row, unit);\n"
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
