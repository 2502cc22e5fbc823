//! Which values share memory, and until when each is needed.

use flotilla_program::{Program, Source, ValueId};

use flotilla_kernels::kernel;

/// Computed once per program.
pub(crate) struct Lifetimes {
    roots: Vec<ValueId>,
    /// Roots whose memory is free after each node.
    dying: Vec<Vec<ValueId>>,
}

impl Lifetimes {
    pub(crate) fn new(program: &Program) -> Lifetimes {
        let mut roots: Vec<ValueId> = (0..program.values.len() as u32).map(ValueId).collect();
        let mut last: Vec<Option<usize>> = vec![None; program.values.len()];
        for (index, node) in program.nodes.iter().enumerate() {
            if kernel(&node.op).is_alias() {
                roots[node.outputs[0].index()] = roots[node.inputs[0].index()];
            }
            for value in node.inputs.iter().chain(&node.outputs) {
                last[roots[value.index()].index()] = Some(index);
            }
        }
        for value in program.results() {
            last[roots[value.index()].index()] = None;
        }
        let mut dying = vec![Vec::new(); program.nodes.len()];
        for (index, last) in last.into_iter().enumerate() {
            // Constants stay for the next run.
            if let Some(node) = last
                && !matches!(program.values[index].source, Source::Constant(_))
            {
                dying[node].push(ValueId(index as u32));
            }
        }
        Lifetimes { roots, dying }
    }

    /// The value whose memory this one uses.
    pub(crate) fn root(&self, value: ValueId) -> ValueId {
        self.roots[value.index()]
    }

    /// Roots that no node after this one and no output needs.
    pub(crate) fn dying(&self, node: usize) -> &[ValueId] {
        &self.dying[node]
    }
}
