struct Params {
    total: u32,
    inner: u32,
    picked_per_batch: u32,
    batch_stride: u32,
    depth: u32,
    sizes: array<vec4<u32>, 2>,
    strides: array<vec4<u32>, 2>,
}

const OUTSIDE = 0xffffffffu;

// The place of the element that is moved at `index`.
fn place_of(index: u32) -> u32 {
    let pick = index / params.inner;
    var place = pick / params.picked_per_batch * params.batch_stride + index % params.inner;
    for (var axis = 0u; axis < params.depth; axis++) {
        let size = i32(params.sizes[axis / 4u][axis % 4u]);
        var at = indices[pick * params.depth + axis];
        at = select(at, at + size, at < 0);
        if (at < 0 || at >= size) {
            return OUTSIDE;
        }
        place += u32(at) * params.strides[axis / 4u][axis % 4u];
    }
    return place;
}
