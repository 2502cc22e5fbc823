struct Params {
    total: u32,
    size: u32,
    inner: u32,
    parts: u32,
    candidates: u32,
}

// Each invocation compares every `parts`-th candidate of a line; lines interleave by `inner`.
@compute @workgroup_size(WORKGROUP)
fn main(@builtin(global_invocation_id) id: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>) {
    let index = index_of(id, groups);
    if (index >= params.total) {
        return;
    }
    let within = index % params.inner;
    let part = index / params.inner % params.parts;
    let outer = index / (params.inner * params.parts);
    let line = outer * params.size * params.inner + within;
    let first = outer * params.candidates * params.inner + within;
    var best = candidate(first, part);
    var best_key = key(x[line + best * params.inner]);
    for (var at = part + params.parts; at < params.candidates; at += params.parts) {
        let other = candidate(first, at);
        let other_key = key(x[line + other * params.inner]);
        if (other_key > best_key || (other_key == best_key && before(other, best))) {
            best = other;
            best_key = other_key;
        }
    }
    output[index] = i32(best);
}
