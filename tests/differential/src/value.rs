//! The facts of the generator about each value of a graph: its type, its shape in each run, and the range of its elements.

use flotilla_tensor::DType;
use tract_onnx::pb::tensor_proto::DataType;

/// How many runs a graph is made for; the sizes of their inputs differ.
pub const RUNS: usize = 2;

/// ONNX's element types that graphs use.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[expect(missing_docs, reason = "the names say it")]
pub enum Type {
    F32,
    F16,
    I8,
    U8,
    I32,
    I64,
    Bool,
}

impl Type {
    /// Every type.
    pub const ALL: [Type; 7] =
        [Type::F32, Type::F16, Type::I8, Type::U8, Type::I32, Type::I64, Type::Bool];

    /// The same type in a program.
    pub fn dtype(self) -> DType {
        match self {
            Type::F32 => DType::F32,
            Type::F16 => DType::F16,
            Type::I8 => DType::I8,
            Type::U8 => DType::U8,
            Type::I32 => DType::I32,
            Type::I64 => DType::I64,
            Type::Bool => DType::Bool,
        }
    }

    /// The same type in a file.
    pub fn in_file(self) -> DataType {
        match self {
            Type::F32 => DataType::Float,
            Type::F16 => DataType::Float16,
            Type::I8 => DataType::Int8,
            Type::U8 => DataType::Uint8,
            Type::I32 => DataType::Int32,
            Type::I64 => DataType::Int64,
            Type::Bool => DataType::Bool,
        }
    }

    /// Whether its elements may be fractions.
    pub fn is_float(self) -> bool {
        matches!(self, Type::F32 | Type::F16)
    }

    /// Whether its elements are integers.
    pub fn is_integer(self) -> bool {
        !self.is_float() && self != Type::Bool
    }

    /// The range of elements: integers that never wrap around, floats far from infinity.
    pub fn range(self) -> (f64, f64) {
        match self {
            Type::F32 => (-65536.0, 65536.0),
            Type::F16 => (-2048.0, 2048.0),
            Type::I8 => (-128.0, 127.0),
            Type::U8 => (0.0, 255.0),
            Type::I32 => (-f64::from(1 << 30), f64::from(1 << 30)),
            Type::I64 => (-(2f64.powi(45)), 2f64.powi(45)),
            Type::Bool => (0.0, 1.0),
        }
    }

    /// The nearest number of this type.
    pub fn nearest(self, number: f64) -> f64 {
        match self {
            Type::F16 => half::f16::from_f64(number).to_f64(),
            Type::F32 => f64::from(number as f32),
            _ => number,
        }
    }

    /// Bits of a float's significand.
    fn digits(self) -> i32 {
        match self {
            Type::F16 => 11,
            _ => 24,
        }
    }

    /// Rounding error of a result for each unit of its size: rounding to the nearest.
    pub fn roundoff(self) -> f64 {
        2f64.powi(-self.digits())
    }

    /// Largest allowed error of an element: less certain numbers would show nothing.
    fn error_max(self) -> f64 {
        match self {
            Type::F16 => 0.25,
            _ => 2e-3,
        }
    }
}

/// A dimension in every run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Dim {
    /// A number in the file, or computed from numbers in the file.
    Fixed(usize),
    /// Sizes that are known only in a run; they may be equal.
    Sizes([usize; RUNS]),
    /// A data-dependent number, which the generator does not know.
    Open {
        /// The same for dimensions that are equal.
        id: u32,
        /// The largest that it can be.
        most: usize,
    },
}

impl Dim {
    /// Its size in each run, if that is known.
    pub fn sizes(self) -> Option<[usize; RUNS]> {
        match self {
            Dim::Fixed(size) => Some([size; RUNS]),
            Dim::Sizes(sizes) => Some(sizes),
            Dim::Open { .. } => None,
        }
    }

    /// One size for all runs.
    pub fn same_size(self) -> Option<usize> {
        self.sizes()
            .filter(|sizes| sizes.iter().all(|size| *size == sizes[0]))
            .map(|sizes| sizes[0])
    }

    /// The largest size.
    pub fn most(self) -> usize {
        match self {
            Dim::Fixed(size) => size,
            Dim::Sizes(sizes) => sizes.into_iter().max().unwrap_or(0),
            Dim::Open { most, .. } => most,
        }
    }

    /// The smallest size.
    pub fn least(self) -> usize {
        match self {
            Dim::Fixed(size) => size,
            Dim::Sizes(sizes) => sizes.into_iter().min().unwrap_or(0),
            Dim::Open { .. } => 0,
        }
    }

