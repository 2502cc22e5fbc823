//! The context in which an operator is wired: its operands, its attributes, and the program that is being built.

use std::cell::RefCell;

use anyhow::{Context as _, Result, bail, ensure};
use flotilla_program::{Op, dim::Dim};
use flotilla_tensor::DType;
use tract_onnx::pb::{
    AttributeProto, GraphProto, NodeProto, TensorProto, attribute_proto::AttributeType,
};

use super::{
    constant::Constant,
    facts::{Fact, Known, Var},
    walk::{Scope, Walk},
};

/// Bounds of a size; a larger tensor does not fit any page.
pub(super) const SIZES: (i64, i64) = (0, 1 << 31);

/// Bounds of an arbitrary number.
pub(super) const ANY: (i64, i64) = (i64::MIN, i64::MAX);

/// One node that is being wired.
pub(super) struct Wiring<'a, 'p> {
    /// Its attributes are here.
    pub(super) node: &'a NodeProto,
    /// Version of its operator set.
    pub(super) opset: i64,
    /// For messages and for the names of wired nodes.
    pub(super) name: String,
    pub(super) inputs: &'a [Option<Var>],
    pub(super) scope: &'a Scope,
    pub(super) walk: &'a mut Walk<'p>,
    /// Places of the attributes that were read.
    pub(super) read: RefCell<Vec<usize>>,
}

/// A subgraph of an operator.
pub(super) struct Body<'a> {
    pub(super) graph: &'a GraphProto,
    scope: Scope,
}

impl Body<'_> {
    /// Wires it, with these values as its inputs.
    pub(super) fn wire(&self, walk: &mut Walk<'_>, inputs: &[Var]) -> Result<Vec<Var>> {
        Ok(walk.subgraph(self.graph, inputs, self.scope.clone())?)
    }
}

/// Wires an operator: one value per output of the node, in order; trailing ones may be left out.
pub(super) type Wire = fn(&mut Wiring<'_, '_>) -> Result<Vec<Var>>;

