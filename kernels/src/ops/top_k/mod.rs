//! The first elements of a dimension in order of size. A few of many are selected from the best of blocks; many of many are
//! sorted.

use flotilla_program::TopK;
use flotilla_tensor::DType;

use super::{
    Kernel, Launch, Memory, Operand, Shader,
    order::{key, key_wgsl},
    split::Scratchpad,
    strided::{self, View},
};
use crate::call::{Call, Signature, strides};
#[cfg(not(target_arch = "wasm32"))]
use crate::suite::{Array, Case, LONG, LONGEST, Sketch, Tolerance, unravel};

/// Most candidates that are compared with each other in one launch.
const COMPARED_MAX: usize = 1024;
/// A block must have this many times more candidates than are wanted, so that few blocks are left.
const SHRINKS: usize = 4;

/// Which of the shaders: ranks among elements, ranks among elements found before, and the steps of sorting.
const RANK: usize = 0;
const RANK_FOUND: usize = 1;
const START: usize = 2;
const SORT: usize = 3;
const COPY: usize = 4;

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
        return Err(format!("{k} of {} elements cannot be selected", input[axis]));
    }
    let product = |dims: &[usize]| dims.iter().product::<usize>();
    let (outer, inner) = (product(&input[..axis]), product(&input[axis + 1..]));
    Ok(Geometry { outer, size: input[axis], inner, k })
}

/// Sorts all positions and keeps the first ones. In this bitonic network all comparisons put the earlier one first, so that
/// missing places of the last blocks need no elements. Source: Batcher, "Sorting Networks and their Applications".
fn sort(&Geometry { outer, size, inner, k }: &Geometry) -> Vec<Launch> {
    let total = outer * size * inner;
    let sorted = if k == size { Memory::Output } else { Scratchpad::default().take(total) };
    let launch = |shader: usize, mask: usize| {
        let params =
            [total, size, inner, k, mask, size, size, k].map(|count| count as u32).to_vec();
        Launch::new(shader, 1, params, total, 0).writing(sorted)
    };
    let mut launches = vec![launch(START, 0)];
    launches.extend(masks(size).into_iter().map(|mask| launch(SORT, mask)));
    if k < size {
        let from = strided::signed(&strides(&[outer, size, inner]));
        let copy = View::gathering(&[outer, k, inner], 0, from).launch(0);
        launches.push(Launch { shader: COPY, ..copy.reading([sorted]) });
    }
    launches
}

