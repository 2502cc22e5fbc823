struct Params {
    total: u32,
    padding0: u32,
    padding1: u32,
    padding2: u32,
    numbers: array<vec4<i32>, 16>,
}

@compute @workgroup_size(WORKGROUP)
fn main(@builtin(global_invocation_id) id: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>) {
    let index = index_of(id, groups);
    if (index < params.total) {
        output[index] = params.numbers[index / 4u][index % 4u];
    }
}
