struct Params {
    total: u32,
    columns: u32,
    length: u32,
    longest: u32,
    distance_max: u32,
    grams: u32,
    // The range that this launch covers: pairs of place and distance of an n-gram, or n-grams of a column.
    first: u32,
    last: u32,
}

