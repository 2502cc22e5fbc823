//! The first elements of a dimension in order of size.

use flotilla_program::{DType, TopK};

use super::{
    Kernel, Launch, Operand, Shader,
    order::{key, key_wgsl},
};
use crate::call::{Call, Signature};
#[cfg(not(target_arch = "wasm32"))]
use crate::{
    call::strides,
    suite::{Array, Case, Sketch, Tolerance, unravel},
};

/// Shortest dimension that is sorted whole in many small steps; a shorter one has its ranks counted in one.
const SORTED_MIN: usize = 1024;

/// Which of the shaders.
const RANK: usize = 0;
const START: usize = 1;
const SORT: usize = 2;

struct Geometry {
    outer: usize,
    size: usize,
    inner: usize,
    k: usize,
}

fn geometry(op: &TopK, call: &Call<'_>) -> Result<Geometry, String> {
    let (input, axis) = (call.input(0), op.axis as usize);
    let k = call.output().get(axis).copied().unwrap_or(0);
    let mut shape = input.to_vec();
    shape[axis] = k;
    call.expect_output(&shape)?;
    if k > input[axis] {
        return Err(format!("{k} of {} elements cannot be had", input[axis]));
    }
    let product = |dims: &[usize]| dims.iter().product::<usize>();
    let (outer, inner) = (product(&input[..axis]), product(&input[axis + 1..]));
    Ok(Geometry { outer, size: input[axis], inner, k })
}

impl Kernel for TopK {
    fn supports(&self, signature: &Signature<'_>) -> Result<(), String> {
        signature.expect_operands(1)?;
        if signature.output().dtype != DType::I32 {
            return Err(format!("positions of type {:?}", signature.output().dtype));
        }
        signature.expect_axis(self.axis)
    }

    fn shaders(&self, signature: &Signature<'_>) -> Vec<Shader> {
        let key = key_wgsl(signature.input(0).dtype, self.largest);
        let shader = |name: &str, body: &str| {
            let body = format!("{key}{}{body}", include_str!("top_k/params.wgsl"));
            Shader::new(&format!("TopK, {name}"), &[("x", "u32")], "i32", &body)
        };
        vec![
            shader("rank", include_str!("top_k/rank.wgsl")),
            shader("start", include_str!("top_k/start.wgsl")),
            shader("sort", include_str!("top_k/sort.wgsl")),
        ]
    }

    /// Counting ranks is quadratic. Where all of a long dimension is wanted, its positions are sorted in the output by a
    /// bitonic network whose comparisons all put the earlier one first, so that what its last blocks lack need not be there.
    /// Source: Batcher, "Sorting Networks and their Applications".
    fn launches(&self, call: &Call<'_>) -> Result<Vec<Launch>, String> {
        let Geometry { outer, size, inner, k } = geometry(self, call)?;
        let total = if k == 0 { 0 } else { outer * size * inner };
        let launch = |shader: usize, mask: usize| {
            let params = [total, size, inner, k, mask].map(|count| count as u32).to_vec();
            Launch::new(shader, 1, params, total, if shader == RANK { size } else { 0 })
        };
        if k < size || size < SORTED_MIN {
            return Ok(vec![launch(RANK, 0)]);
        }
        let mut launches = vec![launch(START, 0)];
        let mut block = 2;
        while block < 2 * size {
            // Position `i` meets `i ^ mask`: first its mirror in the block, then ever nearer ones.
            launches.push(launch(SORT, block - 1));
            let mut distance = block / 4;
            while distance > 0 {
                launches.push(launch(SORT, distance));
                distance /= 2;
            }
            block *= 2;
        }
        Ok(launches)
    }

    fn compute(
        &self,
        call: &Call<'_>,
        operands: &[Operand<'_>],
        output: &mut [u32],
    ) -> Result<(), String> {
        let Geometry { outer, size, inner, k } = geometry(self, call)?;
        let (x, dtype) = (operands[0].words(), call.signature.input(0).dtype);
        if k == 0 {
            return Ok(());
        }
        let mut line = Vec::with_capacity(size);
        for (outer, inner_at) in (0..outer).flat_map(|o| (0..inner).map(move |i| (o, i))) {
            line.clear();
            line.extend((0..size).map(|at| {
                let key = key(dtype, x[(outer * size + at) * inner + inner_at]);
                // The largest come first when their keys are turned around.
                (if self.largest { !key } else { key }, at as u32)
            }));
            if k < size {
                line.select_nth_unstable(k - 1);
                line.truncate(k);
            }
            line.sort_unstable();
            for (rank, &(_, at)) in line.iter().enumerate() {
                output[(outer * k + rank) * inner + inner_at] = at;
            }
        }
        Ok(())
    }
}

#[cfg(not(target_arch = "wasm32"))]
pub(crate) fn cases() -> Vec<Case> {
    use flotilla_program::Op;

    let table: [(&str, &[usize], u32, usize, DType); 8] = [
        ("of the last dimension", &[3, 40], 1, 5, DType::F32),
        ("all of the first dimension", &[7, 2], 0, 7, DType::F32),
        ("of the middle", &[2, 6, 3], 1, 2, DType::F32),
        ("of equal integers", &[2, 30], 1, 10, DType::I32),
        ("of unsigned ones", &[20], 0, 3, DType::U32),
        ("one", &[4, 1], 1, 1, DType::F32),
        ("all of many", &[1500, 2], 0, 1500, DType::F32),
        ("all of many equal ones", &[2, 1024], 1, 1024, DType::I32),
    ];
    let mut cases = Vec::new();
    for (name, shape, axis, k, dtype) in table {
        for largest in [true, false] {
            let noise = Array::noise(4400, shape);
            let input = match dtype {
                DType::F32 => noise,
                DType::U32 => Array { dtype, ..noise.map(|x| (x * 9.0 + 9.0).trunc()) },
                // An integer has no negative zero.
                _ => Array { dtype, ..noise.map(|x| (x * 4.0).trunc() + 0.0) },
            };
            let axis_at = axis as usize;
            let mut out = shape.to_vec();
            out[axis_at] = k;
            let mut expected = Array::build(DType::I32, &out, |_| 0.0);
            let first_of_line = |index: &Vec<usize>| index[axis_at] == 0;
            let lines = (0..out.iter().product()).map(|flat| unravel(flat, &out));
            for line in lines.filter(first_of_line) {
                let place = |at: usize, shape: &[usize]| {
                    let mut own = line.clone();
                    own[axis_at] = at;
                    own.iter().zip(strides(shape)).map(|(at, stride)| at * stride).sum::<usize>()
                };
                let number = |at: usize| input.numbers[place(at, shape)];
                let mut order: Vec<usize> = (0..shape[axis_at]).collect();
                order.sort_by(|&a, &b| {
                    let by_size = number(a).total_cmp(&number(b));
                    if largest { by_size.reverse() } else { by_size }
                });
                for (rank, at) in order.into_iter().take(k).enumerate() {
                    expected.numbers[place(rank, &out)] = at as f64;
                }
            }
            let op = Op::TopK(TopK { axis, largest });
            let name = format!("top_k/{name}, {}", if largest { "largest" } else { "smallest" });
            cases.push(Sketch::single(&name, op, &[&input], &expected, Tolerance::Exact));
        }
    }
    cases
}
