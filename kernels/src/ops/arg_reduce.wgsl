struct Params {
    lines: u32,
    size: u32,
    inner: u32,
}

// Each invocation goes along one line; lines interleave by `inner`.
@compute @workgroup_size(WORKGROUP)
fn main(@builtin(global_invocation_id) id: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>) {
    let line = index_of(id, groups);
    if (line >= params.lines) {
        return;
    }
    let start = line / params.inner * params.inner * params.size + line % params.inner;
    var best = 0u;
    var best_key = key(x[start]);
    for (var at = 1u; at < params.size; at++) {
        let other = key(x[start + at * params.inner]);
        if (wins(other, best_key)) {
            best = at;
            best_key = other;
        }
    }
    output[line] = i32(best);
}
