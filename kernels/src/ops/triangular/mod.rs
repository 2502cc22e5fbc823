//! Gaussian elimination; determinants are products of its diagonal. Large matrices are eliminated in two launches per column.

use flotilla_tensor::DType;

use super::{
    Kernel, Launch, Memory, Operand, Shader,
    split::Scratchpad,
    strided::{self, View},
};
use crate::call::{Call, Signature, strides};
#[cfg(not(target_arch = "wasm32"))]
use crate::suite::{Array, Case, Sketch, Tolerance};

/// Most iterations of an invocation that eliminates a whole matrix.
const WHOLE_MAX: usize = 8192;

/// Which of a node's shaders.
const WHOLE: usize = 0;
const COPY: usize = 1;
const START: usize = 2;
const PIVOT: usize = 3;
const ELIMINATE: usize = 4;
const FINISH: usize = 5;

/// The operator has no attributes.
pub(crate) struct Triangular;

/// How many matrices there are, and their rows.
fn geometry(call: &Call<'_>) -> Result<(usize, usize), String> {
    call.expect_output(call.input(0))?;
    match call.input(0) {
        [outer @ .., rows, columns] if rows == columns => Ok((outer.iter().product(), *rows)),
        shape => Err(format!("{shape:?} does not end in a square")),
    }
}

/// Most iterations of an invocation that eliminates a matrix of this many rows.
fn iterations(size: usize) -> usize {
    let square = size.saturating_mul(size);
    square.saturating_mul(3 + size / 2).saturating_add(2 * size)
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

    fn shaders(&self, signature: &Signature<'_>) -> Vec<Shader> {
        let shader = |name: &str, reads: &[(&str, &str)], output: &str, text: &str| {
            let body = format!("{}{text}", include_str!("params.wgsl"));
            Shader::new(&format!("Triangular, {name}"), reads, output, &body)
        };
        let mut shaders = vec![shader("whole", &[("x", "f32")], "f32", include_str!("whole.wgsl"))];
        let size = signature.input(0).shape.last().and_then(|dim| dim.as_fixed());
        if size.is_none_or(|size| iterations(size as usize) > WHOLE_MAX) {
            let (rows, elements) = (("rows", "i32"), ("elements", "f32"));
            shaders.extend([
                strided::shader(),
                shader("start", &[], "i32", include_str!("start.wgsl")),
                shader("pivot", &[elements], "i32", include_str!("pivot.wgsl")),
                shader("eliminate", &[rows], "f32", include_str!("eliminate.wgsl")),
                shader("finish", &[rows, elements], "f32", include_str!("finish.wgsl")),
            ]);
        }
        shaders
    }

    fn launches(&self, call: &Call<'_>) -> Result<Vec<Launch>, String> {
        let (matrices, size) = geometry(call)?;
        let launch = |shader: usize, total: usize, column: usize, iterations: usize| {
            let params = [total, size, column].map(|number| number as u32).to_vec();
            Launch::new(shader, 0, params, total, iterations)
        };
        if iterations(size) <= WHOLE_MAX {
            let whole = launch(WHOLE, matrices, 0, iterations(size));
            return Ok(vec![whole.reading([Memory::Input(0)])]);
        }
        let mut scratchpad = Scratchpad::default();
        let elements = scratchpad.take(call.elements());
        let rows = scratchpad.take(matrices * size);
        let from = strided::signed(&strides(call.input(0)));
        let copy = View::gathering(call.input(0), 0, from).launch(0);
        let mut launches = vec![
            Launch { shader: COPY, ..copy.writing(elements) },
            launch(START, matrices * size, 0, 0).writing(rows),
        ];
        for column in 0..size.saturating_sub(1) {
            let left = size - column - 1;
            let pivot = launch(PIVOT, matrices, column, left.div_ceil(2));
            let eliminate = launch(ELIMINATE, matrices * left * left, column, 0);
            launches.push(pivot.reading([elements]).writing(rows));
            launches.push(eliminate.reading([rows]).writing(elements));
        }
        launches.push(launch(FINISH, call.elements(), 0, 0).reading([rows, elements]));
        Ok(launches)
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
            // Rows 1 and 2 change places, then no other rows: 1 - 1/2 row and so on, by hand.
            vec![2., 4., 6., 0., 1., 2., 0., 0., 4.],
        ),
        ("one element", &[3, 1, 1], vec![1., -2., 0.], vec![1., -2., 0.]),
    ];
    let mut cases: Vec<Case> = table
        .into_iter()
        .map(|(name, shape, matrix, triangle)| {
            let (x, expected) = (Array::f32(shape, matrix), Array::f32(shape, triangle));
            let name = format!("triangular/{name}");
            Sketch::single(&name, Op::Triangular, &[&x], &expected, Tolerance::Close)
        })
        .collect();
    cases.push(long(2, 40).everywhere_if(true));
    cases.push(long(1, 150).everywhere_if(false));
    cases
}

/// Large matrices with one large element in each row and column, so that no rounding decides which row is the first.
#[cfg(not(target_arch = "wasm32"))]
fn long(matrices: usize, size: usize) -> Case {
    let mut x = Array::noise(5000, &[matrices, size, size]);
    for matrix in x.numbers.chunks_exact_mut(size * size) {
        (0..size).for_each(|row| matrix[row * size + (row * 7 + 3) % size] = 20.0);
    }
    let mut expected = x.clone();
    for matrix in expected.numbers.chunks_exact_mut(size * size) {
        for column in 0..size {
            let magnitude = |row: usize| matrix[row * size + column].abs();
            let pivot = (column..size).fold(column, |best, row| {
                if magnitude(row) > magnitude(best) { row } else { best }
            });
            if pivot != column {
                for at in 0..size {
                    let upper = matrix[column * size + at];
                    matrix[column * size + at] = matrix[pivot * size + at];
                    matrix[pivot * size + at] = -upper;
                }
            }
            for row in column + 1..size {
                let factor = matrix[row * size + column] / matrix[column * size + column];
                matrix[row * size + column] = 0.0;
                for at in column + 1..size {
                    matrix[row * size + at] -= factor * matrix[column * size + at];
                }
            }
        }
    }
    let name = format!("triangular/{matrices} matrices of {size} rows");
    let op = flotilla_program::Op::Triangular;
    Sketch::single(&name, op, &[&x], &expected, Tolerance::Scaled)
}
