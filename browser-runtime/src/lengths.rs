//! How long the results of a run have become, where its data decide that.

use std::borrow::Cow;

use flotilla_program::{Program, ValueId};
use flotilla_protocol::RunError;

use flotilla_kernels::{Shapes, View, strides};

/// The shapes while the run lasted, and those that its counts leave of them.
pub(crate) struct Lengths<'a> {
    program: &'a Program,
    shapes: &'a Shapes,
    /// Symbols' values after the run; `None` where no data decide any.
    symbols: Option<Vec<i64>>,
}

impl<'a> Lengths<'a> {
    /// Reads the counts, which follow the outputs in `results`.
    pub(crate) fn new(
        program: &'a Program,
        shapes: &'a Shapes,
        results: &[Vec<u32>],
    ) -> Result<Lengths<'a>, RunError> {
        if program.counts.is_empty() {
            return Ok(Lengths { program, shapes, symbols: None });
        }
        let counts = results[program.outputs.len()..].iter();
        let counts: Vec<i64> =
            counts.map(|words| words.first().map_or(-1, |&word| i64::from(word as i32))).collect();
        let symbols = program.counted(&shapes.symbols, &counts);
        let symbols = symbols.ok_or_else(|| RunError::Node {
            node: program.name.clone(),
            reason: format!("the data decided on {counts:?} elements, which cannot be"),
        })?;
        Ok(Lengths { program, shapes, symbols: Some(symbols) })
    }

    /// A result's shape and elements without those beyond its end.
    pub(crate) fn cut<'w>(
        &self,
        value: ValueId,
        words: &'w [u32],
    ) -> Result<(Vec<usize>, Cow<'w, [u32]>), RunError> {
        let whole = self.shapes.of(value);
        let Some(symbols) = &self.symbols else {
            return Ok((whole.to_vec(), Cow::Borrowed(words)));
        };
        let dims = self.program.value(value).shape.iter();
        let sizes: Option<Vec<usize>> =
            dims.map(|dim| dim.eval(symbols).and_then(|size| usize::try_from(size).ok())).collect();
        let sizes = sizes.filter(|sizes| sizes.iter().zip(whole).all(|(size, most)| size <= most));
        let sizes = sizes.ok_or_else(|| RunError::Node {
            node: self.program.name.clone(),
            reason: format!("a result of {whole:?} has no shape for the symbols {symbols:?}"),
        })?;
        let mut cut = vec![0; sizes.iter().product()];
        let from = strides(whole).iter().map(|&stride| stride as i64).collect();
        View::gathering(&sizes, 0, from).copy(words, &mut cut);
        Ok((sizes, Cow::Owned(cut)))
    }
}

#[cfg(test)]
mod tests {
    use flotilla_program::{
        Count, DType, PROGRAM_VERSION, Port, Source, Value,
        dim::{Dim, Symbol},
    };

    use super::*;

    fn program() -> Program {
        let symbol = Dim::Symbol(Symbol(0));
        let value = |shape| Value { dtype: DType::I32, shape, source: Source::Input };
        let port = |value| Port { name: String::new(), dtype: DType::I32, value: ValueId(value) };
        Program {
            version: PROGRAM_VERSION,
            name: "cut".to_owned(),
            symbols: vec!["count".to_owned()],
            values: vec![value(vec![Dim::Fixed(2), symbol]), value(vec![Dim::Fixed(1)])],
            nodes: Vec::new(),
            inputs: vec![port(1)],
            outputs: vec![port(0)],
            assumptions: Vec::new(),
            counts: vec![Count { symbol: Symbol(0), most: Dim::Fixed(3), value: ValueId(1) }],
            allowed_paddings: Vec::new(),
            blobs: Vec::new(),
        }
    }

    #[test]
    fn rows_are_cut_where_they_end() {
        let program = program();
        let symbols = program.bind(&[&[1]]).unwrap();
        assert_eq!(symbols, [3]);
        let shapes = Shapes::new(&program, symbols).unwrap();
        let results = [vec![1, 2, 3, 4, 5, 6], vec![2]];
        let lengths = Lengths::new(&program, &shapes, &results).unwrap();
        let cut = lengths.cut(ValueId(0), &results[0]).unwrap();
        assert_eq!(cut, (vec![2, 2], Cow::Owned(vec![1, 2, 4, 5])));
    }

    #[test]
    fn a_count_that_cannot_be_is_refused() {
        let program = program();
        let shapes = Shapes::new(&program, vec![3]).unwrap();
        for count in [4, -1i32 as u32] {
            let results = [vec![0; 6], vec![count]];
            assert!(Lengths::new(&program, &shapes, &results).is_err(), "{count}");
        }
    }
}
