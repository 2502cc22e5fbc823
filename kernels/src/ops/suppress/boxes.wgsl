struct Params {
    total: u32,
    classes: u32,
    boxes: u32,
    slots: u32,
    overlap_max: f32,
    score_min: f32,
    // The candidates of this launch, and the slots that they are compared with.
    first: u32,
    slot_first: u32,
    slot_last: u32,
}

// Left, top, right, bottom.
fn corners(at: u32) -> vec4<f32> {
    let given = vec4<f32>(boxes[at * 4u], boxes[at * 4u + 1u], boxes[at * 4u + 2u], boxes[at * 4u + 3u]);
    if (CENTRES) {
        return vec4<f32>(given.xy - given.zw / 2.0, given.xy + given.zw / 2.0);
    }
    return vec4<f32>(min(given.yx, given.wz), max(given.yx, given.wz));
}

fn overlap(a: vec4<f32>, b: vec4<f32>) -> bool {
    let size = min(a.zw, b.zw) - max(a.xy, b.xy);
    if (size.x <= 0.0 || size.y <= 0.0) {
        return false;
    }
    let shared_area = size.x * size.y;
    let first = (a.z - a.x) * (a.w - a.y);
    let second = (b.z - b.x) * (b.w - b.y);
    let together = first + second - shared_area;
    return first > 0.0 && second > 0.0 && together > 0.0 && shared_area / together > params.overlap_max;
}

