//! WGSL of sine, cosine and tangent; the language's own may be wrong by 2^-11 (WGSL, "Accuracy of built-in functions").

/// Largest number that is reduced by subtraction; a larger one loses too many digits there.
const NEAR: f32 = 4096.0;

/// A function `{name}_reduced` that gives the distance of a large number from the nearest multiple of pi / 2, and that multiple
/// modulo 4: the number's digits times the digits of 2 / pi that do not give whole turns.
/// Source: Payne and Hanek, "Radian reduction for trigonometric functions".
pub(super) fn reduction(name: &str) -> String {
    format!(
        "fn {name}_high(a: u32, b: u32) -> u32 {{
    let low = (a & 0xffffu) * (b & 0xffffu);
    let cross = (a >> 16u) * (b & 0xffffu) + (low >> 16u);
    let other = (a & 0xffffu) * (b >> 16u) + (cross & 0xffffu);
    return (a >> 16u) * (b >> 16u) + (cross >> 16u) + (other >> 16u);
}}
fn {name}_reduced(x: f32) -> vec2<f32> {{
    let bits = bitcast<u32>(x);
    let exponent = (bits >> 23u) & 0xffu;
    if (exponent == 0xffu) {{
        return vec2<f32>(bitcast<f32>(bits | 0x7fc00000u), 0.0);
    }}
    var digits = array<u32, 6>(0x28be60dbu, 0x9391054au, 0x7f09d5f4u, 0x7d4d3770u, 0x36d8a566u, 0x4f10e410u);
    let place = max(exponent, 126u) - 126u;
    let word = place / 32u;
    let shift = place % 32u;
    var high = 0u;
    if (word > 0u) {{
        high = digits[word - 1u];
    }}
    var middle = digits[word];
    var low = digits[word + 1u];
    if (shift > 0u) {{
        high = (high << shift) | (middle >> (32u - shift));
        middle = (middle << shift) | (low >> (32u - shift));
        low = (low << shift) | (digits[word + 2u] >> (32u - shift));
    }}
    let factor = ((bits & 0x7fffffu) | 0x800000u) << 8u;
    let carried = {name}_high(factor, low);
    let fraction = factor * middle + carried;
    var whole = factor * high + {name}_high(factor, middle) + select(0u, 1u, fraction < carried);
    // Two binary digits are before the point.
    var quarter = whole >> 30u;
    whole &= 0x3fffffffu;
    if (whole >= 0x20000000u) {{
        quarter++;
        whole |= 0xc0000000u;
    }}
    let turns = f32(bitcast<i32>(whole)) * 9.313225746154785e-10 + f32(fraction) * 2.168404344971009e-19;
    let rest = turns * 1.5707963;
    let result = vec2<f32>(rest, f32(quarter & 3u));
    return select(result, vec2<f32>(-rest, f32((4u - (quarter & 3u)) & 3u)), (bits >> 31u) == 1u);
}}
"
    )
}

/// `sine` and `cosine` of `x`. Reduction to `|r| <= pi / 4` in three steps, or by the function of [`reduction`], and Taylor
/// polynomials.
pub(super) fn body(name: &str, ty: &str) -> String {
    let far = if ty == "f32" {
        format!(
            "if (abs(x) > {NEAR:?}) {{
        let reduced = {name}_reduced(x);
        r = reduced.x;
        q = reduced.y;
    }}"
        )
    } else {
        format!(
            "for (var lane = 0u; lane < 4u; lane++) {{
        if (abs(x[lane]) > {NEAR:?}) {{
            let reduced = {name}_reduced(x[lane]);
            r[lane] = reduced.x;
            q[lane] = reduced.y;
        }}
    }}"
        )
    };
    format!(
        "let n = round(x * {ty}(0.63661975));
    var r = ((x - n * 1.5703125) - n * 4.837512969970703e-4) - n * 7.54978995489188e-8;
    var q = n - 4.0 * floor(n * 0.25);
    {far}
    let s = r * r;
    let a = r + r * s * (((s * 2.7557319e-6 - 1.9841270e-4) * s + 8.3333333e-3) * s - 0.16666667);
    let b = 1.0 - s * 0.5 + s * s * (((s * -2.7557319e-7 + 2.4801587e-5) * s - 1.3888889e-3) * s + 4.1666667e-2);
    let odd = (q == {ty}(1.0)) | (q == {ty}(3.0));
    let sine = select(a, b, odd) * select({ty}(1.0), {ty}(-1.0), q >= {ty}(2.0));
    let cosine = select(b, a, odd) * select({ty}(1.0), {ty}(-1.0), (q == {ty}(1.0)) | (q == {ty}(2.0)));
    "
    )
}
