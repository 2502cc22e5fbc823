struct Params {
    total: u32,
    units: u32,
    parts: u32,
    inverse: f32,
    epsilon: f32,
}

// Each invocation computes every `parts`-th unit of a row from the row's mean and variance.
@compute @workgroup_size(WORKGROUP)
fn main(@builtin(global_invocation_id) id: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>) {
    let index = index_of(id, groups);
    if (index >= params.total) {
        return;
    }
    let row = index / params.parts;
    let factor = 1.0 / sqrt(found[row].z * params.inverse + params.epsilon);
    for (var unit = index % params.parts; unit < params.units; unit += params.parts) {
        let at = row * params.units + unit;
        output[at] = ((value(at) - found[row].x) - found[row].y) * factor * gamma[unit] + beta[unit];
    }
}
