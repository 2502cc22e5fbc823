// Every result starts at the first tree.
@compute @workgroup_size(WORKGROUP)
fn main(@builtin(global_invocation_id) id: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>) {
    let index = index_of(id, groups);
    if (index < params.total) {
        for (var word = 0u; word < 4u; word++) {
            output[4u * index + word] = 0u;
        }
    }
}
