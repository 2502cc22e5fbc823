//! Rows of integers for shapes: as constants, as inputs, or computed from the shapes of other values as exporters do.

use crate::{
    graph::{Graph, Spread, Var},
    proto::{int, ints},
    value::{Dim, Facts, RUNS, Type},
};

/// An integer in each run.
pub(crate) type Number = [i64; RUNS];

/// Largest integer in shape arithmetic.
const NUMBER_MAX: i64 = 4096;

/// The source of a number.
#[derive(Clone, Copy, Debug)]
enum Source {
    /// A dimension of a value.
    Dim(Var, usize),
    /// An element of a row or a scalar.
    Element(Var, usize),
}

/// How a number is computed from others.
#[derive(Clone, Copy, Debug)]
enum Way {
    Fixed(i64),
    Plain(Source),
    /// Plus a number.
    Plus(Source, i64),
    /// A number minus it.
    From(i64, Source),
    Times(Source, i64),
    /// Plus a number, then divided by one, then plus one.
    Over(Source, i64, i64, i64),
    Sum(Source, Source),
    Product(Source, Source),
    Less(Source, Source),
    /// The larger one.
    Most(Source, i64),
    /// The smaller one.
    Least(Source, i64),
}

fn both(of: impl Fn(usize) -> i64) -> Number {
    let mut number = [0; RUNS];
    for (run, number) in number.iter_mut().enumerate() {
        *number = of(run);
    }
    number
}

/// The sizes of dimensions.
pub(crate) fn numbers(dims: &[Dim]) -> Option<Vec<Number>> {
    dims.iter().map(|dim| Some(dim.sizes()?.map(|size| size as i64))).collect()
}

fn facts(numbers: &[Number]) -> Facts {
    let all = || numbers.iter().flatten().map(|&number| number as f64);
    let mut rows: [Vec<i64>; RUNS] = Default::default();
    for (run, row) in rows.iter_mut().enumerate() {
        *row = numbers.iter().map(|number| number[run]).collect();
    }
    Facts {
        numbers: Some(rows),
        ..Facts::whole(all().reduce(f64::min).unwrap_or(0.0), all().reduce(f64::max).unwrap_or(0.0))
    }
}

impl Graph {
    /// The numbers of a row or scalar in each run.
    pub fn known(&self, var: Var) -> Option<Vec<Number>> {
        let rows = self.value(var).facts.numbers.as_ref()?;
        (rows[0].len() == rows[RUNS - 1].len())
            .then(|| (0..rows[0].len()).map(|at| both(|run| rows[run][at])).collect())
    }

    fn integer_node(
        &mut self,
        op: &str,
        inputs: &[Var],
        numbers: &[Number],
        rank: usize,
    ) -> Option<Var> {
        self.made(op, inputs, vec![], numbers, rank)
    }

    fn made(
        &mut self,
        op: &str,
        inputs: &[Var],
        attributes: Vec<tract_onnx::pb::AttributeProto>,
        numbers: &[Number],
        rank: usize,
    ) -> Option<Var> {
        let shape = if rank == 0 { vec![] } else { vec![Dim::Fixed(numbers.len())] };
        self.one(op, inputs, attributes, (Type::I64, shape, facts(numbers)))
    }

    /// A row of these numbers, made in one of many ways.
    pub fn row_of(&mut self, wanted: &[Number]) -> Option<Var> {
        let is_same = wanted.iter().all(|number| number.iter().all(|one| *one == number[0]));
        if is_same && self.rng.percent(45) {
            let row: Vec<i64> = wanted.iter().map(|number| number[0]).collect();
            return self.row(&row);
        }
        if self.depth == 0 && self.rng.percent(12) {
            let mut data: [Vec<f64>; RUNS] = Default::default();
            for (run, data) in data.iter_mut().enumerate() {
                *data = wanted.iter().map(|number| number[run] as f64).collect();
            }
            return self.input(Type::I64, vec![Dim::Fixed(wanted.len())], Spread::Exactly(data));
        }
        if self.rng.percent(50)
            && let Some(row) = self.attempt(|g| g.row_of_shape(wanted))
        {
            return Some(row);
        }
        let row = self.attempt(|g| {
            let parts =
                wanted.iter().map(|&number| g.element(number)).collect::<Option<Vec<_>>>()?;
            g.joined(&parts, wanted)
        });
        row.or_else(|| self.attempt(|g| g.row_of_shape(wanted)))
    }

