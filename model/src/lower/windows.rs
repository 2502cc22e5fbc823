//! Convolutions and pooling: windows that slide over the spatial dimensions.
//!
//! tract's operators come with or without a batch dimension and with their channels first or last; ours have both
//! dimensions in front.

use flotilla_program as program;
use tract_onnx::{
    prelude::{OutletId, TDim},
    tract_hir::internal::{
        TypedNode,
        tract_core::ops::{
            cnn::{Conv, Deconv, KernelFormat, MaxPool, PaddingSpec, PoolSpec, SumPool},
            nn::DataFormat,
        },
    },
};

use super::{LowerResult, Lowering};
use flotilla_program::{self, Op, PoolKind, ValueId, Window, dim::Dim};

impl<'m> Lowering<'m> {
    pub(super) fn conv(&mut self, node: &'m TypedNode, op: &Conv) -> LowerResult<ValueId> {
        if op.q_params.is_some() {
            return Err(self.unsupported(node, "a convolution that quantizes cannot be had"));
        }
        let spatial = self.spatial(node, node.inputs[0], op.pool_spec.data_format)?;
        let (window, _) = self.window(node, &op.pool_spec, &spatial)?;
        self.convolution(node, &op.pool_spec, op.kernel_fmt, window, op.group, false)
    }

    pub(super) fn deconv(&mut self, node: &'m TypedNode, op: &Deconv) -> LowerResult<ValueId> {
        let spec = &op.pool_spec;
        let spatial = self.spatial(node, node.inputs[0], spec.data_format)?;
        let computed = spec
            .padding
            .compute_for_deconv(
                &spatial,
                &spec.kernel_shape,
                &spec.dilations(),
                &spec.strides(),
                &op.adjustments,
            )
            .map_err(|error| self.unsupported(node, error.to_string()))?;
        let pads = computed.iter().map(|dim| &dim.pad_before);
        let window = self.steps(node, spec, pads)?;
        self.convolution(node, spec, op.kernel_format, window, op.group, true)
    }

    pub(super) fn max_pool(&mut self, node: &'m TypedNode, op: &MaxPool) -> LowerResult<ValueId> {
        if op.with_index_outputs.is_some() {
            return Err(self.unsupported(node, "the places of maxima cannot be had this way"));
        }
        self.pool(node, &op.pool_spec, PoolKind::Max)
    }

    pub(super) fn sum_pool(&mut self, node: &'m TypedNode, op: &SumPool) -> LowerResult<ValueId> {
        let kind = match (op.normalize, op.count_include_pad) {
            (false, _) => PoolKind::Sum,
            (true, false) => PoolKind::Mean,
            (true, true) => PoolKind::PaddedMean,
        };
        self.pool(node, &op.pool_spec, kind)
    }

    fn pool(
        &mut self,
        node: &'m TypedNode,
        spec: &PoolSpec,
        kind: PoolKind,
    ) -> LowerResult<ValueId> {
        let spatial = self.spatial(node, node.inputs[0], spec.data_format)?;
        let (window, pads_after) = self.window(node, spec, &spatial)?;
        let kernel = spec.kernel_shape.iter().map(|&size| size as u32).collect();
        let pool = Op::Pool(program::Pool { kind, kernel, window, pads_after });
        let input = self.value_of(node.inputs[0])?;
        let input = self.channels_first(node, input, spec.data_format);
        self.channels_back(node, spec.data_format, pool, vec![input])
    }

    fn convolution(
        &mut self,
        node: &'m TypedNode,
        spec: &PoolSpec,
        kernel: KernelFormat,
        window: Window,
        groups: usize,
        transposed: bool,
    ) -> LowerResult<ValueId> {
        if kernel != KernelFormat::OIHW {
            return Err(self.unsupported(node, format!("weights in the order {kernel:?}")));
        }
        let input = self.value_of(node.inputs[0])?;
        let weights = self.value_of(node.inputs[1])?;
        let rank = self.draft.shape(weights).len() as u32;
        let order = [0].into_iter().chain(2..rank).chain([1]).collect();
        let weights = self.transposed(node, weights, order);
        let mut inputs = vec![self.channels_first(node, input, spec.data_format), weights];
        let bias = self.bias(node, node.inputs[2], spec.output_channels)?;
        inputs.extend(bias);
        let conv = program::Conv {
            window,
            groups: groups as u32,
            transposed,
            bias: bias.is_some(),
            residual: false,
            activation: None,
        };
        self.channels_back(node, spec.data_format, Op::Conv(conv), inputs)
    }

