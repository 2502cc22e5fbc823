
// Sets each unit's step counter to 0.
@compute @workgroup_size(WORKGROUP)
fn main(@builtin(global_invocation_id) id: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>) {
    let index = index_of(id, groups);
    if (index < params.total) {
        output[count_of(index / params.hidden, index % params.hidden)] = 0.0;
    }
}
