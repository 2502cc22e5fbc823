struct Params {
    total: u32,
    size: u32,
    inner: u32,
    k: u32,
    mask: u32,
}