    /// Whether its size is not known here.
    pub fn is_open(self) -> bool {
        matches!(self, Dim::Open { .. })
    }

    /// A dimension computed from others; `None` if one is open, or if it would be negative.
    pub fn of(dims: &[Dim], number: impl Fn(&[i64]) -> i64) -> Option<Dim> {
        let sizes: Vec<[usize; RUNS]> =
            dims.iter().map(|dim| dim.sizes()).collect::<Option<_>>()?;
        let mut made = [0; RUNS];
        for (run, made) in made.iter_mut().enumerate() {
            let here: Vec<i64> = sizes.iter().map(|sizes| sizes[run] as i64).collect();
            *made = usize::try_from(number(&here)).ok()?;
        }
        let all_fixed = dims.iter().all(|dim| matches!(dim, Dim::Fixed(_)));
        Some(if all_fixed { Dim::Fixed(made[0]) } else { Dim::Sizes(made) })
    }

    /// Whether two are equal in every run.
    pub fn equals(self, other: Dim) -> bool {
        match (self.sizes(), other.sizes()) {
            (Some(a), Some(b)) => a == b,
            _ => self == other,
        }
    }
}

/// The number of elements.
pub fn count(shape: &[Dim]) -> Option<Dim> {
    Dim::of(shape, |sizes| sizes.iter().product())
}

/// The most elements of all runs.
pub fn count_most(shape: &[Dim]) -> usize {
    let of_run = |run: usize| -> usize {
        shape.iter().map(|dim| dim.sizes().map_or(dim.most(), |sizes| sizes[run])).product()
    };
    (0..RUNS).map(of_run).max().unwrap_or(0)
}

/// The common shape of two operands, if they have one in every run.
pub fn broadcast(a: &[Dim], b: &[Dim]) -> Option<Vec<Dim>> {
    let rank = a.len().max(b.len());
    let at = |shape: &[Dim], axis: usize| {
        (axis + shape.len()).checked_sub(rank).map_or(Dim::Fixed(1), |own| shape[own])
    };
    (0..rank).map(|axis| broadcast_dim(at(a, axis), at(b, axis))).collect()
}

fn broadcast_dim(a: Dim, b: Dim) -> Option<Dim> {
    match (a, b) {
        (Dim::Fixed(1), other) | (other, Dim::Fixed(1)) => return Some(other),
        (Dim::Fixed(size), other) | (other, Dim::Fixed(size))
            if other.same_size() == Some(size) =>
        {
            return Some(Dim::Fixed(size));
        }
        _ if a.equals(b) => return Some(a),
        _ => {}
    }
    let (of_a, of_b) = (a.sizes()?, b.sizes()?);
    let mut sizes = [0; RUNS];
    for (run, size) in sizes.iter_mut().enumerate() {
        *size = match (of_a[run], of_b[run]) {
            (1, other) | (other, 1) => other,
            (one, other) if one == other => one,
            _ => return None,
        };
    }
    Some(Dim::Sizes(sizes))
}

/// The facts about the elements of a value.
#[derive(Clone, Debug, PartialEq)]
pub struct Facts {
    /// No element is smaller.
    pub low: f64,
    /// No element is larger.
    pub high: f64,
    /// How far two right engines may be from the exact number.
    pub error: f64,
    /// Every element is a multiple of 2 to the power of minus this; sums and products of such floats are exact in any order.
    pub grid: Option<i32>,
    /// The elements themselves, if they are a few integers.
    pub numbers: Option<[Vec<i64>; RUNS]>,
}

impl Facts {
    /// Exact numbers, of which only the range is known.
    pub fn between(low: f64, high: f64) -> Facts {
        Facts { low, high, error: 0.0, grid: None, numbers: None }
    }

    /// Exact whole numbers.
    pub fn whole(low: f64, high: f64) -> Facts {
        Facts { grid: Some(0), ..Facts::between(low, high) }
    }

    /// Truth values.
    pub fn truth() -> Facts {
        Facts::whole(0.0, 1.0)
    }

    /// Numbers that two right engines compute slightly differently.
    pub fn about(low: f64, high: f64, error: f64) -> Facts {
        Facts { error: error.max(f64::from(f32::MIN_POSITIVE)), ..Facts::between(low, high) }
    }

    /// The same numbers at other positions.
    pub fn moved(&self) -> Facts {
        Facts { numbers: None, ..self.clone() }
    }

    /// Whether any two right engines give the same bits.
    pub fn is_exact(&self) -> bool {
        self.error == 0.0
    }

    /// The largest size of an element.
    pub fn size(&self) -> f64 {
        self.low.abs().max(self.high.abs())
    }

