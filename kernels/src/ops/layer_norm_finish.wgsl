struct Params {
    total: u32,
    units: u32,
    inverse: f32,
    epsilon: f32,
}

// Each invocation computes one unit from what was found of its row.
@compute @workgroup_size(WORKGROUP)
fn main(@builtin(global_invocation_id) id: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>) {
    let index = index_of(id, groups);
    if (index >= params.total) {
        return;
    }
    let unit = index % params.units;
    let row = found[index / params.units];
    let factor = 1.0 / sqrt(row.z * params.inverse + params.epsilon);
    output[index] = ((value(index) - row.x) - row.y) * factor * gamma[unit] + beta[unit];
}
