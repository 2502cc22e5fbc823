// Starts with the identity: place i holds row i.
@compute @workgroup_size(WORKGROUP)
fn main(@builtin(global_invocation_id) id: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>) {
    let index = index_of(id, groups);
    if (index < params.total) {
        output[index] = i32(index);
    }
}
