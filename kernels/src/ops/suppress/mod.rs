//! Drops boxes that overlap better ones. Many boxes are processed in blocks: the candidates of a block are compared with all
//! selected boxes at once, then with each other.

use flotilla_program::Suppress;
use flotilla_tensor::DType;

use super::{Kernel, Launch, Memory, Operand, Shader, split::Scratchpad};
use crate::call::{Call, Signature};
#[cfg(not(target_arch = "wasm32"))]
use crate::suite::{Array, Case, Sketch, Tolerance};

/// Candidates of a block; one invocation compares all pairs of them.
const BLOCK: usize = 128;
/// Most selected boxes that one invocation compares a candidate with.
const SLOTS_MAX: usize = 8192;
/// Most iterations of an invocation that processes all boxes of a line.
const WHOLE_MAX: usize = 8192;

/// Which of a node's shaders.
const WHOLE: usize = 0;
const START: usize = 1;
const CHECK: usize = 2;
const SELECT: usize = 3;
const FINISH: usize = 4;

struct Geometry {
    classes: usize,
    boxes: usize,
    slots: usize,
}

fn geometry(call: &Call<'_>) -> Result<Geometry, String> {
    let (&[images, boxes, 4], &[_, classes, _], &[_, _, slots]) =
        (call.input(0), call.input(1), call.output())
    else {
        return Err(format!("boxes have the shape {:?}", call.input(0)));
    };
    call.expect_input(1, &[images, classes, boxes])?;
    call.expect_input(2, &[images, classes, boxes])?;
    call.expect_output(&[images, classes, slots])?;
    Ok(Geometry { classes, boxes, slots })
}

/// Iterations of an invocation that processes all boxes of a line.
fn iterations(boxes: usize, slots: usize) -> usize {
    let compared = slots.min(boxes);
    boxes.saturating_mul(1 + compared).saturating_add(slots)
}

/// Left, top, right, bottom.
fn corners(op: &Suppress, given: &[f32]) -> [f32; 4] {
    let &[a, b, c, d] = given else { return [0.0; 4] };
    if op.centres {
        [a - c / 2.0, b - d / 2.0, a + c / 2.0, b + d / 2.0]
    } else {
        [b.min(d), a.min(c), b.max(d), a.max(c)]
    }
}

fn overlaps(op: &Suppress, a: [f32; 4], b: [f32; 4]) -> bool {
    let (width, height) = (a[2].min(b[2]) - a[0].max(b[0]), a[3].min(b[3]) - a[1].max(b[1]));
    if width <= 0.0 || height <= 0.0 {
        return false;
    }
    let area = |corners: [f32; 4]| (corners[2] - corners[0]) * (corners[3] - corners[1]);
    let common = width * height;
    let together = area(a) + area(b) - common;
    area(a) > 0.0 && area(b) > 0.0 && together > 0.0 && common / together > op.overlap_max
}

impl Kernel for Suppress {
    fn supports(&self, signature: &Signature<'_>) -> Result<(), String> {
        signature.expect_operands(3)?;
        signature.expect_inputs(&[DType::F32, DType::F32, DType::I32])
    }

    fn shaders(&self, signature: &Signature<'_>) -> Vec<Shader> {
        let constants = format!(
            "const CENTRES = {};\nconst HAS_SCORE_MIN = {};\nconst BLOCK = {BLOCK}u;\n",
            self.centres,
            self.score_min.is_some()
        );
        let all = [("boxes", "f32"), ("scores", "f32"), ("order", "i32")];
        let shader = |name: &str, reads: &[(&str, &str)], text: &str| {
            let boxes = match reads.iter().any(|(name, _)| *name == "boxes") {
                true => include_str!("boxes.wgsl"),
                // Only the parameters.
                false => include_str!("boxes.wgsl").split("// Left").next().unwrap_or_default(),
            };
            let body = format!("{constants}{boxes}{}{text}", include_str!("state.wgsl"));
            Shader::new(&format!("Suppress, {name}"), reads, "i32", &body)
        };
        let mut shaders = vec![shader("whole", &all, include_str!("whole.wgsl"))];
        let size = |input: usize, axis: u32| match input {
            0 => signature.fixed(0, axis),
            _ => signature.output().shape.get(axis as usize).and_then(|dim| dim.as_fixed()),
        };
        let fixed =
            size(0, 1).zip(size(1, 2)).map(|(boxes, slots)| (boxes as usize, slots as usize));
        if fixed.is_none_or(|(boxes, slots)| iterations(boxes, slots) > WHOLE_MAX) {
            shaders.extend([
                shader("start", &[], include_str!("start.wgsl")),
                shader("check", &all, include_str!("check.wgsl")),
                shader("select", &[all[0], all[2]], include_str!("select.wgsl")),
                shader("finish", &[("states", "i32")], include_str!("finish.wgsl")),
            ]);
        }
        shaders
    }

