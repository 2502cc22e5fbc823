//! Positions of rows in lexicographic order. Many rows are sorted; wide ones are sorted by a few columns at a time, from the last
//! columns to the first.

use flotilla_tensor::DType;

use super::{
    Kernel, Launch, Memory, Operand, Shader,
    order::{key, key_wgsl},
    split::Scratchpad,
    top_k,
};
use crate::call::{Call, Signature};
#[cfg(not(target_arch = "wasm32"))]
use crate::suite::{Array, Case, LONG, LONGEST, Sketch, Tolerance};

/// Most columns that one invocation compares.
const COLUMNS_MAX: usize = 4096;
/// Most iterations of an invocation that counts rows.
const COUNT_MAX: usize = 8192;

/// Which of a node's shaders.
const COUNT: usize = 0;
const START: usize = 1;
const SORT: usize = 2;
const INVERT: usize = 3;

/// The operator has no attributes.
pub(crate) struct RowRanks;

/// Rows and their width.
fn geometry(call: &Call<'_>) -> Result<(usize, usize), String> {
    let &[rows, width] = call.input(0) else {
        return Err(format!("{:?} are no rows", call.input(0)));
    };
    call.expect_output(&[rows])?;
    Ok((rows, width))
}

impl Kernel for RowRanks {
    fn supports(&self, signature: &Signature<'_>) -> Result<(), String> {
        signature.expect_operands(1)?;
        signature.expect_result(DType::I32)?;
        match signature.input(0).dtype {
            DType::F32 | DType::I32 | DType::U32 | DType::Bool => Ok(()),
            other => Err(format!("rows of {other:?} have no order here")),
        }
    }

    fn shaders(&self, signature: &Signature<'_>) -> Vec<Shader> {
        let key = key_wgsl(signature.input(0).dtype, true);
        let shader = |name: &str, reads: &[(&str, &str)], text: &str| {
            let key = if reads.is_empty() { "" } else { key.as_str() };
            let body = format!("{}{key}{text}", include_str!("params.wgsl"));
            Shader::new(&format!("RowRanks, {name}"), reads, "i32", &body)
        };
        let reads = [("x", "u32"), ("ranks", "i32")];
        let mut shaders = vec![shader("count", &reads[..1], include_str!("count.wgsl"))];
        let fixed = |axis| signature.fixed(0, axis).map(|size| size as usize);
        let size = fixed(0).zip(fixed(1));
        if size.is_none_or(|(rows, width)| rows.saturating_mul(1 + width) > COUNT_MAX) {
            shaders.extend([
                shader("start", &[], include_str!("start.wgsl")),
                shader("sort", &reads, include_str!("sort.wgsl")),
                shader("invert", &[("sorted", "i32")], include_str!("invert.wgsl")),
            ]);
        }
        shaders
    }

    fn launches(&self, call: &Call<'_>) -> Result<Vec<Launch>, String> {
        let (rows, width) = geometry(call)?;
        let launch = |shader: usize, [first, last]: [usize; 2], mask: usize, iterations: usize| {
            let params = [rows, width, first, last, mask].map(|number| number as u32).to_vec();
            Launch::new(shader, 0, params, rows, iterations)
        };
        let counted = rows.saturating_mul(1 + width);
        if counted <= COUNT_MAX {
            let count = launch(COUNT, [0, 0], 0, counted);
            return Ok(vec![count.reading([Memory::Input(0)])]);
        }
        if width == 0 {
            return Ok(vec![launch(START, [0, 0], 0, 0)]);
        }
        let mut scratchpad = Scratchpad::default();
        let [ranks, sorted] = [(), ()].map(|()| scratchpad.take(rows));
        let mut launches = vec![launch(START, [0, 0], 0, 0).writing(ranks)];
        let masks = top_k::masks(rows);
        for first in (0..width).step_by(COLUMNS_MAX).rev() {
            let columns = [first, (first + COLUMNS_MAX).min(width)];
            launches.push(launch(START, columns, 0, 0).writing(sorted));
            launches.extend(masks.iter().map(|&mask| {
                let sort = launch(SORT, columns, mask, columns[1] - first);
                sort.reading([Memory::Input(0), ranks]).writing(sorted)
            }));
            let to = if first == 0 { Memory::Output } else { ranks };
            launches.push(launch(INVERT, columns, 0, 0).reading([sorted]).writing(to));
        }
        Ok(launches)
    }

    fn compute(
        &self,
        call: &Call<'_>,
        operands: &[Operand<'_>],
        output: &mut [u32],
    ) -> Result<(), String> {
        let (rows, width) = geometry(call)?;
        let dtype = call.signature.input(0).dtype;
        let keys: Vec<u32> = operands[0].words().iter().map(|&word| key(dtype, word)).collect();
        let mut order: Vec<usize> = (0..rows).collect();
        // Sorting is stable, so of equal rows the earlier one comes first.
        order.sort_by_key(|&row| &keys[row * width..(row + 1) * width]);
        for (rank, row) in order.into_iter().enumerate() {
            output[row] = rank as u32;
        }
        Ok(())
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
    let mut cases: Vec<Case> = table
        .into_iter()
        .map(|(name, dtype, shape, rows, ranks)| {
            let x = Array::of(dtype, shape, rows.to_vec());
            let expected = Array::of(DType::I32, &shape[..1], ranks.to_vec());
            let name = format!("row_ranks/{name}");
            Sketch::single(&name, Op::RowRanks, &[&x], &expected, Tolerance::Exact)
        })
        .collect();
    for size in LONG {
        cases.push(long(size, 1, DType::F32, 1.0).everywhere_if(size == LONGEST));
    }
    for (rows, width, dtype, scale) in [
        (3000, 3, DType::I32, 9.0),
        (70, 5000, DType::F32, 0.0),
        (40, 9000, DType::U32, 0.0),
        (20_000, 0, DType::I32, 1.0),
    ] {
        cases.push(long(rows, width, dtype, scale).everywhere_if(false));
    }
    cases
}

/// Many rows, or wide ones that differ in few columns only.
#[cfg(not(target_arch = "wasm32"))]
fn long(rows: usize, width: usize, dtype: DType, scale: f64) -> Case {
    let noise = Array::noise(4800, &[rows, width]);
    let numbers = noise.numbers.iter().map(|&x| match scale {
        0.0 => f64::from(x.abs() > 0.9999) * if dtype == DType::F32 { x.signum() } else { 1.0 },
        _ if dtype == DType::F32 => x,
        _ => (x * scale).trunc(),
    });
    let x = Array::of(dtype, &[rows, width], numbers.collect());
    let row = |index: usize| &x.numbers[index * width..(index + 1) * width];
    let mut order: Vec<usize> = (0..rows).collect();
    order.sort_by(|&a, &b| row(a).partial_cmp(row(b)).expect("numbers"));
    let mut ranks = vec![0.0; rows];
    for (rank, index) in order.into_iter().enumerate() {
        ranks[index] = rank as f64;
    }
    let expected = Array::of(DType::I32, &[rows], ranks);
    let name = format!("row_ranks/{rows} rows of {width} {dtype:?}");
    Sketch::single(&name, flotilla_program::Op::RowRanks, &[&x], &expected, Tolerance::Exact)
}
