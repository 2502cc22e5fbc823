struct Params {
    total: u32,
    places: u32,
    channels: u32,
    parts: u32,
}

// Each invocation sums up the parts of one result.
@compute @workgroup_size(WORKGROUP)
fn main(@builtin(global_invocation_id) id: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>) {
    let index = index_of(id, groups);
    if (index >= params.total) {
        return;
    }
    var sum = Element();
    for (var part = 0u; part < params.parts; part++) {
        sum += sums[part * params.total + index];
    }
    output[index] = {{value}};
}
