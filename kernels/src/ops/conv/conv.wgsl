struct Params {
    batches: u32,
    groups: u32,
    group_inputs: u32,
    group_outputs: u32,
    blocks: u32,
    tiles: u32,
    parts: u32,
    length: u32,
{{fields}}}

// For each of four places: the index, along a spatial dimension, of the element under a tap; -1 outside of the input.
fn source(place: vec4<i32>, tap: u32, axis: u32) -> vec4<i32> {
    let size = i32(params.input_size[axis]);
    let stride = params.strides[axis];
    let offset = i32(tap) * params.dilations[axis] - params.pads[axis];
{{source}}
    return select(vec4<i32>(-1), at, inside);
}

