//! Products of matrices and the operators around them in transformers.

use flotilla_program::{Attention, LayerNorm, MatMul, Node, Quantized};

use super::Lowering;
use crate::backend::webnn::draft::{Binary, Id, Reduction, Type, elements};

/// Most elements of the element-wise products of integer matrices.
const PRODUCTS_MAX: u64 = 1 << 22;

impl Lowering<'_> {
    pub(super) fn matmul(&mut self, node: &Node, op: &MatMul) -> Result<Id, String> {
        let operands = self.operands(node)?;
        let (a, mut b) = (operands[0], operands[1]);
        if let Some(quantized) = op.quantized {
            b = self.dequantized(&quantized, b, &operands[2..])?;
        }
        let bias = op.bias.then(|| operands[op.bias_at()]);
        let mut y = if self.draft.shape(b).len() == 2 && self.draft.ty(a) == Type::Float32 {
            self.linear(a, b, bias, op)?
        } else {
            self.batched(a, b, bias, op)?
        };
        if let Some(function) = op.activation {
            y = self.activation(function, y)?;
        }
        if op.residual {
            let residual = *operands.last().ok_or("there is no residual")?;
            y = self.draft.binary(Binary::Add, y, residual)?;
        }
        Ok(y)
    }

    /// The numbers of quantized integers; `parameters` begin with their scales and zero points.
    pub(super) fn dequantized(
        &mut self,
        quantized: &Quantized,
        integers: Id,
        parameters: &[Id],
    ) -> Result<Id, String> {
        if quantized.bits < 8 {
            return Err(format!(
                "integers of {} bits, several of which lie in a byte",
                quantized.bits
            ));
        }
        let shape = self.draft.shape(integers).to_vec();
        let mut numbers = self.draft.cast(integers, Type::Float32)?;
        // Blocks get a dimension of their own.
        let (axis, block) = (quantized.axis as usize, quantized.block.max(1));
        let scales_shape = self.draft.shape(parameters[0]).to_vec();
        let mut split = shape.clone();
        let mut parameter_shape = scales_shape.clone();
        let blocked = scales_shape.get(axis).is_some_and(|&blocks| blocks != 1 && block > 1);
        if blocked {
            if !shape[axis].is_multiple_of(block) {
                return Err(format!("blocks of {block} along a dimension of {}", shape[axis]));
            }
            split.splice(axis..=axis, [shape[axis] / block, block]);
            parameter_shape.insert(axis + 1, 1);
            numbers = self.draft.reshape(numbers, &split)?;
        }
        if quantized.zeros {
            let zeros = self.draft.cast(parameters[1], Type::Float32)?;
            let zeros = self.draft.reshape(zeros, &parameter_shape)?;
            numbers = self.draft.binary(Binary::Sub, numbers, zeros)?;
        }
        let scales = self.draft.reshape(parameters[0], &parameter_shape)?;
        numbers = self.draft.binary(Binary::Mul, numbers, scales)?;
        self.draft.reshape(numbers, &shape)
    }

    /// All rows of `a` times one matrix.
    fn linear(&mut self, a: Id, b: Id, bias: Option<Id>, op: &MatMul) -> Result<Id, String> {
        let shape = self.draft.shape(a).to_vec();
        let (k, before) = shape.split_last().ok_or("the operands are scalars")?;
        let rows: u32 = before.iter().product();
        let columns = self.draft.shape(b)[usize::from(!op.transpose_b)];
        let rows = self.draft.reshape(a, &[rows, *k])?;
        let y = self.draft.gemm(rows, b, bias, op.alpha, op.transpose_b)?;
        self.draft.reshape(y, &[before, &[columns]].concat())
    }

    fn batched(&mut self, a: Id, b: Id, bias: Option<Id>, op: &MatMul) -> Result<Id, String> {
        let mut y = if self.draft.ty(a) == Type::Int32 {
            self.integers(a, b, op.transpose_b)?
        } else if op.transpose_b {
            let rank = self.draft.shape(b).len() as u32;
            let mut permutation: Vec<u32> = (0..rank).collect();
            permutation.swap(rank as usize - 1, rank as usize - 2);
            let b = self.draft.transpose(b, &permutation)?;
            self.draft.matmul(a, b)?
        } else {
            self.draft.matmul(a, b)?
        };
        if op.alpha != 1.0 {
            let alpha = self.draft.scalar(f64::from(op.alpha), Type::Float32)?;
            y = self.draft.binary(Binary::Mul, y, alpha)?;
        }
        match bias {
            Some(bias) => self.draft.binary(Binary::Add, y, bias),
            None => Ok(y),
        }
    }

    /// A product of integers: every row times every column, element by element.
    fn integers(&mut self, a: Id, b: Id, transpose_b: bool) -> Result<Id, String> {
        let ([before_a @ .., m, k], [before_b @ .., first, second]) =
            (self.draft.shape(a), self.draft.shape(b))
        else {
            return Err("the operands are scalars".to_owned());
        };
        // The dimension that is summed over, among the three of a product: the last one or the one before.
        let (rows, columns, inner) = if transpose_b {
            ([before_a, &[*m, 1, *k]].concat(), [before_b, &[1, *first, *second]].concat(), 1)
        } else {
            ([before_a, &[*m, *k, 1]].concat(), [before_b, &[1, *first, *second]].concat(), 2)
        };
        let rows = self.draft.reshape(a, &rows)?;
        let columns = self.draft.reshape(b, &columns)?;
        let products = self.draft.binary(Binary::Mul, rows, columns)?;
        let mut shape = self.draft.shape(products).to_vec();
        if elements(&shape) > PRODUCTS_MAX {
            return Err(format!(
                "WebNN has no products of integer matrices, and {shape:?} are many"
            ));
        }
        let inner = shape.len() - inner;
        let sums = self.draft.reduce(Reduction::Sum, products, &[inner as u32])?;
        shape.remove(inner);
        self.draft.reshape(sums, &shape)
    }

    pub(super) fn attention(&mut self, node: &Node, op: &Attention) -> Result<Id, String> {
        let operands = self.operands(node)?;
        let heads = op.heads;
        let query = self.heads(operands[0], heads, &[0, 2, 1, 3])?;
        let keys = self.heads(operands[1], heads, &[0, 2, 3, 1])?;
        let values = self.heads(operands[2], heads, &[0, 2, 1, 3])?;
        let scale = self.draft.scalar(f64::from(op.scale), Type::Float32)?;
        let query = self.draft.binary(Binary::Mul, query, scale)?;
        let mut scores = self.draft.matmul(query, keys)?;
        if op.mask {
            scores = self.draft.binary(Binary::Add, scores, operands[3])?;
        }
        let weights = self.draft.softmax(scores, 3)?;
        let mixed = self.draft.matmul(weights, values)?;
        let joined = self.draft.transpose(mixed, &[0, 2, 1, 3])?;
        let &[batch, len, heads, width] = self.draft.shape(joined) else {
            return Err("heads that are not of four dimensions".to_owned());
        };
        self.draft.reshape(joined, &[batch, len, heads * width])
    }

    /// `[batch, len, heads * width]` as `[batch, len, heads, width]`, permuted.
    fn heads(&mut self, x: Id, heads: u32, permutation: &[u32]) -> Result<Id, String> {
        let &[batch, len, width] = self.draft.shape(x) else {
            return Err(format!("attention over {:?}", self.draft.shape(x)));
        };
        if heads == 0 || width % heads != 0 {
            return Err(format!("{width} elements in {heads} heads"));
        }
        let split = self.draft.reshape(x, &[batch, len, heads, width / heads])?;
        self.draft.transpose(split, permutation)
    }

    pub(super) fn layer_norm(&mut self, node: &Node, op: &LayerNorm) -> Result<Id, String> {
        let operands = self.operands(node)?;
        let mut x = operands[0];
        if op.residual {
            x = self.draft.binary(Binary::Add, x, operands[3])?;
        }
        let last = self.draft.shape(x).len().checked_sub(1).ok_or("a scalar has no dimension")?;
        // The browser rounds a mean once; that error is too large if the mean is far larger than the
        // differences from it.
        let mean = self.draft.reduce(Reduction::Mean, x, &[last as u32])?;
        let x = self.draft.binary(Binary::Sub, x, mean)?;
        self.draft.layer_normalization([x, operands[1], operands[2]], vec![last as u32], op.epsilon)
    }
}
