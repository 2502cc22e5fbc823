struct Params {
    total: u32,
    rank: u32,
    count: u32,
    reduced_rank: u32,
    inverse: f32,
    // The result of nothing; it may be infinite, which WGSL has no literal for.
    first: u32,
    sizes: array<vec4<u32>, 2>,
    strides: array<vec4<u32>, 2>,
    reduced_sizes: array<vec4<u32>, 2>,
    reduced_strides: array<vec4<u32>, 2>,
}

// Each invocation computes one result.
@compute @workgroup_size(WORKGROUP)
fn main(@builtin(global_invocation_id) id: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>) {
    let index = index_of(id, groups);
    if (index >= params.total) {
        return;
    }
    var rest = index;
    var start = 0u;
    for (var axis = params.rank; axis > 0u; axis--) {
        let at = axis - 1u;
        let size = params.sizes[at / 4u][at % 4u];
        start += (rest % size) * params.strides[at / 4u][at % 4u];
        rest /= size;
    }
    var result = bitcast<Element>(params.first);
    for (var step = 0u; step < params.count; step++) {
        var place = start;
        rest = step;
        for (var axis = params.reduced_rank; axis > 0u; axis--) {
            let at = axis - 1u;
            let size = params.reduced_sizes[at / 4u][at % 4u];
            place += (rest % size) * params.reduced_strides[at / 4u][at % 4u];
            rest /= size;
        }
        result = join(result, x[place]);
    }
    output[index] = finish(result);
}
