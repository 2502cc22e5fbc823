// Each invocation continues one row's walk through one tree; a step is a node or a member.
@compute @workgroup_size(WORKGROUP)
fn main(@builtin(global_invocation_id) id: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>) {
    let index = index_of(id, groups);
    if (index >= params.total) {
        return;
    }
    let row = index / params.trees * params.features;
    var next = output[2u * index];
    var member = output[2u * index + 1u];
    for (var step = 0u; step < params.steps && next >= 0; step++) {
        let node = u32(next);
        let feature = x[row + u32(nodes[node * 7u])];
        var holds = false;
        var decided = true;
        if (has_members(node, feature)) {
            if (member < 0) {
                member = nodes[node * 7u + 5u];
            }
            let more = member < nodes[node * 7u + 6u];
            holds = more && values[max(member, 0)] == feature;
            decided = holds || !more;
            member++;
        } else {
            holds = compares(node, feature);
        }
        if (decided) {
            next = select(nodes[node * 7u + 3u], nodes[node * 7u + 2u], holds);
            member = -1;
        }
    }
    output[2u * index] = next;
    output[2u * index + 1u] = member;
}
