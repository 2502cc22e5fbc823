//! Expressions over broadcast inputs: WGSL generated from them, and blocks of registers on the cpu.

mod convert;
mod cpu;
#[cfg(not(target_arch = "wasm32"))]
mod extremes;
mod shader;
#[cfg(not(target_arch = "wasm32"))]
mod table;

use flotilla_program::{Binary, Expr, Step, Unary};
use flotilla_tensor::DType;
use shader::{Access, access};
#[cfg(not(target_arch = "wasm32"))]
pub(crate) use table::cases;

use super::{Kernel, Launch, Operand, Shader};
use crate::call::{Call, Signature, broadcast_strides};

/// Storage buffers that every adapter can bind at once, without the output's.
const INPUTS_MAX: usize = 7;

/// The type of every step.
fn types(expr: &Expr, input: impl Fn(usize) -> DType) -> Result<Vec<DType>, String> {
    let mut types: Vec<DType> = Vec::with_capacity(expr.steps.len());
    for step in &expr.steps {
        let of = |id: &u32| types[*id as usize];
        let refused =
            |what: &dyn std::fmt::Debug, types: &[DType]| Err(format!("{what:?} of {types:?}"));
        let dtype = match step {
            Step::Input(index) => input(*index as usize),
            Step::Float(_) => DType::F32,
            Step::Int(_) | Step::Dim(_) => DType::I32,
            Step::Unary(unary, a) => {
                let dtype = of(a);
                let fits = match unary {
                    Unary::Not => dtype != DType::F32,
                    Unary::Neg | Unary::Abs | Unary::Sign | Unary::Square | Unary::Relu => {
                        dtype != DType::Bool
                    }
                    _ => dtype == DType::F32,
                };
                if !fits {
                    return refused(unary, &[dtype]);
                }
                dtype
            }
            Step::Binary(binary, a, b) => {
                let (left, right) = (of(a), of(b));
                let number = matches!(left, DType::F32 | DType::I32 | DType::U32);
                let fits = match binary {
                    Binary::Eq | Binary::Ne => true,
                    Binary::And | Binary::Or | Binary::Xor => left != DType::F32,
                    Binary::ShiftLeft | Binary::ShiftRight => {
                        matches!(left, DType::I32 | DType::U32)
                    }
                    _ => number,
                };
                if left != right || !fits {
                    return refused(binary, &[left, right]);
                }
                if is_comparison(*binary) { DType::Bool } else { left }
            }
            Step::Select(condition, a, b) => {
                if of(condition) != DType::Bool || of(a) != of(b) {
                    return refused(&"Select", &[of(condition), of(a), of(b)]);
                }
                of(a)
            }
            Step::Cast(to, _) => to.storage(),
            Step::Bits(to, a) => {
                if of(a) == DType::Bool || *to == DType::Bool || to.storage() != *to {
                    return refused(&step, &[of(a)]);
                }
                *to
            }
            Step::Test(_, a) => {
                if of(a) != DType::F32 {
                    return refused(&step, &[of(a)]);
                }
                DType::Bool
            }
        };
        if !matches!(dtype, DType::F32 | DType::I32 | DType::U32 | DType::Bool) {
            return Err(format!("{dtype:?} is not computed with"));
        }
        types.push(dtype);
    }
    Ok(types)
}

/// Whether the result is a `Bool`.
fn is_comparison(binary: Binary) -> bool {
    matches!(binary, Binary::Eq | Binary::Ne | Binary::Lt | Binary::Le | Binary::Gt | Binary::Ge)
}

fn result_type(types: &[DType]) -> DType {
    types.last().copied().unwrap_or(DType::F32)
}

impl Kernel for Expr {
    fn supports(&self, signature: &Signature<'_>) -> Result<(), String> {
        let inputs = signature.node.inputs.len();
        signature.expect_operands(inputs)?;
        if inputs > INPUTS_MAX {
            return Err(format!("{inputs} inputs, the limit is {INPUTS_MAX}"));
        }
        let types = types(self, |index| signature.input(index).dtype)?;
        match (result_type(&types), signature.output().dtype) {
            (got, want) if got == want => Ok(()),
            (got, want) => Err(format!("the result is {got:?}, the output {want:?}")),
        }
    }

    fn shaders(&self, signature: &Signature<'_>) -> Vec<Shader> {
        vec![shader::shader(self, signature)]
    }

    fn launches(&self, call: &Call<'_>) -> Result<Vec<Launch>, String> {
        let output = call.output();
        let total = call.elements();
        let mut params = vec![total as u32, output.len() as u32, 0, 0];
        params.extend((0..8).map(|axis| output.get(axis).map_or(1, |&size| size as u32)));
        for input in 0..call.inputs() {
            let strides = broadcast_strides(call.input(input), output)?;
            if access(&call.signature, input) == Access::Strided {
                params.extend(
                    (0..8).map(|axis| strides.get(axis).map_or(0, |&stride| stride as u32)),
                );
            }
        }
        for step in &self.steps {
            match step {
                Step::Dim(dim) => params.push(dim_value(call, dim)? as u32),
                Step::Float(value) if !value.is_finite() => params.push(value.to_bits()),
                _ => {}
            }
        }
        let iterations = output.len() + shader::iterations(self);
        Ok(vec![Launch::new(0, call.inputs(), params, total, iterations)])
    }

    fn compute(
        &self,
        call: &Call<'_>,
        operands: &[Operand<'_>],
        output: &mut [u32],
    ) -> Result<(), String> {
        cpu::compute(self, call, operands, output)
    }
}

fn dim_value(call: &Call<'_>, dim: &flotilla_program::dim::Dim) -> Result<i32, String> {
    let value = call.eval(dim)?;
    i32::try_from(value).map_err(|_| format!("{value} leaves 32 bits"))
}

#[cfg(test)]
mod tests {
    use flotilla_program::Test;

    use super::*;

    #[test]
    fn ill_typed_expressions_are_refused() {
        let check = |steps: Vec<Step>, input: DType| {
            types(&Expr { steps }, |_| input).map(|types| result_type(&types))
        };
        let sum = || vec![Step::Input(0), Step::Float(1.0), Step::Binary(Binary::Add, 0, 1)];
        assert_eq!(check(sum(), DType::F32), Ok(DType::F32));
        assert!(check(sum(), DType::I32).is_err());
        assert!(check(vec![Step::Input(0), Step::Unary(Unary::Exp, 0)], DType::I32).is_err());
        assert!(check(vec![Step::Input(0), Step::Select(0, 0, 0)], DType::F32).is_err());
        assert_eq!(
            check(vec![Step::Input(0), Step::Cast(DType::F16, 0)], DType::F32),
            Ok(DType::F32)
        );
        assert!(check(vec![Step::Input(0), Step::Bits(DType::F16, 0)], DType::F32).is_err());
        assert!(check(vec![Step::Input(0), Step::Test(Test::Nan, 0)], DType::I32).is_err());
    }
}
