struct Params {
    total: u32,
    columns: u32,
    features: u32,
    nodes: u32,
    trees: u32,
    steps: u32,
    // What a tree gives that leads to no leaf: a NaN, which WGSL has no literal for.
    nan: f32,
}

