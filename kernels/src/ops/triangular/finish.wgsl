// Each invocation writes one element in the place that its row has at the end.
@compute @workgroup_size(WORKGROUP)
fn main(@builtin(global_invocation_id) id: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>) {
    let index = index_of(id, groups);
    if (index >= params.total) {
        return;
    }
    let at = index % params.size;
    let row = index / params.size % params.size;
    let matrix = index / (params.size * params.size);
    let place = rows[matrix * params.size + row];
    let element = elements[(matrix * params.size + u32(abs(place)) - 1u) * params.size + at];
    output[index] = select(select(element, -element, place < 0), 0.0, at < row);
}
