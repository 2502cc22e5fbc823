//! Operands that are stored narrower than words: how shaders and cpu kernels read them as numbers.

use flotilla_program::{Levels, Quantized, Value};
use flotilla_tensor::DType;
use half::{bf16, f16};

/// How the elements of an operand lie in its words: one after the other, the first one in the lowest bits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Stored {
    /// A word each.
    F32,
    /// A word each.
    I32,
    /// A word each.
    U32,
    /// Half precision.
    F16,
    /// The upper halves of `F32`.
    BF16,
    /// Integers of these bits, of a word at most half.
    Integers {
        /// 2, 4, 8 or 16.
        bits: u32,
        /// Whether they are in two's complement.
        signed: bool,
    },
    /// Indices of 4 bits into [`Levels::Fp4`].
    Fp4,
    /// Indices of 4 bits into [`Levels::Nf4`].
    Nf4,
}

impl Stored {
    /// A value's elements.
    pub fn of(value: &Value) -> Stored {
        let integers = |bits, signed| Stored::Integers { bits, signed };
        match value.dtype {
            DType::F32 | DType::F64 => Stored::F32,
            DType::I32 | DType::I64 => Stored::I32,
            DType::U32 | DType::U64 | DType::Bool => Stored::U32,
            DType::F16 => Stored::F16,
            DType::BF16 => Stored::BF16,
            DType::I16 => integers(16, true),
            DType::U16 => integers(16, false),
            DType::I8 => integers(8, true),
            DType::U8 => integers(8, false),
        }
    }

    /// The integers of a quantized value.
    ///
    /// # Errors
    /// The value's type does not hold such integers.
    pub fn quantized(value: &Value, quantized: &Quantized) -> Result<Stored, String> {
        match (quantized.bits, quantized.levels, value.dtype) {
            (8.., None, dtype) if dtype.is_integer() => Ok(Stored::of(value)),
            (2 | 4, None, DType::U8) => {
                Ok(Stored::Integers { bits: quantized.bits, signed: quantized.signed })
            }
            (4, Some(Levels::Fp4), DType::U8) => Ok(Stored::Fp4),
            (4, Some(Levels::Nf4), DType::U8) => Ok(Stored::Nf4),
            (bits, _, dtype) => Err(format!("quantized integers of {bits} bits in {dtype:?}")),
        }
    }

    /// Bits of an element.
    pub fn bits(self) -> u32 {
        match self {
            Stored::F32 | Stored::I32 | Stored::U32 => 32,
            Stored::F16 | Stored::BF16 => 16,
            Stored::Integers { bits, .. } => bits,
            Stored::Fp4 | Stored::Nf4 => 4,
        }
    }

    fn levels(self) -> Option<[f32; 16]> {
        match self {
            Stored::Fp4 => Some(Levels::Fp4.numbers()),
            Stored::Nf4 => Some(Levels::Nf4.numbers()),
            _ => None,
        }
    }

