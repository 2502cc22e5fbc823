struct Params {
    rows: u32,
    units: u32,
    inverse: f32,
    epsilon: f32,
}

// Each invocation normalizes one row: without a barrier, which software adapters pay dearly for.
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
    var squares = Element();
    for (var unit = 0u; unit < params.units; unit++) {
        let centered = value(start + unit) - mean;
        squares += centered * centered;
    }
    let factor = 1.0 / sqrt(sum(squares) * params.inverse + params.epsilon);
    for (var unit = 0u; unit < params.units; unit++) {
        output[start + unit] = (value(start + unit) - mean) * factor * gamma[unit] + beta[unit];
    }
}