    /// The same for sizes.
    pub fn row_of_dims(&mut self, dims: &[Dim]) -> Option<Var> {
        let wanted = numbers(dims)?;
        self.row_of(&wanted)
    }

    fn joined(&mut self, parts: &[Var], wanted: &[Number]) -> Option<Var> {
        match parts {
            [] => self.row(&[]),
            &[only] if self.rng.percent(70) => Some(only),
            _ => self.made("Concat", parts, vec![int("axis", 0)], wanted, 1),
        }
    }

    /// The shape of a value whose shape is this row, or a part of it.
    fn row_of_shape(&mut self, wanted: &[Number]) -> Option<Var> {
        let starts = |shape: &[Dim]| -> Vec<usize> {
            let Some(sizes) = numbers(shape) else { return Vec::new() };
            let last = sizes.len().checked_sub(wanted.len());
            last.map_or(Vec::new(), |last| {
                (0..=last).filter(|&at| sizes[at..at + wanted.len()] == *wanted).collect()
            })
        };
        if wanted.is_empty() {
            return self.row(&[]);
        }
        let x = self.find(|value| !starts(&value.shape).is_empty())?;
        let shape = self.shape(x);
        let places = starts(&shape);
        let start = self.rng.pick(&places);
        let end = start + wanted.len();
        if start == 0 && end == shape.len() {
            return self.made("Shape", &[x], vec![], wanted, 1);
        }
        if self.opset >= 15 && self.rng.percent(40) {
            let attributes = vec![int("start", start as i64), int("end", end as i64)];
            return self.made("Shape", &[x], attributes, wanted, 1);
        }
        let all = numbers(&shape)?;
        let row = self.made("Shape", &[x], vec![], &all, 1)?;
        self.part(row, start, end, wanted)
    }

    /// A part of a row.
    fn part(&mut self, row: Var, start: usize, end: usize, wanted: &[Number]) -> Option<Var> {
        if self.rng.percent(40) {
            let places: Vec<i64> = (start..end).map(|at| at as i64).collect();
            let places = self.row(&places)?;
            return self.made("Gather", &[row, places], vec![int("axis", 0)], wanted, 1);
        }
        if self.opset < 10 {
            let attributes =
                vec![ints("starts", [start as i64]), ints("ends", [end as i64]), ints("axes", [0])];
            return self.made("Slice", &[row], attributes, wanted, 1);
        }
        let (starts, ends) = (self.row(&[start as i64])?, self.row(&[end as i64])?);
        self.made("Slice", &[row, starts, ends], vec![], wanted, 1)
    }

    /// A row of one number.
    pub fn element(&mut self, wanted: Number) -> Option<Var> {
        let way = self.way(wanted)?;
        let rank = self.rng.below(2);
        let var = self.follow(way, wanted, rank)?;
        if rank == 1 {
            return Some(var);
        }
        self.as_row(var, wanted)
    }

    /// A number of rank 0.
    pub fn number(&mut self, wanted: Number) -> Option<Var> {
        let way = self.way(wanted)?;
        self.follow(way, wanted, 0)
    }

    fn as_row(&mut self, var: Var, number: Number) -> Option<Var> {
        if self.opset < 13 {
            return self.made("Unsqueeze", &[var], vec![ints("axes", [0])], &[number], 1);
        }
        let axes = self.row(&[0])?;
        if self.rng.percent(30) {
            let shape = self.row(&[1])?;
            return self.integer_node("Reshape", &[var, shape], &[number], 1);
        }
        self.integer_node("Unsqueeze", &[var, axes], &[number], 1)
    }

    fn sources(&self) -> Vec<(Source, Number)> {
        let mut sources = Vec::new();
        for &var in self.visible.iter().rev().take(24) {
            let value = self.value(var);
            if !value.shape.iter().all(|dim| matches!(dim, Dim::Fixed(_))) {
                // The importer must be able to tell how many numbers there are.
                let dims = value.shape.iter().enumerate();
                sources.extend(dims.filter_map(|(axis, dim)| {
                    let sizes = dim.sizes()?.map(|size| size as i64);
                    Some((Source::Dim(var, axis), sizes))
                }));
                continue;
            }
            for (axis, dim) in value.shape.iter().enumerate() {
                if let Some(sizes) = dim.sizes() {
                    sources.push((Source::Dim(var, axis), sizes.map(|size| size as i64)));
                }
            }
            if value.of == Type::I64
                && let Some(numbers) = self.known(var)
            {
                let elements = numbers.into_iter().enumerate();
                sources.extend(elements.map(|(at, number)| (Source::Element(var, at), number)));
            }
        }
        sources.retain(|(_, number)| number.iter().all(|one| one.abs() <= NUMBER_MAX));
        sources
    }

