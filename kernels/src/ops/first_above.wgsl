struct Params {
    total: u32,
    size: u32,
}

@compute @workgroup_size(WORKGROUP)
fn main(@builtin(global_invocation_id) id: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>) {
    let index = index_of(id, groups);
    if (index >= params.total) {
        return;
    }
    var low = 0u;
    var high = params.size;
    while (low < high) {
        let middle = (low + high) / 2u;
        if (sums[middle] > i32(index)) {
            high = middle;
        } else {
            low = middle + 1u;
        }
    }
    output[index] = i32(low);
}
