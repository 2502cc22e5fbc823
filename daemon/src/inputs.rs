//! Generated inputs: seeded, of the right types, in shapes that are chosen by the dimensions' names.

use std::collections::BTreeMap;

use flotilla_program::{
    Op, Port, Program, Step, SymbolSource,
    dim::{Dim, Symbol},
};
use flotilla_tensor::{DType, NamedTensor, Tensor};
use rand::{RngExt as _, SeedableRng as _, rngs::Xoshiro256PlusPlus};

/// Largest value in bytes that a page holds; the reference would accept larger ones.
pub const VALUE_BYTES_MAX: i64 = 1 << 31;
/// Most elements of a generated input.
const ELEMENTS_MAX: usize = 1 << 28;
/// Sizes of dimensions by words in their names, and of all others. One row and a few tokens are enough to check a model;
/// frames, samples and pictures must be larger than the kernels that run over them.
const SIZES: [(&str, i64); 9] = [
    ("batch", 1),
    ("height", 64),
    ("width", 64),
    ("channel", 3),
    ("sample", 4000),
    ("frame", 200),
    ("time", 200),
    ("past", 4),
    ("", 8),
];

/// Why no inputs can be generated.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[expect(missing_docs, reason = "fields are what the messages say")]
pub enum InputError {
    #[error(
        "input {input} has an impossible shape for {dims:?}: choose its dimensions with --dim NAME=N"
    )]
    Shape { input: String, dims: BTreeMap<String, i64> },
    #[error("a value of shape {shape:?} is over the limit of {VALUE_BYTES_MAX} bytes for {dims:?}")]
    TooLarge { shape: Vec<i64>, dims: BTreeMap<String, i64> },
}

/// The shape of the first value that no page could hold, for these sizes of the symbolic dimensions. Sizes that only a run
/// decides are not known yet.
pub fn too_large(program: &Program, sizes: &[Option<i64>]) -> Option<Vec<i64>> {
    program.values.iter().find_map(|value| {
        let size = |dim: &Dim| dim.eval_with(&values(sizes));
        let shape: Vec<i64> = value.shape.iter().map(size).collect::<Option<_>>()?;
        let bytes = shape.iter().try_fold(4i64, |bytes, &dim| bytes.checked_mul(dim));
        bytes.is_none_or(|bytes| bytes > VALUE_BYTES_MAX).then_some(shape)
    })
}

/// Inputs and the sizes that were chosen for the model's symbolic dimensions.
#[derive(Clone, Debug, PartialEq)]
pub struct Made {
    /// In the program's order.
    pub inputs: Vec<NamedTensor>,
    /// Sizes by the dimensions' names.
    pub dims: BTreeMap<String, i64>,
}

fn values(sizes: &[Option<i64>]) -> impl Fn(Symbol) -> Option<i64> {
    |symbol| sizes.get(symbol.0 as usize).copied().flatten()
}

/// Generates inputs. Sizes come from `known`, by the dimensions' names, else they are chosen by the name; floating-point
/// numbers lie in `[-1, 1)`, integers that pick rows of a table lie within it, below `vocabulary` if the model's files declare
/// one, other integers are 0 or 1, masks are all 1. The same seed gives the same inputs.
///
/// # Errors
/// A shape is not possible.
pub fn make(
    program: &Program,
    vocabulary: Option<u32>,
    known: &BTreeMap<String, i64>,
    seed: u64,
) -> Result<Made, InputError> {
    let sizes = sizes(program, known);
    let named = program.symbols.iter().zip(&sizes);
    let dims: BTreeMap<String, i64> =
        named.filter_map(|(info, size)| Some((info.name.clone(), (*size)?))).collect();
    if let Some(shape) = too_large(program, &sizes) {
        return Err(InputError::TooLarge { shape, dims });
    }
    let mut random = Xoshiro256PlusPlus::seed_from_u64(seed);
    let inputs = program
        .inputs
        .iter()
        .map(|port| {
            let shape = shape(&program.value(port.value).shape, &sizes).ok_or_else(|| {
                InputError::Shape { input: port.name.clone(), dims: dims.clone() }
            })?;
            Ok(tensor(port, shape, below(program, port, vocabulary), &mut random))
        })
        .collect::<Result<_, _>>()?;
    Ok(Made { inputs, dims })
}

/// Sizes of the program's symbols: those that are `known`, else by their names; `None` for those that a run itself decides.
pub fn sizes(program: &Program, known: &BTreeMap<String, i64>) -> Vec<Option<i64>> {
    let one = |name: &str| size(program, known, name);
    let symbols = program.symbols.iter();
    symbols.map(|info| (info.source == SymbolSource::Input).then(|| one(&info.name))).collect()
}

/// Replaces unknown sizes by 0; any size would do.
pub fn any(sizes: Vec<Option<i64>>) -> Vec<i64> {
    sizes.into_iter().map(Option::unwrap_or_default).collect()
}

/// The symbol for the number of rows of a model's inputs: the first dimension of its first input, if that is a symbol.
pub fn batch_symbol(program: &Program) -> Option<&str> {
    let port = program.inputs.first()?;
    match program.value(port.value).shape.first()? {
        Dim::Symbol(symbol) => Some(program.symbol_name(*symbol)),
        _ => None,
    }
}

