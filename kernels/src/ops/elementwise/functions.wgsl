// A compiler may assume that there is no NaN. So numbers are tested by their bits, and a NaN is made from bits that are
// known only when the shader runs.
fn is_nan(x: f32) -> bool {
    return (bitcast<u32>(x) & 0x7fffffffu) > 0x7f800000u;
}
fn nan_of(x: f32) -> f32 {
    return bitcast<f32>(bitcast<u32>(x) | 0x7fc00000u);
}

fn f_min(x: f32, y: f32) -> f32 {
    return select(select(min(x, y), y, is_nan(y)), x, is_nan(x));
}
fn f_max(x: f32, y: f32) -> f32 {
    return select(select(max(x, y), y, is_nan(y)), x, is_nan(x));
}

// The remainder bit by bit, because WGSL's `%` is only as exact as `x - y * trunc(x / y)`.
fn f_rem(x: f32, y: f32) -> f32 {
    let a = bitcast<u32>(x) & 0x7fffffffu;
    let b = bitcast<u32>(y) & 0x7fffffffu;
    if (b == 0u || a >= 0x7f800000u || b > 0x7f800000u) {
        return nan_of(x);
    }
    if (a < b) {
        return x;
    }
    var digits = a & 0x7fffffu;
    var power = i32(a >> 23u);
    if (power == 0) {
        power = 1;
    } else {
        digits |= 0x800000u;
    }
    var by = b & 0x7fffffu;
    var by_power = i32(b >> 23u);
    if (by_power == 0) {
        by_power = 1;
    } else {
        by |= 0x800000u;
    }
    let by_shift = 23u - firstLeadingBit(by);
    by <<= by_shift;
    by_power -= i32(by_shift);
    let shift = 23u - firstLeadingBit(digits);
    digits <<= shift;
    power -= i32(shift);
    for (; power > by_power; power--) {
        if (digits >= by) {
            digits -= by;
        }
        digits <<= 1u;
    }
    if (digits >= by) {
        digits -= by;
    }
    let sign = bitcast<u32>(x) & 0x80000000u;
    if (digits == 0u) {
        return bitcast<f32>(sign);
    }
    let rest = 23u - firstLeadingBit(digits);
    digits <<= rest;
    by_power -= i32(rest);
    if (by_power > 0) {
        return bitcast<f32>(sign | ((digits & 0x7fffffu) | (u32(by_power) << 23u)));
    }
    return bitcast<f32>(sign | (digits >> u32(1 - by_power)));
}
fn i_rem(x: i32, y: i32) -> i32 {
    return x % y;
}
fn u_rem(x: u32, y: u32) -> u32 {
    return x % y;
}

fn i_shiftleft(x: i32, y: i32) -> i32 {
    return select(0i, x << (bitcast<u32>(y) & 31u), bitcast<u32>(y) < 32u);
}
fn i_shiftright(x: i32, y: i32) -> i32 {
    return x >> min(bitcast<u32>(y), 31u);
}
fn u_shiftleft(x: u32, y: u32) -> u32 {
    return select(0u, x << (y & 31u), y < 32u);
}
fn u_shiftright(x: u32, y: u32) -> u32 {
    return select(0u, x >> (y & 31u), y < 32u);
}

// WGSL's `pow` is undefined for a negative base. Small integer powers are computed by products, which are exact more often.
fn f_pow(x: f32, y: f32) -> f32 {
    let whole = floor(y) == y;
    if (whole && abs(y) <= 64.0) {
        var result = 1.0;
        var factor = x;
        for (var left = u32(abs(y)); left > 0u; left >>= 1u) {
            if ((left & 1u) == 1u) {
                result *= factor;
            }
            factor *= factor;
        }
        return select(result, 1.0 / result, y < 0.0);
    }
    // The logarithm of 1 is 0, and 0 times an infinite power would be NaN.
    if (x == 1.0 || (x == -1.0 && abs(y) > 3.4028234e38)) {
        return 1.0;
    }
    if (x < 0.0 && !whole) {
        return nan_of(x);
    }
    let size = pow(abs(x), y);
    let odd = abs(y - 2.0 * floor(y * 0.5)) == 1.0;
    return select(size, -size, x < 0.0 && odd);
}
fn i_pow(x: i32, y: i32) -> i32 {
    if (y < 0) {
        return select(select(0i, 1i, x == 1), select(-1i, 1i, (y & 1) == 0), x == -1);
    }
    var result = 1i;
    var factor = x;
    for (var left = bitcast<u32>(y); left > 0u; left >>= 1u) {
        if ((left & 1u) == 1u) {
            result *= factor;
        }
        factor *= factor;
    }
    return result;
}
fn u_pow(x: u32, y: u32) -> u32 {
    var result = 1u;
    var factor = x;
    for (var left = y; left > 0u; left >>= 1u) {
        if ((left & 1u) == 1u) {
            result *= factor;
        }
        factor *= factor;
    }
    return result;
}

// IEEE 754's binary16 and the upper half of binary32, rounded to nearest, halves to even, by integer arithmetic alone:
// `quantizeToF16` may flush subnormal numbers to zero, and its results for numbers that are too large are
// implementation-defined (WGSL, "Floating Point Conversion").
fn to_half(x: f32) -> f32 {
    let bits = bitcast<u32>(x);
    let size = bits & 0x7fffffffu;
    if (size > 0x7f800000u) {
        return x;
    }
    let normal = (size + 0xfffu + ((size >> 13u) & 1u)) & 0xffffe000u;
    let shift = min(126u - min(size >> 23u, 125u), 25u);
    let digits = (size & 0x7fffffu) | 0x800000u;
    let units = (digits + (1u << (shift - 1u)) - 1u + ((digits >> shift) & 1u)) >> shift;
    let small = bitcast<u32>(f32(units) * 5.9604644775390625e-8);
    let large = select(normal, 0x7f800000u, normal >= 0x47800000u);
    return bitcast<f32>((bits & 0x80000000u) | select(large, small, size < 0x38800000u));
}
fn to_brain(x: f32) -> f32 {
    let bits = bitcast<u32>(x);
    let rounded = (bits + 0x7fffu + ((bits >> 16u) & 1u)) & 0xffff0000u;
    return bitcast<f32>(select(rounded, bits, (bits & 0x7fffffffu) > 0x7f800000u));
}
fn to_int(x: f32) -> i32 {
    let near = select(i32(clamp(x, -2147483648.0, 2147483520.0)), 2147483647i, x >= 2147483648.0);
    return select(near, 0i, is_nan(x));
}
fn to_uint(x: f32) -> u32 {
    let positive = select(u32(clamp(x, 0.0, 4294967040.0)), 0xffffffffu, x >= 4294967296.0);
    return select(select(positive, bitcast<u32>(to_int(x)), x < 0.0), 0u, is_nan(x));
}
