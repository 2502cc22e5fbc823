struct Params {
    places: Places,
    total: u32,
}

@compute @workgroup_size(WORKGROUP)
fn main(@builtin(global_invocation_id) id: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>) {
    let index = index_of(id, groups);
    if (index >= params.total) {
        return;
    }
    let at = integer_of(index);
    let block = scale_of(index);
    output[index] = {{number}};
}
