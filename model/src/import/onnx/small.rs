//! Element types of files that have no [`DType`]: integers narrower than a byte, and floats of 8 and 4 bits.
//!
//! Their elements become those of the narrowest `DType` that holds all of them exactly. This is the only place where packed
//! elements are taken apart during import. Sources: ONNX, "TensorProto" (numbers of the types, packing) and "Float stored in
//! 8 bits"; Open Compute Project, "OCP Microscaling Formats", 5.3.

use anyhow::{Result, ensure};
use flotilla_tensor::{DType, encode};

/// An element type of a file that a tensor in a page cannot have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum SmallType {
    I2,
    U2,
    I4,
    U4,
    /// Without infinities; 4 bits of exponent.
    F8E4M3Fn,
    /// The same with one zero, which leaves the code of the other for NaN.
    F8E4M3Fnuz,
    /// The upper half of an F16.
    F8E5M2,
    /// Without infinities and with one zero.
    F8E5M2Fnuz,
    F4E2M1,
}

/// The order of the elements in a byte.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum First {
    /// The first element is in the lowest bits, as in ONNX and onnxruntime.
    Low,
    /// The first element is in the highest bits, as in bitsandbytes.
    High,
}

impl SmallType {
    /// The type of a number in the standard.
    pub(crate) fn of(number: i32) -> Option<SmallType> {
        Some(match number {
            17 => SmallType::F8E4M3Fn,
            18 => SmallType::F8E4M3Fnuz,
            19 => SmallType::F8E5M2,
            20 => SmallType::F8E5M2Fnuz,
            21 => SmallType::U4,
            22 => SmallType::I4,
            23 => SmallType::F4E2M1,
            25 => SmallType::U2,
            26 => SmallType::I2,
            _ => return None,
        })
    }

    /// The unsigned integers of this many bits.
    pub(crate) fn unsigned(bits: u32) -> Option<SmallType> {
        match bits {
            2 => Some(SmallType::U2),
            4 => Some(SmallType::U4),
            _ => None,
        }
    }

