//! Products of matrices, and other operators on the last two dimensions.

use anyhow::{Result, bail, ensure};
use flotilla_program::{Binary, Op, ReduceKind, dim::Dim};
use flotilla_tensor::DType;

use crate::import::onnx::{
    constant::Constant,
    contract::Labelled,
    facts::Var,
    wiring::{ANY, Wire, Wiring},
};

pub(super) const OPERATORS: &[(&str, Wire)] =
    &[("Det", det), ("Gemm", gemm), ("MatMul", matmul), ("Trilu", trilu)];

fn matmul(w: &mut Wiring<'_, '_>) -> Result<Vec<Var>> {
    let (a, b) = (w.input(0)?, w.input(1)?);
    Ok(vec![w.matmul(a, b)?])
}

/// `alpha * a @ b + beta * c`, with `a` or `b` possibly transposed. A factor of 1 is left out; integers can have no
/// other factor.
fn gemm(w: &mut Wiring<'_, '_>) -> Result<Vec<Var>> {
    let (a, b, dtype) = (w.input(0)?, w.input(1)?, w.dtype(w.input(0)?));
    ensure!(w.rank(a) == 2 && w.rank(b) == 2, "its operands are not matrices");
    let a = Labelled {
        var: a,
        labels: if w.flag("transA")? { vec!['k', 'm'] } else { vec!['m', 'k'] },
    };
    let b = Labelled {
        var: b,
        labels: if w.flag("transB")? { vec!['n', 'k'] } else { vec!['k', 'n'] },
    };
    let product = w.contract(a, b, &['m', 'n'])?;
    let scaled = |w: &mut Wiring<'_, '_>, x: Var, name: &str| -> Result<Var> {
        let factor = w.float(name)?.unwrap_or(1.0);
        if factor == 1.0 {
            return Ok(x);
        }
        let factor = w.scalar(dtype, f64::from(factor));
        w.mul(x, factor)
    };
    let product = scaled(w, product, "alpha")?;
    let Some(addend) = w.optional(2) else { return Ok(vec![product]) };
    let addend = scaled(w, addend, "beta")?;
    Ok(vec![w.add(product, addend)?])
}

/// The product of the diagonal, once a matrix is triangular.
fn det(w: &mut Wiring<'_, '_>) -> Result<Vec<Var>> {
    let x = w.input(0)?;
    let shape = w.shape(x);
    let [outer @ .., rows, columns] = shape.as_slice() else {
        bail!("its operand is not a matrix");
    };
    let size = w.number(rows)?;
    w.same("the numbers of rows and columns", rows, columns)?;
    let dtype = w.dtype(x);
    let matrix = w.cast(x, DType::F32)?;
    let triangle = w.op(Op::Triangular, &[matrix], DType::F32, shape.clone())?;
    let flat: Vec<Dim> = [outer, &[Dim::Fixed((size * size) as i64)]].concat();
    let triangle = w.reshape(triangle, &flat)?;
    let diagonal: Vec<i64> = (0..size).map(|row| (row * (size + 1)) as i64).collect();
    let diagonal = w.known(Constant::i64s(&[size], &diagonal));
    let diagonal = w.gather(outer.len(), triangle, diagonal)?;
    let product = w.reduce(ReduceKind::Product, diagonal, &[outer.len()], false)?;
    Ok(vec![w.cast(product, dtype)?])
}

/// Elements on one side of a diagonal; zeros on the other.
fn trilu(w: &mut Wiring<'_, '_>) -> Result<Vec<Var>> {
    let x = w.input(0)?;
    let shape = w.shape(x);
    let [.., rows, columns] = shape.as_slice() else {
        bail!("its operand is not a matrix");
    };
    let diagonal = match w.optional(1) {
        Some(_) => w.element(1, ANY)?,
        None => Dim::Fixed(0),
    };
    let upper = w.int("upper")?.unwrap_or(1) != 0;
    let (row, column) = (w.range(diagonal, Dim::Fixed(1), rows.clone())?, w.positions(columns)?);
    let (row, column) = (w.unsqueeze(row, 1)?, w.unsqueeze(column, 0)?);
    let kept = w.binary(if upper { Binary::Ge } else { Binary::Le }, column, row)?;
    let zero = w.scalar(w.dtype(x), 0.0);
    Ok(vec![w.select(kept, x, zero)?])
}
