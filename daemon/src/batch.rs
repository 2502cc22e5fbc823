//! Joining requests into the tensors of a run, and taking its results apart.

use std::{borrow::Cow, sync::Arc};

use flotilla_program::{Program, dim::Symbol};
use flotilla_tensor::{DType, Tensor, TensorError};

/// The inputs of a client's request.
#[derive(Clone, Debug)]
pub enum Input {
    /// One row of token ids; may be joined with others into a batch.
    Tokens(Vec<u32>),
    /// All inputs of the program, in its order; runs alone.
    Tensors(Vec<Tensor>),
}

/// Why inputs do not make a run, or results are not those of its requests.
#[derive(Clone, Debug, thiserror::Error)]
#[expect(missing_docs, reason = "fields are what the messages say")]
pub enum BatchError {
    #[error(transparent)]
    Tensor(#[from] TensorError),
    #[error("{got} rows for {want} requests")]
    Rows { got: usize, want: usize },
}

/// Most bytes that are copied or checked on a thread that other tasks need, too: more would block it for milliseconds.
const INLINE_BYTES_MAX: usize = 64 << 10;
/// Token numbers.
const IDS: &str = "input_ids";
/// The input that is 1 where a token is and 0 where padding is.
const MASK: &str = "attention_mask";
/// The input that counts tokens from 0 on.
const POSITIONS: &str = "position_ids";
/// Inputs that tell one text of a pair from the other, and are 0 for a single one.
const TYPES: [&str; 2] = ["token_type_ids", "segment_ids"];

/// Fixed sizes of a program that takes tokens.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct FixedSizes {
    /// Rows of a run.
    pub(crate) rows: Option<usize>,
    /// Tokens of a row.
    pub(crate) length: Option<usize>,
}

impl FixedSizes {
    /// Of a program that takes tokens; nothing for another one.
    pub(crate) fn of(program: &Program) -> FixedSizes {
        if !takes_tokens(program) {
            return FixedSizes::default();
        }
        let size = |axis: usize| {
            program.inputs.iter().find_map(|port| {
                let size = program.value(port.value).shape.get(axis)?.as_fixed()?;
                usize::try_from(size).ok()
            })
        };
        FixedSizes { rows: size(0), length: size(1) }
    }
}

fn has_mask(program: &Program) -> bool {
    program.inputs.iter().any(|port| port.name == MASK)
}

/// How many of the `rows_max` rows of a batch a request of tokens takes. It takes all of them if nothing may be joined to it,
/// because padding would be taken for tokens; else so many that no more requests are joined than the program has rows.
pub(crate) fn weight(program: &Program, rows_max: u32) -> u32 {
    if !has_mask(program) {
        return rows_max;
    }
    let fixed = FixedSizes::of(program).rows.and_then(|rows| u32::try_from(rows).ok());
    fixed.map_or(1, |rows| rows_max.div_ceil(rows.max(1)))
}

/// The inputs of a run that answers these requests, in the program's order.
///
/// Rows of tokens become `[rows, longest]` tensors: `input_ids` padded with 0, `attention_mask` 1 where a token is,
/// `position_ids` 0, 1, .., token types 0. If the program has more rows, the last one is repeated.
pub(crate) fn join<'a>(
    program: &Program,
    inputs: &'a [Arc<Input>],
) -> Result<Cow<'a, [Tensor]>, BatchError> {
    if let [input] = inputs
        && let Input::Tensors(tensors) = &**input
    {
        return Ok(Cow::Borrowed(tensors));
    }
    let mut rows: Vec<&[u32]> = inputs
        .iter()
        .filter_map(|input| match &**input {
            Input::Tokens(ids) => Some(ids.as_slice()),
            // The core never joins a request that fills a batch by itself.
            Input::Tensors(_) => None,
        })
        .collect();
    // Other sizes are refused by the page.
    let fixed = FixedSizes::of(program);
    let length_min = fixed.length.filter(|_| has_mask(program)).unwrap_or(0);
    let longest = rows.iter().map(|ids| ids.len()).fold(length_min, usize::max);
    if let (Some(want), Some(&last)) = (fixed.rows, rows.last()) {
        rows.resize(want.max(rows.len()), last);
    }
    let tensors = program.inputs.iter().map(|port| {
        let padded = rows.iter().flat_map(|ids| {
            (0..longest).map(|at| match (port.name.as_str(), ids.get(at)) {
                (MASK, id) => i64::from(id.is_some()),
                (IDS, Some(&id)) => i64::from(id),
                (POSITIONS, _) => at as i64,
                _ => 0,
            })
        });
        let shape = vec![rows.len(), longest];
        if port.dtype == DType::I32 {
            // Token numbers are below the vocabulary, which fits 32 bits.
            let bytes = padded.flat_map(|number| (number as i32).to_le_bytes()).collect();
            return Tensor::new(DType::I32, shape, bytes);
        }
        let values: Vec<i64> = padded.collect();
        Tensor::from_i64(shape, &values)
    });
    Ok(Cow::Owned(tensors.collect::<Result<_, _>>()?))
}

