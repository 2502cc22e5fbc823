struct Params {
    total: u32,
    size: u32,
    inner: u32,
}

// Each invocation computes one result from the maximum and the sum of its line.
@compute @workgroup_size(WORKGROUP)
fn main(@builtin(global_invocation_id) id: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>) {
    let index = index_of(id, groups);
    if (index >= params.total) {
        return;
    }
    let line = index / (params.size * params.inner) * params.inner + index % params.inner;
    output[index] = exp(x[index] - sums[2u * line]) * (1.0 / sums[2u * line + 1u]);
}
