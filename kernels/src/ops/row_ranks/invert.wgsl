// Inverts the order: writes each row's rank at the row's place.
@compute @workgroup_size(WORKGROUP)
fn main(@builtin(global_invocation_id) id: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>) {
    let index = index_of(id, groups);
    if (index < params.total) {
        output[u32(sorted[index])] = i32(index);
    }
}