    /// The bias as `[channels]`; tract has one always, mostly a zero.
    fn bias(
        &mut self,
        node: &TypedNode,
        outlet: OutletId,
        channels: usize,
    ) -> LowerResult<Option<ValueId>> {
        let bias = self.value_of(outlet)?;
        let is_zero = self
            .draft
            .constant(bias)
            .is_some_and(|data| data.bytes().iter().all(|&byte| byte == 0));
        if is_zero {
            return Ok(None);
        }
        if !self.draft.shape(bias).is_empty() {
            return Ok(Some(bias));
        }
        let one = self.reshaped(node, bias, vec![Dim::Fixed(1)]);
        let dtype = self.draft.value(bias).dtype;
        let shape = vec![Dim::Fixed(channels as i64)];
        Ok(Some(self.draft.add_node(&node.name, Op::Broadcast, vec![one], dtype, shape)))
    }

    fn spatial(
        &self,
        node: &TypedNode,
        outlet: OutletId,
        format: DataFormat,
    ) -> LowerResult<Vec<TDim>> {
        let shape = self.model_fact(outlet).shape.to_tvec();
        let shape = format
            .shape(shape)
            .map_err(|error| self.unsupported(node, format!("{format:?}: {error}")))?;
        Ok(shape.hw_dims().to_vec())
    }

    /// The window and the padding behind it.
    fn window(
        &self,
        node: &TypedNode,
        spec: &PoolSpec,
        spatial: &[TDim],
    ) -> LowerResult<(Window, Vec<i32>)> {
        let computed = spec.computed_padding(spatial);
        let window = self.steps(node, spec, computed.iter().map(|dim| &dim.pad_before))?;
        // How much padding lies behind the last element only matters where it is counted, and there it is as given.
        let after = match &spec.padding {
            PaddingSpec::Explicit(_, after) | PaddingSpec::ExplicitOnnxPool(_, after, _) => {
                after.iter().map(|&pad| pad as i32).collect()
            }
            PaddingSpec::Valid => vec![0; spatial.len()],
            PaddingSpec::SameUpper | PaddingSpec::SameLower => computed
                .iter()
                .map(|dim| self.fixed_pad(node, &dim.pad_after))
                .collect::<LowerResult<_>>()?,
        };
        Ok((window, after))
    }

    fn steps<'d>(
        &self,
        node: &TypedNode,
        spec: &PoolSpec,
        pads: impl Iterator<Item = &'d TDim>,
    ) -> LowerResult<Window> {
        let numbers = |all: &[usize]| all.iter().map(|&number| number as u32).collect();
        Ok(Window {
            strides: numbers(&spec.strides()),
            dilations: numbers(&spec.dilations()),
            pads: pads.map(|pad| self.fixed_pad(node, pad)).collect::<LowerResult<_>>()?,
        })
    }

    fn fixed_pad(&self, node: &TypedNode, pad: &TDim) -> LowerResult<i32> {
        pad.as_i64().and_then(|pad| i32::try_from(pad).ok()).ok_or_else(|| {
            self.unsupported(node, format!("its padding {pad} is only known when it runs"))
        })
    }

    /// A value of this format as `[n, c, spatial..]`.
    fn channels_first(&mut self, node: &TypedNode, value: ValueId, format: DataFormat) -> ValueId {
        let value = if format.has_n() {
            value
        } else {
            let shape = [&[Dim::Fixed(1)], self.draft.shape(value)].concat();
            self.reshaped(node, value, shape)
        };
        if !format.c_is_last() {
            return value;
        }
        let rank = self.draft.shape(value).len() as u32;
        let perm = [0, rank - 1].into_iter().chain(1..rank - 1).collect();
        self.transposed(node, value, perm)
    }

    /// The operator's result in the node's format.
    fn channels_back(
        &mut self,
        node: &TypedNode,
        format: DataFormat,
        op: Op,
        inputs: Vec<ValueId>,
    ) -> LowerResult<ValueId> {
        if format == DataFormat::NCHW {
            return self.single(node, op, inputs);
        }
        let fact = &node.outputs[0].fact;
        let (dtype, shape) = (self.dtype(node, fact)?.storage(), self.fact_shape(node, fact)?);
        let mut own = shape.clone();
        if !format.has_n() {
            own.insert(0, Dim::Fixed(1));
        }
        if format.c_is_last() {
            let channels = own.remove(own.len() - 1);
            own.insert(1, channels);
        }
        let rank = own.len() as u32;
        let mut value = self.draft.add_node(&node.name, op, inputs, dtype, own);
        if format.c_is_last() {
            let perm = [0].into_iter().chain(2..rank).chain([1]).collect();
            value = self.transposed(node, value, perm);
        }
        Ok(self.reshaped(node, value, shape))
    }
}
