//! Sums of products of two operands as matrix products.
//!
//! Each label names a dimension and is of one of four kinds: *batch* (both operands and the result), *m* (first and result),
//! *n* (second and result) or *k* (both operands, summed). Operands are transposed so that their dimensions are in the order
//! batch, m, k and batch, k, n. Groups of several dimensions are reshaped into one. The product's result is transposed into
//! the requested order. Transpositions of constants disappear in `fuse::fold`.

use anyhow::{Result, ensure};
use flotilla_program::{MatMul, Op, ReduceKind, dim::Dim};

use super::{facts::Var, wiring::Wiring};

/// An operand and the labels of its dimensions, each once.
#[derive(Clone, Debug)]
pub(super) struct Labelled<L> {
    pub(super) var: Var,
    pub(super) labels: Vec<L>,
}

impl Wiring<'_, '_> {
    /// Matrix products over the last two dimensions. Source: NumPy, `matmul`.
    pub(super) fn matmul(&mut self, a: Var, b: Var) -> Result<Var> {
        let (rank_a, rank_b) = (self.rank(a), self.rank(b));
        ensure!(rank_a > 0 && rank_b > 0, "the operands are scalars");
        let a = if rank_a == 1 { self.unsqueeze(a, 0)? } else { a };
        let b = if rank_b == 1 { self.unsqueeze(b, 1)? } else { b };
        let mut product = self.stacked_product(a, b, false)?;
        let rank = self.rank(product);
        if rank_b == 1 {
            product = self.squeeze(product, rank - 1)?;
        }
        if rank_a == 1 {
            // The single row, followed by the columns.
            let behind = if rank_b == 1 { 1 } else { 2 };
            product = self.squeeze(product, self.rank(product) - behind)?;
        }
        Ok(product)
    }

    /// `a` times `b` with its last two dimensions exchanged. Both have at least two dimensions.
    pub(super) fn matmul_transposed(&mut self, a: Var, b: Var) -> Result<Var> {
        if self.constant(b).is_none() {
            return self.stacked_product(a, b, true);
        }
        // A constant is exchanged once, when the model is loaded.
        let rank = self.rank(b);
        let order: Vec<usize> = (0..rank - 2).chain([rank - 1, rank - 2]).collect();
        let b = self.transpose(b, &order)?;
        self.stacked_product(a, b, false)
    }

    /// For operands of at least two dimensions.
    fn stacked_product(&mut self, a: Var, b: Var, transposed: bool) -> Result<Var> {
        let (mut left, mut right) = (self.shape(a), self.shape(b));
        let behind = if transposed { 1 } else { 2 };
        let (inner, other) = (left.remove(left.len() - 1), right.remove(right.len() - behind));
        self.same("the inner dimensions of a product", &inner, &other)?;
        let (m, n) = (left.pop(), right.pop());
        let rank = left.len().max(right.len());
        let mut shape = self.walk.broadcast(&self.name, &[left, right])?;
        shape.extend([m, n].into_iter().flatten());
        // Operands of the result's rank, which the operator broadcasts itself; one matrix serves all rows.
        let widened = |w: &mut Self, x: Var| -> Result<Var> {
            (w.rank(x)..rank + 2).try_fold(x, |x, _| w.unsqueeze(x, 0))
        };
        let a = widened(self, a)?;
        let b = if self.rank(b) == 2 { b } else { widened(self, b)? };
        let dtype = self.dtype(a);
        let op = product_op(transposed);
        self.op(op, &[a, b], dtype, shape)
    }

