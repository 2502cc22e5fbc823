struct Params {
    total: u32,
    columns: u32,
    features: u32,
    nodes: u32,
    trees: u32,
    steps: u32,
    // The result of a tree without a reached leaf: a NaN, for which WGSL has no literal.
    nan: f32,
}