    fn launches(&self, call: &Call<'_>) -> Result<Vec<Launch>, String> {
        let Geometry { classes, boxes, slots } = geometry(call)?;
        let lines = call.input(1)[..2].iter().product::<usize>();
        let lines = if slots == 0 { 0 } else { lines };
        let params = |total: usize, first: usize, [slot_first, slot_last]: [usize; 2]| {
            let mut params = [total, classes, boxes, slots].map(|count| count as u32).to_vec();
            params.extend([self.overlap_max.to_bits(), self.score_min.unwrap_or(0.0).to_bits()]);
            params.extend([first, slot_first, slot_last].map(|count| count as u32));
            params
        };
        let launch = |shader: usize, total: usize, first: usize, slots: [usize; 2], iterations| {
            Launch::new(shader, 0, params(total, first, slots), total, iterations)
        };
        let all = [0, 1, 2].map(Memory::Input);
        let whole = iterations(boxes, slots);
        if whole <= WHOLE_MAX {
            return Ok(vec![launch(WHOLE, lines, 0, [0, 0], whole).reading(all)]);
        }
        let states = Scratchpad::default().take(lines * (1 + slots + BLOCK));
        let mut launches = vec![launch(START, lines, 0, [0, 0], 0).writing(states)];
        for first in (0..boxes).step_by(BLOCK) {
            // At most as many can have been selected as were checked.
            for slot in (0..first.min(slots).max(1)).step_by(SLOTS_MAX) {
                let compared = [slot, slot + SLOTS_MAX];
                let check = launch(CHECK, lines * BLOCK, first, compared, SLOTS_MAX);
                launches.push(check.reading(all).writing(states));
            }
            let select = launch(SELECT, lines, first, [0, 0], BLOCK + BLOCK * (BLOCK - 1) / 2);
            launches.push(select.reading([all[0], all[2]]).writing(states));
        }
        launches.push(launch(FINISH, lines * slots, 0, [0, 0], 0).reading([states]));
        Ok(launches)
    }