    /// WGSL that reads the buffer `name`, an `array<u32>`: `name_at(index)` is an element as `f32`, `name_4(index)` are the four
    /// elements from `4 * index` on.
    pub(super) fn reader(self, name: &str) -> String {
        let bits = self.bits();
        let per_word = 32 / bits;
        let (one, four) = match self {
            Stored::F32 => (
                format!("bitcast<f32>({name}[at])"),
                format!(
                    "bitcast<vec4<f32>>(vec4({name}[4u * at], {name}[4u * at + 1u], {name}[4u * at + 2u], {name}[4u * at + 3u]))"
                ),
            ),
            Stored::I32 | Stored::U32 => {
                let cast = if self == Stored::I32 { "bitcast<i32>" } else { "" };
                let parts: Vec<String> =
                    (0..4).map(|lane| format!("f32({cast}({name}[4u * at + {lane}u]))")).collect();
                (format!("f32({cast}({name}[at]))"), format!("vec4({})", parts.join(", ")))
            }
            Stored::F16 => (
                format!("unpack2x16float({name}[at / 2u])[at % 2u]"),
                format!(
                    "vec4(unpack2x16float({name}[2u * at]), unpack2x16float({name}[2u * at + 1u]))"
                ),
            ),
            Stored::BF16 => (
                format!("bitcast<f32>(({name}[at / 2u] >> (at % 2u * 16u)) << 16u)"),
                format!(
                    "bitcast<vec4<f32>>(vec4({name}[2u * at] << 16u, {name}[2u * at] & 0xffff0000u, {name}[2u * at + 1u] << 16u, {name}[2u * at + 1u] & 0xffff0000u))"
                ),
            ),
            Stored::Integers { bits: 16, signed } => {
                let words = format!(
                    "vec4({name}[2u * at], {name}[2u * at], {name}[2u * at + 1u], {name}[2u * at + 1u])"
                );
                let up = "vec4(16u, 0u, 16u, 0u)";
                let word = format!("{name}[at / 2u] << (16u - at % 2u * 16u)");
                match signed {
                    true => (
                        format!("f32(bitcast<i32>({word}) >> 16u)"),
                        format!("vec4<f32>(bitcast<vec4<i32>>({words} << {up}) >> vec4(16u))"),
                    ),
                    false => (
                        format!("f32(i32(({word}) >> 16u))"),
                        format!("vec4<f32>(vec4<i32>(({words} << {up}) >> vec4(16u)))"),
                    ),
                }
            }
            Stored::Integers { .. } | Stored::Fp4 | Stored::Nf4 => {
                let groups = per_word / 4;
                // The four elements are brought to the top of words, from where a shift extends their sign.
                let word = format!("({name}[at / {groups}u] >> (at % {groups}u * {}u))", 4 * bits);
                let shifts: Vec<String> =
                    (0..4).map(|lane| format!("{}u", 32 - bits * (lane + 1))).collect();
                let up = format!("vec4({word}) << vec4({})", shifts.join(", "));
                let down = 32 - bits;
                let top =
                    format!("{name}[at / {per_word}u] << ({down}u - at % {per_word}u * {bits}u)");
                match self {
                    Stored::Integers { signed: true, .. } => (
                        format!("f32(bitcast<i32>({top}) >> {down}u)"),
                        format!("vec4<f32>(bitcast<vec4<i32>>({up}) >> vec4({down}u))"),
                    ),
                    Stored::Integers { signed: false, .. } => (
                        format!("f32(i32(({top}) >> {down}u))"),
                        // Signed words are converted at once by processors that do not convert unsigned ones.
                        format!("vec4<f32>(vec4<i32>(({up}) >> vec4({down}u)))"),
                    ),
                    _ => {
                        let looked_up: Vec<String> = ["x", "y", "z", "w"]
                            .iter()
                            .map(|lane| format!("{name}_levels[four.{lane}]"))
                            .collect();
                        return self.levels_reader(name, &top, &up, &looked_up.join(", "));
                    }
                }
            }
        };
        format!(
            "fn {name}_at(at: u32) -> f32 {{ return {one}; }}\nfn {name}_4(at: u32) -> vec4<f32> {{ return {four}; }}\n"
        )
    }

    fn levels_reader(self, name: &str, top: &str, up: &str, looked_up: &str) -> String {
        let numbers = self.levels().unwrap_or_default();
        let numbers: Vec<String> = numbers.iter().map(|number| format!("{number:?}f")).collect();
        format!(
            "var<private> {name}_levels: array<f32, 16> = array<f32, 16>({});
fn {name}_at(at: u32) -> f32 {{ return {name}_levels[({top}) >> 28u]; }}
fn {name}_4(at: u32) -> vec4<f32> {{
    let four = ({up}) >> vec4(28u);
    return vec4({looked_up});
}}\n",
            numbers.join(", ")
        )
    }

    /// The element at `index` as bits, extended by zeros.
    pub(super) fn bits_at(self, words: &[u32], index: usize) -> u32 {
        let bits = self.bits() as usize;
        let per_word = 32 / bits;
        let word = words[index / per_word] >> (index % per_word * bits);
        if bits == 32 { word } else { word & ((1 << bits) - 1) }
    }

    /// The number that these bits stand for.
    pub(super) fn number(self, bits: u32) -> f32 {
        match self {
            Stored::F32 => f32::from_bits(bits),
            Stored::I32 => bits as i32 as f32,
            Stored::U32 => bits as f32,
            Stored::F16 => f16::from_bits(bits as u16).to_f32(),
            Stored::BF16 => bf16::from_bits(bits as u16).to_f32(),
            Stored::Integers { bits: width, signed: true } => {
                let unused = 32 - width;
                (((bits << unused) as i32) >> unused) as f32
            }
            Stored::Integers { .. } => bits as f32,
            Stored::Fp4 | Stored::Nf4 => self.levels().unwrap_or_default()[(bits & 15) as usize],
        }
    }

    /// An element as a number.
    pub(super) fn at(self, words: &[u32], index: usize) -> f32 {
        self.number(self.bits_at(words, index))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn elements_lie_from_the_lowest_bits() {
        let words = [0x8765_43f2, 0x0000_3c00];
        let integers = |bits, signed| Stored::Integers { bits, signed };
        let table: [(Stored, usize, f32); 9] = [
            (integers(4, false), 0, 2.0),
            (integers(4, true), 1, -1.0),
            (integers(4, true), 7, -8.0),
            (integers(2, false), 2, 3.0),
            (integers(8, true), 0, -14.0),
            (integers(8, false), 3, 135.0),
            (integers(16, true), 1, -30875.0),
            (Stored::F16, 2, 1.0),
            (Stored::Nf4, 1, 1.0),
        ];
        for (stored, index, want) in table {
            assert_eq!(stored.at(&words, index), want, "{stored:?}");
        }
    }
}