/// Expected type and shape of a result, as far as a run's inputs determine them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Wanted {
    name: String,
    dtype: DType,
    /// By dimension; `None` where the run itself decides the size.
    shape: Vec<Option<i64>>,
}

impl Wanted {
    fn is_met_by(&self, output: &Tensor) -> bool {
        let sizes = || self.shape.iter().zip(&output.shape);
        self.dtype == output.dtype
            && self.shape.len() == output.shape.len()
            && sizes().all(|(want, &got)| want.is_none_or(|want| want == got as i64))
    }
}

impl std::fmt::Display for Wanted {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let size = |size: &Option<i64>| size.map_or("?".to_owned(), |size| size.to_string());
        let shape: Vec<String> = self.shape.iter().map(size).collect();
        write!(f, "{:?}[{}]", self.dtype, shape.join(", "))
    }
}

/// Expected types and shapes of the results of a run with these inputs, in the program's order.
pub(crate) fn wanted(program: &Program, inputs: &[Tensor]) -> Vec<Wanted> {
    let shapes: Vec<&[usize]> = inputs.iter().map(|input| input.shape.as_slice()).collect();
    // Inputs that do not fit are refused by the page.
    let symbols = program.bind(&shapes).unwrap_or_else(|_| vec![None; program.symbols.len()]);
    let symbol = |symbol: Symbol| symbols.get(symbol.0 as usize).copied().flatten();
    let wanted = program.outputs.iter().map(|port| {
        let dims = program.value(port.value).shape.iter();
        let shape = dims.map(|dim| dim.eval_with(&symbol)).collect();
        Wanted { name: port.name.clone(), dtype: port.dtype, shape }
    });
    wanted.collect()
}

/// Whether results can be given to clients: each has the type and shape that the program declares and, for rows of tokens, a
/// row for each request and every number finite. What numbers a program of tensors may compute is not known here.
pub(crate) fn check(
    outputs: &[Tensor],
    wanted: &[Wanted],
    rows: usize,
    tensors: bool,
) -> Result<(), String> {
    if outputs.len() != wanted.len() {
        return Err(format!("{} results for {} outputs", outputs.len(), wanted.len()));
    }
    for (output, wanted) in outputs.iter().zip(wanted) {
        if !wanted.is_met_by(output) {
            let (dtype, shape) = (output.dtype, &output.shape);
            return Err(format!(
                "output {} is {dtype:?}{shape:?}, the program declares {wanted}",
                wanted.name
            ));
        }
    }
    if tensors {
        return Ok(());
    }
    for output in outputs {
        if output.shape.first() != Some(&rows) {
            return Err(format!("results of shape {:?} for {rows} rows", output.shape));
        }
        if output.dtype.is_float() && !is_finite(output) {
            return Err("results hold numbers that are not finite".to_owned());
        }
    }
    Ok(())
}

fn is_finite(output: &Tensor) -> bool {
    match output.dtype {
        DType::F32 => {
            let (numbers, _) = output.bytes.as_chunks::<4>();
            numbers.iter().all(|bytes| f32::from_le_bytes(*bytes).is_finite())
        }
        _ => output.numbers().into_iter().all(f64::is_finite),
    }
}

/// Row `index` of a run's results, which have so many rows.
pub(crate) fn row(
    outputs: &[Tensor],
    index: usize,
    rows: usize,
) -> Result<Vec<Tensor>, BatchError> {
    outputs
        .iter()
        .map(|output| {
            let got = output.shape.first().copied().unwrap_or(0);
            if got != rows {
                return Err(BatchError::Rows { got, want: rows });
            }
            let length = output.bytes.len() / rows;
            let mut shape = output.shape.clone();
            shape[0] = 1;
            Ok(Tensor::new(
                output.dtype,
                shape,
                output.bytes[index * length..(index + 1) * length].to_vec(),
            )?)
        })
        .collect()
}

