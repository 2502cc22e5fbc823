struct Places {
    rank: u32,
    last: u32,
    stride: u32,
    axis: u32,
    block: u32,
    unused_0: u32,
    unused_1: u32,
    unused_2: u32,
    sizes: array<vec4<u32>, 2>,
    scale_strides: array<vec4<u32>, 2>,
}

// Where the integer of an element is.
fn integer_of(index: u32) -> u32 {
    return index / params.places.last * params.places.stride + index % params.places.last;
}

// Where its scale is.
fn scale_of(index: u32) -> u32 {
    var rest = index;
    var at = 0u;
    for (var axis = params.places.rank; axis > 0u; axis--) {
        let here = axis - 1u;
        let size = params.places.sizes[here / 4u][here % 4u];
        var position = rest % size;
        rest /= size;
        if (here == params.places.axis) {
            position /= params.places.block;
        }
        at += position * params.places.scale_strides[here / 4u][here % 4u];
    }
    return at;
}
