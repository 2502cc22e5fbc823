struct Params {
    total: u32,
    width: u32,
    // Columns that are compared, and the mask whose XOR with a place gives the place that it is compared with.
    first: u32,
    last: u32,
    mask: u32,
}

