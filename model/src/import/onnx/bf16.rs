//! BF16, a type that tract does not have. Its numbers are F32 to tract; the walk remembers which outlets they are, and
//! rounds where an operator gives new ones. Only this module knows how numbers of the type become F32.

use tract_onnx::{
    pb::{NodeProto, TensorProto, tensor_proto::DataType},
    prelude::{Datum, DatumType, OutletId, SpecialOps, Tensor, TractResult, tvec},
    tract_hir::internal::{
        TypedNode, ensure,
        tract_core::ops::{
            element_wise::{ElementWiseMiniOp, ElementWiseOp},
            identity::Identity,
            konst::Const,
        },
    },
};

use super::graph::Walk;

/// Operators whose results have a type that their operands do not decide, or that mark their results themselves.
const INDEPENDENT: [&str; 3] = ["Cast", "CastLike", "QuantizeLinear"];

/// Whether a file's number of an element type is that of BF16.
pub(super) fn is_bf16(number: i32) -> bool {
    number == DataType::Bfloat16 as i32
}

/// F32 rounded to the nearest number that BF16 has.
#[derive(Clone, Debug, PartialEq, Eq)]
struct RoundBf16;

impl ElementWiseMiniOp for RoundBf16 {
    fn name(&self) -> String {
        "RoundBf16".to_owned()
    }

    fn eval_in_place(&self, tensor: &mut Tensor, _: Option<DatumType>) -> TractResult<()> {
        let mut plain = tensor.try_as_plain_ram_mut()?;
        for number in plain.as_slice_mut::<f32>()? {
            *number = half::bf16::from_f32(*number).to_f32();
        }
        Ok(())
    }
}

/// Whether a node of the typed graph rounds to BF16.
pub(super) fn rounds_bf16(node: &TypedNode) -> bool {
    node.op_as::<ElementWiseOp>().is_some_and(|op| op.0.is::<RoundBf16>())
}

/// The contents of a BF16 tensor in a file. Source: ONNX, `TensorProto`: 16 bits in `raw_data`, or one number of
/// `int32_data` for each.
pub(super) fn tensor(proto: &TensorProto) -> TractResult<Tensor> {
    let shape =
        proto.dims.iter().map(|&dim| usize::try_from(dim)).collect::<Result<Vec<usize>, _>>()?;
    let numbers: Vec<f32> = if proto.raw_data.is_empty() {
        proto.int32_data.iter().map(|&bits| half::bf16::from_bits(bits as u16).to_f32()).collect()
    } else {
        let (halves, rest) = proto.raw_data.as_chunks::<2>();
        ensure!(rest.is_empty(), "half a number is left");
        halves.iter().map(|half| half::bf16::from_le_bytes(*half).to_f32()).collect()
    };
    Tensor::from_shape(&shape, &numbers)
}

impl Walk<'_> {
    /// Results of an operator, rounded and marked where an operand is BF16.
    pub(super) fn inherit_bf16(
        &mut self,
        node: &NodeProto,
        inputs: &[Option<OutletId>],
        outlets: Vec<OutletId>,
        label: &str,
    ) -> TractResult<Vec<OutletId>> {
        let operands = inputs.iter().flatten().any(|outlet| self.bf16.contains(outlet));
        if !operands || INDEPENDENT.contains(&node.op_type.as_str()) {
            return Ok(outlets);
        }
        outlets.into_iter().map(|outlet| self.rounded_bf16(label, outlet)).collect()
    }

    /// The same numbers as BF16; other types stay what they are.
    pub(super) fn rounded_bf16(&mut self, label: &str, outlet: OutletId) -> TractResult<OutletId> {
        let dtype = self.target.outlet_fact(outlet)?.datum_type;
        if self.bf16.contains(&outlet) || dtype != f32::datum_type() {
            return Ok(outlet);
        }
        let name = self.unique(&format!("{label}.bf16"));
        let op = ElementWiseOp(Box::new(RoundBf16), None);
        let rounded = self.target.wire_node(name, op, &[outlet])?[0];
        self.marked_bf16(label, rounded)
    }

    /// The same outlet with the mark. A constant gets a node of its own for it: tract finds equal constants by their value,
    /// and the first one, which it finds, stays without.
    pub(super) fn marked_bf16(&mut self, label: &str, outlet: OutletId) -> TractResult<OutletId> {
        let fact = self.target.outlet_fact(outlet)?.clone();
        let marked = match &fact.konst {
            Some(tensor) => {
                let constant = Const::new(tensor.clone())?;
                let name = self.unique(&format!("{label}.bf16"));
                OutletId::new(self.target.add_node(name, constant, tvec!(fact))?, 0)
            }
            None => outlet,
        };
        self.bf16.insert(marked);
        Ok(marked)
    }

    /// The same numbers without the mark: F32 from here on.
    pub(super) fn widened_bf16(&mut self, label: &str, outlet: OutletId) -> TractResult<OutletId> {
        match self.target.outlet_fact(outlet)?.konst.clone() {
            Some(tensor) => self.target.add_const(label, tensor),
            None => {
                let name = self.unique(label);
                Ok(self.target.wire_node(name, Identity, &[outlet])?[0])
            }
        }
    }
}
