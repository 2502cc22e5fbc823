struct Params {
    total: u32,
    width: u32,
    // Columns that are compared, and which places meet.
    first: u32,
    last: u32,
    mask: u32,
}

