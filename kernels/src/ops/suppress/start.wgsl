// Starts with no selected box.
@compute @workgroup_size(WORKGROUP)
fn main(@builtin(global_invocation_id) id: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>) {
    let line = index_of(id, groups);
    if (line < params.total) {
        output[state_of(line)] = 0;
    }
}