/// The size of a dimension by its name, which may add others: exporters call the length of a mask
/// `past_sequence_length + sequence_length`.
fn size(program: &Program, known: &BTreeMap<String, i64>, name: &str) -> i64 {
    if let Some(&size) = known.get(name) {
        return size;
    }
    let term = |part: &str| {
        let is_dimension = known.contains_key(part) || program.symbol_named(part).is_some();
        part.parse().ok().or_else(|| is_dimension.then(|| size(program, known, part)))
    };
    if name.contains('+') {
        let terms: Option<Vec<i64>> = name.split('+').map(|part| term(part.trim())).collect();
        if let Some(terms) = terms {
            return terms.into_iter().fold(0, i64::saturating_add);
        }
    }
    let name = name.to_lowercase();
    SIZES.iter().find(|(part, _)| name.contains(part)).map_or(1, |(_, size)| *size)
}

fn shape(dims: &[Dim], sizes: &[Option<i64>]) -> Option<Vec<usize>> {
    let size = |dim: &Dim| usize::try_from(dim.eval_with(&values(sizes))?).ok();
    let shape: Vec<usize> = dims.iter().map(size).collect::<Option<_>>()?;
    let elements = shape.iter().try_fold(1usize, |product, &size| product.checked_mul(size))?;
    (elements <= ELEMENTS_MAX).then_some(shape)
}

/// Upper bound (exclusive) of an integer input: the length of the shortest table that it indexes.
fn below(program: &Program, port: &Port, vocabulary: Option<u32>) -> Option<i64> {
    let mut same = vec![port.value];
    let mut limit = vocabulary.filter(|_| port.name == "input_ids").map(i64::from);
    for node in &program.nodes {
        let uses = |at: usize| node.inputs.get(at).is_some_and(|input| same.contains(input));
        if let Op::Gather(gather) = &node.op
            && uses(1)
        {
            let table = &program.value(node.inputs[0]).shape;
            if let Some(length) = table.get(gather.axis as usize).and_then(Dim::as_fixed) {
                limit = Some(limit.map_or(length, |limit| limit.min(length)));
            }
        } else if uses(0) && keeps_numbers(&node.op) {
            same.extend(node.outputs.iter().copied());
        }
    }
    limit
}

/// Whether an operator's result holds the numbers of its first input, possibly in another shape or order.
fn keeps_numbers(op: &Op) -> bool {
    if let Op::Elementwise(expr) = op {
        return expr.steps.iter().all(|step| matches!(step, Step::Input(0) | Step::Cast(..)));
    }
    matches!(op, Op::Reshape | Op::Transpose(_) | Op::Broadcast | Op::Slice(_))
}

fn tensor(
    port: &Port,
    shape: Vec<usize>,
    below: Option<i64>,
    random: &mut Xoshiro256PlusPlus,
) -> NamedTensor {
    let elements: usize = shape.iter().product();
    let is_mask = port.name.to_lowercase().contains("mask");
    let mut integer = || {
        let limit = below.unwrap_or(2).max(1);
        if is_mask { 1 } else { random.random_range(0..limit) }
    };
    let bytes: Vec<u8> = match port.dtype {
        DType::F32 => repeat(elements, || random.random_range(-1.0..1.0_f32).to_le_bytes()),
        // A page computes with F32s, so these are numbers that an F32 holds.
        DType::F64 => {
            repeat(elements, || f64::from(random.random_range(-1.0..1.0_f32)).to_le_bytes())
        }
        DType::F16 => repeat(elements, || f16_bits(random.random_range(-16..=16)).to_le_bytes()),
        // A sixteenth has four bits: the upper half of its F32 is all of it.
        DType::BF16 => repeat(elements, || {
            let number = random.random_range(-16..=16) as f32 / 16.0;
            ((number.to_bits() >> 16) as u16).to_le_bytes()
        }),
        DType::I64 => repeat(elements, || integer().to_le_bytes()),
        DType::U64 => repeat(elements, || (integer() as u64).to_le_bytes()),
        DType::I32 => repeat(elements, || (integer() as i32).to_le_bytes()),
        DType::U32 => repeat(elements, || (integer() as u32).to_le_bytes()),
        DType::I16 => repeat(elements, || (integer() as i16).to_le_bytes()),
        DType::U16 => repeat(elements, || (integer() as u16).to_le_bytes()),
        DType::I8 => repeat(elements, || (integer() as i8).to_le_bytes()),
        DType::U8 => repeat(elements, || (integer() as u8).to_le_bytes()),
        DType::Bool => repeat(elements, || [u8::from(is_mask || random.random())]),
    };
    NamedTensor::new(port.name.clone(), Tensor { dtype: port.dtype, shape, bytes })
}

fn repeat<const N: usize>(elements: usize, mut next: impl FnMut() -> [u8; N]) -> Vec<u8> {
    std::iter::repeat_with(&mut next).take(elements).flatten().collect()
}

