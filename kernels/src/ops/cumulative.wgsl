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
    var total = FIRST;
    for (var step = 0u; step < params.size; step++) {
        let at = start + params.inner * select(step, params.size - 1u - step, REVERSE);
        let joined = join(total, x[at]);
        output[at] = select(joined, total, EXCLUSIVE);
        total = joined;
    }
}
