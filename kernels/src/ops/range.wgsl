struct Params {
    total: u32,
    start: i32,
    stride: i32,
}

@compute @workgroup_size(WORKGROUP)
fn main(@builtin(global_invocation_id) id: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>) {
    let index = index_of(id, groups);
    if (index < params.total) {
        output[index] = params.start + i32(index) * params.stride;
    }
}
