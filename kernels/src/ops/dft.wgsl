struct Params {
    total: u32,
    given: u32,
    inner: u32,
    count: u32,
    length: u32,
    parts_in: u32,
    parts_out: u32,
    inverse: u32,
    mirrored: u32,
}

@compute @workgroup_size(WORKGROUP)
fn main(@builtin(global_invocation_id) id: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>) {
    let index = index_of(id, groups);
    if (index >= params.total) {
        return;
    }
    let inner = index % params.inner;
    let frequency = (index / params.inner) % params.count;
    let outer = index / (params.inner * params.count);
    let length = params.length;
    var given = min(length, params.given);
    if (params.mirrored != 0u) {
        given = length;
    }
    let step = frequency % length;
    var turn = 0u;
    var sum = vec2<f32>(0.0, 0.0);
    for (var at = 0u; at < given; at++) {
        let conjugate = params.mirrored != 0u && at > length / 2u;
        let source = select(at, length - at, conjugate);
        if (source < params.given) {
            let entry = ((outer * params.given + source) * params.inner + inner) * params.parts_in;
            let real = x[entry];
            var imaginary = 0.0;
            if (params.parts_in == 2u) {
                imaginary = select(x[entry + 1u], -x[entry + 1u], conjugate);
            }
            let cosine = twiddles[turn * 2u];
            let sine = select(-twiddles[turn * 2u + 1u], twiddles[turn * 2u + 1u], params.inverse != 0u);
            sum += vec2<f32>(real * cosine - imaginary * sine, real * sine + imaginary * cosine);
        }
        turn += step;
        turn = select(turn, turn - length, turn >= length);
    }
    if (params.inverse != 0u) {
        sum /= f32(length);
    }
    output[index * params.parts_out] = sum.x;
    if (params.parts_out == 2u) {
        output[index * 2u + 1u] = sum.y;
    }
}