impl<'a> Wiring<'a, '_> {
    /// A required operand.
    pub(super) fn input(&self, index: usize) -> Result<Var> {
        match self.optional(index) {
            Some(var) => Ok(var),
            None => bail!("operand {index} is missing"),
        }
    }

    /// An optional operand.
    pub(super) fn optional(&self, index: usize) -> Option<Var> {
        self.inputs.get(index).copied().flatten()
    }

    /// Wires with other operands.
    pub(super) fn with_inputs<T>(
        &mut self,
        inputs: &[Option<Var>],
        wire: impl FnOnce(&mut Wiring<'_, '_>) -> Result<T>,
    ) -> Result<T> {
        let mut inner = Wiring {
            node: self.node,
            opset: self.opset,
            name: self.name.clone(),
            inputs,
            scope: self.scope,
            walk: &mut *self.walk,
            read: RefCell::default(),
        };
        let result = wire(&mut inner);
        let read = inner.read.take();
        self.read.borrow_mut().extend(read);
        result
    }

    /// How many operands there are, left out ones included.
    pub(super) fn inputs_len(&self) -> usize {
        self.inputs.len()
    }

    /// Every operand; none may be left out.
    pub(super) fn all_inputs(&self) -> Result<Vec<Var>> {
        (0..self.inputs_len()).map(|index| self.input(index)).collect()
    }

    /// Whether the nodes around this one do nothing with an output but to convert it to floats.
    pub(super) fn becomes_float(&self, output: usize) -> bool {
        let name = self.node.output.get(output);
        name.is_some_and(|name| self.walk.become_floats.contains(name))
    }

    /// Whether an output of the node has a name, so that it may be used.
    pub(super) fn wants(&self, output: usize) -> bool {
        self.node.output.get(output).is_some_and(|name| !name.is_empty())
    }

    pub(super) fn fact(&self, var: Var) -> &Fact {
        self.walk.fact(var)
    }

    /// The type of a value's elements in the model.
    pub(super) fn dtype(&self, var: Var) -> DType {
        self.fact(var).dtype
    }

    pub(super) fn shape(&self, var: Var) -> Vec<Dim> {
        self.fact(var).shape.clone()
    }

    /// One dimension of a value.
    pub(super) fn dim(&self, var: Var, axis: usize) -> Dim {
        self.fact(var).shape[axis].clone()
    }

    pub(super) fn rank(&self, var: Var) -> usize {
        self.fact(var).shape.len()
    }

    /// Refuses an operand of another number of dimensions.
    pub(super) fn check_rank(&self, what: &str, x: Var, rank: usize) -> Result<()> {
        let own = self.rank(x);
        ensure!(own == rank, "{what} has {own} dimensions, {rank} are needed");
        Ok(())
    }

    /// A dimension as a number.
    pub(super) fn number(&self, dim: &Dim) -> Result<usize> {
        let size = dim.as_fixed().and_then(|size| usize::try_from(size).ok());
        if size.is_none() {
            self.walk.unknown.set(true);
        }
        size.with_context(|| format!("dimension {} must be a number here", self.walk.dim_text(dim)))
    }

    /// The shape as numbers.
    pub(super) fn fixed_shape(&self, var: Var) -> Result<Vec<usize>> {
        self.fact(var).shape.iter().map(|dim| self.number(dim)).collect()
    }

    /// The value, if it is known during import.
    pub(super) fn constant(&self, var: Var) -> Option<&Constant> {
        match &self.fact(var).known {
            Some(Known::Constant(constant)) => Some(constant),
            Some(Known::Numbers(_) | Known::Sequence(_) | Known::Nothing) | None => None,
        }
    }

    /// The operand's name in the file.
    pub(super) fn operand_name(&self, index: usize) -> &'a str {
        self.node.input.get(index).map_or("", String::as_str)
    }

    /// The elements of an operand that must be known when the model is loaded, as numbers.
    pub(super) fn known_i64s(&self, index: usize) -> Result<Vec<i64>> {
        let var = self.input(index)?;
        if let Some(constant) = self.constant(var) {
            return constant.integers().with_context(|| {
                format!("operand {index} is of type {:?}, and integers are needed", self.dtype(var))
            });
        }
        if let Some(dims) = self.walk.known_numbers(var) {
            let fixed = dims.iter().map(|dim| {
                dim.as_fixed().with_context(|| {
                    format!(
                        "operand {index} is {}, which must be a number here",
                        self.walk.dim_text(dim)
                    )
                })
            });
            return fixed.collect();
        }
        Err(self.not_known(index))
    }

    /// The same of an operand that has one element.
    pub(super) fn known_i64(&self, index: usize) -> Result<i64> {
        match self.known_i64s(index)?.as_slice() {
            &[number] => Ok(number),
            numbers => bail!("operand {index} has {} elements, one is needed", numbers.len()),
        }
    }

    /// The same as floats.
    pub(super) fn known_f32s(&self, index: usize) -> Result<Vec<f32>> {
        let var = self.input(index)?;
        match self.constant(var) {
            Some(constant) => Ok(constant.floats().into_iter().map(|x| x as f32).collect()),
            None => Err(self.not_known(index)),
        }
    }

    fn not_known(&self, index: usize) -> anyhow::Error {
        self.walk.unknown.set(true);
        let name = self.operand_name(index);
        anyhow::anyhow!("the value of {name:?} must be known when the model is loaded")
    }

    /// The elements of an operand as sizes; unknown ones are read when the program has computed them.
    pub(super) fn sizes(&mut self, index: usize) -> Result<Vec<Dim>> {
        self.elements(index, SIZES)
    }

    /// The same as numbers within bounds.
    pub(super) fn elements(&mut self, index: usize, bounds: (i64, i64)) -> Result<Vec<Dim>> {
        let var = self.input(index)?;
        let name = self.operand_name(index);
        let name = if name.is_empty() { self.name.clone() } else { name.to_owned() };
        self.walk.elements(var, &name, bounds)
    }

    /// The same of an operand that has one element.
    pub(super) fn element(&mut self, index: usize, bounds: (i64, i64)) -> Result<Dim> {
        let mut elements = self.elements(index, bounds)?;
        match (elements.pop(), elements.as_slice()) {
            (Some(only), []) => Ok(only),
            _ => bail!("operand {index} has {} elements, one is needed", elements.len()),
        }
    }

    /// An axis counted from the front.
    pub(super) fn axis(&self, axis: i64, rank: usize) -> Result<usize> {
        let from_front = if axis < 0 { axis + rank as i64 } else { axis };
        match usize::try_from(from_front) {
            Ok(index) if index < rank || (rank == 0 && index == 0) => Ok(index),
            _ => bail!("axis {axis} is not one of {rank}"),
        }
    }

    /// Axes counted from the front, each once.
    pub(super) fn axes(&self, axes: &[i64], rank: usize) -> Result<Vec<usize>> {
        let mut found =
            axes.iter().map(|&axis| self.axis(axis, rank)).collect::<Result<Vec<_>>>()?;
        found.sort_unstable();
        if found.windows(2).any(|pair| pair[0] == pair[1]) {
            bail!("axes {axes:?} name one twice");
        }
        Ok(found)
    }

    fn attribute(&self, name: &str) -> Option<&'a AttributeProto> {
        let attributes = &self.node.attribute;
        let index = attributes.iter().position(|attribute| attribute.name == name)?;
        self.read.borrow_mut().push(index);
        Some(&attributes[index])
    }

    /// Attributes that do not change the result, or whose meaning follows from operands.
    pub(super) fn ignore(&self, names: &[&str]) {
        for name in names {
            self.attribute(name);
        }
    }

    /// An integer attribute that may only have its usual value.
    pub(super) fn only(&self, name: &str, usual: i64) -> Result<()> {
        let value = self.int(name)?.unwrap_or(usual);
        ensure!(value == usual, "{name} is {value}, only {usual} is supported");
        Ok(())
    }

    /// Refuses attributes that were not read: they may change the result.
    pub(super) fn check_attributes(&self) -> Result<()> {
        let read = self.read.borrow();
        let mut attributes = self.node.attribute.iter().enumerate();
        match attributes.find(|(index, _)| !read.contains(index)) {
            Some((_, attribute)) => bail!("attribute {:?} is not known", attribute.name),
            None => Ok(()),
        }
    }

    fn typed(&self, name: &str, want: AttributeType) -> Result<Option<&'a AttributeProto>> {
        let Some(attribute) = self.attribute(name) else { return Ok(None) };
        // Files from before the type field existed leave it out.
        let is_right = attribute.r#type == want as i32 || attribute.r#type == 0;
        if !is_right {
            bail!("attribute {name:?} is not of type {}", want.as_str_name());
        }
        Ok(Some(attribute))
    }

    /// An integer attribute.
    pub(super) fn int(&self, name: &str) -> Result<Option<i64>> {
        Ok(self.typed(name, AttributeType::Int)?.map(|attribute| attribute.i))
    }

    /// An integer attribute that is a flag; false if it is left out.
    pub(super) fn flag(&self, name: &str) -> Result<bool> {
        Ok(self.int(name)?.unwrap_or(0) != 0)
    }

    /// An attribute that is a number.
    pub(super) fn float(&self, name: &str) -> Result<Option<f32>> {
        Ok(self.typed(name, AttributeType::Float)?.map(|attribute| attribute.f))
    }

    /// A list of integers.
    pub(super) fn ints(&self, name: &str) -> Result<Option<Vec<i64>>> {
        Ok(self.typed(name, AttributeType::Ints)?.map(|attribute| attribute.ints.clone()))
    }

    /// A list of numbers.
    pub(super) fn floats(&self, name: &str) -> Result<Option<Vec<f32>>> {
        Ok(self.typed(name, AttributeType::Floats)?.map(|attribute| attribute.floats.clone()))
    }

    /// A text attribute.
    pub(super) fn text(&self, name: &str) -> Result<Option<&'a str>> {
        let Some(attribute) = self.typed(name, AttributeType::String)? else { return Ok(None) };
        Ok(Some(std::str::from_utf8(&attribute.s)?))
    }

    /// A list of texts.
    pub(super) fn texts(&self, name: &str) -> Result<Option<Vec<&'a str>>> {
        let Some(attribute) = self.typed(name, AttributeType::Strings)? else { return Ok(None) };
        let texts = attribute.strings.iter().map(|text| Ok(std::str::from_utf8(text)?));
        texts.collect::<Result<Vec<_>>>().map(Some)
    }

    /// A text, or a list of texts, as bytes.
    pub(super) fn string_bytes(&self, name: &str) -> Result<Vec<Vec<u8>>> {
        let attribute = self.attribute(name).with_context(|| format!("{name} is missing"))?;
        Ok(if attribute.r#type == AttributeType::Strings as i32 {
            attribute.strings.clone()
        } else {
            vec![attribute.s.clone()]
        })
    }

    /// A tensor attribute.
    pub(super) fn tensor(&self, name: &str) -> Result<Option<Constant>> {
        let proto: Option<&TensorProto> =
            self.typed(name, AttributeType::Tensor)?.and_then(|attribute| attribute.t.as_ref());
        proto.map(|proto| Ok(self.walk.files.constant(proto)?)).transpose()
    }

    /// The graph in an attribute.
    pub(super) fn graph(&self, name: &str) -> Result<&'a GraphProto> {
        let graph = self.attribute(name).and_then(|attribute| attribute.g.as_ref());
        graph.with_context(|| format!("there is no graph {name:?}"))
    }

    /// The graph of an attribute with a scope, to be wired any number of times.
    pub(super) fn body(&mut self, name: &str) -> Result<Body<'a>> {
        let graph = self.graph(name)?;
        let label = format!("{}/{name}", self.name);
        Ok(Body { graph, scope: self.walk.subgraph_scope(graph, self.scope, &label)? })
    }

    /// An operator's result, of an element type and a shape.
    pub(super) fn op(
        &mut self,
        op: Op,
        inputs: &[Var],
        dtype: DType,
        shape: Vec<Dim>,
    ) -> Result<Var> {
        self.walk.emit(&self.name, op, inputs, dtype, shape)
    }

    /// A constant.
    pub(super) fn known(&mut self, constant: Constant) -> Var {
        self.walk.constant(constant)
    }

    /// A constant of rank 0.
    pub(super) fn scalar(&mut self, dtype: DType, value: f64) -> Var {
        self.walk.constant(Constant::scalar(dtype, value))
    }

    /// An integer of rank 0 and type `I64`.
    pub(super) fn integer(&mut self, value: i64) -> Var {
        self.walk.constant(Constant::integer(value))
    }

    /// A number in shapes, as an operand of rank 0 and any type.
    pub(super) fn dimension(&mut self, dim: Dim, dtype: DType) -> Result<Var> {
        let number = self.walk.numbers(DType::I64, &[], vec![dim]);
        self.cast(number, dtype)
    }

    /// Numbers in shapes as a row of type `I64`.
    pub(super) fn dimensions(&mut self, dims: Vec<Dim>) -> Var {
        self.walk.numbers(DType::I64, &[dims.len()], dims)
    }

    /// Two dimensions that must be equal, as one of them; see [`Walk::same`].
    pub(super) fn same(&mut self, what: &str, a: &Dim, b: &Dim) -> Result<Dim> {
        self.walk.same(&self.name, what, a, b)
    }

    /// Wires another ONNX operator of the default domain, with attributes that are integers.
    pub(super) fn onnx(
        &mut self,
        op: &str,
        attributes: &[(&str, i64)],
        inputs: &[Option<Var>],
    ) -> Result<Vec<Var>> {
        self.onnx_with_outputs(op, attributes, inputs, 1)
    }

    /// The same for an operator with `outputs` results.
    pub(super) fn onnx_with_outputs(
        &mut self,
        op: &str,
        attributes: &[(&str, i64)],
        inputs: &[Option<Var>],
        outputs: usize,
    ) -> Result<Vec<Var>> {
        let name = |index: usize, is_there: bool| match is_there {
            true => format!("operand{index}"),
            false => String::new(),
        };
        let node = NodeProto {
            name: format!(
                "{}.{op}",
                self.name.strip_prefix(self.scope.prefix()).unwrap_or(&self.name)
            ),
            op_type: op.to_owned(),
            input: inputs
                .iter()
                .enumerate()
                .map(|(index, input)| name(index, input.is_some()))
                .collect(),
            output: (0..outputs).map(|index| format!("result{index}")).collect(),
            attribute: attributes
                .iter()
                .map(|&(name, i)| AttributeProto {
                    name: name.to_owned(),
                    r#type: AttributeType::Int as i32,
                    i,
                    ..AttributeProto::default()
                })
                .collect(),
            ..NodeProto::default()
        };
        Ok(self.walk.operator(&node, inputs, self.scope)?)
    }
}
