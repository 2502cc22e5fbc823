//! Facts about the values of a graph, and the values of the program that they become.

use anyhow::{Result, bail};
use flotilla_program::{
    Concat, Expr, Op, Sizes, Step, SymbolSource, ValueId,
    dim::{Bounds, Dim, Symbol},
};
use flotilla_tensor::DType;

pub(super) use super::strings::Strings;
use super::{constant::Constant, symbolic, walk::Walk};
use crate::graph::Origin;

/// Most elements of a tensor whose numbers are followed one by one.
pub(super) const NUMBERS_MAX: usize = 1024;

/// Most elements that decide sizes and are read while a program runs.
const ELEMENTS_MAX: usize = 64;

/// Longest expression of a number in shapes.
const PARTS_MAX: usize = 48;

/// A value of the graph.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) struct Var(u32);

/// The facts about a value.
#[derive(Clone, Debug)]
pub(super) struct Fact {
    /// The type of its elements in the model.
    pub(super) dtype: DType,
    pub(super) shape: Vec<Dim>,
    pub(super) known: Option<Known>,
    /// Of a tensor of strings: the strings that its elements, of type `I64`, are indices of.
    pub(super) strings: Option<Strings>,
    /// Its value in the program, and the block in which that is computed.
    placed: Option<(u32, ValueId)>,
}

impl Fact {
    /// Its value in the program, if it has one already.
    pub(super) fn value(&self) -> Option<ValueId> {
        self.placed.map(|(_, value)| value)
    }
}

/// Elements that are known when the model is loaded.
#[derive(Clone, Debug)]
pub(super) enum Known {
    Constant(Constant),
    /// Numbers in shapes, row-major; a truth value is 1 or 0.
    Numbers(Vec<Dim>),
    /// A sequence of values, which is not a tensor.
    Sequence(Vec<Var>),
    /// An optional value that is left out.
    Nothing,
}

