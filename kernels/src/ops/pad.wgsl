struct Params {
    total: u32,
    rank: u32,
    padding0: u32,
    padding1: u32,
    sizes: array<vec4<u32>, 2>,
    read_sizes: array<vec4<u32>, 2>,
    before: array<vec4<i32>, 2>,
}

// The remainder that is never negative.
fn wrapped(at: i32, size: i32) -> i32 {
    return ((at % size) + size) % size;
}

@compute @workgroup_size(WORKGROUP)
fn main(@builtin(global_invocation_id) id: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>) {
    let index = index_of(id, groups);
    if (index >= params.total) {
        return;
    }
    var rest = index;
    var source = 0u;
    var stride = 1u;
    var inside = true;
    for (var axis = params.rank; axis > 0u; axis--) {
        let at = axis - 1u;
        let size = params.sizes[at / 4u][at % 4u];
        let read_size = i32(params.read_sizes[at / 4u][at % 4u]);
        var position = i32(rest % size) - params.before[at / 4u][at % 4u];
        rest /= size;
        if (MODE == 0u) {
            inside = inside && position >= 0 && position < read_size;
        } else if (MODE == 1u) {
            if (read_size > 1) {
                let period = 2 * (read_size - 1);
                position = wrapped(position, period);
                position = min(position, period - position);
            }
        } else if (MODE == 3u) {
            position = wrapped(position, max(read_size, 1));
        }
        position = clamp(position, 0, max(read_size - 1, 0));
        source += u32(position) * stride;
        stride *= u32(read_size);
    }
    if (inside) {
        output[index] = data[source];
    } else {
        output[index] = OUTSIDE;
    }
}
