//! Einstein sums of two operands as matrix products.
//!
//! Each axis of an einsum is one of four kinds: *batch* (both operands and the result), *m* (first and result), *n*
//! (second and result) or *k* (both operands, summed). Operands are transposed so that their axes come in the order
//! batch, m, k and batch, k, n; groups of several axes are reshaped into one; the product's result is brought into the
//! order that the sum asks for. Transpositions of constants disappear in `fuse::fold`.

use tract_onnx::tract_hir::internal::{Axis, InOut, TypedNode, tract_core::ops::einsum::EinSum};

use super::{LowerResult, Lowering};
use flotilla_program::{DType, MatMul, Op, Reduce, ReduceKind, ValueId, dim::Dim};

/// Where an axis is in the first operand, the second and the result.
#[derive(Clone, Copy)]
struct Place {
    a: Option<usize>,
    b: Option<usize>,
    result: Option<usize>,
}

#[derive(Default)]
struct Groups {
    batch: Vec<Place>,
    m: Vec<Place>,
    n: Vec<Place>,
    k: Vec<Place>,
}

impl Lowering<'_> {
    pub(super) fn einsum(&mut self, node: &TypedNode, op: &EinSum) -> LowerResult<ValueId> {
        let result_type = self.dtype(node, &node.outputs[0].fact)?;
        if op.q_params.is_some() || node.inputs.len() != 2 {
            return Err(self.unsupported(node, "only sums over two plain operands can be had"));
        }
        if result_type == DType::Bool {
            return Err(self.unsupported(node, "only products of numbers can be had"));
        }
        let mut operands = [self.value_of(node.inputs[0])?, self.value_of(node.inputs[1])?];
        let mut places = op
            .axes
            .iter_all_axes()
            .map(|axis| self.place(node, axis))
            .collect::<LowerResult<Vec<_>>>()?;
        operands[0] = self.summed_alone(node, operands[0], &mut places, |place| {
            (&mut place.a, place.b, place.result)
        });
        operands[1] = self.summed_alone(node, operands[1], &mut places, |place| {
            (&mut place.b, place.a, place.result)
        });
        // The operand that has the result's last axis for itself is the right one, so that usually nothing has to be
        // transposed back.
        let last = places
            .iter()
            .filter(|place| place.a.or(place.b).is_some())
            .max_by_key(|place| place.result);
        if last.is_some_and(|place| place.result.is_some() && place.b.is_none()) {
            operands.swap(0, 1);
            places.iter_mut().for_each(|place| std::mem::swap(&mut place.a, &mut place.b));
        }
        // Axes of 1 that only the result has are put there at the end.
        let full = self.fact_shape(node, &node.outputs[0].fact)?;
        let shape = without_new_axes(&full, &mut places);
        let groups = self.groups(node, places)?;
        let product = self.product(node, groups, operands, &shape)?;
        Ok(self.reshaped(node, product, full))
    }

    fn place(&self, node: &TypedNode, axis: &Axis) -> LowerResult<Place> {
        let single =
            |slot: InOut| match axis.interface(slot) {
                [] => Ok(None),
                [at] => Ok(Some(*at)),
                _ => Err(self
                    .unsupported(node, format!("axis {} occurs twice in an operand", axis.repr))),
            };
        Ok(Place {
            a: single(InOut::In(0))?,
            b: single(InOut::In(1))?,
            result: single(InOut::Out(0))?,
        })
    }

    /// Takes the axes away that only this operand has: they are summed before the product.
    fn summed_alone(
        &mut self,
        node: &TypedNode,
        operand: ValueId,
        places: &mut Vec<Place>,
        view: impl Fn(&mut Place) -> (&mut Option<usize>, Option<usize>, Option<usize>),
    ) -> ValueId {
        let mut alone: Vec<usize> = Vec::new();
        places.retain_mut(|place| match view(place) {
            (Some(at), None, None) => {
                alone.push(*at);
                false
            }
            _ => true,
        });
        if alone.is_empty() {
            return operand;
        }
        alone.sort_unstable();
        let dtype = self.draft.value(operand).dtype;
        let mut shape = self.draft.shape(operand).to_vec();
        let longer: Vec<u32> = alone
            .iter()
            .filter(|&&at| shape[at].as_fixed() != Some(1))
            .map(|&at| at as u32)
            .collect();
        let mut operand = operand;
        if !longer.is_empty() {
            longer.iter().for_each(|&at| shape[at as usize] = Dim::Fixed(1));
            let sum = Op::Reduce(Reduce { kind: ReduceKind::Sum, axes: longer });
            operand = self.draft.add_node(&node.name, sum, vec![operand], dtype, shape.clone());
        }
        for &at in alone.iter().rev() {
            shape.remove(at);
            for place in places.iter_mut() {
                if let (Some(other), ..) = view(place)
                    && *other > at
                {
                    *other -= 1;
                }
            }
        }
        self.reshaped(node, operand, shape)
    }

    fn groups(&self, node: &TypedNode, places: Vec<Place>) -> LowerResult<Groups> {
        let mut groups = Groups::default();
        for place in places {
            match (place.a, place.b, place.result) {
                (Some(_), Some(_), Some(_)) => groups.batch.push(place),
                (Some(_), None, Some(_)) => groups.m.push(place),
                (None, Some(_), Some(_)) => groups.n.push(place),
                (Some(_), Some(_), None) => groups.k.push(place),
                _ => {
                    return Err(
                        self.unsupported(node, "an axis of the result is in neither operand")
                    );
                }
            }
        }
        groups.batch.sort_by_key(|place| place.result);
        groups.m.sort_by_key(|place| place.result);
        groups.n.sort_by_key(|place| place.result);
        groups.k.sort_by_key(|place| place.a);
        Ok(groups)
    }

    fn product(
        &mut self,
        node: &TypedNode,
        groups: Groups,
        [a, b]: [ValueId; 2],
        out_shape: &[Dim],
    ) -> LowerResult<ValueId> {
        let Groups { batch, m, n, k } = groups;
        let (a_shape, b_shape) = (self.draft.shape(a).to_vec(), self.draft.shape(b).to_vec());
        let dims_of =
            |places: &[Place], of: fn(&Place) -> Option<usize>, shape: &[Dim]| -> Vec<Dim> {
                places.iter().filter_map(of).map(|at| shape[at].clone()).collect()
            };
        let in_a = |place: &Place| place.a;
        let in_b = |place: &Place| place.b;
        let (batch_a, batch_b) = (dims_of(&batch, in_a, &a_shape), dims_of(&batch, in_b, &b_shape));
        let (m_dims, n_dims) = (dims_of(&m, in_a, &a_shape), dims_of(&n, in_b, &b_shape));
        let k_dims = dims_of(&k, in_a, &a_shape);

        // Without batch axes the right operand is one matrix and the left one may keep its leading axes as they are;
        // with them, rows are merged into one axis so that both operands lead with the batch axes alone.
        let (lead, m_last) = if batch.is_empty() && !m_dims.is_empty() {
            let (last, lead) = m_dims
                .split_last()
                .map_or((Dim::Fixed(1), &[][..]), |(last, lead)| (last.clone(), lead));
            (lead.to_vec(), last)
        } else {
            (Vec::new(), product_of(&m_dims))
        };
        let (k_dim, n_dim) = (product_of(&k_dims), product_of(&n_dims));

        let a = self.transposed(node, a, permutation(&[&batch, &m, &k], in_a));
        let left: Vec<Dim> = [batch_a.as_slice(), &lead, &[m_last.clone(), k_dim.clone()]].concat();
        let a = self.reshaped(node, a, left);

        // A right operand whose rows and columns are merely swapped can be read as it is.
        let as_stored = permutation(&[&batch, &n, &k], in_b);
        let transpose_b = n.len() == 1
            && k.len() == 1
            && self.draft.constant(b).is_none()
            && as_stored.iter().enumerate().all(|(to, &from)| to as u32 == from);
        let (b, right) = if transpose_b {
            (b, [batch_b.as_slice(), &[n_dim.clone(), k_dim]].concat())
        } else {
            let b = self.transposed(node, b, permutation(&[&batch, &k, &n], in_b));
            (b, [batch_b.as_slice(), &[k_dim, n_dim.clone()]].concat())
        };
        let b = self.reshaped(node, b, right);

        let in_result = |place: &Place| place.result;
        let batch_out = dims_of(&batch, in_result, out_shape);
        let dtype = self.draft.value(a).dtype;
        let matmul = Op::MatMul(MatMul {
            transpose_b,
            alpha: 1.0,
            bias: false,
            activation: None,
            residual: false,
        });
        let shape = [batch_out.as_slice(), &lead, &[m_last, n_dim]].concat();
        let product = self.draft.add_node(&node.name, matmul, vec![a, b], dtype, shape);

        let split = [batch_out.as_slice(), &m_dims, &n_dims].concat();
        let product = self.reshaped(node, product, split);
        let order: Vec<usize> =
            [&batch, &m, &n].into_iter().flatten().filter_map(in_result).collect();
        let back = (0..order.len())
            .filter_map(|to| order.iter().position(|&at| at == to))
            .map(|at| at as u32)
            .collect();
        Ok(self.transposed(node, product, back))
    }
}