impl Walk<'_> {
    pub(super) fn fact(&self, var: Var) -> &Fact {
        &self.facts[var.0 as usize]
    }

    fn add(&mut self, fact: Fact) -> Var {
        self.facts.push(fact);
        Var(self.facts.len() as u32 - 1)
    }

    /// A constant, of a type that may be narrower or wider than its elements.
    pub(super) fn constant_of(&mut self, dtype: DType, constant: Constant) -> Var {
        let shape = constant.shape.iter().map(|&size| Dim::Fixed(size as i64)).collect();
        let strings = constant.strings.clone();
        let known = Some(Known::Constant(constant));
        self.add(Fact { dtype, shape, known, strings, placed: None })
    }

    pub(super) fn constant(&mut self, constant: Constant) -> Var {
        self.constant_of(constant.data.dtype, constant)
    }

    /// Numbers in shapes.
    pub(super) fn numbers(&mut self, dtype: DType, shape: &[usize], dims: Vec<Dim>) -> Var {
        let fixed: Option<Vec<i64>> = dims.iter().map(Dim::as_fixed).collect();
        if let Some(fixed) = fixed {
            return self.constant_of(dtype, integers_of(dtype, shape, &fixed));
        }
        let shape = shape.iter().map(|&size| Dim::Fixed(size as i64)).collect();
        let dims = match dtype {
            DType::I64 | DType::I32 => dims.into_iter().map(|dim| self.short(dim)).collect(),
            _ => dims,
        };
        let known = Some(Known::Numbers(dims));
        self.add(Fact { dtype, shape, known, strings: None, placed: None })
    }

    /// The same number, replaced by a symbol if its expression has become long: each layer of a model may compute its
    /// dimensions from those of the layer before, several times over. The page computes the symbol once.
    pub(super) fn short(&mut self, dim: Dim) -> Dim {
        if symbolic::parts(&dim) <= PARTS_MAX {
            return dim;
        }
        if let Some((block, symbol)) = self.shortened.get(&dim)
            && self.is_open(*block)
        {
            return Dim::Symbol(*symbol);
        }
        let (low, high) = self.bounded(|bounds| bounds.of(&dim));
        let (low, high) = (low.max(i64::from(i32::MIN)), high.min(i64::from(i32::MAX)));
        let value = self.sizes(std::slice::from_ref(&dim), DType::I64, &[]);
        let symbol = self.element(value, 0, "size", (low, high));
        self.shortened.insert(dim, (self.block(), symbol));
        Dim::Symbol(symbol)
    }

    pub(super) fn sequence(&mut self, items: Vec<Var>) -> Var {
        let dtype = items.first().map_or(DType::F32, |item| self.fact(*item).dtype);
        let shape = vec![Dim::Fixed(items.len() as i64)];
        let known = Some(Known::Sequence(items));
        self.add(Fact { dtype, shape, known, strings: None, placed: None })
    }

    /// An optional value that is left out.
    pub(super) fn nothing(&mut self) -> Var {
        let (dtype, known) = (DType::F32, Some(Known::Nothing));
        self.add(Fact { dtype, shape: Vec::new(), known, strings: None, placed: None })
    }

    /// A value of the program as a value of the graph.
    pub(super) fn placed(&mut self, dtype: DType, value: ValueId) -> Var {
        let shape = self.draft.shape(value).to_vec();
        let placed = Some((self.block(), value));
        self.add(Fact { dtype, shape, known: None, strings: None, placed })
    }

    /// The same elements under another type with the same words.
    pub(super) fn retyped(&mut self, var: Var, dtype: DType) -> Var {
        let fact = Fact { dtype, ..self.fact(var).clone() };
        self.add(fact)
    }

    /// Indices as the strings of a table.
    pub(super) fn strings_at(&mut self, indices: Var, table: Strings) -> Var {
        let fact = Fact { strings: Some(table), ..self.fact(indices).clone() };
        self.add(fact)
    }

    /// The indices of strings in their table.
    pub(super) fn indices_of(&mut self, strings: Var) -> Var {
        let fact = Fact { strings: None, ..self.fact(strings).clone() };
        self.add(fact)
    }

    /// The program's value of a value of the graph; one that is only known becomes a value.
    pub(super) fn value(&mut self, var: Var) -> Result<ValueId> {
        let fact = self.fact(var).clone();
        // A value made in another branch does not exist here.
        if let Some((block, value)) = fact.placed
            && self.is_open(block)
        {
            return Ok(value);
        }
        let (block, value) = match &fact.known {
            Some(Known::Constant(constant)) => {
                let data = constant.data.stored().kept(&self.draft.storage);
                // Constants exist everywhere.
                (0, self.draft.add_value(fact.dtype, fact.shape.clone(), Origin::Constant(data)))
            }
            Some(Known::Numbers(dims)) => {
                let value = self.sizes(dims, fact.dtype, &fact.shape);
                (self.block(), value)
            }
            Some(Known::Sequence(_)) => bail!("a sequence of tensors is needed as one tensor"),
            Some(Known::Nothing) => bail!("an optional value that is left out is needed"),
            None => bail!("a value of another branch is read"),
        };
        self.facts[var.0 as usize].placed = Some((block, value));
        Ok(value)
    }

    /// Numbers of shapes as elements.
    fn sizes(&mut self, dims: &[Dim], dtype: DType, shape: &[Dim]) -> ValueId {
        let name = "sizes";
        // A page has sizes as signed integers, and compares with 0 to make truth values.
        let number = if dtype.storage() == DType::I32 { dtype } else { DType::I32 };
        let numbers = match dims {
            [dim] => {
                let op = Op::Elementwise(Expr { steps: vec![Step::Dim(dim.clone())] });
                self.draft.add_node(name, op, Vec::new(), number, shape.to_vec())
            }
            dims => {
                let mut parts: Vec<ValueId> = Vec::new();
                for chunk in dims.chunks(Sizes::MAX) {
                    let op = Op::Sizes(Sizes { dims: chunk.to_vec() });
                    let length = vec![Dim::Fixed(chunk.len() as i64)];
                    parts.push(self.draft.add_node(name, op, Vec::new(), number, length));
                }
                let flat = if let [only] = parts[..] {
                    only
                } else {
                    let length = vec![Dim::Fixed(dims.len() as i64)];
                    let op = Op::Concat(Concat { axis: 0 });
                    self.draft.add_node(name, op, parts, number, length)
                };
                if self.draft.shape(flat) == shape {
                    flat
                } else {
                    self.draft.add_node(name, Op::Reshape, vec![flat], number, shape.to_vec())
                }
            }
        };
        if dtype == number {
            return numbers;
        }
        let op = Op::Elementwise(Expr { steps: vec![Step::Input(0), Step::Cast(dtype, 0)] });
        self.draft.add_node(name, op, vec![numbers], dtype, shape.to_vec())
    }

    /// A symbol, with the least and the largest value that it can have.
    pub(super) fn symbol(
        &mut self,
        name: String,
        source: SymbolSource,
        bounds: (i64, i64),
    ) -> Symbol {
        self.bounds.push(bounds);
        self.draft.add_symbol(name, source)
    }

    /// Calls back with the bounds of symbols.
    pub(super) fn bounded<T>(&self, work: impl FnOnce(&Bounds<'_>) -> T) -> T {
        let of = |symbol: Symbol| {
            self.bounds.get(symbol.0 as usize).copied().unwrap_or((i64::MIN, i64::MAX))
        };
        work(&Bounds::new(&of))
    }

    /// The elements of an integer tensor that are known from shapes.
    pub(super) fn known_numbers(&self, var: Var) -> Option<Vec<Dim>> {
        match self.fact(var).known.as_ref()? {
            Known::Constant(constant) if constant.data.elements() <= NUMBERS_MAX => {
                let numbers = constant.integers()?;
                Some(numbers.into_iter().map(Dim::Fixed).collect())
            }
            Known::Numbers(dims) => Some(dims.clone()),
            Known::Constant(_) | Known::Sequence(_) | Known::Nothing => None,
        }
    }

    /// The elements of an integer tensor as numbers for shapes. Those that are not known are read when the program has
    /// computed them. `bounds` are the least and the largest valid number.
    ///
    /// # Errors
    /// Their number is not known, or there are too many, or they are not integers.
    pub(super) fn elements(
        &mut self,
        var: Var,
        name: &str,
        bounds: (i64, i64),
    ) -> Result<Vec<Dim>> {
        if let Some(known) = self.known_numbers(var) {
            return Ok(known);
        }
        let fact = self.fact(var);
        if fact.dtype.is_float() {
            bail!("{name:?} is of type {:?}, and integers are needed", fact.dtype);
        }
        let sizes: Option<Vec<i64>> = fact.shape.iter().map(Dim::as_fixed).collect();
        let count = sizes.and_then(|sizes| usize::try_from(sizes.iter().product::<i64>()).ok());
        let Some(count) = count.filter(|count| *count <= ELEMENTS_MAX) else {
            bail!(
                "{name:?} decides sizes and has more than {ELEMENTS_MAX} elements, or an unknown number"
            );
        };
        let value = self.value(var)?;
        let dims = (0..count as u32).map(|index| {
            let symbol = self.element(value, index, name, bounds);
            Dim::Symbol(symbol)
        });
        Ok(dims.collect())
    }

    fn element(&mut self, value: ValueId, index: u32, name: &str, bounds: (i64, i64)) -> Symbol {
        if let Some(known) = self.element_symbols.get(&(value, index)) {
            let own = &mut self.bounds[known.0 as usize];
            *own = (own.0.max(bounds.0), own.1.min(bounds.1));
            return *known;
        }
        let name = format!("{name}[{index}]");
        let symbol = self.symbol(name, SymbolSource::Element { value, index }, bounds);
        self.element_symbols.insert((value, index), symbol);
        symbol
    }
}

/// Integers of a type, or 32-bit ones for truth values.
pub(super) fn integers_of(dtype: DType, shape: &[usize], numbers: &[i64]) -> Constant {
    if dtype == DType::Bool {
        let truths: Vec<bool> = numbers.iter().map(|&number| number != 0).collect();
        return Constant::bools(shape, &truths);
    }
    if dtype.storage() == DType::U32 {
        let bytes = numbers.iter().flat_map(|&number| (number as u64).to_le_bytes());
        return Constant::new(DType::U64, shape, bytes.collect());
    }
    Constant::i64s(shape, numbers)
}
