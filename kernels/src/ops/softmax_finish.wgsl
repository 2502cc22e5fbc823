struct Params {
    total: u32,
    size: u32,
    inner: u32,
    parts: u32,
}

// Each invocation computes every `parts`-th result of a line from the line's maximum and sum.
@compute @workgroup_size(WORKGROUP)
fn main(@builtin(global_invocation_id) id: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>) {
    let index = index_of(id, groups);
    if (index >= params.total) {
        return;
    }
    let within = index % params.inner;
    let part = index / params.inner % params.parts;
    let outer = index / (params.inner * params.parts);
    let start = (outer * params.size + part) * params.inner + within;
    let end = (outer + 1u) * params.size * params.inner;
    let line = outer * params.inner + within;
    let largest = sums[2u * line];
    let inverse = 1.0 / sums[2u * line + 1u];
    for (var at = start; at < end; at += params.parts * params.inner) {
        output[at] = exp(x[at] - largest) * inverse;
    }
}
