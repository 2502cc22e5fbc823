
// A product of weights and state that was computed before, in parts.
fn before(gate: u32, row: u32, unit: u32) -> f32 {
    let first = ((row * GATES + gate) * params.hidden + unit) * params.parts;
    var sum = 0.0;
    for (var part = 0u; part < params.parts; part++) {
        sum += products[first + part];
    }
    return sum;
}
fn after_reset(gate: u32, row: u32, unit: u32) -> f32 {
    return before(gate, row, unit);
}
