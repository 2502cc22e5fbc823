//! Operators of geometry that tract's typed graph has, too.

use flotilla_program as program;
use std::sync::Arc;

use tract_onnx::tract_hir::internal::{
    TypedNode,
    tract_core::ops::{
        array::{Pad, PadMode},
        nn::{GridSample, InterpolationMode, PaddingMode},
    },
};

use super::{LowerError, LowerResult, Lowering, constants::storage_data, draft::Origin};
use flotilla_program::{self, Interpolation, Op, Outside, ValueId};

impl Lowering<'_> {
    pub(super) fn pad(&mut self, node: &TypedNode, op: &Pad) -> LowerResult<ValueId> {
        let mut inputs = vec![self.value_of(node.inputs[0])?];
        let mode = match &op.mode {
            PadMode::Constant(fill) => {
                let wanted = node.outputs[0].fact.datum_type;
                let fill = fill.cast_to_dt(wanted).map_err(|error| {
                    self.unsupported(node, format!("it cannot pad with {fill:?}: {error:#}"))
                })?;
                let (dtype, data) = storage_data(&Arc::new(fill.into_owned()))
                    .map_err(|source| LowerError::Constant { node: node.name.clone(), source })?;
                inputs.push(self.draft.add_value(dtype, Vec::new(), Origin::Constant(data)));
                program::PadMode::Constant
            }
            PadMode::Reflect => program::PadMode::Reflect,
            PadMode::Edge => program::PadMode::Edge,
        };
        let before = op.pads.iter().map(|&(before, _)| before as i64).collect();
        self.single(node, Op::Pad(program::Pad { before, mode }), inputs)
    }

    pub(super) fn grid_sample(
        &mut self,
        node: &TypedNode,
        op: &GridSample,
    ) -> LowerResult<ValueId> {
        let inputs = self.values(node)?;
        let interpolation = match op.mode {
            InterpolationMode::Bilinear => Interpolation::Linear,
            InterpolationMode::Nearest => Interpolation::Nearest,
            InterpolationMode::Bicubic => Interpolation::Cubic,
        };
        let outside = match op.padding_mode {
            PaddingMode::Zeros => Outside::Zeros,
            PaddingMode::Border => Outside::Border,
            PaddingMode::Reflection => Outside::Reflection,
        };
        let align_corners = op.align_corners;
        let sample = program::GridSample { interpolation, outside, align_corners };
        self.single(node, Op::GridSample(sample), inputs)
    }
}
