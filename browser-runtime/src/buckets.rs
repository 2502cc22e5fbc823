//! Chooses the sizes for which graphs are made, where each set of shapes needs its own graph.
//!
//! A run whose symbols may be padded uses a somewhat larger graph, so that a few graphs serve every size.

use flotilla_program::{Padding, Program, ValueId};

use crate::ports::Words;
use flotilla_kernels::{Shapes, View, strides};

/// An existing graph may do at most this many times the work of the wanted one, to be used until that one is built.
const WORK_RATIO_MAX: i64 = 4;

/// The next power of two, or one and a half times the one before it: at most half of a dimension is padding.
fn bucket(size: i64) -> i64 {
    let Ok(exact) = u64::try_from(size) else { return size };
    let power = exact.next_power_of_two() as i64;
    let between = power / 4 * 3;
    if power >= 16 && between >= size { between } else { power }
}

/// Work in proportion to the symbols, as far as it is known.
fn work(symbols: &[i64]) -> i64 {
    symbols.iter().fold(1, |work, &size| work.saturating_mul(size.max(1)))
}

/// The paddings that these inputs allow.
pub(crate) fn allowed<'p>(
    program: &'p Program,
    shapes: &Shapes,
    inputs: &[Words],
) -> Vec<&'p Padding> {
    let holds = |padding: &&Padding| {
        padding.guards.iter().all(|guard| {
            let index = guard.input as usize;
            guard.holds(&inputs[index].low, shapes.of(program.inputs[index].value))
        })
    };
    program.allowed_paddings.iter().filter(holds).collect()
}

/// The symbols of the graph that a run should have.
pub(crate) fn wanted(allowed: &[&Padding], symbols: &[i64]) -> Vec<i64> {
    let mut wanted = symbols.to_vec();
    for padding in allowed {
        let at = padding.symbol.0 as usize;
        let mut larger = wanted.clone();
        larger[at] = bucket(symbols[at]);
        if allowed.iter().all(|padding| padding.allows(&larger)) {
            wanted = larger;
        }
    }
    wanted
}

/// Of the existing graphs, the one with the least work that a run may use instead of the wanted one.
pub(crate) fn substitute<'s>(
    allowed: &[&Padding],
    symbols: &[i64],
    wanted: &[i64],
    ready: &'s [Vec<i64>],
) -> Option<&'s [i64]> {
    let most = work(wanted).saturating_mul(WORK_RATIO_MAX);
    let serves = |ready: &&[i64]| {
        let fits = ready.iter().zip(symbols).enumerate().all(|(at, (ready, size))| {
            ready == size
                || ready > size && allowed.iter().any(|padding| padding.symbol.0 as usize == at)
        });
        fits && work(ready) <= most && allowed.iter().all(|padding| padding.allows(ready))
    };
    ready.iter().map(Vec::as_slice).filter(serves).min_by_key(|ready| work(ready))
}

/// A value's elements, padded with zeros at the end of each dimension.
pub(crate) fn padded(value: ValueId, from: &Shapes, to: &Shapes, words: Vec<u32>) -> Vec<u32> {
    let (exact, larger) = (from.of(value), to.of(value));
    if exact == larger {
        return words;
    }
    let signed = |shape: &[usize]| strides(shape).iter().map(|&stride| stride as i64).collect();
    let view = View {
        shape: exact.to_vec(),
        from: 0,
        from_strides: signed(exact),
        to: 0,
        to_strides: signed(larger),
    };
    let mut padded = vec![0; larger.iter().product()];
    view.copy(&words, &mut padded);
    padded
}

/// A value's elements without those that were computed from padding.
pub(crate) fn cut(value: ValueId, from: &Shapes, to: &Shapes, words: Vec<u32>) -> Vec<u32> {
    let (larger, exact) = (from.of(value), to.of(value));
    if exact == larger {
        return words;
    }
    let from_strides = strides(larger).iter().map(|&stride| stride as i64).collect();
    let mut cut = vec![0; exact.iter().product()];
    View::gathering(exact, 0, from_strides).copy(&words, &mut cut);
    cut
}