/// Runs work whose time grows with `bytes` on a thread that blocks no task.
pub(crate) async fn unblocked<T: Send + 'static>(
    bytes: usize,
    work: impl FnOnce() -> T + Send + 'static,
) -> T {
    if bytes <= INLINE_BYTES_MAX {
        return work();
    }
    match tokio::task::spawn_blocking(work).await {
        Ok(done) => done,
        // It is not cancelled, so it has panicked.
        Err(error) => std::panic::resume_unwind(error.into_panic()),
    }
}

/// Frees a value of so many bytes on a thread that blocks no task.
pub(crate) fn discard<T: Send + 'static>(bytes: usize, value: T) {
    if bytes > INLINE_BYTES_MAX {
        drop(tokio::task::spawn_blocking(move || drop(value)));
    }
}

impl Input {
    /// Bytes that it takes, without shapes.
    pub(crate) fn bytes(&self) -> usize {
        match self {
            Input::Tokens(ids) => size_of_val(ids.as_slice()),
            Input::Tensors(tensors) => bytes(tensors),
        }
    }
}

/// Bytes of tensors, without their shapes.
pub(crate) fn bytes(tensors: &[Tensor]) -> usize {
    tensors.iter().map(|tensor| tensor.bytes.len()).sum()
}

/// Whether a program takes tokens: one input is `input_ids`, the others are what can be told from them, and all are integers
/// `[batch, sequence]`.
pub(crate) fn takes_tokens(program: &Program) -> bool {
    let is_known = |name: &str| [IDS, MASK, POSITIONS].contains(&name) || TYPES.contains(&name);
    program.inputs.iter().any(|port| port.name == IDS)
        && program.inputs.iter().all(|port| {
            is_known(&port.name)
                && matches!(port.dtype, DType::I64 | DType::I32)
                && program.value(port.value).shape.len() == 2
        })
}

/// The values of an output, when it is one row of floats.
pub(crate) fn single_row(output: Option<&Tensor>) -> Option<Vec<f32>> {
    let output = output?;
    if !output.dtype.is_float() || output.shape.len() != 2 || output.shape[0] != 1 {
        return None;
    }
    match output.dtype {
        DType::F32 => output.to_f32().ok(),
        _ => Some(output.numbers().into_iter().map(|number| number as f32).collect()),
    }
}

#[cfg(test)]
mod tests {
    use flotilla_program::{Port, Source, SymbolInfo, Value, ValueId, dim::Dim};
    use flotilla_tensor::decode;

    use super::*;

    /// Inputs of these names and this shape.
    fn program(names: &[&str], shape: [Dim; 2]) -> Program {
        let value = |_| Value { dtype: DType::I32, shape: shape.to_vec(), source: Source::Input };
        let port = |(at, name): (usize, &&str)| Port {
            name: (*name).to_owned(),
            dtype: DType::I64,
            value: ValueId(at as u32),
            high: None,
        };
        Program {
            symbols: vec![SymbolInfo::of_input("rows")],
            values: names.iter().map(value).collect(),
            inputs: names.iter().enumerate().map(port).collect(),
            ..Program::new("tokens")
        }
    }

    fn joined(program: &Program, rows: &[&[u32]]) -> Result<Vec<Vec<i64>>, BatchError> {
        let inputs: Vec<Arc<Input>> =
            rows.iter().map(|ids| Arc::new(Input::Tokens(ids.to_vec()))).collect();
        let tensors = join(program, &inputs)?;
        let numbers = |tensor: &Tensor| decode(&tensor.bytes, i64::from_le_bytes);
        Ok(tensors.iter().map(numbers).collect())
    }