    fn compute(
        &self,
        call: &Call<'_>,
        operands: &[Operand<'_>],
        output: &mut [u32],
    ) -> Result<(), String> {
        let Geometry { classes, boxes, slots } = geometry(call)?;
        let (places, scores, order) = (operands[0].f32(), operands[1].f32(), operands[2].i32());
        if output.is_empty() {
            return Ok(());
        }
        for (line, selected) in output.chunks_exact_mut(slots).enumerate() {
            let own = &places[line / classes * boxes * 4..][..boxes * 4];
            let corners = |index: u32| corners(self, &own[index as usize * 4..][..4]);
            let (scores, order) = (&scores[line * boxes..], &order[line * boxes..][..boxes]);
            let mut taken = 0;
            for &candidate in order {
                let candidate = candidate as u32;
                let scored = self.score_min.is_none_or(|min| scores[candidate as usize] > min);
                if taken == slots || !scored {
                    break;
                }
                let better = selected[..taken].iter();
                let candidate_corners = corners(candidate);
                if better.clone().all(|&better| !overlaps(self, candidate_corners, corners(better)))
                {
                    selected[taken] = candidate;
                    taken += 1;
                }
            }
            selected[taken..].fill(-1i32 as u32);
        }
        Ok(())
    }
}

#[cfg(not(target_arch = "wasm32"))]
pub(crate) fn cases() -> Vec<Case> {
    use flotilla_program::Op;

    // Six boxes of 1 x 1 at x = 0, 0.1, -0.1, 10, 10.1, 100, as in ONNX's examples; neighbours overlap by 0.9 / 1.1.
    let lefts = [0.0, 0.1, -0.1, 10.0, 10.1, 100.0];
    let scores = [0.9, 0.75, 0.6, 0.95, 0.5, 0.3];
    let by_score = [3.0, 0.0, 1.0, 2.0, 4.0, 5.0];
    let table: [(&str, f32, Option<f32>, bool, usize, &[f64]); 5] = [
        ("overlapping ones", 0.5, None, false, 6, &[3., 0., 5., -1., -1., -1.]),
        ("by score, too", 0.5, Some(0.4), true, 4, &[3., 0., -1., -1.]),
        ("no more than two", 0.9, Some(0.0), false, 2, &[3., 0.]),
        ("much overlap is allowed", 0.82, None, true, 6, &[3., 0., 1., 2., 4., 5.]),
        ("little overlap is allowed", 0.8, None, false, 6, &[3., 0., 5., -1., -1., -1.]),
    ];
    let mut cases: Vec<Case> = table
        .into_iter()
        .map(|(name, overlap_max, score_min, centres, slots, selected)| {
            let given = |left: f64| match centres {
                true => [left + 0.5, 0.5, 1.0, 1.0],
                // The corners in either order.
                false => [1.0, left, 0.0, left + 1.0],
            };
            // The same boxes twice, with one class each.
            let boxes = lefts.map(given).concat().repeat(2);
            let boxes = Array::f32(&[2, 6, 4], boxes);
            let scores = Array::f32(&[2, 1, 6], scores.repeat(2));
            let order = Array::of(DType::I32, &[2, 1, 6], by_score.repeat(2));
            let expected = Array::of(DType::I32, &[2, 1, slots], selected.repeat(2));
            let op = Op::Suppress(Suppress { overlap_max, score_min, centres });
            let (name, inputs) = (format!("suppress/{name}"), [&boxes, &scores, &order]);
            Sketch::single(&name, op, &inputs, &expected, Tolerance::Exact)
        })
        .collect();
    cases.push(long("few of many", 20_000, 30, 0.4, None).everywhere_if(false));
    cases.push(long("many", 3000, 3000, 0.3, Some(-0.5)).everywhere_if(true));
    cases.push(long("more than one launch compares", 9000, 9000, 0.9, None).everywhere_if(false));
    cases
}

/// Many boxes in random places.
#[cfg(not(target_arch = "wasm32"))]
fn long(name: &str, boxes: usize, slots: usize, overlap_max: f32, score_min: Option<f32>) -> Case {
    let side = if slots > 5000 { 1e4 } else { 30.0 };
    let places = Array::noise(4900, &[1, boxes, 2]);
    let corners: Vec<[f64; 4]> = places
        .numbers
        .chunks_exact(2)
        .map(|at| {
            let (x, y) = ((at[0] * side).floor(), (at[1] * side).floor());
            [y, x, y + 4.0, x + 4.0]
        })
        .collect();
    let scores = Array::noise(4901, &[1, 2, boxes]);
    let mut order = Vec::new();
    let mut selected = vec![-1.0; 2 * slots];
    for class in 0..2 {
        let score = |at: usize| scores.numbers[class * boxes + at];
        let mut own: Vec<usize> = (0..boxes).collect();
        own.sort_by(|&a, &b| score(b).total_cmp(&score(a)));
        let mut taken: Vec<usize> = Vec::new();
        for &candidate in &own {
            let overlaps = |&other: &usize| {
                let (a, b) = (corners[candidate], corners[other]);
                let height = a[2].min(b[2]) - a[0].max(b[0]);
                let width = a[3].min(b[3]) - a[1].max(b[1]);
                let shared = height.max(0.0) * width.max(0.0);
                shared / (32.0 - shared) > f64::from(overlap_max)
            };
            let scored = score_min.is_none_or(|min| score(candidate) > f64::from(min));
            if scored && taken.len() < slots && !taken.iter().any(overlaps) {
                selected[class * slots + taken.len()] = candidate as f64;
                taken.push(candidate);
            }
        }
        order.extend(own.into_iter().map(|at| at as f64));
    }
    let boxes_of = Array::f32(&[1, boxes, 4], corners.concat());
    let order = Array::of(DType::I32, &[1, 2, boxes], order);
    let expected = Array::of(DType::I32, &[1, 2, slots], selected);
    let op = Suppress { overlap_max, score_min, centres: false };
    let (name, op) = (format!("suppress/{name}"), flotilla_program::Op::Suppress(op));
    Sketch::single(&name, op, &[&boxes_of, &scores, &order], &expected, Tolerance::Exact)
}