    /// One of the ways to compute a number.
    fn way(&mut self, wanted: Number) -> Option<Way> {
        // A number that may be a marker must be recognizable as one.
        if wanted.iter().all(|one| *one == wanted[0] && *one <= 0) {
            return Some(Way::Fixed(wanted[0]));
        }
        let sources = self.sources();
        let mut ways = Vec::new();
        let mut try_one = |way: Way, number: Number| {
            if number == wanted {
                ways.push(way);
            }
        };
        for &(source, number) in &sources {
            try_one(Way::Plain(source), number);
            let more = wanted[0] - number[0];
            if more != 0 && more.abs() < 16 {
                try_one(Way::Plus(source, more), both(|run| number[run] + more));
            }
            let sum = wanted[0] + number[0];
            if sum.abs() < 16 {
                try_one(Way::From(sum, source), both(|run| sum - number[run]));
            }
            if number[0] > 0 && wanted[0] % number[0] == 0 {
                let by = wanted[0] / number[0];
                try_one(Way::Times(source, by), both(|run| number[run] * by));
            }
            for by in 2..5 {
                for before in 0..by {
                    for after in -1..2 {
                        let made = both(|run| (number[run] + before) / by + after);
                        if number.iter().all(|&number| number >= 0) {
                            try_one(Way::Over(source, before, by, after), made);
                        }
                    }
                }
            }
            if self.opset >= 12 {
                let bound = both(|run| wanted[run].max(number[run]));
                if bound != number {
                    let most = wanted.into_iter().min().unwrap_or(0);
                    try_one(Way::Most(source, most), both(|run| number[run].max(most)));
                }
                let least = wanted.into_iter().max().unwrap_or(0);
                try_one(Way::Least(source, least), both(|run| number[run].min(least)));
            }
        }
        for &(a, first) in sources.iter().take(24) {
            for &(b, second) in sources.iter().take(24) {
                try_one(Way::Sum(a, b), both(|run| first[run] + second[run]));
                try_one(Way::Product(a, b), both(|run| first[run] * second[run]));
                try_one(Way::Less(a, b), both(|run| first[run] - second[run]));
            }
        }
        let same = wanted.iter().all(|one| *one == wanted[0]);
        if same && (ways.is_empty() || self.rng.percent(60)) {
            return Some(Way::Fixed(wanted[0]));
        }
        if ways.is_empty() { None } else { Some(self.rng.pick(&ways)) }
    }

    fn follow(&mut self, way: Way, wanted: Number, rank: usize) -> Option<Var> {
        let read = |g: &mut Graph, source: Source| g.read(source, rank);
        let fixed = |g: &mut Graph, number: i64| match rank {
            0 => g.scalar(Type::I64, number as f64),
            _ => g.row(&[number]),
        };
        match way {
            Way::Fixed(number) => fixed(self, number),
            Way::Plain(source) => Some(read(self, source)?.0),
            Way::Plus(source, more) => {
                let (a, _) = read(self, source)?;
                if more < 0 && self.rng.percent(50) {
                    let b = fixed(self, -more)?;
                    return self.integer_node("Sub", &[a, b], &[wanted], rank);
                }
                let b = fixed(self, more)?;
                let inputs = if self.rng.percent(50) { [a, b] } else { [b, a] };
                self.integer_node("Add", &inputs, &[wanted], rank)
            }
            Way::From(sum, source) => {
                let (b, _) = read(self, source)?;
                let a = fixed(self, sum)?;
                self.integer_node("Sub", &[a, b], &[wanted], rank)
            }
            Way::Times(source, by) => {
                let (a, number) = read(self, source)?;
                if self.rng.percent(30) {
                    return self.through_floats(a, number, by as f64, wanted, rank);
                }
                let b = fixed(self, by)?;
                self.integer_node("Mul", &[a, b], &[wanted], rank)
            }
            Way::Over(source, before, by, after) => {
                let (mut a, mut number) = read(self, source)?;
                if before != 0 {
                    let b = fixed(self, before)?;
                    number = both(|run| number[run] + before);
                    a = self.integer_node("Add", &[a, b], &[number], rank)?;
                }
                let quotient = both(|run| number[run] / by);
                a = if matches!(by, 2 | 4) && self.rng.percent(30) {
                    self.through_floats(a, number, 1.0 / by as f64, quotient, rank)?
                } else {
                    let b = fixed(self, by)?;
                    self.integer_node("Div", &[a, b], &[quotient], rank)?
                };
                if after == 0 {
                    return Some(a);
                }
                let b = fixed(self, after)?;
                self.integer_node("Add", &[a, b], &[wanted], rank)
            }
            Way::Sum(a, b) => self.two("Add", a, b, wanted, rank),
            Way::Product(a, b) => self.two("Mul", a, b, wanted, rank),
            Way::Less(a, b) => self.two("Sub", a, b, wanted, rank),
            Way::Most(source, most) => {
                let (a, _) = read(self, source)?;
                let b = fixed(self, most)?;
                self.integer_node("Max", &[a, b], &[wanted], rank)
            }
            Way::Least(source, least) => {
                let (a, _) = read(self, source)?;
                let b = fixed(self, least)?;
                self.integer_node("Min", &[a, b], &[wanted], rank)
            }
        }
    }

