struct Params {
    total: u32,
    parts: u32,
{{fields}}}

// Each invocation reads every `parts`-th element of the window of one result.
@compute @workgroup_size(WORKGROUP)
fn main(@builtin(global_invocation_id) id: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>) {
    let index = index_of(id, groups);
    if (index >= params.total) {
        return;
    }
    let result = index / params.parts;
    let place = result % params.output_size.w;
    let start = (result / params.output_size.w) * params.input_size.w;
    let corner = vec3<i32>(
        i32(place / (params.output_size.y * params.output_size.z)),
        i32((place / params.output_size.z) % params.output_size.y),
        i32(place % params.output_size.z),
    ) * params.strides.xyz - params.pads.xyz;
    let size = vec3<i32>(params.input_size.xyz);
    let kernel = vec3<i32>(params.kernel_size.xyz);
    var found = 0u;
    var best = {{element}}();
    var position = 0u;
    for (var tap = i32(index % params.parts); tap < i32(params.kernel_size.w); tap += i32(params.parts)) {
        let step = vec3<i32>(tap / (kernel.y * kernel.z), tap / kernel.z % kernel.y, tap % kernel.z);
        let at = corner + step * params.dilations.xyz;
        if (all(at >= vec3<i32>()) && all(at < size)) {
            let flat = u32((at.x * size.y + at.y) * size.z + at.z);
            let value = data[start + flat];
{{join}}
            found++;
        }
    }
    output[index] = {{finish}};
}