    /// The sum of products over every label that the result does not have.
    pub(super) fn contract<L: Copy + PartialEq + std::fmt::Debug>(
        &mut self,
        a: Labelled<L>,
        b: Labelled<L>,
        result: &[L],
    ) -> Result<Var> {
        let a = self.summed_alone(a, &b.labels, result)?;
        let b = self.summed_alone(b, &a.labels, result)?;
        // The operand that alone has the result's last dimension becomes the right one, so that usually nothing has to be
        // transposed back.
        let last =
            result.iter().rev().find(|&label| a.labels.contains(label) || b.labels.contains(label));
        let (a, b) = match last {
            Some(last) if !b.labels.contains(last) => (b, a),
            _ => (a, b),
        };
        let of =
            |labelled: &Labelled<L>, label: &L| labelled.labels.iter().position(|own| own == label);
        let both = |label: &&L| a.labels.contains(label) && b.labels.contains(label);
        let batch: Vec<L> = result.iter().filter(both).copied().collect();
        let m: Vec<L> = result
            .iter()
            .filter(|&label| a.labels.contains(label) && !b.labels.contains(label))
            .copied()
            .collect();
        let n: Vec<L> = result
            .iter()
            .filter(|&label| b.labels.contains(label) && !a.labels.contains(label))
            .copied()
            .collect();
        let k: Vec<L> = a.labels.iter().filter(|&label| !result.contains(label)).copied().collect();
        let missing: Vec<L> = result
            .iter()
            .filter(|&label| !a.labels.contains(label) && !b.labels.contains(label))
            .copied()
            .collect();
        let dims = |w: &Self, labelled: &Labelled<L>, labels: &[L]| -> Vec<Dim> {
            let places = labels.iter().filter_map(|label| of(labelled, label));
            places.map(|axis| w.dim(labelled.var, axis)).collect()
        };
        let mut batch_dims = Vec::new();
        for (left, right) in dims(self, &a, &batch).iter().zip(&dims(self, &b, &batch)) {
            batch_dims.push(self.same("dimensions of one name", left, right)?);
        }
        for (left, right) in dims(self, &a, &k).iter().zip(&dims(self, &b, &k)) {
            self.same("dimensions that are summed over", left, right)?;
        }
        let (m_dims, n_dims) = (dims(self, &a, &m), dims(self, &b, &n));
        let (k_dim, n_dim): (Dim, Dim) =
            (dims(self, &a, &k).iter().product(), n_dims.iter().product());

        // Without batch dimensions the right operand is one matrix, and the left one may keep its leading dimensions. With
        // them, rows are merged into one dimension, so that only the batch is in front in both operands.
        let (lead, rows) = match m_dims.split_last() {
            Some((last, lead)) if batch.is_empty() => (lead.to_vec(), last.clone()),
            _ => (Vec::new(), m_dims.iter().product()),
        };
        let order = |labelled: &Labelled<L>, groups: &[&[L]]| -> Vec<usize> {
            groups
                .iter()
                .flat_map(|group| group.iter())
                .filter_map(|label| of(labelled, label))
                .collect()
        };
        let left = self.transpose(a.var, &order(&a, &[&batch, &m, &k]))?;
        let wanted = [batch_dims.as_slice(), &lead, &[rows.clone(), k_dim.clone()]].concat();
        let left = self.reshape(left, &wanted)?;

        // A right operand with only rows and columns swapped can be read without a transposition.
        let as_stored = order(&b, &[&batch, &n, &k]);
        let transposed = n.len() == 1
            && k.len() == 1
            && self.constant(b.var).is_none()
            && as_stored.iter().copied().eq(0..as_stored.len());
        let right = if transposed {
            let wanted = [batch_dims.as_slice(), &[n_dim.clone(), k_dim]].concat();
            self.reshape(b.var, &wanted)?
        } else {
            let right = self.transpose(b.var, &order(&b, &[&batch, &k, &n]))?;
            let wanted = [batch_dims.as_slice(), &[k_dim, n_dim.clone()]].concat();
            self.reshape(right, &wanted)?
        };
        let shape = [batch_dims.as_slice(), &lead, &[rows, n_dim]].concat();
        let dtype = self.dtype(left);
        let product = self.op(product_op(transposed), &[left, right], dtype, shape)?;
        let split = [batch_dims.as_slice(), &m_dims, &n_dims].concat();
        let product = self.reshape(product, &split)?;
        let have: Vec<L> = [batch, m, n].concat();
        let back: Vec<usize> =
            result.iter().filter_map(|label| have.iter().position(|own| own == label)).collect();
        let mut product = self.transpose(product, &back)?;
        for (axis, label) in result.iter().enumerate() {
            if missing.contains(label) {
                product = self.unsqueeze(product, axis)?;
            }
        }
        Ok(product)
    }

    /// Removes the dimensions that only this operand has: they are summed before the product.
    fn summed_alone<L: Copy + PartialEq>(
        &mut self,
        operand: Labelled<L>,
        other: &[L],
        result: &[L],
    ) -> Result<Labelled<L>> {
        let alone = |label: &L| !other.contains(label) && !result.contains(label);
        let axes: Vec<usize> =
            (0..operand.labels.len()).filter(|&axis| alone(&operand.labels[axis])).collect();
        let var = self.reduce(ReduceKind::Sum, operand.var, &axes, false)?;
        let labels = operand.labels.into_iter().filter(|label| !alone(label)).collect();
        Ok(Labelled { var, labels })
    }
}

fn product_op(transpose_b: bool) -> Op {
    Op::MatMul(MatMul { transpose_b, ..MatMul::PLAIN })
}
