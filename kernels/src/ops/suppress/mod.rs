//! Boxes that overlap better ones are left out.

use flotilla_program::{DType, Suppress};

use super::{Kernel, Launch, Operand, Shader};
use crate::call::{Call, Signature};
#[cfg(not(target_arch = "wasm32"))]
use crate::suite::{Array, Case, Sketch, Tolerance};

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

    fn shaders(&self, _signature: &Signature<'_>) -> Vec<Shader> {
        let body = format!(
            "const CENTRES = {};\nconst HAS_SCORE_MIN = {};\n{}",
            self.centres,
            self.score_min.is_some(),
            include_str!("suppress.wgsl")
        );
        let reads = [("boxes", "f32"), ("scores", "f32"), ("order", "i32")];
        vec![Shader::new("Suppress", &reads, "i32", &body)]
    }

    fn launches(&self, call: &Call<'_>) -> Result<Vec<Launch>, String> {
        let Geometry { classes, boxes, slots } = geometry(call)?;
        let total = call.input(1)[..2].iter().product::<usize>();
        let total = if slots == 0 { 0 } else { total };
        let mut params = [total, classes, boxes, slots].map(|count| count as u32).to_vec();
        params.extend([self.overlap_max.to_bits(), self.score_min.unwrap_or(0.0).to_bits()]);
        let iterations = boxes * (1 + slots) + slots;
        Ok(vec![Launch::new(0, 3, params, total, iterations)])
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
    table
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
        .collect()
}
