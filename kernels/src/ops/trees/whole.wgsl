fn holds(node: u32, feature: f32) -> bool {
    if (!has_members(node, feature)) {
        return compares(node, feature);
    }
    var found = false;
    for (var member = nodes[node * 7u + 5u]; member < nodes[node * 7u + 6u]; member++) {
        found = found || values[member] == feature;
    }
    return found;
}

// Each invocation goes through all trees for one result.
@compute @workgroup_size(WORKGROUP)
fn main(@builtin(global_invocation_id) id: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>) {
    let index = index_of(id, groups);
    if (index >= params.total) {
        return;
    }
    let column = i32(index % params.columns);
    let row = index / params.columns * params.features;
    var result = 0.0;
    var found = false;
    // A tree with a cycle would never end.
    var left = params.nodes;
    for (var tree = 0u; tree < params.trees; tree++) {
        var next = roots[tree];
        for (; left > 0u && next >= 0; left--) {
            let node = u32(next);
            let feature = x[row + u32(nodes[node * 7u])];
            next = select(nodes[node * 7u + 3u], nodes[node * 7u + 2u], holds(node, feature));
        }
        if (next >= 0) {
            result = params.nan;
            break;
        }
        let leaf = u32(-1 - next);
        for (var at = starts[leaf]; at < starts[leaf + 1u]; at++) {
            if (leaf_targets[at] == column) {
                result = join(result, weights[at], found);
                found = true;
            }
        }
    }
    if (GATHERED == 1u) {
        result /= f32(params.trees);
    }
    output[index] = result;
}
