//! Positions of rows in lexicographic order.

use std::cmp::Ordering;

use flotilla_program::DType;

use super::{Kernel, Launch, Operand, Shader};
use crate::call::{Call, Signature};
#[cfg(not(target_arch = "wasm32"))]
use crate::suite::{Array, Case, Sketch, Tolerance};

/// The operator carries nothing.
pub(crate) struct RowRanks;

/// Rows and their width.
fn geometry(call: &Call<'_>) -> Result<(usize, usize), String> {
    let &[rows, width] = call.input(0) else {
        return Err(format!("{:?} are no rows", call.input(0)));
    };
    call.expect_output(&[rows])?;
    Ok((rows, width))
}

fn ranks<T: Copy + PartialOrd>(x: &[T], width: usize, output: &mut [u32]) {
    let row = |index: usize| &x[index * width..(index + 1) * width];
    let mut order: Vec<usize> = (0..output.len()).collect();
    // Sorting is stable, so of equal rows the earlier one comes first.
    order.sort_by(|&a, &b| row(a).partial_cmp(row(b)).unwrap_or(Ordering::Equal));
    for (rank, index) in order.into_iter().enumerate() {
        output[index] = rank as u32;
    }
}

impl Kernel for RowRanks {
    fn supports(&self, signature: &Signature<'_>) -> Result<(), String> {
        signature.expect_operands(1)?;
        signature.expect_result(DType::I32)?;
        element(signature.input(0).dtype).map(|_| ())
    }

    fn shaders(&self, signature: &Signature<'_>) -> Vec<Shader> {
        // Another type has been refused by then.
        let element = element(signature.input(0).dtype).unwrap_or("u32");
        vec![Shader::new("RowRanks", &[("x", element)], "i32", include_str!("row_ranks.wgsl"))]
    }

    fn launches(&self, call: &Call<'_>) -> Result<Vec<Launch>, String> {
        let (rows, width) = geometry(call)?;
        let params = vec![rows as u32, width as u32];
        Ok(vec![Launch::new(0, 1, params, rows, rows * (1 + width))])
    }

    fn compute(
        &self,
        call: &Call<'_>,
        operands: &[Operand<'_>],
        output: &mut [u32],
    ) -> Result<(), String> {
        let (_, width) = geometry(call)?;
        match element(call.signature.input(0).dtype)? {
            "f32" => ranks(operands[0].f32(), width, output),
            "i32" => ranks(operands[0].i32(), width, output),
            _ => ranks(operands[0].words(), width, output),
        }
        Ok(())
    }
}

/// How WGSL compares elements of a type.
fn element(dtype: DType) -> Result<&'static str, String> {
    match dtype.storage() {
        DType::F32 => Ok("f32"),
        DType::I32 => Ok("i32"),
        DType::U32 | DType::Bool => Ok("u32"),
        other => Err(format!("rows of {other:?} have no order here")),
    }
}

#[cfg(not(target_arch = "wasm32"))]
pub(crate) fn cases() -> Vec<Case> {
    use flotilla_program::Op;

    let table: [(&str, DType, &[usize], &[f64], &[f64]); 4] = [
        ("numbers", DType::F32, &[5, 1], &[2.0, -1.5, 2.0, 0.25, -1.5], &[3.0, 0.0, 4.0, 2.0, 1.0]),
        (
            "rows",
            DType::I32,
            &[4, 2],
            &[1.0, 2.0, -1.0, 9.0, 1.0, -2.0, 1.0, 2.0],
            &[2.0, 0.0, 1.0, 3.0],
        ),
        ("large numbers", DType::U32, &[3, 1], &[4e9, 1.0, 3e9], &[2.0, 0.0, 1.0]),
        ("rows of nothing", DType::I32, &[2, 0], &[], &[0.0, 1.0]),
    ];
    table
        .into_iter()
        .map(|(name, dtype, shape, rows, ranks)| {
            let x = Array::of(dtype, shape, rows.to_vec());
            let expected = Array::of(DType::I32, &shape[..1], ranks.to_vec());
            let name = format!("row_ranks/{name}");
            Sketch::single(&name, Op::RowRanks, &[&x], &expected, Tolerance::Exact)
        })
        .collect()
}