    #[test]
    fn rows_are_padded_to_the_sizes_that_a_program_has_for_good() {
        let rows = || Dim::Symbol(flotilla_program::dim::Symbol(0));
        let open = program(&["input_ids", MASK], [rows(), rows()]);
        let fixed = program(&["input_ids", MASK], [Dim::Fixed(3), Dim::Fixed(4)]);
        let ids: [&[u32]; 2] = [&[5, 6], &[7]];
        let want = [vec![5, 6, 7, 0], vec![1, 1, 1, 0]];
        assert_eq!(joined(&open, &ids).expect("open"), want);
        let want =
            [vec![5, 6, 0, 0, 7, 0, 0, 0, 7, 0, 0, 0], vec![1, 1, 0, 0, 1, 0, 0, 0, 1, 0, 0, 0]];
        assert_eq!(joined(&fixed, &ids).expect("padded"), want);
        assert_eq!((weight(&open, 32), weight(&fixed, 32)), (1, 11));
        // Without a mask padding would be taken for tokens.
        let bare = program(&["input_ids"], [Dim::Fixed(1), Dim::Fixed(2)]);
        assert_eq!(joined(&bare, &[&[5]]).expect("not padded"), [vec![5]]);
        let open = program(&["input_ids"], [rows(), rows()]);
        assert_eq!(weight(&open, 32), 32);
    }

    #[test]
    fn inputs_are_told_from_the_tokens() {
        let rows = || Dim::Symbol(flotilla_program::dim::Symbol(0));
        let shape = || [rows(), rows()];
        let all = program(&["input_ids", MASK, POSITIONS, "token_type_ids"], shape());
        assert!(takes_tokens(&all));
        let want = [vec![5, 6, 7, 0], vec![1, 1, 1, 0], vec![0, 1, 0, 1], vec![0; 4]];
        assert_eq!(joined(&all, &[&[5, 6], &[7]]).expect("joined"), want);
        let mut narrow = program(&["input_ids", MASK], shape());
        narrow.inputs[0].dtype = DType::I32;
        assert!(takes_tokens(&narrow));
        let tensors =
            join(&narrow, &[Arc::new(Input::Tokens(vec![5, 6]))]).expect("joined").into_owned();
        assert_eq!((tensors[0].dtype, tensors[0].numbers()), (DType::I32, vec![5.0, 6.0]));
        assert_eq!((tensors[1].dtype, tensors[1].numbers()), (DType::I64, vec![1.0, 1.0]));
        assert!(!takes_tokens(&program(&["input_ids", "task_id"], shape())));
        assert!(!takes_tokens(&program(&[MASK], shape())));
    }

    #[test]
    fn embeddings_of_half_precision_are_numbers_too() {
        let halves = [0x3c00u16, 0xc000].map(u16::to_le_bytes).concat();
        let row = Tensor::new(DType::F16, vec![1, 2], halves).expect("fits");
        assert_eq!(single_row(Some(&row)), Some(vec![1.0, -2.0]));
        let infinite = Tensor::new(DType::F16, vec![1, 1], vec![0, 0x7c]).expect("fits");
        assert!(is_finite(&row) && !is_finite(&infinite));
    }

    #[test]
    fn wrong_results_are_refused() {
        let tensor = |values: &[f32]| Tensor::from_f32(vec![2, 2], values).expect("fits");
        let good = [tensor(&[1.0, 2.0, 3.0, 4.0])];
        let wanted = |dtype, shape: &[Option<i64>]| {
            [Wanted { name: "y".to_owned(), dtype, shape: shape.to_vec() }]
        };
        let open = wanted(DType::F32, &[None, Some(2)]);
        let check = |outputs: &[Tensor], rows, tensors| check(outputs, &open, rows, tensors);
        assert_eq!(check(&good, 2, false), Ok(()));
        assert!(check(&good, 3, false).is_err());
        for tensors in [false, true] {
            assert!(check(&[], 2, tensors).is_err(), "too few");
            assert!(check(&[good.clone(), good.clone()].concat(), 2, tensors).is_err(), "too many");
            for other in [
                wanted(DType::I32, &[None, Some(2)]),
                wanted(DType::F32, &[Some(3), Some(2)]),
                wanted(DType::F32, &[None]),
            ] {
                assert!(super::check(&good, &other, 2, tensors).is_err(), "{other:?}");
            }
        }
        for bad in [f32::NAN, f32::INFINITY] {
            let bad = [tensor(&[1.0, bad, 3.0, 4.0])];
            assert!(check(&bad, 2, false).is_err());
            assert_eq!(check(&bad, 2, true), Ok(()), "tensors may be anything");
        }
    }
}