    /// Whether all elements lie between these.
    pub fn within(&self, low: f64, high: f64) -> bool {
        low <= self.low && self.high <= high
    }

    /// The facts about elements of which some are from one value and some from the other.
    pub fn or(&self, other: &Facts) -> Facts {
        Facts {
            low: self.low.min(other.low),
            high: self.high.max(other.high),
            error: self.error.max(other.error),
            grid: self.grid.zip(other.grid).map(|(a, b)| a.max(b)),
            numbers: None,
        }
    }

    fn joined(&self, other: &Facts, low: f64, high: f64) -> Facts {
        let grid = self.grid.zip(other.grid).map(|(a, b)| a.max(b));
        Facts { low, high, error: self.error + other.error, grid, numbers: None }.computed()
    }

    /// Results that are not known to be exact are rounded.
    fn computed(self) -> Facts {
        match self.grid {
            Some(_) => self,
            None => Facts::about(self.low, self.high, self.error),
        }
    }

    /// The facts about sums.
    pub fn plus(&self, other: &Facts) -> Facts {
        self.joined(other, self.low + other.low, self.high + other.high)
    }

    /// The facts about differences.
    pub fn minus(&self, other: &Facts) -> Facts {
        self.joined(other, self.low - other.high, self.high - other.low)
    }

    /// The facts about products.
    pub fn times(&self, other: &Facts) -> Facts {
        let corners = [
            self.low * other.low,
            self.low * other.high,
            self.high * other.low,
            self.high * other.high,
        ];
        Facts {
            low: corners.into_iter().fold(f64::INFINITY, f64::min),
            high: corners.into_iter().fold(f64::NEG_INFINITY, f64::max),
            error: self.size() * other.error + other.size() * self.error + self.error * other.error,
            grid: self.grid.zip(other.grid).map(|(a, b)| a + b),
            numbers: None,
        }
        .computed()
    }

    /// The facts about sums of at most this many.
    pub fn sum(&self, count: usize) -> Facts {
        let count = count as f64;
        let (low, high) = (self.low.min(0.0) * count, self.high.max(0.0) * count);
        // Partial sums are rounded, too.
        let rounding = if self.grid.is_some() && self.is_exact() {
            0.0
        } else {
            count * self.size() * count.max(1.0) * Type::F32.roundoff()
        };
        let error = self.error * count + rounding;
        Facts { low, high, error, grid: self.grid, numbers: None }.computed()
    }

    /// The facts after conversion to an element type: with rounding, and if it can be used. `None` if numbers may become too
    /// large or too uncertain.
    pub fn settled(mut self, of: Type) -> Option<Facts> {
        let (low, high) = of.range();
        if of == Type::Bool || of.is_integer() {
            self.grid = Some(0);
        }
        if self.error > 0.0 {
            self.grid = None;
        }
        let is_finite = self.low.is_finite() && self.high.is_finite();
        if !is_finite || !self.within(low, high) {
            return None;
        }
        if of.is_float() {
            let fits = self.grid.is_some_and(|grid| {
                grid <= 14 && self.size() * 2f64.powi(grid) <= 2f64.powi(of.digits())
            });
            if !fits && (self.grid.is_some() || self.error > 0.0) {
                self.grid = None;
                self.error += self.size() * of.roundoff();
            }
            if self.error > of.error_max() {
                return None;
            }
        }
        Some(self)
    }
}

/// A value of the graph.
#[derive(Clone, Debug)]
pub struct Value {
    /// Its name in the file.
    pub name: String,
    /// Type of its elements.
    pub of: Type,
    /// Its shape.
    pub shape: Vec<Dim>,
    /// The facts about its elements.
    pub facts: Facts,
    /// Its elements in each run, if the generator made them.
    pub data: Option<[Vec<f64>; RUNS]>,
    /// Whether its elements are in the file.
    pub is_constant: bool,
    /// Whether it is a sequence of tensors, about which nothing else is known.
    pub is_list: bool,
}

impl Value {
    /// The number of dimensions.
    pub fn rank(&self) -> usize {
        self.shape.len()
    }

    /// Whether the generator knows all sizes.
    pub fn is_sized(&self) -> bool {
        !self.shape.iter().any(|dim| dim.is_open())
    }

    /// Whether it has elements in every run.
    pub fn is_filled(&self) -> bool {
        self.is_sized() && self.shape.iter().all(|dim| dim.least() > 0)
    }

    /// Whether any two right engines give the same bits.
    pub fn is_exact(&self) -> bool {
        self.facts.is_exact()
    }
}
