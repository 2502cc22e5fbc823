struct Params {
    total: u32,
    parts: u32,
{{fields}}    ends: vec4<i32>,
}

// Each invocation computes one result: that of one place of the window in one channel.
@compute @workgroup_size(WORKGROUP)
fn main(@builtin(global_invocation_id) id: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>) {
    let index = index_of(id, groups);
    if (index >= params.total) {
        return;
    }
    let place = index % params.output_size.w;
    let start = (index / params.output_size.w) * params.input_size.w;
    let corner = vec3<i32>(
        i32(place / (params.output_size.y * params.output_size.z)),
        i32((place / params.output_size.z) % params.output_size.y),
        i32(place % params.output_size.z),
    ) * params.strides.xyz - params.pads.xyz;
    let size = vec3<i32>(params.input_size.xyz);
    let dilations = params.dilations.xyz;
    var found = 0u;
    var padded = 0u;
    var best = {{element}}();
    var position = 0u;
    for (var z = 0; z < i32(params.kernel_size.x); z++) {
        for (var y = 0; y < i32(params.kernel_size.y); y++) {
            for (var x = 0; x < i32(params.kernel_size.z); x++) {
                let at = corner + vec3<i32>(z, y, x) * dilations;
                if (all(at < params.ends.xyz)) {
                    padded++;
                }
                if (all(at >= vec3<i32>()) && all(at < size)) {
                    let flat = u32((at.x * size.y + at.y) * size.z + at.z);
                    let value = data[start + flat];
{{join}}
                    found++;
                }
            }
        }
    }
    output[index] = {{finish}};
}
