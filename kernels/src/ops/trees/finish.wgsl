// Each invocation writes one result.
@compute @workgroup_size(WORKGROUP)
fn main(@builtin(global_invocation_id) id: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>) {
    let index = index_of(id, groups);
    if (index >= params.total) {
        return;
    }
    var result = bitcast<f32>(states[4u * index + 2u]);
    if (GATHERED == 1u) {
        result /= f32(params.trees);
    }
    // Trees share so many leaves that the launch had too few steps.
    output[index] = select(params.nan, result, states[4u * index] >= params.trees);
}
