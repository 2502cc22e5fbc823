
// The hidden state before this step.
fn state(row: u32, unit: u32) -> f32 {
    if (step == 0u) {
        return initial[row * params.initial_width + unit];
    }
    return output[place_of(time_of(step - 1u, row), row) + unit];
}

// The cell state before this step.
fn beside(row: u32, unit: u32) -> f32 {
    if (step == 0u) {
        return initial[row * params.initial_width + params.hidden + unit];
    }
    return output[place_of(time_of(step - 1u, row), row) + params.hidden + unit];
}

// The input's contribution to a gate.
fn share(gate: u32, time: u32, row: u32, unit: u32) -> f32 {
    return gates[((time * params.batch + row) * GATES + gate) * params.hidden + unit];
}
