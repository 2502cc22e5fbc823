//! Gaussian elimination; determinants are products of its diagonal.

use flotilla_program::DType;

use super::{Kernel, Launch, Operand, Shader};
use crate::call::{Call, Signature};
#[cfg(not(target_arch = "wasm32"))]
use crate::suite::{Array, Case, Sketch, Tolerance};

/// The operator carries nothing.
pub(crate) struct Triangular;

/// How many matrices there are, and their rows.
fn geometry(call: &Call<'_>) -> Result<(usize, usize), String> {
    call.expect_output(call.input(0))?;
    match call.input(0) {
        [outer @ .., rows, columns] if rows == columns => Ok((outer.iter().product(), *rows)),
        shape => Err(format!("{shape:?} does not end in a square")),
    }
}

fn eliminate(matrix: &mut [f32], size: usize) {
    for column in 0..size {
        let mut pivot = column;
        for row in column + 1..size {
            if matrix[row * size + column].abs() > matrix[pivot * size + column].abs() {
                pivot = row;
            }
        }
        if pivot != column {
            for at in column..size {
                let upper = matrix[column * size + at];
                matrix[column * size + at] = matrix[pivot * size + at];
                matrix[pivot * size + at] = -upper;
            }
        }
        let divisor = matrix[column * size + column];
        for row in column + 1..size {
            let factor = if divisor == 0.0 { 0.0 } else { matrix[row * size + column] / divisor };
            matrix[row * size + column] = 0.0;
            for at in column + 1..size {
                matrix[row * size + at] -= factor * matrix[column * size + at];
            }
        }
    }
}

impl Kernel for Triangular {
    fn supports(&self, signature: &Signature<'_>) -> Result<(), String> {
        signature.expect_operands(1)?;
        signature.expect_all(DType::F32)?;
        match signature.input(0).shape.len() {
            0 | 1 => Err("there are no matrices".to_owned()),
            _ => Ok(()),
        }
    }

    fn shaders(&self, _signature: &Signature<'_>) -> Vec<Shader> {
        vec![Shader::new("Triangular", &[("x", "f32")], "f32", include_str!("triangular.wgsl"))]
    }

    fn launches(&self, call: &Call<'_>) -> Result<Vec<Launch>, String> {
        let (matrices, size) = geometry(call)?;
        let params = vec![matrices as u32, size as u32];
        let iterations = size * size + size * (2 + 2 * size) + size * size * size / 2;
        Ok(vec![Launch::new(0, 1, params, matrices, iterations)])
    }

    fn compute(
        &self,
        call: &Call<'_>,
        operands: &[Operand<'_>],
        output: &mut [u32],
    ) -> Result<(), String> {
        let (_, size) = geometry(call)?;
        output.copy_from_slice(operands[0].words());
        if !output.is_empty() {
            let output: &mut [f32] = bytemuck::cast_slice_mut(output);
            output.chunks_exact_mut(size * size).for_each(|matrix| eliminate(matrix, size));
        }
        Ok(())
    }
}

#[cfg(not(target_arch = "wasm32"))]
pub(crate) fn cases() -> Vec<Case> {
    use flotilla_program::Op;

    let table: [(&str, &[usize], Vec<f64>, Vec<f64>); 4] = [
        ("the larger row comes first", &[2, 2], vec![1., 2., 4., 2.], vec![4., 2., 0., -1.5]),
        (
            "two matrices",
            &[2, 2, 2],
            vec![2., 1., 1., 2., 0., 3., 0., 0.],
            vec![2., 1., 0., 1.5, 0., 3., 0., 0.],
        ),
        (
            "three rows",
            &[3, 3],
            vec![1., 1., 1., 2., 4., 6., 1., 3., 9.],
            // Rows 1 and 2 change places, then nothing does: 1 - 1/2 row and so on, by hand.
            vec![2., 4., 6., 0., 1., 2., 0., 0., 4.],
        ),
        ("one element", &[3, 1, 1], vec![1., -2., 0.], vec![1., -2., 0.]),
    ];
    table
        .into_iter()
        .map(|(name, shape, matrix, triangle)| {
            let (x, expected) = (Array::f32(shape, matrix), Array::f32(shape, triangle));
            let name = format!("triangular/{name}");
            Sketch::single(&name, Op::Triangular, &[&x], &expected, Tolerance::Close)
        })
        .collect()
}
