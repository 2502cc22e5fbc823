struct Params {
    lines: u32,
    size: u32,
    inner: u32,
}

// Each invocation normalizes one line along the axis; lines interleave by `inner`.
@compute @workgroup_size(WORKGROUP)
fn main(@builtin(global_invocation_id) id: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>) {
    let line = index_of(id, groups);
    if (line >= params.lines) {
        return;
    }
    let start = line / params.inner * params.inner * params.size + line % params.inner;
    let end = start + params.size * params.inner;
    var largest = x[start];
    for (var at = start; at < end; at += params.inner) {
        largest = max(largest, x[at]);
    }
    var total = 0.0;
    for (var at = start; at < end; at += params.inner) {
        total += exp(x[at] - largest);
    }
    let inverse = 1.0 / total;
    for (var at = start; at < end; at += params.inner) {
        output[at] = exp(x[at] - largest) * inverse;
    }
}