/// The steps of a bitonic network over this many places: place `i` is compared with `i ^ mask`, first its mirror image in the
/// block, then nearer and nearer ones.
pub(super) fn masks(size: usize) -> Vec<usize> {
    let mut masks = Vec::new();
    let mut block = 2;
    while block < 2 * size {
        masks.push(block - 1);
        let mut distance = block / 4;
        while distance > 0 {
            masks.push(distance);
            distance /= 2;
        }
        block *= 2;
    }
    masks
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
        let shader = |name: &str, reads: &[(&str, &str)], body: &str| {
            let body = format!("{}{key}{body}", include_str!("params.wgsl"));
            Shader::new(&format!("TopK, {name}"), reads, "i32", &body)
        };
        let rank = |name: &str, reads: &[(&str, &str)], candidate: &str| {
            let body = format!(
                "fn candidate(list: u32, at: u32) -> u32 {{ return {candidate}; }}\n{}",
                include_str!("rank.wgsl")
            );
            shader(name, reads, &body)
        };
        let reads = [("x", "u32"), ("found", "i32")];
        let mut shaders = vec![rank("rank", &reads[..1], "at")];
        if signature.fixed(0, self.axis).is_none_or(|size| size > COMPARED_MAX as i64) {
            shaders.extend([
                rank("rank of what was found", &reads, "u32(found[list + at * params.inner])"),
                shader("start", &reads[..1], include_str!("start.wgsl")),
                shader("sort", &reads[..1], include_str!("sort.wgsl")),
                strided::shader(),
            ]);
        }
        shaders
    }

    fn launches(&self, call: &Call<'_>) -> Result<Vec<Launch>, String> {
        let geometry = geometry(self, call)?;
        let Geometry { outer, size, inner, k } = geometry;
        if size > COMPARED_MAX && k * SHRINKS > COMPARED_MAX {
            return Ok(sort(&geometry));
        }
        let mut scratchpad = Scratchpad::default();
        let (mut launches, mut reads, mut candidates) = (Vec::new(), vec![Memory::Input(0)], size);
        loop {
            let is_last = candidates <= COMPARED_MAX;
            let compared = match is_last {
                true => candidates,
                // Every element is compared with all others of its block, so blocks are as small as possible.
                false => (SHRINKS * k).next_power_of_two().clamp(COMPARED_MAX / 4, COMPARED_MAX),
            };
            let blocks = candidates.div_ceil(compared.max(1)).max(1);
            let kept = (blocks - 1) * k + k.min(candidates - (blocks - 1) * compared);
            let writes =
                if is_last { Memory::Output } else { scratchpad.take(outer * kept * inner) };
            let total = if k == 0 { 0 } else { outer * candidates * inner };
            let params = [total, size, inner, k, 0, candidates, compared, kept]
                .map(|count| count as u32)
                .to_vec();
            let shader = if launches.is_empty() { RANK } else { RANK_FOUND };
            let launch = Launch::new(shader, 0, params, total, compared);
            launches.push(launch.reading(reads).writing(writes));
            if is_last {
                return Ok(launches);
            }
            (reads, candidates) = (vec![Memory::Input(0), writes], kept);
        }
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
                // The largest come first if their keys are inverted.
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
    let long = LONG.map(|size| (size, 5, &[][..]));
    let sizes: [(usize, usize, &[usize]); 4] =
        [(151_936, 50, &[]), (70_000, 300, &[]), (3000, 200, &[2]), (5000, 1, &[3])];
    for (size, k, behind) in sizes.into_iter().chain(long) {
        let dtype = if behind.is_empty() { DType::F32 } else { DType::I32 };
        let shape = [&[size], behind].concat();
        let case = case(&format!("{k} of {size}"), &shape, 0, k, dtype, size % 2 == 0);
        cases.push(case.everywhere_if(size == LONGEST));
    }
    for (name, shape, axis, k, dtype) in table {
        for largest in [true, false] {
            let name = format!("{name}, {}", if largest { "largest" } else { "smallest" });
            cases.push(case(&name, shape, axis, k, dtype, largest));
        }
    }
    cases
}

/// The first elements of noise.
#[cfg(not(target_arch = "wasm32"))]
fn case(name: &str, shape: &[usize], axis: u32, k: usize, dtype: DType, largest: bool) -> Case {
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
    let mut expected = Array::of(DType::I32, &out, vec![0.0; out.iter().product()]);
    let first_of_line = |index: &Vec<usize>| index[axis_at] == 0;
    let lines = (0..out.iter().product()).map(|flat| unravel(flat, &out));
    for line in lines.filter(first_of_line) {
        let place = |at: usize, shape: &[usize]| {
            let mut own = line.clone();
            own[axis_at] = at;
            own.iter().zip(strides(shape)).map(|(at, stride)| at * stride).sum::<usize>()
        };
        let numbers: Vec<f64> =
            (0..shape[axis_at]).map(|at| input.numbers[place(at, shape)]).collect();
        let mut order: Vec<usize> = (0..shape[axis_at]).collect();
        order.sort_by(|&a, &b| {
            let by_size = numbers[a].total_cmp(&numbers[b]);
            if largest { by_size.reverse() } else { by_size }
        });
        for (rank, at) in order.into_iter().take(k).enumerate() {
            expected.numbers[place(rank, &out)] = at as f64;
        }
    }
    let op = flotilla_program::Op::TopK(TopK { axis, largest });
    Sketch::single(&format!("top_k/{name}"), op, &[&input], &expected, Tolerance::Exact)
}
