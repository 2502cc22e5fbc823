struct Params {
    total: u32,
    rank: u32,
    size: u32,
    stride: u32,
    sizes: array<vec4<u32>, 2>,
    strides: array<vec4<u32>, 2>,
}

const OUTSIDE = 0xffffffffu;

// The place of the element that is moved at `index`.
fn place_of(index: u32) -> u32 {
    var at = indices[index];
    at = select(at, at + i32(params.size), at < 0);
    if (at < 0 || at >= i32(params.size)) {
        return OUTSIDE;
    }
    var place = u32(at) * params.stride;
    var rest = index;
    for (var axis = params.rank; axis > 0u; axis--) {
        let before = axis - 1u;
        let size = params.sizes[before / 4u][before % 4u];
        place += (rest % size) * params.strides[before / 4u][before % 4u];
        rest /= size;
    }
    return place;
}
