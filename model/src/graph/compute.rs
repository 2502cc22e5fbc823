//! Computes operators during import, with the same kernels that pages have.

use flotilla_kernels::{Call, Operand, Shapes, Signature, kernel, supports};
use flotilla_program::{Node, Op, Program, Quantized, Source, Value, ValueId, dim::Dim};
use flotilla_tensor::{DType, WORD_BYTES};

/// A tensor of words of a storage type.
#[derive(Clone, Copy)]
pub(crate) struct Words<'a> {
    pub(crate) dtype: DType,
    pub(crate) shape: &'a [usize],
    pub(crate) words: &'a [u32],
}

/// The words of an operator's result, of a storage type and a shape.
///
/// # Errors
/// What does not fit, as text.
pub(crate) fn compute(
    op: &Op,
    inputs: &[Words<'_>],
    dtype: DType,
    shape: &[usize],
) -> Result<Vec<u32>, String> {
    let mut program = Program::new("constant");
    let value = |dtype: DType, shape: &[usize], source| {
        let shape = shape.iter().map(|&size| Dim::Fixed(size as i64)).collect();
        Value { dtype: dtype.storage(), shape, source }
    };
    for input in inputs {
        program.values.push(value(input.dtype, input.shape, Source::Input));
    }
    // Integers of fewer than 8 bits are read from the bytes in which they lie.
    let mut packed = Vec::new();
    if let (Op::Dequantize(Quantized { bits: 2 | 4, .. }), [integers, ..]) = (op, inputs) {
        let bytes: Vec<u8> = integers.words.iter().map(|&word| word as u8).collect();
        packed = bytes
            .chunks(WORD_BYTES)
            .map(|bytes| {
                let mut word = [0; WORD_BYTES];
                word[..bytes.len()].copy_from_slice(bytes);
                u32::from_le_bytes(word)
            })
            .collect();
        program.values[0].dtype = integers.dtype;
    }
    program.values.push(value(dtype, shape, Source::Node));
    let node = Node {
        name: op.name().to_owned(),
        op: op.clone(),
        inputs: (0..inputs.len() as u32).map(ValueId).collect(),
        outputs: vec![ValueId(inputs.len() as u32)],
    };
    let signature = Signature { program: &program, node: &node };
    let kernel = kernel(&node.op);
    supports(&signature)?;
    let shapes = Shapes::new(&program, Vec::new())?;
    let call = Call { signature, shapes: &shapes };
    if kernel.is_alias() {
        kernel.launches(&call)?;
        return Ok(inputs[0].words.to_vec());
    }
    let mut operands: Vec<Operand<'_>> =
        inputs.iter().map(|input| Operand::Plain(input.words)).collect();
    if !packed.is_empty() {
        operands[0] = Operand::Plain(&packed);
    }
    let mut output = vec![0; call.elements()];
    kernel.compute(&call, &operands, &mut output)?;
    Ok(output)
}
