//! Operators on categories: numbers, or texts of a table that is known when the model is loaded.

use std::collections::{HashMap, hash_map::Entry};

use anyhow::{Context as _, Result, bail, ensure};
use flotilla_program::{ArgReduce, Binary, Check, Op, ReduceKind, Step, Test, dim::Dim};
use flotilla_tensor::DType;

use crate::import::onnx::{
    constant::Constant,
    facts::{Strings, Var},
    wiring::{Wire, Wiring},
};

pub(super) const OPERATORS: &[(&str, Wire)] = &[
    ("CategoryMapper", category_mapper),
    ("LabelEncoder", label_encoder),
    ("OneHotEncoder", one_hot_encoder),
];

/// Keys or values of a table.
enum Column {
    Texts(Vec<String>),
    Numbers(Constant),
}

impl Column {
    fn count(&self) -> usize {
        match self {
            Column::Texts(texts) => texts.len(),
            Column::Numbers(numbers) => numbers.data.elements(),
        }
    }

    fn texts(texts: &[&str]) -> Column {
        Column::Texts(texts.iter().map(|&text| text.to_owned()).collect())
    }

    /// The only given attribute of a column, with the ends that its names may have.
    fn of(w: &Wiring<'_, '_>, name: &str) -> Result<Column> {
        let mut found = Vec::new();
        if let Some(texts) = w.texts(&format!("{name}_strings"))? {
            found.push(Column::texts(&texts));
        }
        if let Some(ints) = w.ints(&format!("{name}_int64s"))? {
            found.push(Column::Numbers(Constant::i64s(&[ints.len()], &ints)));
        }
        if let Some(floats) = w.floats(&format!("{name}_floats"))? {
            found.push(Column::Numbers(Constant::f32s(&[floats.len()], &floats)));
        }
        if let Some(tensor) = w.tensor(&format!("{name}_tensor"))? {
            found.push(Column::flat(tensor));
        }
        ensure!(found.len() < 2, "it has {} attributes of {name}, one is allowed", found.len());
        found.pop().with_context(|| format!("it has no {name}"))
    }

    fn flat(tensor: Constant) -> Column {
        let count = tensor.data.elements();
        match tensor.strings {
            Some(strings) => {
                let numbers = tensor.data.dtype.decode_numbers(&tensor.data.bytes);
                let texts = numbers.into_iter().filter_map(|at| strings.get(at as usize).cloned());
                Column::Texts(texts.collect())
            }
            None => Column::Numbers(Constant { shape: vec![count], ..tensor }),
        }
    }
}

/// Which of the equal keys of a table counts.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Equal {
    First,
    Last,
}

/// For each element the value of the key that it is equal to; `default` if there is none.
fn looked_up(
    w: &mut Wiring<'_, '_>,
    keys: &Column,
    values: Column,
    default: Column,
    equal: Equal,
) -> Result<Var> {
    let x = w.input(0)?;
    ensure!(keys.count() == values.count(), "{} keys and {} values", keys.count(), values.count());
    ensure!(default.count() == 1, "{} default values, one is needed", default.count());
    // The place of the value, or that of the default value behind the values.
    let places = match (keys, w.fact(x).strings.clone()) {
        (Column::Texts(keys), Some(strings)) => {
            let mut places = HashMap::with_capacity(keys.len());
            for (place, key) in keys.iter().enumerate() {
                match places.entry(key.as_str()) {
                    Entry::Occupied(_) if equal == Equal::First => {}
                    entry => drop(entry.insert_entry(place as i64)),
                }
            }
            let missing = keys.len() as i64;
            let found = strings.iter().map(|text| *places.get(text.as_str()).unwrap_or(&missing));
            let found: Vec<i64> = found.collect();
            let found = w.known(Constant::i64s(&[found.len()], &found));
            let indices = w.walk.indices_of(x);
            w.gather(0, found, indices)?
        }
        (Column::Numbers(keys), None) => place_of(w, x, keys, equal)?,
        (Column::Texts(_), None) => bail!("its keys are texts, and its operand has numbers"),
        (Column::Numbers(_), Some(_)) => bail!("its keys are numbers, and its operand has texts"),
    };
    match (values, default) {
        (Column::Texts(mut values), Column::Texts(default)) => {
            values.extend(default);
            Ok(w.walk.strings_at(places, Strings::from(values)))
        }
        (Column::Numbers(values), Column::Numbers(default)) => {
            ensure!(
                values.data.dtype == default.data.dtype,
                "values of type {:?} and a default value of type {:?}",
                values.data.dtype,
                default.data.dtype
            );
            let bytes = [values.data.bytes.as_ref(), default.data.bytes.as_ref()].concat();
            let count = values.data.elements() + 1;
            let table = w.known(Constant::new(values.data.dtype, &[count], bytes));
            w.gather(0, table, places)
        }
        _ => bail!("the values and the default value are of different kinds"),
    }
}

