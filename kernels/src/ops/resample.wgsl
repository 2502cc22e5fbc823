struct Params {
    total: u32,
    size: u32,
    inner: u32,
    count: u32,
    taps: u32,
    parts: u32,
}

// Each invocation sums up every `parts`-th tap of one result.
@compute @workgroup_size(WORKGROUP)
fn main(@builtin(global_invocation_id) id: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>) {
    let at_output = index_of(id, groups);
    let index = at_output % params.total;
    let part = at_output / params.total;
    if (part >= params.parts) {
        return;
    }
    let inner = index % params.inner;
    let at = (index / params.inner) % params.count;
    let outer = index / (params.inner * params.count);
    var sum = 0.0;
    for (var tap = part; tap < params.taps; tap += params.parts) {
        let entry = at * params.taps + tap;
        let source = u32(clamp(indices[entry], 0, i32(params.size) - 1));
        sum += weights[entry] * x[(outer * params.size + source) * params.inner + inner];
    }
    output[at_output] = sum;
}