/// Takes away the axes that are in the result and in no operand, where each is 1; another one is left for `groups` to
/// refuse.
fn without_new_axes(full: &[Dim], places: &mut Vec<Place>) -> Vec<Dim> {
    let mut shape = full.to_vec();
    let new = |place: &Place| place.a.is_none() && place.b.is_none();
    for at in (0..full.len()).rev() {
        let is_new = places.iter().any(|place| new(place) && place.result == Some(at));
        if is_new && full[at].as_fixed() == Some(1) {
            shape.remove(at);
            places.retain(|place| !(new(place) && place.result == Some(at)));
            let later = places
                .iter_mut()
                .filter_map(|place| place.result.as_mut())
                .filter(|result| **result > at);
            later.for_each(|result| *result -= 1);
        }
    }
    shape
}

fn permutation(groups: &[&Vec<Place>], of: impl Fn(&Place) -> Option<usize>) -> Vec<u32> {
    groups.iter().flat_map(|group| group.iter()).filter_map(of).map(|at| at as u32).collect()
}

fn product_of(dims: &[Dim]) -> Dim {
    match dims {
        [] => Dim::Fixed(1),
        [dim] => dim.clone(),
        dims => match dims
            .iter()
            .map(Dim::as_fixed)
            .try_fold(1i64, |product, dim| product.checked_mul(dim?))
        {
            Some(product) => Dim::Fixed(product),
            None => Dim::Product(dims.to_vec()),
        },
    }
}
