struct Params {
    total: u32,
    size: u32,
    inner: u32,
    parts: u32,
}

const LOWEST: f32 = -3.4028234e38;

// Each invocation reads every `parts`-th element of a line. It writes their maximum and the sum of their weights relative
// to it. Lines interleave by `inner`.
@compute @workgroup_size(WORKGROUP)
fn main(@builtin(global_invocation_id) id: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>) {
    let index = index_of(id, groups);
    if (index >= params.total) {
        return;
    }
    let within = index % params.inner;
    let part = index / params.inner % params.parts;
    let outer = index / (params.inner * params.parts);
    let step = params.parts * params.inner;
    let start = (outer * params.size + part) * params.inner + within;
    let end = (outer + 1u) * params.size * params.inner;
    // Finite, so that a part with only negative infinities has the weight 0 and not NaN.
    var largest = LOWEST;
    for (var at = start; at < end; at += step) {
        largest = max(largest, score(at));
    }
    var sum = 0.0;
    for (var at = start; at < end; at += step) {
        sum += weight(at) * exp(score(at) - largest);
    }
    output[2u * index] = largest;
    output[2u * index + 1u] = sum;
}
