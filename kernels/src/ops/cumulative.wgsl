struct Params {
    total: u32,
    size: u32,
    inner: u32,
    parts: u32,
    length: u32,
}

// Each invocation accumulates one part of a line, `length` elements long; lines interleave by `inner`.
@compute @workgroup_size(WORKGROUP)
fn main(@builtin(global_invocation_id) id: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>) {
    let index = index_of(id, groups);
    if (index >= params.total) {
        return;
    }
    let within = index % params.inner;
    let part = index / params.inner % params.parts;
    let start = index / (params.inner * params.parts) * params.size;
    let end = min((part + 1u) * params.length, params.size);
    var total = before(index);
    for (var step = part * params.length; step < end; step++) {
        let at = (start + select(step, params.size - 1u - step, REVERSE)) * params.inner + within;
        let joined = join(total, x[at]);
        put(at, select(joined, total, EXCLUSIVE));
        total = joined;
    }
    finish(index, total);
}
