//! Reads a draft's values as formulas.

use std::collections::HashMap;

use super::Draft;
use flotilla_program::{Binary, Expr, Node, Op, Step, Unary, ValueId};

/// How many nodes and results of all blocks use each value, and which values decide symbols.
pub(crate) struct Uses(HashMap<ValueId, usize>);

impl Uses {
    pub(crate) fn of(draft: &Draft) -> Uses {
        let mut uses = HashMap::new();
        let inside = draft.nodes.iter().flat_map(|node| &node.inputs).copied();
        for value in inside.chain(draft.outside_uses()) {
            *uses.entry(value).or_default() += 1;
        }
        Uses(uses)
    }
}

/// For the current block: which node computes each value, and how often it is used. While it is held, nodes are changed
/// through [`Links::rewrite`]. It stores only what is in the block, because a program may have thousands of blocks.
pub(crate) struct Links<'u> {
    producers: HashMap<ValueId, usize>,
    /// Uses when the pass over all blocks began. A rule skips only nodes of its own block, so no other block can start to use
    /// a value of this one meanwhile.
    before: &'u Uses,
    /// Current number of uses, for values whose uses were changed.
    changed: HashMap<ValueId, usize>,
}

impl<'u> Links<'u> {
    pub(crate) fn of(draft: &Draft, before: &'u Uses) -> Links<'u> {
        let mut producers = HashMap::new();
        for (index, node) in draft.nodes.iter().enumerate() {
            producers.extend(node.outputs.iter().map(|output| (*output, index)));
        }
        Links { producers, before, changed: HashMap::new() }
    }

    /// Index of the node that computes a value.
    pub(crate) fn producer_index(&self, id: ValueId) -> Option<usize> {
        self.producers.get(&id).copied()
    }

    /// The node that computes a value.
    pub(crate) fn producer<'d>(&self, draft: &'d Draft, id: ValueId) -> Option<&'d Node> {
        self.producer_index(id).map(|index| &draft.nodes[index])
    }

    /// How many nodes and outputs use a value.
    pub(crate) fn uses(&self, id: ValueId) -> usize {
        self.changed.get(&id).or_else(|| self.before.0.get(&id)).copied().unwrap_or(0)
    }

    /// Gives a node another operator and other operands.
    pub(crate) fn rewrite(
        &mut self,
        draft: &mut Draft,
        index: usize,
        op: Op,
        inputs: Vec<ValueId>,
    ) {
        let node = &mut draft.nodes[index];
        for &input in &node.inputs {
            self.changed.insert(input, self.uses(input).saturating_sub(1));
        }
        for &input in &inputs {
            self.changed.insert(input, self.uses(input) + 1);
        }
        node.op = op;
        node.inputs = inputs;
    }
}

/// Reads a draft's values as formulas; the fusions are written with it.
pub(crate) struct Formula<'d> {
    pub(crate) draft: &'d Draft,
    pub(crate) links: &'d Links<'d>,
}

impl Formula<'_> {
    /// `f(a)` as a separate element-wise node.
    pub(crate) fn unary(&self, id: ValueId, function: Unary) -> Option<ValueId> {
        let node = self.links.producer(self.draft, id)?;
        let Op::Elementwise(Expr { steps }) = &node.op else { return None };
        match steps.as_slice() {
            [Step::Input(input), Step::Unary(found, 0)] if *found == function => {
                Some(node.inputs[*input as usize])
            }
            _ => None,
        }
    }

    /// The function of one operand that computes a value, if it is a single one.
    pub(crate) fn any_unary(&self, id: ValueId) -> Option<(Unary, ValueId)> {
        let node = self.links.producer(self.draft, id)?;
        let Op::Elementwise(Expr { steps }) = &node.op else { return None };
        match steps.as_slice() {
            [Step::Input(input), Step::Unary(found, 0)] => {
                Some((*found, node.inputs[*input as usize]))
            }
            _ => None,
        }
    }

    /// `f(a, b)` as a separate element-wise node.
    pub(crate) fn binary(&self, id: ValueId, function: Binary) -> Option<(ValueId, ValueId)> {
        let node = self.links.producer(self.draft, id)?;
        let Op::Elementwise(Expr { steps }) = &node.op else { return None };
        match steps.as_slice() {
            [Step::Input(a), Step::Input(b), Step::Binary(found, 0, 1)] if *found == function => {
                Some((node.inputs[*a as usize], node.inputs[*b as usize]))
            }
            _ => None,
        }
    }

    /// Both orders of operands of a commutative `f(a, b)`.
    pub(crate) fn either(&self, id: ValueId, function: Binary) -> Vec<(ValueId, ValueId)> {
        self.binary(id, function).map_or_else(Vec::new, |(a, b)| vec![(a, b), (b, a)])
    }

    /// `a * c` or `a / (1/c)` for a constant whose elements are all `c` and that does not change the shape.
    pub(crate) fn scaled(&self, id: ValueId) -> Option<(ValueId, f32)> {
        let factor = self.with_uniform(id, self.either(id, Binary::Mul));
        factor.or_else(|| {
            let (a, divisor) =
                self.with_uniform(id, self.binary(id, Binary::Div).into_iter().collect())?;
            Some((a, divisor.recip()))
        })
    }

    /// `a + c` for a constant whose elements are all `c` and that does not change the shape.
    pub(crate) fn shifted(&self, id: ValueId) -> Option<(ValueId, f32)> {
        self.with_uniform(id, self.either(id, Binary::Add))
    }

    fn with_uniform(
        &self,
        result: ValueId,
        readings: Vec<(ValueId, ValueId)>,
    ) -> Option<(ValueId, f32)> {
        readings
            .into_iter()
            .filter(|(a, _)| self.draft.shape(*a) == self.draft.shape(result))
            .find_map(|(a, constant)| Some((a, self.draft.uniform_float(constant)?)))
    }

    /// The node that computes a value, if it has the given operator.
    pub(crate) fn produced<T>(
        &self,
        id: ValueId,
        op: impl Fn(&Op) -> Option<T>,
    ) -> Option<(T, &[ValueId])> {
        let node = self.links.producer(self.draft, id)?;
        Some((op(&node.op)?, &node.inputs))
    }
}

/// Dimension of one head, if `width` is a multiple of the number of heads.
pub(crate) fn head_dim(width: i64, heads: u32) -> Option<i64> {
    (heads > 0 && width % i64::from(heads) == 0).then(|| width / i64::from(heads))
}
