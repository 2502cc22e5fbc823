// Every walk starts at its tree's root, with no member tested.
@compute @workgroup_size(WORKGROUP)
fn main(@builtin(global_invocation_id) id: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>) {
    let index = index_of(id, groups);
    if (index < params.total) {
        output[2u * index] = roots[index % params.trees];
        output[2u * index + 1u] = -1;
    }
}
