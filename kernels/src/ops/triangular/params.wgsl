struct Params {
    total: u32,
    size: u32,
    column: u32,
}

