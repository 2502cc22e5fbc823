//! A program that is being built: like [`Program`](flotilla_program::Program), but its constants still contain their data.

pub(crate) mod compute;
mod data;
mod finish;
mod formula;

pub(crate) use data::Data;
pub(crate) use finish::{drop_dead_nodes, finish};
pub(crate) use formula::{Formula, Links, Uses, head_dim};

use std::collections::BTreeMap;

use crate::storage::Storage;
use flotilla_program::{
    Assumption, Check, InputBound, Node, Op, Port, Region, Step, SymbolInfo, SymbolSource, ValueId,
    dim::{Dim, Symbol},
};
use flotilla_tensor::DType;

/// Where a drafted value comes from.
#[derive(Clone)]
pub(crate) enum Origin {
    Input,
    Constant(Data),
    Node,
}

#[derive(Clone)]
pub(crate) struct DraftValue {
    /// Its storage type.
    pub(crate) dtype: DType,
    /// The element type in the model, which may be wider or narrower.
    pub(crate) element: DType,
    pub(crate) shape: Vec<Dim>,
    pub(crate) origin: Origin,
}

/// See the module.
#[derive(Clone, Default)]
pub(crate) struct Draft {
    pub(crate) name: String,
    pub(crate) symbols: Vec<SymbolInfo>,
    pub(crate) values: Vec<DraftValue>,
    /// The nodes of the current block: those of no region, unless [`Draft::enter`] has put a region's here.
    pub(crate) nodes: Vec<Node>,
    pub(crate) regions: Vec<Region>,
    pub(crate) inputs: Vec<Port>,
    pub(crate) outputs: Vec<Port>,
    /// Of outputs that are strings in the model, by name: the strings that their elements are indices of.
    pub(crate) strings: BTreeMap<String, Vec<String>>,
    pub(crate) assumptions: Vec<Assumption>,
    pub(crate) bounds: Vec<InputBound>,
    pub(crate) checks: Vec<Check>,
    /// Checks of assumptions on how the model is read: they are kept even if nothing else needs their numbers.
    pub(crate) decisive: Vec<Check>,
    /// Where large constants are kept.
    pub(crate) storage: Storage,
}

impl Draft {
    pub(crate) fn value(&self, id: ValueId) -> &DraftValue {
        &self.values[id.index()]
    }

    pub(crate) fn shape(&self, id: ValueId) -> &[Dim] {
        &self.value(id).shape
    }

    /// A value whose elements are of any type.
    pub(crate) fn add_value(&mut self, element: DType, shape: Vec<Dim>, origin: Origin) -> ValueId {
        let id = ValueId(self.values.len() as u32);
        self.values.push(DraftValue { dtype: element.storage(), element, shape, origin });
        id
    }

    /// A new symbol.
    pub(crate) fn add_symbol(&mut self, name: impl Into<String>, source: SymbolSource) -> Symbol {
        self.symbols.push(SymbolInfo { name: name.into(), source });
        Symbol(self.symbols.len() as u32 - 1)
    }

    /// Swaps the current nodes with a region's, or back.
    pub(crate) fn swap(&mut self, region: usize) {
        std::mem::swap(&mut self.nodes, &mut self.regions[region].nodes);
    }

    /// Replaces the size of a slice by the whole dimension, if each run checks that they are equal.
    pub(crate) fn assume_checks(&mut self) {
        let mut known: Vec<(Dim, Dim)> = Vec::new();
        for check in &self.checks {
            known.extend(check.cut().map(|(cut, whole)| (cut.clone(), whole.clone())));
        }
        if known.is_empty() {
            return;
        }
        let apply = |dim: &mut Dim| {
            let of =
                |part: &Dim| known.iter().find(|(cut, _)| cut == part).map(|(_, dim)| dim.clone());
            *dim = dim.replaced(&of);
        };
        self.values.iter_mut().flat_map(|value| &mut value.shape).for_each(apply);
        let regions = self.regions.iter_mut().flat_map(|region| &mut region.nodes);
        for node in self.nodes.iter_mut().chain(regions) {
            node.op.dims_mut().into_iter().for_each(apply);
        }
        for check in self.checks.iter_mut().filter(|check| check.cut().is_none()) {
            apply(&mut check.left);
            apply(&mut check.right);
        }
    }

    /// Values that a run returns.
    pub(crate) fn results(&self) -> impl Iterator<Item = ValueId> + '_ {
        self.outputs.iter().flat_map(|port| [Some(port.value), port.high]).flatten()
    }

    /// Values that are used without being an input of a node in `nodes`: results, values that other blocks read, and values
    /// that decide symbols.
    pub(crate) fn outside_uses(&self) -> impl Iterator<Item = ValueId> + '_ {
        let regions = self.regions.iter().flat_map(|region| {
            let inputs = region.nodes.iter().flat_map(|node| &node.inputs);
            inputs.chain(&region.results).copied()
        });
        let decide = self.symbols.iter().filter_map(|info| match info.source {
            SymbolSource::Element { value, .. } => Some(value),
            SymbolSource::Input | SymbolSource::Extent { .. } => None,
        });
        self.results().chain(regions).chain(decide)
    }

    /// Appends a node with one output and returns the output.
    pub(crate) fn add_node(
        &mut self,
        name: &str,
        op: Op,
        inputs: Vec<ValueId>,
        element: DType,
        shape: Vec<Dim>,
    ) -> ValueId {
        let output = self.add_value(element, shape, Origin::Node);
        self.nodes.push(Node { name: name.to_owned(), op, inputs, outputs: vec![output] });
        output
    }

    /// The data of a constant.
    pub(crate) fn constant(&self, id: ValueId) -> Option<&Data> {
        match &self.value(id).origin {
            Origin::Constant(data) => Some(data),
            Origin::Input | Origin::Node => None,
        }
    }

    /// The value of a floating-point constant whose elements are all equal.
    pub(crate) fn uniform_float(&self, id: ValueId) -> Option<f32> {
        if self.value(id).dtype != DType::F32 {
            return None;
        }
        let bytes = self.constant(id)?.words();
        let mut elements = bytes
            .chunks_exact(4)
            .map(|chunk| f32::from_le_bytes([chunk[0], chunk[1], chunk[2], chunk[3]]));
        let first = elements.next()?;
        elements.all(|element| element == first).then_some(first)
    }

    /// The value of a constant of one element.
    pub(crate) fn scalar_step(&self, id: ValueId) -> Option<Step> {
        let bytes = self.constant(id)?.words();
        let element: [u8; 4] = bytes.as_ref().try_into().ok()?;
        match self.value(id).dtype {
            DType::F32 => Some(Step::Float(f32::from_le_bytes(element))),
            DType::I32 => Some(Step::Int(i32::from_le_bytes(element))),
            _ => None,
        }
    }
}