    fn two(&mut self, op: &str, a: Source, b: Source, wanted: Number, rank: usize) -> Option<Var> {
        let (a, b) = (self.read(a, rank)?.0, self.read(b, rank)?.0);
        self.integer_node(op, &[a, b], &[wanted], rank)
    }

    /// The number times a factor as a float, rounded down, as exporters scale sizes.
    fn through_floats(
        &mut self,
        a: Var,
        number: Number,
        factor: f64,
        wanted: Number,
        rank: usize,
    ) -> Option<Var> {
        let shape = if rank == 0 { vec![] } else { vec![Dim::Fixed(1)] };
        let float = |number: Number, factor: f64| {
            let all = number.map(|number| number as f64 * factor);
            Facts { grid: Some(2), ..Facts::between(all[0].min(all[1]), all[0].max(all[1])) }
        };
        let to = vec![int("to", Type::F32.in_file() as i64)];
        let x = self.one("Cast", &[a], to, (Type::F32, shape.clone(), float(number, 1.0)))?;
        let by = self.scalar(Type::F32, factor)?;
        let scaled = float(number, factor);
        let mut x = self.one("Mul", &[x, by], vec![], (Type::F32, shape.clone(), scaled))?;
        if self.rng.percent(60) {
            let whole = float(wanted, 1.0);
            x = self.one("Floor", &[x], vec![], (Type::F32, shape.clone(), whole))?;
        }
        let to = vec![int("to", Type::I64.in_file() as i64)];
        self.made("Cast", &[x], to, &[wanted], rank)
    }

    /// One number, of rank 0 or as a row.
    fn read(&mut self, source: Source, rank: usize) -> Option<(Var, Number)> {
        let (row, numbers, at) = match source {
            Source::Dim(x, axis) => {
                let all = numbers(&self.shape(x))?;
                let only = both(|run| all.iter().map(|number| number[run]).product());
                if all.len() == 1 && rank == 0 && self.rng.percent(40) {
                    return Some((self.integer_node("Size", &[x], &[only], 0)?, only));
                }
                (self.made("Shape", &[x], vec![], &all, 1)?, all, axis)
            }
            Source::Element(var, at) => {
                let numbers = self.known(var)?;
                if numbers.len() == 1 && self.rank(var) == rank {
                    return Some((var, numbers[0]));
                }
                if self.rank(var) == 0 {
                    let number = numbers[0];
                    return Some((self.as_row(var, number)?, number));
                }
                (var, numbers, at)
            }
        };
        let number = *numbers.get(at)?;
        if number.iter().any(|number| number.abs() > NUMBER_MAX) {
            return None;
        }
        if rank == 1 {
            return Some((self.part(row, at, at + 1, &[number])?, number));
        }
        let place = if self.rng.percent(20) { at as i64 - numbers.len() as i64 } else { at as i64 };
        let place = if self.opset < 11 { at as i64 } else { place };
        let place = self.scalar(Type::I64, place as f64)?;
        Some((self.made("Gather", &[row, place], vec![int("axis", 0)], &[number], 0)?, number))
    }
}
