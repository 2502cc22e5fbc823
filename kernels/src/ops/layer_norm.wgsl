struct Params {
    rows: u32,
    units: u32,
    inverse: f32,
    epsilon: f32,
}

// Each invocation normalizes one row, without barriers: they are slow on software adapters.
@compute @workgroup_size(WORKGROUP)
fn main(@builtin(global_invocation_id) id: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>) {
    let row = index_of(id, groups);
    if (row >= params.rows) {
        return;
    }
    let start = row * params.units;
    var total = Element();
    for (var unit = 0u; unit < params.units; unit++) {
        total += value(start + unit);
    }
    let mean = sum(total) * params.inverse;
    var differences = Element();
    var squares = Element();
    for (var unit = 0u; unit < params.units; unit++) {
        let difference = value(start + unit) - mean;
        differences += difference;
        squares += difference * difference;
    }
    // The mean was rounded; the mean of the differences corrects its rounding error.
    let rest = sum(differences) * params.inverse;
    let variance = max(sum(squares) * params.inverse - rest * rest, 0.0);
    let factor = 1.0 / sqrt(variance + params.epsilon);
    for (var unit = 0u; unit < params.units; unit++) {
        output[start + unit] = ((value(start + unit) - mean) - rest) * factor * gamma[unit] + beta[unit];
    }
}