#[cfg(test)]
mod tests {
    use flotilla_program::{
        Guard, Limit, Port, Source, SymbolInfo, SymbolSource, Value,
        dim::{Dim, Symbol},
    };
    use flotilla_tensor::DType;

    use super::*;

    fn padding(symbol: u32, most: i64) -> Padding {
        let limits = vec![Limit { dim: Dim::Symbol(Symbol(symbol)), most }];
        Padding { symbol: Symbol(symbol), guards: Vec::new(), limits }
    }

    #[test]
    fn at_most_half_is_padding() {
        let buckets: Vec<i64> = [1, 3, 9, 12, 13, 17, 24, 25, 100, 128, 129].map(bucket).into();
        assert_eq!(buckets, [1, 4, 12, 12, 16, 24, 24, 32, 128, 128, 192]);
    }

    #[test]
    fn sizes_grow_as_far_as_the_program_allows() {
        let (rows, columns) = (padding(0, 64), padding(1, 100));
        let both = [&rows, &columns];
        assert_eq!(wanted(&both, &[3, 70]), [4, 96]);
        assert_eq!(wanted(&both, &[3, 99]), [4, 99], "128 are too many");
        assert_eq!(wanted(&[&rows], &[3, 70]), [4, 70]);
        assert_eq!(wanted(&[], &[3, 70]), [3, 70]);
    }

    #[test]
    fn a_larger_graph_serves_until_the_wanted_one_is_there() {
        let (rows, columns) = (padding(0, 64), padding(1, 512));
        let ready = [vec![1, 256], vec![4, 64], vec![2, 48], vec![1, 16]];
        let serve = |allowed: &[&Padding], symbols: &[i64]| {
            let larger = wanted(allowed, symbols);
            substitute(allowed, symbols, &larger, &ready).map(<[i64]>::to_vec)
        };
        assert_eq!(serve(&[&rows, &columns], &[1, 40]), Some(vec![2, 48]));
        assert_eq!(serve(&[&columns], &[1, 200]), Some(vec![1, 256]));
        assert_eq!(serve(&[&columns], &[1, 40]), None, "256 are too much work for 40");
        assert_eq!(serve(&[], &[1, 16]), Some(vec![1, 16]));
        assert_eq!(serve(&[&rows, &columns], &[1, 300]), None);
    }

    /// One input, `[rows, columns, 2]` of I32.
    fn program() -> Program {
        let symbol = |name: &str| SymbolInfo { name: name.to_owned(), source: SymbolSource::Input };
        Program {
            symbols: vec![symbol("rows"), symbol("columns")],
            values: vec![Value {
                dtype: DType::I32,
                shape: vec![Dim::Symbol(Symbol(0)), Dim::Symbol(Symbol(1)), Dim::Fixed(2)],
                source: Source::Input,
            }],
            ..Program::new("padded")
        }
    }

    #[test]
    fn a_mask_that_hides_everything_allows_no_padding() {
        let guards = vec![Guard { input: 0, axis: 1, one: 1 }];
        let program = Program {
            inputs: vec![Port {
                name: "mask".to_owned(),
                dtype: DType::I32,
                value: ValueId(0),
                high: None,
            }],
            allowed_paddings: vec![Padding { guards, ..padding(1, 64) }],
            ..program()
        };
        let shapes = Shapes::new(&program, vec![Some(1), Some(2)]).expect("shapes");
        let count = |words: [u32; 4]| {
            let words = Words { low: words.to_vec(), high: None };
            allowed(&program, &shapes, &[words]).len()
        };
        assert_eq!(count([1, 0, 0, 1]), 1);
        assert_eq!(count([1, 0, 1, 0]), 0);
    }

    #[test]
    fn what_is_padded_is_cut_again() {
        let program = program();
        let exact = Shapes::new(&program, vec![Some(1), Some(2)]).expect("shapes");
        let larger = Shapes::new(&program, vec![Some(2), Some(3)]).expect("shapes");
        let words = padded(ValueId(0), &exact, &larger, vec![1, 2, 3, 4]);
        assert_eq!(words, [1, 2, 3, 4, 0, 0, 0, 0, 0, 0, 0, 0]);
        assert_eq!(cut(ValueId(0), &larger, &exact, words), [1, 2, 3, 4]);
    }
}
