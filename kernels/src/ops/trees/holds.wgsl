// A compiler may drop a comparison that detects NaN, so the bits are tested.
fn missing(x: f32) -> bool {
    return (bitcast<u32>(x) & 0x7fffffffu) > 0x7f800000u;
}

// Whether a node's comparison with its threshold holds.
fn compares(node: u32, feature: f32) -> bool {
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
        default: { return feature != threshold; }
    }
}

// Whether a node tests its feature against a list of members.
fn has_members(node: u32, feature: f32) -> bool {
    return nodes[node * 7u + 1u] > 5 && !missing(feature);
}

