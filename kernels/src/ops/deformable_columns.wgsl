struct Params {
    total: u32,
    channels: u32,
    height: u32,
    width: u32,
    taps: u32,
    kernel_width: u32,
    out_height: u32,
    out_width: u32,
    strides: vec2<i32>,
    dilations: vec2<i32>,
    pads: vec2<i32>,
    offset_groups: u32,
}

fn element(start: u32, y: i32, x: i32) -> f32 {
    let inside = y >= 0 && x >= 0 && y < i32(params.height) && x < i32(params.width);
    let at = start + u32(select(0, y * i32(params.width) + x, inside));
    return select(0.0, data[at], inside);
}

// Each invocation computes one element of a column.
@compute @workgroup_size(WORKGROUP)
fn main(@builtin(global_invocation_id) id: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>) {
    let index = index_of(id, groups);
    if (index >= params.total) {
        return;
    }
    let places = params.out_height * params.out_width;
    let place = index % places;
    let tap = (index / places) % params.taps;
    let plane = index / (places * params.taps);
    let batch = plane / params.channels;
    let group = (plane % params.channels) / (params.channels / params.offset_groups);
    let pair = (batch * params.offset_groups + group) * params.taps + tap;
    let corner = vec2<i32>(i32(place / params.out_width), i32(place % params.out_width)) * params.strides - params.pads
        + vec2<i32>(i32(tap / params.kernel_width), i32(tap % params.kernel_width)) * params.dilations;
    let at = vec2<f32>(corner) + vec2<f32>(offset[(2u * pair) * places + place], offset[(2u * pair + 1u) * places + place]);
    // At this distance an element's weight is 0. The limit also keeps far offsets within the range of an index.
    let size = vec2<f32>(f32(params.height), f32(params.width));
    let near = clamp(at, vec2<f32>(-1.0), size);
    let low = floor(near);
    let part = near - low;
    let y = i32(low.x);
    let x = i32(low.y);
    let start = plane * params.height * params.width;
    let upper = mix(element(start, y, x), element(start, y, x + 1), part.y);
    let lower = mix(element(start, y + 1, x), element(start, y + 1, x + 1), part.y);
    output[index] = mix(upper, lower, part.x){{mask}};
}
