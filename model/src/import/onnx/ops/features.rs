//! Operators that compute features: counts of n-grams.

use std::collections::BTreeMap;

use anyhow::{Context as _, Result, bail};
use flotilla_program::{NgramCounts, Op, dim::Dim};
use flotilla_tensor::DType;

use crate::import::onnx::{
    constant::Constant,
    facts::Var,
    wiring::{Wire, Wiring},
};

pub(super) const OPERATORS: &[(&str, Wire)] = &[("TfIdfVectorizer", tf_idf_vectorizer)];

/// How often each n-gram of a pool occurs, or whether it does, weighted.
fn tf_idf_vectorizer(w: &mut Wiring<'_, '_>) -> Result<Vec<Var>> {
    let x = w.input(0)?;
    let mut x_shape = w.shape(x);
    let rows_given = x_shape.len() == 2;
    if !rows_given {
        x_shape.insert(0, Dim::Fixed(1));
    }
    let [rows, _] = x_shape.as_slice() else {
        bail!("{} dimensions, rows of items have two", x_shape.len());
    };
    let pool = w.ints("pool_int64s")?;
    let Some(pool) = pool.filter(|pool| !pool.is_empty()) else {
        bail!("only n-grams of integers can be counted");
    };
    let list = |name: &str| -> Result<Vec<usize>> {
        let numbers = w.ints(name)?.with_context(|| format!("{name} is missing"))?;
        numbers.into_iter().map(|number| Ok(usize::try_from(number)?)).collect()
    };
    let (counts, columns) = (list("ngram_counts")?, list("ngram_indexes")?);
    let number = |name: &str| w.int(name)?.with_context(|| format!("{name} is missing"));
    let sizes =
        usize::try_from(number("min_gram_length")?)?..=usize::try_from(number("max_gram_length")?)?;
    let distance_max = u32::try_from(number("max_skip_count")? + 1)?;
    let weights = w.floats("weights")?.unwrap_or_default();
    let width = columns.iter().max().map_or(0, |column| column + 1);
    let grams = grams(&pool, &counts, &columns, &sizes)?;
    let longest = grams.keys().map(|gram| gram.len()).max().unwrap_or(1);
    let mut by_column = vec![Vec::new(); width];
    for (gram, column) in grams {
        by_column[column].push(gram);
    }
    let (mut items, mut lengths, mut starts) = (Vec::new(), Vec::new(), vec![0i32]);
    for gram in by_column.iter().flatten() {
        for index in 0..longest {
            items.push(i32::try_from(gram.get(index).copied().unwrap_or(0))?);
        }
        lengths.push(gram.len() as i32);
    }
    for grams in &by_column {
        let start = starts.last().copied().unwrap_or(0);
        starts.push(start + grams.len() as i32);
    }
    let items = w.known(Constant::i32s(&[lengths.len(), longest], &items));
    let lengths = w.known(Constant::i32s(&[lengths.len()], &lengths));
    let starts = w.known(Constant::i32s(&[width + 1], &starts));
    let shape = vec![rows.clone(), Dim::Fixed(width as i64)];
    let x = w.reshape(x, &x_shape)?;
    let x = w.index(x)?;
    let op = Op::NgramCounts(NgramCounts { distance_max });
    let mut result = w.op(op, &[x, items, lengths, starts], DType::F32, shape.clone())?;
    let mode = w.text("mode")?.unwrap_or_default().to_owned();
    if mode == "IDF" {
        let one = w.scalar(DType::F32, 1.0);
        result = w.min(result, one)?;
    }
    match mode.as_str() {
        "IDF" | "TFIDF" if !weights.is_empty() => {
            let weights = w.known(Constant::f32s(&[1, weights.len()], &weights));
            result = w.mul(result, weights)?;
        }
        "TF" | "IDF" | "TFIDF" => {}
        mode => bail!("mode {mode:?} is not known"),
    }
    Ok(vec![if rows_given { result } else { w.reshape(result, &shape[1..])? }])
}

/// The n-grams that are counted, with the column of each. `counts` has the start of those of 1, 2, .. items in the
/// pool.
fn grams(
    pool: &[i64],
    counts: &[usize],
    columns: &[usize],
    sizes: &std::ops::RangeInclusive<usize>,
) -> Result<BTreeMap<Vec<i64>, usize>> {
    let mut grams = BTreeMap::new();
    let mut number = 0;
    for (index, &start) in counts.iter().enumerate() {
        let (size, end) = (index + 1, counts.get(index + 1).copied().unwrap_or(pool.len()));
        let Some(items) = pool.get(start..end) else {
            bail!("n-grams of {size} items lie at {start}..{end} of a pool of {}", pool.len());
        };
        for gram in items.chunks_exact(size) {
            let Some(&column) = columns.get(number) else {
                bail!("n-gram {number} has no column");
            };
            number += 1;
            if sizes.contains(&size) {
                // Of equal n-grams the last one counts.
                grams.insert(gram.to_vec(), column);
            }
        }
    }
    Ok(grams)
}