/// The place of each number among the keys, or their number.
fn place_of(w: &mut Wiring<'_, '_>, x: Var, keys: &Constant, equal: Equal) -> Result<Var> {
    let (shape, dtype, count) = (w.shape(x), w.dtype(x), keys.data.elements());
    ensure!(
        dtype.is_float() == keys.data.dtype.is_float(),
        "keys of type {:?} and an operand of type {dtype:?}",
        keys.data.dtype
    );
    let missing = w.integer(count as i64);
    if count == 0 {
        return w.broadcast_to(missing, &shape);
    }
    let rank = shape.len();
    // The wider type of each kind holds both.
    let wide = if dtype.is_float() { DType::F32 } else { DType::I64 };
    let keys = w.known(keys.clone());
    let (x, keys) = (w.cast(x, wide)?, w.cast(keys, wide)?);
    let wide = w.unsqueeze(x, rank)?;
    let same = equal_to(w, wide, keys)?;
    let found = w.cast(same, DType::I32)?;
    let any = w.reduce(ReduceKind::Max, found, &[rank], false)?;
    let any = w.cast(any, DType::Bool)?;
    let op = ArgReduce { axis: rank as u32, largest: true, last: equal == Equal::Last };
    let mut single = w.shape(found);
    single[rank] = Dim::Fixed(1);
    let place = w.op(Op::ArgReduce(op), &[found], DType::I64, single)?;
    let place = w.reshape(place, &shape)?;
    w.select(any, place, missing)
}

/// Whether numbers are equal, or both are no numbers.
fn equal_to(w: &mut Wiring<'_, '_>, a: Var, b: Var) -> Result<Var> {
    if !w.dtype(a).is_float() {
        return w.binary(Binary::Eq, a, b);
    }
    let steps = vec![
        Step::Input(0),
        Step::Input(1),
        Step::Binary(Binary::Eq, 0, 1),
        Step::Test(Test::Nan, 0),
        Step::Test(Test::Nan, 1),
        Step::Binary(Binary::And, 3, 4),
        Step::Binary(Binary::Or, 2, 5),
    ];
    w.expr(steps, &[a, b], DType::Bool)
}

/// Before version 2 of the domain, a list of texts with their positions in it.
fn label_encoder(w: &mut Wiring<'_, '_>) -> Result<Vec<Var>> {
    if w.opset < 2 {
        return Ok(vec![mapped(w, "classes_strings", None)?]);
    }
    let (keys, values) = (Column::of(w, "keys")?, Column::of(w, "values")?);
    let default = match (&values, w.tensor("default_tensor")?) {
        (_, Some(tensor)) => Column::flat(tensor),
        (Column::Texts(_), None) => {
            Column::texts(&[w.text("default_string")?.unwrap_or("_Unused")])
        }
        (Column::Numbers(values), None) if values.data.dtype.is_float() => {
            let number = w.float("default_float")?.unwrap_or(-0.0);
            let number = Constant::scalar(values.data.dtype, f64::from(number));
            Column::Numbers(number)
        }
        (Column::Numbers(values), None) => {
            let number = w.int("default_int64")?.unwrap_or(-1);
            let number = Constant::integer(number);
            ensure!(
                values.data.dtype == DType::I64,
                "values of type {:?} have no default_tensor",
                values.data.dtype
            );
            Column::Numbers(number)
        }
    };
    Ok(vec![looked_up(w, &keys, values, default, Equal::First)?])
}

