// Each invocation counts the elements of its line that come before its own, which is the rank that its own has.
@compute @workgroup_size(WORKGROUP)
fn main(@builtin(global_invocation_id) id: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>) {
    let index = index_of(id, groups);
    if (index >= params.total) {
        return;
    }
    let inner = index % params.inner;
    let own = (index / params.inner) % params.size;
    let outer = index / (params.inner * params.size);
    let start = outer * params.size * params.inner + inner;
    let own_key = key(x[index]);
    var rank = 0u;
    for (var at = 0u; at < params.size; at++) {
        let other = key(x[start + at * params.inner]);
        let before = other > own_key || (other == own_key && at < own);
        rank += select(0u, 1u, before);
    }
    if (rank < params.k) {
        output[(outer * params.k + rank) * params.inner + inner] = i32(own);
    }
}
