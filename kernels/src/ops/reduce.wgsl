struct Params {
    total: u32,
    size: u32,
    inner: u32,
    parts: u32,
    // The result of no elements. It is a parameter because it may be infinite, for which WGSL has no literal.
    first: u32,
    factor: f32,
}

// Each invocation joins every `parts`-th element of a line, four at a time. Lines interleave by `inner`.
@compute @workgroup_size(WORKGROUP)
fn main(@builtin(global_invocation_id) id: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>) {
    let index = index_of(id, groups);
    if (index >= params.total) {
        return;
    }
    let within = index % params.inner;
    let part = index / params.inner % params.parts;
    let outer = index / (params.inner * params.parts);
    let step = params.parts * params.inner;
    let none = bitcast<Element>(params.first);
    var at = (outer * params.size + part) * params.inner + within;
    var left = (params.size + params.parts - 1u - part) / params.parts;
    var joined = vec4<Element>(none);
    for (; left >= 4u; left -= 4u) {
        joined = take(joined, vec4<Element>(x[at], x[at + step], x[at + 2u * step], x[at + 3u * step]));
        at += 4u * step;
    }
    for (; left > 0u; left--) {
        joined = take(joined, vec4<Element>(x[at], none, none, none));
        at += step;
    }
    output[index] = finish(join(join(joined.x, joined.y), join(joined.z, joined.w)));
}
