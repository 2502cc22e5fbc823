// Each invocation computes the rank of one candidate: it counts those that come before it among the candidates that it is
// compared with.
@compute @workgroup_size(WORKGROUP)
fn main(@builtin(global_invocation_id) id: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>) {
    let index = index_of(id, groups);
    if (index >= params.total) {
        return;
    }
    let inner = index % params.inner;
    let place = (index / params.inner) % params.candidates;
    let outer = index / (params.inner * params.candidates);
    let line = outer * params.size * params.inner + inner;
    let list = outer * params.candidates * params.inner + inner;
    let own = candidate(list, place);
    let own_key = key(x[line + own * params.inner]);
    let block = place / params.compared;
    let end = min((block + 1u) * params.compared, params.candidates);
    var rank = 0u;
    for (var at = block * params.compared; at < end; at++) {
        let other = candidate(list, at);
        let other_key = key(x[line + other * params.inner]);
        let before = other_key > own_key || (other_key == own_key && other < own);
        rank += select(0u, 1u, before);
    }
    if (rank < params.k) {
        output[(outer * params.kept + block * params.k + rank) * params.inner + inner] = i32(own);
    }
}
