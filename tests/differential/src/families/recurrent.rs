//! Recurrent layers.

use crate::{
    graph::{Graph, Spread, Var},
    proto::{float, floats, int, text, texts},
    value::{Dim, Facts, Type},
};

pub(super) fn layer(g: &mut Graph) -> Option<()> {
    let op = g.rng.pick(&["LSTM", "GRU", "RNN"]);
    let there = g.find(|value| {
        value.of == Type::F32
            && value.rank() == 3
            && value.is_filled()
            && value.shape[2].same_size().is_some()
            && value.facts.size() < 20.0
    });
    let x = match there {
        Some(x) if g.rng.percent(60) => x,
        _ => {
            let mut shape = g.any_shape(3);
            shape[2] = Dim::Fixed(g.rng.between(1, 4) as usize);
            g.input(Type::F32, shape, Spread::Grid(3, -2.0, 2.0))?
        }
    };
    if !g.value(x).is_filled() {
        return None;
    }
    let (shape, facts) = (g.shape(x), g.facts(x));
    let (steps, batch, width) = (shape[0], shape[1], shape[2].same_size()?);
    let hidden = g.rng.between(1, 4) as usize;
    let gates = match op {
        "LSTM" => 4,
        "GRU" => 3,
        _ => 1,
    };
    let direction = g.rng.pick(&["forward", "forward", "reverse", "bidirectional"]);
    let directions = if direction == "bidirectional" { 2 } else { 1 };
    let spread = || Spread::Grid(3, -0.75, 0.75);
    let w = g.weights(Type::F32, &[directions, gates * hidden, width], spread())?;
    let r = g.weights(Type::F32, &[directions, gates * hidden, hidden], spread())?;
    let mut inputs = vec![x, w, r];
    inputs.resize(8, Var::NONE);
    if g.rng.percent(60) {
        inputs[3] = g.weights(Type::F32, &[directions, 2 * gates * hidden], spread())?;
    }
    if g.rng.percent(30) {
        let lengths = Spread::whole(1, steps.least() as i64);
        inputs[4] = g.given(Type::I32, &[batch], lengths)?;
    }
    let state = [Dim::Fixed(directions), batch, Dim::Fixed(hidden)];
    if g.rng.percent(40) {
        inputs[5] = g.given(Type::F32, &state, Spread::Grid(3, -1.0, 1.0))?;
    }
    if op == "LSTM" {
        if g.rng.percent(40) {
            inputs[6] = g.given(Type::F32, &state, Spread::Grid(3, -1.0, 1.0))?;
        }
        if g.rng.percent(30) {
            inputs[7] = g.weights(Type::F32, &[directions, 3 * hidden], spread())?;
        }
    }
    let mut attributes = vec![int("hidden_size", hidden as i64)];
    if direction != "forward" || g.rng.percent(30) {
        attributes.push(text("direction", direction));
    }
    if op == "GRU" && g.rng.percent(50) {
        attributes.push(int("linear_before_reset", 1));
    }
    if g.rng.percent(20) {
        attributes.push(float("clip", 1.5));
    }
    if op == "LSTM" && g.rng.percent(15) {
        attributes.push(int("input_forget", 1));
    }
    if g.rng.percent(25) {
        let each: &[&str] = match op {
            "LSTM" => &["HardSigmoid", "Softsign", "Tanh"],
            "GRU" => &["HardSigmoid", "Tanh"],
            _ => &["Softsign"],
        };
        let names = each.repeat(directions);
        let hard = names.iter().filter(|name| **name == "HardSigmoid").count();
        attributes.push(texts("activations", &names));
        if hard > 0 {
            attributes.push(floats("activation_alpha", vec![0.2; hard]));
            attributes.push(floats("activation_beta", vec![0.5; hard]));
        }
    }
    let turns = steps.most() as f64;
    let error = facts.error * 4.0 + 4e-6;
    let of_state = Facts::about(-1.0, 1.0, error);
    let all = vec![steps, Dim::Fixed(directions), batch, Dim::Fixed(hidden)];
    let mut outputs =
        vec![(Type::F32, all, of_state.clone()), (Type::F32, state.to_vec(), of_state)];
    if op == "LSTM" {
        outputs.push((
            Type::F32,
            state.to_vec(),
            Facts::about(-1.0 - turns, 1.0 + turns, error * 2.0),
        ));
    }
    let kept = g.rng.between(1, outputs.len() as i64) as usize;
    outputs.truncate(kept);
    g.node(op, &inputs, attributes, outputs)?;
    Some(())
}