fn category_mapper(w: &mut Wiring<'_, '_>) -> Result<Vec<Var>> {
    let ints = w.ints("cats_int64s")?.context("cats_int64s is missing")?;
    Ok(vec![mapped(w, "cats_strings", Some(ints))?])
}

/// Texts become their numbers, numbers become their texts: positions unless numbers are given.
fn mapped(w: &mut Wiring<'_, '_>, texts: &str, ints: Option<Vec<i64>>) -> Result<Var> {
    let x = w.input(0)?;
    let texts = w.texts(texts)?.with_context(|| format!("{texts} is missing"))?;
    let ints = ints.unwrap_or_else(|| (0..texts.len() as i64).collect());
    let numbers = Column::Numbers(Constant::i64s(&[ints.len()], &ints));
    let texts = Column::texts(&texts);
    if w.fact(x).strings.is_some() {
        let default = Constant::integer(w.int("default_int64")?.unwrap_or(-1));
        return looked_up(w, &texts, numbers, Column::Numbers(default), Equal::Last);
    }
    let default = Column::texts(&[w.text("default_string")?.unwrap_or("_Unused")]);
    looked_up(w, &numbers, texts, default, Equal::Last)
}

/// A new last dimension with 1 in the place of the category. If an unknown category is an error, each run checks that there is
/// none.
fn one_hot_encoder(w: &mut Wiring<'_, '_>) -> Result<Vec<Var>> {
    let x = w.input(0)?;
    let ints = w.ints("cats_int64s")?.filter(|ints| !ints.is_empty());
    let texts = w.texts("cats_strings")?.filter(|texts| !texts.is_empty());
    let keys = match (ints, texts) {
        (Some(ints), None) => Column::Numbers(Constant::i64s(&[ints.len()], &ints)),
        (None, Some(texts)) => Column::texts(&texts),
        (Some(_), Some(_)) => bail!("it has both cats_int64s and cats_strings"),
        (None, None) => bail!("it has neither cats_int64s nor cats_strings"),
    };
    let rank = w.rank(x);
    ensure!(rank <= 2, "an operand of {rank} dimensions, at most two are defined");
    let count = keys.count();
    let places = match (&keys, w.fact(x).strings.is_some()) {
        (Column::Texts(_), true) => {
            let positions: Vec<i64> = (0..count as i64).collect();
            let positions = Column::Numbers(Constant::i64s(&[count], &positions));
            let missing = Column::Numbers(Constant::integer(count as i64));
            looked_up(w, &keys, positions, missing, Equal::Last)?
        }
        (Column::Numbers(keys), false) => {
            let whole = w.cast(x, DType::I64)?;
            place_of(w, whole, keys, Equal::Last)?
        }
        (Column::Texts(_), false) => bail!("its categories are texts, and its operand has numbers"),
        (Column::Numbers(_), true) => {
            bail!("its categories are numbers, and its operand has texts")
        }
    };
    if w.int("zeros")?.unwrap_or(1) == 0 {
        expect_known(w, places, count)?;
    }
    let wide = w.unsqueeze(places, rank)?;
    let at = w.positions(&Dim::Fixed(count as i64))?;
    let is_on = w.binary(Binary::Eq, wide, at)?;
    Ok(vec![w.cast(is_on, DType::F32)?])
}

/// Makes runs fail in which some element has no category.
fn expect_known(w: &mut Wiring<'_, '_>, places: Var, count: usize) -> Result<()> {
    let missing = w.integer(count as i64);
    let unknown = w.binary(Binary::Eq, places, missing)?;
    let unknown = w.cast(unknown, DType::I32)?;
    let axes: Vec<usize> = (0..w.rank(unknown)).collect();
    let any = w.reduce(ReduceKind::Max, unknown, &axes, false)?;
    // Of no elements none is unknown.
    let zero = w.scalar(DType::I32, 0.0);
    let any = w.max(any, zero)?;
    let name = format!("{}.unknown", w.name);
    let left = w.walk.elements(any, &name, (0, 1))?.pop().context("it has no elements")?;
    w.walk.draft.decisive.push(Check {
        node: w.name.clone(),
        what: "whether there are unknown categories and whether they are allowed".to_owned(),
        left,
        right: Dim::Fixed(0),
    });
    Ok(())
}
