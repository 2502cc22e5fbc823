struct Params {
    total: u32,
    // Elements of a line, and the product of the dimensions behind it.
    size: u32,
    inner: u32,
    k: u32,
    mask: u32,
    // Candidates of a line, how many are compared with each other, and how many of a line are kept.
    candidates: u32,
    compared: u32,
    kept: u32,
}

