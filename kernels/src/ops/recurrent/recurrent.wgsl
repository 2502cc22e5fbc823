struct Params {
    total: u32,
    batch: u32,
    hidden: u32,
    steps: u32,
    step: u32,
    initial_width: u32,
}

fn time_of(step: u32, row: u32) -> u32 {
    return select(step, length_of(row) - 1u - step, REVERSE);
}

// Where a sequence's row of a time starts.
fn place_of(time: u32, row: u32) -> u32 {
    return (time * params.batch + row) * 2u * params.hidden;
}

// The hidden state before this step.
fn state(row: u32, unit: u32) -> f32 {
    if (params.step == 0u) {
        return initial[row * params.initial_width + unit];
    }
    return output[place_of(time_of(params.step - 1u, row), row) + unit];
}

// What the cell keeps beside it.
fn beside(row: u32, unit: u32) -> f32 {
    if (params.step == 0u) {
        return initial[row * params.initial_width + params.hidden + unit];
    }
    return output[place_of(time_of(params.step - 1u, row), row) + params.hidden + unit];
}

// The input's share in a gate.
fn share(gate: u32, time: u32, row: u32, unit: u32) -> f32 {
    return gates[((time * params.batch + row) * GATES + gate) * params.hidden + unit];
}

// The share of the state before this step.
fn before(gate: u32, row: u32, unit: u32) -> f32 {
    let first = (gate * params.hidden + unit) * params.hidden;
    var sum = 0.0;
    if (params.step == 0u) {
        let start = row * params.initial_width;
        for (var other = 0u; other < params.hidden; other++) {
            sum += weights[first + other] * initial[start + other];
        }
    } else {
        let start = place_of(time_of(params.step - 1u, row), row);
        for (var other = 0u; other < params.hidden; other++) {
            sum += weights[first + other] * output[start + other];
        }
    }
    return sum;
}
