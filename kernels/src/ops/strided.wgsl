struct Params {
    total: u32,
    rank: u32,
    read_start: i32,
    write_start: i32,
    sizes: array<vec4<u32>, 2>,
    read_strides: array<vec4<i32>, 2>,
    write_strides: array<vec4<i32>, 2>,
}

@compute @workgroup_size(WORKGROUP)
fn main(@builtin(global_invocation_id) id: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>) {
    var rest = index_of(id, groups);
    if (rest >= params.total) {
        return;
    }
    var read_at = params.read_start;
    var write_at = params.write_start;
    for (var axis = params.rank; axis > 0u; axis--) {
        let at = axis - 1u;
        let size = params.sizes[at / 4u][at % 4u];
        let position = i32(rest % size);
        rest /= size;
        read_at += position * params.read_strides[at / 4u][at % 4u];
        write_at += position * params.write_strides[at / 4u][at % 4u];
    }
    output[u32(write_at)] = input[u32(read_at)];
}