    /// Its name in the standard.
    pub(crate) fn name(self) -> &'static str {
        match self {
            SmallType::I2 => "INT2",
            SmallType::U2 => "UINT2",
            SmallType::I4 => "INT4",
            SmallType::U4 => "UINT4",
            SmallType::F8E4M3Fn => "FLOAT8E4M3FN",
            SmallType::F8E4M3Fnuz => "FLOAT8E4M3FNUZ",
            SmallType::F8E5M2 => "FLOAT8E5M2",
            SmallType::F8E5M2Fnuz => "FLOAT8E5M2FNUZ",
            SmallType::F4E2M1 => "FLOAT4E2M1",
        }
    }

    /// Bits of an element in a file.
    pub(crate) fn bits(self) -> usize {
        match self {
            SmallType::I2 | SmallType::U2 => 2,
            SmallType::I4 | SmallType::U4 | SmallType::F4E2M1 => 4,
            SmallType::F8E4M3Fn
            | SmallType::F8E4M3Fnuz
            | SmallType::F8E5M2
            | SmallType::F8E5M2Fnuz => 8,
        }
    }

    /// The type that its elements get.
    pub(crate) fn dtype(self) -> DType {
        match self {
            SmallType::I2 | SmallType::I4 => DType::I8,
            SmallType::U2 | SmallType::U4 => DType::U8,
            _ => DType::F16,
        }
    }

    /// The least and the largest integer; `None` for floats.
    pub(crate) fn range(self) -> Option<(i64, i64)> {
        match self {
            SmallType::I2 => Some((-2, 1)),
            SmallType::U2 => Some((0, 3)),
            SmallType::I4 => Some((-8, 7)),
            SmallType::U4 => Some((0, 15)),
            _ => None,
        }
    }

    /// `count` elements as those of [`SmallType::dtype`], little-endian.
    ///
    /// # Errors
    /// The bytes are not as many as the elements need.
    pub(crate) fn unpacked(self, bytes: &[u8], count: usize, first: First) -> Result<Vec<u8>> {
        let (bits, per_byte) = (self.bits(), 8 / self.bits());
        let want = count.div_ceil(per_byte);
        ensure!(
            bytes.len() == want,
            "{} bytes for {count} elements of type {}, {want} are needed",
            bytes.len(),
            self.name()
        );
        let mask = u8::MAX >> (8 - bits);
        let codes = bytes.iter().flat_map(|&byte| {
            (0..per_byte).map(move |at| {
                let place = match first {
                    First::Low => at,
                    First::High => per_byte - 1 - at,
                };
                (byte >> (place * bits)) & mask
            })
        });
        let codes = codes.take(count);
        Ok(match self {
            SmallType::U2 | SmallType::U4 => codes.collect(),
            SmallType::I2 | SmallType::I4 => {
                // The sign is the highest of the bits.
                let unused = 8 - bits as u32;
                codes.map(|code| (((code << unused) as i8) >> unused) as u8).collect()
            }
            _ => {
                let table: Vec<u16> = (0..=mask).map(|code| self.half(code)).collect();
                let halves: Vec<u16> = codes.map(|code| table[usize::from(code)]).collect();
                encode(&halves, u16::to_le_bytes)
            }
        })
    }

    /// The F16 of a code of a float type.
    fn half(self, code: u8) -> u16 {
        let (exponent, mantissa, bias, finite) = match self {
            SmallType::F8E4M3Fn => (4, 3, 7, true),
            SmallType::F8E4M3Fnuz => (4, 3, 8, true),
            SmallType::F8E5M2 => (5, 2, 15, false),
            SmallType::F8E5M2Fnuz => (5, 2, 16, true),
            _ => (2, 1, 1, true),
        };
        let sign_at = exponent + mantissa;
        let negative = code >> sign_at == 1;
        let (high, low) =
            ((code >> mantissa) & ((1 << exponent) - 1), code & ((1 << mantissa) - 1));
        let is_nan = match self {
            SmallType::F8E4M3Fn => code & 0x7f == 0x7f,
            SmallType::F8E4M3Fnuz | SmallType::F8E5M2Fnuz => code == 0x80,
            SmallType::F8E5M2 => high == 31 && low != 0,
            _ => false,
        };
        let sign = u16::from(negative) << 15;
        if is_nan {
            return 0x7e00;
        }
        if !finite && high == 31 {
            return sign | 0x7c00;
        }
        let (fraction, power) = match high {
            0 => (u32::from(low), 1 - bias),
            _ => (u32::from(low) + (1 << mantissa), i32::from(high) - bias),
        };
        // `fraction * 2^(power - mantissa)`, normalized: every one of these numbers is a normal F16 or a subnormal one.
        if fraction == 0 {
            return sign;
        }
        let top = 31 - fraction.leading_zeros() as i32;
        let power = power - mantissa + top;
        let shifted = (fraction << (10 - top)) as u16 & 0x3ff;
        match power {
            -14.. => sign | (((power + 15) as u16) << 10) | shifted,
            _ => sign | ((0x400 | shifted) >> (-14 - power)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn floats(of: SmallType, codes: &[u8]) -> Vec<f64> {
        let count = codes.len() * 8 / of.bits();
        let bytes = of.unpacked(codes, count, First::Low).expect("as many as are needed");
        DType::F16.decode_numbers(&bytes)
    }

    #[test]
    fn floats_of_8_bits_are_those_of_ml_dtypes() {
        // Source of the numbers: ml_dtypes 0.6.
        let codes = [0x00, 0x01, 0x07, 0x08, 0x38, 0x3c, 0x7e, 0x81, 0xfe];
        let e4m3 = [0.0, 2f64.powi(-9), 7.0 * 2f64.powi(-9), 2f64.powi(-6), 1.0, 1.5, 448.0];
        assert_eq!(floats(SmallType::F8E4M3Fn, &codes)[..7], e4m3);
        assert_eq!(floats(SmallType::F8E4M3Fn, &codes)[7..], [-(2f64.powi(-9)), -448.0]);
        assert_eq!(
            floats(SmallType::F8E4M3Fnuz, &[0x01, 0x40, 0x7f, 0xff]),
            [2f64.powi(-10), 1.0, 240.0, -240.0]
        );
        assert_eq!(
            floats(SmallType::F8E5M2, &[0x01, 0x3c, 0x7b, 0x7c, 0xfc]),
            [2f64.powi(-16), 1.0, 57344.0, f64::INFINITY, f64::NEG_INFINITY]
        );
        assert_eq!(
            floats(SmallType::F8E5M2Fnuz, &[0x01, 0x40, 0x7f, 0xff]),
            [2f64.powi(-17), 1.0, 57344.0, -57344.0]
        );
        for (of, nan) in [
            (SmallType::F8E4M3Fn, 0x7f),
            (SmallType::F8E4M3Fn, 0xff),
            (SmallType::F8E4M3Fnuz, 0x80),
            (SmallType::F8E5M2, 0x7d),
            (SmallType::F8E5M2Fnuz, 0x80),
        ] {
            assert!(floats(of, &[nan])[0].is_nan(), "{of:?} {nan:x}");
        }
    }

    #[test]
    fn elements_of_a_byte_are_in_order() {
        let unpacked = |of: SmallType, first| of.unpacked(&[0xf1, 0x82], 3, first).expect("fits");
        assert_eq!(unpacked(SmallType::U4, First::Low), [1, 15, 2]);
        assert_eq!(unpacked(SmallType::U4, First::High), [15, 1, 8]);
        let signed = unpacked(SmallType::I4, First::Low);
        assert_eq!(signed.iter().map(|&x| x as i8).collect::<Vec<_>>(), [1, -1, 2]);
        let two = SmallType::U2.unpacked(&[0b11_10_01_00], 4, First::Low).expect("fits");
        assert_eq!(two, [0, 1, 2, 3]);
        let fours = floats(SmallType::F4E2M1, &[0x10, 0x32, 0x54, 0x76, 0xf9]);
        assert_eq!(fours, [0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0, -0.5, -6.0]);
    }

    #[test]
    fn a_wrong_length_is_refused() {
        let error = SmallType::I4.unpacked(&[0; 3], 7, First::Low).expect_err("one is missing");
        assert_eq!(error.to_string(), "3 bytes for 7 elements of type INT4, 4 are needed");
    }
}