/// IEEE 754 half-precision bits of `n / 16` for `|n| <= 16`, which are exact.
fn f16_bits(n: i32) -> u16 {
    let sign = if n < 0 { 0x8000 } else { 0 };
    let magnitude = n.unsigned_abs();
    if magnitude == 0 {
        return sign;
    }
    let log = magnitude.ilog2();
    // The exponent of n / 16 is log - 4, its bias 15; the fraction has ten bits.
    let exponent = (log + 15 - 4) as u16;
    let fraction = ((magnitude << (10 - log)) & 0x3ff) as u16;
    sign | (exponent << 10) | fraction
}

#[cfg(test)]
mod tests {
    use flotilla_program::{Gather, Node, Source, SymbolInfo, Value, ValueId};

    use super::*;

    /// A table of 7 rows that `ids` `[batch, seq]` picks from, a mask, and a picture beside them.
    fn program() -> Program {
        let rows = || vec![Dim::Symbol(Symbol(0)), Dim::Symbol(Symbol(1))];
        let value = |dtype, shape, source| Value { dtype, shape, source };
        let fixed = |sizes: &[i64]| sizes.iter().map(|&size| Dim::Fixed(size)).collect::<Vec<_>>();
        let port =
            |name: &str, dtype, value| Port { name: name.to_owned(), dtype, value, high: None };
        let node = |op, inputs: &[u32], output| Node {
            name: "node".to_owned(),
            op,
            inputs: inputs.iter().map(|&id| ValueId(id)).collect(),
            outputs: vec![ValueId(output)],
        };
        let element = SymbolSource::Element { value: ValueId(3), index: 0 };
        let decided = SymbolInfo { name: "found".to_owned(), source: element };
        let symbols = vec![SymbolInfo::of_input("batch"), SymbolInfo::of_input("seq"), decided];
        Program {
            symbols,
            values: vec![
                value(DType::I32, rows(), Source::Input),
                value(DType::I32, rows(), Source::Input),
                value(DType::F32, fixed(&[7, 3]), Source::Input),
                value(DType::I32, rows(), Source::Node),
                value(DType::F32, vec![Dim::Symbol(Symbol(2))], Source::Node),
            ],
            nodes: vec![node(Op::Reshape, &[0], 3), node(Op::Gather(Gather::new(0)), &[2, 3], 4)],
            inputs: vec![
                port("ids", DType::I64, ValueId(0)),
                port("attention_mask", DType::I64, ValueId(1)),
                port("table", DType::F32, ValueId(2)),
            ],
            outputs: vec![port("out", DType::F32, ValueId(4))],
            ..Program::new("made")
        }
    }

    #[test]
    fn inputs_respect_what_the_program_does_with_them() {
        let program = program();
        let requested = [("seq".to_owned(), 1000)].into();
        let made = make(&program, None, &requested, 1).expect("can be made");
        assert_eq!(made.dims, [("batch".to_owned(), 1), ("seq".to_owned(), 1000)].into());
        assert_eq!(made.inputs[0].tensor.shape, [1, 1000]);
        let ids = made.inputs[0].tensor.numbers();
        assert!(ids.iter().all(|&id| (0.0..7.0).contains(&id)), "within the table");
        assert!((0..7).all(|id| ids.contains(&f64::from(id))), "all of it");
        assert!(made.inputs[1].tensor.numbers().iter().all(|&mask| mask == 1.0));
        assert!(made.inputs[2].tensor.numbers().iter().all(|x| (-1.0..1.0).contains(x)));
        assert_eq!(make(&program, None, &requested, 1), Ok(made.clone()));
        assert_ne!(make(&program, None, &requested, 2).expect("can be made"), made);
        assert_eq!(batch_symbol(&program), Some("batch"));
        let huge = [("seq".to_owned(), i64::MAX)].into();
        assert!(matches!(make(&program, None, &huge, 1), Err(InputError::TooLarge { .. })));
    }

    #[test]
    fn a_name_may_add_others() {
        let names = ["past_length", "length", "past_length + length", "past_length + 1", "a+b"];
        let symbols = names.map(SymbolInfo::of_input).to_vec();
        let program = Program { symbols, ..Program::new("named") };
        let sizes_for = |known| sizes(&program, &known).into_iter().flatten().collect::<Vec<_>>();
        assert_eq!(sizes_for(BTreeMap::new()), [4, 8, 12, 5, 8]);
        let known = [("length".to_owned(), 1), ("a".to_owned(), 2), ("b".to_owned(), 3)];
        assert_eq!(sizes_for(known.into()), [4, 1, 5, 5, 5]);
    }

    #[test]
    fn sixteenths_are_exact_halves() {
        // IEEE 754-2019, 3.4: 1.0, 0.0625, -0.75.
        for (n, bits) in [(0, 0), (16, 0x3c00), (1, 0x2c00), (-12, 0xba00)] {
            assert_eq!(f16_bits(n), bits, "{n}");
        }
        for n in -16..=16 {
            let number = DType::F16.decode_numbers(&f16_bits(n).to_le_bytes());
            assert_eq!(number, [f64::from(n) / 16.0]);
        }
    }
}
