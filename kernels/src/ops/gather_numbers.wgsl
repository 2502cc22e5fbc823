struct Params {
    {{places}}
    total: u32,
    outer: u32,
    size: u32,
    inner: u32,
    picked: u32,
}

@compute @workgroup_size(WORKGROUP)
fn main(@builtin(global_invocation_id) id: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>) {
    let index = index_of(id, groups);
    if (index >= params.total) {
        return;
    }
    let inner = index % params.inner;
    let pick = (index / params.inner) % params.picked;
    let outer = index / (params.inner * params.picked);
    var at = indices[pick];
    at = select(at, at + i32(params.size), at < 0);
    let inside = at >= 0 && at < i32(params.size);
    let source = (outer * params.size + u32(select(0, at, inside))) * params.inner + inner;
    output[index] = {{element}}(select(0.0, {{number}}, inside));
}
