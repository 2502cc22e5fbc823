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
    // How many partial sums each sum is divided into, and their factor.
    divisions: u32,
    factor: f32,
}

// The product's remainder; the product itself may have more than 32 bits.
fn product(a: u32, b: u32) -> u32 {
    var result = 0u;
    var term = a % params.length;
    for (var left = b; left > 0u; left >>= 1u) {
        if ((left & 1u) == 1u) {
            result = (result + term) % params.length;
        }
        term = (2u * term) % params.length;
    }
    return result;
}

// Each invocation sums up every `divisions`-th element of one frequency.
@compute @workgroup_size(WORKGROUP)
fn main(@builtin(global_invocation_id) id: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>) {
    let at_output = index_of(id, groups);
    let index = at_output % params.total;
    let division = at_output / params.total;
    if (division >= params.divisions) {
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
    let step = product(params.divisions, frequency);
    var turn = product(division, frequency);
    var sum = vec2<f32>(0.0, 0.0);
    for (var at = division; at < given; at += params.divisions) {
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
    sum *= params.factor;
    output[at_output * params.parts_out] = sum.x;
    if (params.parts_out == 2u) {
        output[at_output * 2u + 1u] = sum.y;
    }
}
