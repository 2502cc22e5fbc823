//! WGSL of the inverse and hyperbolic functions. The language's own may be wrong by 2^-11 (`atan`, and those that inherit
//! from it) or lose every digit near zero (WGSL, "Accuracy of built-in functions").
//!
//! Source of the reductions and polynomials: Moshier, "Methods and Programs for Mathematical Functions", and the single
//! precision half of the Cephes library that belongs to it. Both branches of a choice are computed, so that the same text
//! serves `f32` and `vec4<f32>`.

use super::horner_wgsl;

const ASIN: [f32; 5] =
    [1.666_675_2e-1, 7.495_300_3e-2, 4.547_002_6e-2, 2.418_131_2e-2, 4.216_32e-2];
const ATAN: [f32; 4] = [-3.333_295e-1, 1.997_771_1e-1, -1.387_768_6e-1, 8.053_745e-2];
const SINH: [f32; 3] = [1.666_671_6e-1, 8.330_284e-3, 2.037_219_1e-4];
const ASINH: [f32; 4] = [-1.666_628_8e-1, 7.484_759e-2, -4.269_934e-2, 2.012_200_3e-2];
const ACOSH: [f32; 5] =
    [std::f32::consts::SQRT_2, -1.178_474_2e-1, 2.645_490_5e-2, -7.528_727e-3, 1.759_688_1e-3];
const ATANH: [f32; 5] =
    [3.333_373e-1, 1.997_821_6e-1, 1.466_914_3e-1, 8.243_703e-2, 1.817_400_8e-1];

/// The body of `atan(x)`.
pub(super) fn atan(ty: &str) -> String {
    format!(
        "let a = abs(x);
    let far = a > {ty}(2.4142135);
    let middle = a > {ty}(0.41421357);
    let t = select(select(a, (a - 1.0) / (a + 1.0), middle), {ty}(-1.0) / a, far);
    let s = t * t;
    let start = select(select({ty}(0.0), {ty}(0.7853982), middle), {ty}(1.5707964), far);
    return sign(x) * (start + ({} * s * t + t));",
        horner_wgsl("s", ty, &ATAN)
    )
}

/// The body of `asin(x)`.
pub(super) fn asin(ty: &str) -> String {
    format!("{}\n    return sign(x) * select(p, {ty}(1.5707964) - 2.0 * p, far);", arc(ty))
}

/// The body of `acos(x)`.
pub(super) fn acos(ty: &str) -> String {
    format!(
        "{}
    let near = {ty}(1.5707964) - sign(x) * p;
    return select(near, select(2.0 * p, {ty}(3.1415927) - 2.0 * p, x < {ty}(0.0)), far);",
        arc(ty)
    )
}

/// The body of `sinh(x)`.
pub(super) fn sinh(ty: &str) -> String {
    format!(
        "let a = abs(x);
    let s = x * x;
    let h = exp(a * 0.5);
    let large = sign(x) * ((0.5 * h) * h - (0.5 / h) / h);
    return select(large, {} * s * x + x, a < {ty}(1.0));",
        horner_wgsl("s", ty, &SINH)
    )
}

/// The body of `cosh(x)`.
pub(super) fn cosh() -> String {
    "let h = exp(abs(x) * 0.5);\n    return (0.5 * h) * h + (0.5 / h) / h;".to_owned()
}

/// The body of `asinh(x)`. Beyond 10^9 the root is the number itself, and its square may be too large.
pub(super) fn asinh(ty: &str) -> String {
    format!(
        "let a = abs(x);
    let s = a * a;
    let middle = log(a + sqrt(min(s, {ty}(1e18)) + 1.0));
    let large = select(middle, log(a) + 0.6931472, a > {ty}(1e9));
    return sign(x) * select(large, {} * s * a + a, a < {ty}(0.5));",
        horner_wgsl("s", ty, &ASINH)
    )
}

/// The body of `acosh(x)`, where the same holds.
pub(super) fn acosh(ty: &str) -> String {
    format!(
        "let t = x - 1.0;
    let middle = log(x + sqrt(min(t, {ty}(1e9)) * (min(x, {ty}(1e9)) + 1.0)));
    let large = select(middle, log(x) + 0.6931472, x > {ty}(1e9));
    return select(large, {} * sqrt(t), t < {ty}(0.5));",
        horner_wgsl("t", ty, &ACOSH)
    )
}

/// The body of `atanh(x)`.
pub(super) fn atanh(ty: &str) -> String {
    format!(
        "let s = x * x;
    let large = 0.5 * log((1.0 + x) / (1.0 - x));
    return select(large, {} * s * x + x, abs(x) < {ty}(0.5));",
        horner_wgsl("s", ty, &ATANH)
    )
}

/// The body of `ln(1 + exp(x))`. `u` is `1 + e` rounded; the factor corrects the rounding error. Source: Goldberg, "What
/// Every Computer Scientist Should Know About Floating-Point Arithmetic", theorem 4.
pub(super) fn softplus(ty: &str) -> String {
    format!(
        "let e = exp(-abs(x));
    let u = {ty}(1.0) + e;
    let low = log(u) * (e / max(u - 1.0, {ty}(1e-30)));
    return max(x, {ty}(0.0)) + select(low, e, e < {ty}(1.1920929e-7));"
    )
}

/// `p = asin(t)`, where `t` is `|x|`, or `sqrt((1 - |x|) / 2)` if it is `far` from zero.
fn arc(ty: &str) -> String {
    format!(
        "let a = abs(x);
    let far = a > {ty}(0.5);
    let half = 0.5 * (1.0 - a);
    let s = select(x * x, half, far);
    let t = select(a, sqrt(half), far);
    let p = {} * s * t + t;",
        horner_wgsl("s", ty, &ASIN)
    )
}
