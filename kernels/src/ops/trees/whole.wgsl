struct Params {
    total: u32,
    columns: u32,
    features: u32,
    nodes: u32,
    trees: u32,
}

// A comparison with a number that is none could be left out by a compiler.
fn missing(x: f32) -> bool {
    return (bitcast<u32>(x) & 0x7fffffffu) > 0x7f800000u;
}

fn holds(node: u32, feature: f32) -> bool {
    let at = node * 7u;
    if (missing(feature)) {
        return nodes[at + 4u] != 0;
    }
    let threshold = values[node];
    switch (nodes[at + 1u]) {
        case 0: { return feature <= threshold; }
        case 1: { return feature < threshold; }
        case 2: { return feature >= threshold; }
        case 3: { return feature > threshold; }
        case 4: { return feature == threshold; }
        case 5: { return feature != threshold; }
        default: {
            var found = false;
            for (var member = nodes[at + 5u]; member < nodes[at + 6u]; member++) {
                found = found || values[member] == feature;
            }
            return found;
        }
    }
}

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
    for (var tree = 0u; tree < params.trees; tree++) {
        var next = roots[tree];
        // A tree that comes back to a node would never end.
        for (var step = 0u; step < params.nodes && next >= 0; step++) {
            let node = u32(next);
            let feature = x[row + u32(nodes[node * 7u])];
            next = select(nodes[node * 7u + 3u], nodes[node * 7u + 2u], holds(node, feature));
        }
        if (next >= 0) {
            continue;
        }
        let leaf = u32(-1 - next);
        for (var at = starts[leaf]; at < starts[leaf + 1u]; at++) {
            if (leaf_targets[at] != column) {
                continue;
            }
            let weight = weights[at];
            if (GATHERED < 2u || !found) {
                result += weight;
            } else if (GATHERED == 2u) {
                result = min(result, weight);
            } else {
                result = max(result, weight);
            }
            found = true;
        }
    }
    if (GATHERED == 1u) {
        result /= f32(params.trees);
    }
    output[index] = result;
}
