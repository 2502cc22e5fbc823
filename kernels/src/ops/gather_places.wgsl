@compute @workgroup_size(WORKGROUP)
fn main(@builtin(global_invocation_id) id: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>) {
    let index = index_of(id, groups);
    if (index >= params.total) {
        return;
    }
    let place = place_of(index);
    let inside = place != OUTSIDE;
    output[index] = select(0u, data[select(0u, place, inside)], inside);
}
