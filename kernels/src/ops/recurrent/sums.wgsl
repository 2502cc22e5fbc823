
// The contribution of the state before this step.
fn before(gate: u32, row: u32, unit: u32) -> f32 {
    let first = (gate * params.hidden + unit) * params.hidden;
    var sum = 0.0;
    if (step == 0u) {
        let start = row * params.initial_width;
        for (var other = 0u; other < params.hidden; other++) {
            sum += weights[first + other] * initial[start + other];
        }
    } else {
        let start = place_of(time_of(step - 1u, row), row);
        for (var other = 0u; other < params.hidden; other++) {
            sum += weights[first + other] * output[start + other];
        }
    }
    return sum;
}

// The contribution of the state that was reset.
fn after_reset(gate: u32, row: u32, unit: u32) -> f32 {
    let first = (gate * params.hidden + unit) * params.hidden;
    let start = place_of(time_of(step, row), row) + params.hidden;
    var sum = 0.0;
    for (var other = 0u; other < params.hidden; other++) {
        sum += weights[first + other] * output[start + other];
    }
    return sum;
}
