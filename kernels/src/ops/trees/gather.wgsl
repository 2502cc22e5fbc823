// Each invocation continues to add up the leaves' weights of one result; a step is a tree or a weight. Its state is the tree,
// how many of its leaf's weights were read, the result, and whether any weight was found.
@compute @workgroup_size(WORKGROUP)
fn main(@builtin(global_invocation_id) id: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>) {
    let index = index_of(id, groups);
    if (index >= params.total) {
        return;
    }
    let column = i32(index % params.columns);
    let row = index / params.columns * params.trees;
    var tree = output[4u * index];
    var looked_at = output[4u * index + 1u];
    var result = bitcast<f32>(output[4u * index + 2u]);
    var found = output[4u * index + 3u] != 0u;
    for (var step = 0u; step < params.steps && tree < params.trees; step++) {
        let end = walks[2u * (row + tree)];
        if (end >= 0) {
            // The walk did not reach a leaf.
            result = params.nan;
            tree = params.trees;
            continue;
        }
        let leaf = u32(-1 - end);
        let at = starts[leaf] + i32(looked_at);
        if (at >= starts[leaf + 1u]) {
            tree++;
            looked_at = 0u;
            continue;
        }
        looked_at++;
        if (leaf_targets[at] == column) {
            result = join(result, weights[at], found);
            found = true;
        }
    }
    output[4u * index] = tree;
    output[4u * index + 1u] = looked_at;
    output[4u * index + 2u] = bitcast<u32>(result);
    output[4u * index + 3u] = u32(found);
}
