struct Params {
    total: u32,
    parts: u32,
{{fields}}    ends: vec4<i32>,
}

// Taps at which `corner + tap * dilation` lies in `low..high`.
fn taps(corner: vec3<i32>, low: vec3<i32>, high: vec3<i32>) -> vec3<i32> {
    let dilation = params.dilations.xyz;
    let first = max(low - corner + dilation - 1, vec3<i32>()) / dilation;
    let last = min(max(high - corner + dilation - 1, vec3<i32>()) / dilation, vec3<i32>(params.kernel_size.xyz));
    return max(last - first, vec3<i32>());
}

// Each invocation divides one sum by the number of elements in its window.
@compute @workgroup_size(WORKGROUP)
fn main(@builtin(global_invocation_id) id: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>) {
    let index = index_of(id, groups);
    if (index >= params.total) {
        return;
    }
    let place = index % params.output_size.w;
    let corner = vec3<i32>(
        i32(place / (params.output_size.y * params.output_size.z)),
        i32((place / params.output_size.z) % params.output_size.y),
        i32(place % params.output_size.z),
    ) * params.strides.xyz - params.pads.xyz;
    let counts = {{counts}};
    output[index] = sums[index] / f32(counts.x * counts.y * counts.z);
}
