//! A graph that is being generated: values, nodes, inputs with their numbers for each run.

use flotilla_tensor::encode;
use tract_onnx::pb::{AttributeProto, GraphProto, NodeProto, TensorProto, ValueInfoProto};

use crate::{
    proto::{self, Declared},
    random::Random,
    value::{Dim, Facts, RUNS, Type, Value, count_most},
};

/// Most elements of a value.
const ELEMENTS_MAX: usize = 1500;
/// Most dimensions of a value.
const RANK_MAX: usize = 6;
/// Longest row of integers whose numbers are tracked one by one.
const NUMBERS_MAX: usize = 8;
/// Most tries of a random search.
const TRIES: usize = 24;
/// Names of dimensions, without a meaning.
const SYMBOLS: [&str; 18] = [
    "N",
    "batch",
    "a b",
    "-1",
    "x / 2",
    "seq_len",
    "2*n",
    "past + 1",
    "0",
    "?",
    "None",
    "height",
    "unk__7",
    "ü",
    "min(a, b)",
    "batch_size",
    "3",
    "dim 0",
];

/// A value of the graph, by number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Var(u32);

impl Var {
    /// An operand that is left out.
    pub const NONE: Var = Var(u32::MAX);
}

/// The type, shape and facts of a result.
pub type Given = (Type, Vec<Dim>, Facts);

/// How random elements are generated.
#[derive(Clone, Debug)]
pub enum Spread {
    /// Multiples of 2 to the power of minus this.
    Grid(i32, f64, f64),
    /// Any floats.
    Plain(f64, f64),
    /// These numbers, in each run.
    Exactly([Vec<f64>; RUNS]),
}

impl Spread {
    /// Whole numbers.
    pub fn whole(low: i64, high: i64) -> Spread {
        Spread::Grid(0, low as f64, high as f64)
    }

    /// The same in every run.
    pub fn these(numbers: impl IntoIterator<Item = f64>) -> Spread {
        let numbers: Vec<f64> = numbers.into_iter().collect();
        Spread::Exactly([numbers.clone(), numbers])
    }
}

/// An input of the graph.
#[derive(Clone, Debug)]
pub struct Input {
    /// Its value; its data are the inputs of the runs.
    pub var: Var,
    /// Its shape in the file.
    pub declared: Vec<Declared>,
}

/// A graph that is being generated.
#[derive(Debug)]
pub struct Graph {
    /// The random number generator.
    pub rng: Random,
    /// Version of the operator set.
    pub opset: i64,
    /// Whether it cannot be loaded without an example of its inputs.
    pub needs_example: bool,
    /// Whether numbers may need 64 bits where we do not support them.
    pub is_wide: bool,
    /// Percentage of floats that have half precision.
    pub halves: usize,
    pub(crate) nodes: Vec<NodeProto>,
    pub(crate) initializers: Vec<TensorProto>,
    pub(crate) inputs: Vec<Input>,
    pub(crate) values: Vec<Value>,
    /// Values that later nodes may read.
    pub(crate) visible: Vec<Var>,
    symbols: Vec<(Dim, String)>,
    opened: u32,
    named: usize,
    /// Nesting depth of this graph.
    pub(crate) depth: usize,
}

impl Graph {
    /// An empty graph.
    pub fn new(rng: Random, opset: i64) -> Graph {
        Graph {
            rng,
            opset,
            needs_example: false,
            is_wide: false,
            halves: 0,
            nodes: Vec::new(),
            initializers: Vec::new(),
            inputs: Vec::new(),
            values: Vec::new(),
            visible: Vec::new(),
            symbols: Vec::new(),
            opened: 0,
            named: 0,
            depth: 0,
        }
    }

    /// A value with its facts.
    pub fn value(&self, var: Var) -> &Value {
        &self.values[var.0 as usize]
    }

    /// A value by its position in the order of creation.
    pub(crate) fn var(&self, index: usize) -> Var {
        Var(index as u32)
    }

    /// Type of its elements.
    pub fn of(&self, var: Var) -> Type {
        self.value(var).of
    }

    /// Its shape.
    pub fn shape(&self, var: Var) -> Vec<Dim> {
        self.value(var).shape.clone()
    }

    /// The number of dimensions.
    pub fn rank(&self, var: Var) -> usize {
        self.value(var).rank()
    }

    /// The facts about its elements.
    pub fn facts(&self, var: Var) -> Facts {
        self.value(var).facts.clone()
    }

    /// Its name in the file; empty for an operand that is left out.
    pub fn name(&self, var: Var) -> String {
        if var == Var::NONE { String::new() } else { self.value(var).name.clone() }
    }

    /// Does work that may fail; then its changes are undone.
    pub fn attempt<T>(&mut self, work: impl FnOnce(&mut Graph) -> Option<T>) -> Option<T> {
        let lengths = [
            self.nodes.len(),
            self.initializers.len(),
            self.inputs.len(),
            self.values.len(),
            self.visible.len(),
            self.symbols.len(),
        ];
        let flags = (self.needs_example, self.is_wide);
        let done = work(self);
        if done.is_none() {
            let [nodes, initializers, inputs, values, visible, symbols] = lengths;
            self.nodes.truncate(nodes);
            self.initializers.truncate(initializers);
            self.inputs.truncate(inputs);
            self.values.truncate(values);
            self.visible.truncate(visible);
            self.symbols.truncate(symbols);
            (self.needs_example, self.is_wide) = flags;
        }
        done
    }

    fn fresh_name(&mut self, kind: &str) -> String {
        self.named += 1;
        format!("{kind}{}", self.named)
    }

    pub(crate) fn add(&mut self, value: Value) -> Var {
        self.values.push(value);
        let var = Var(self.values.len() as u32 - 1);
        self.visible.push(var);
        var
    }

    /// A data-dependent dimension of at most this size.
    pub fn open_dim(&mut self, most: usize) -> Dim {
        self.opened += 1;
        Dim::Open { id: self.opened, most }
    }

    /// Adds a node; `None` where a result would be too large or too uncertain.
    pub fn node(
        &mut self,
        op: &str,
        inputs: &[Var],
        attributes: Vec<AttributeProto>,
        outputs: Vec<Given>,
    ) -> Option<Vec<Var>> {
        let mut vars = Vec::new();
        for (of, shape, facts) in outputs {
            if shape.len() > RANK_MAX || count_most(&shape) > ELEMENTS_MAX {
                return None;
            }
            let facts = facts.settled(of)?;
            let kind = self.rng.pick(&["v", "v", "/block/", "T ", "x.", "y:"]);
            let name = self.fresh_name(kind);
            vars.push(self.add(Value {
                name,
                of,
                shape,
                facts,
                data: None,
                is_constant: false,
                is_list: false,
            }));
        }
        let mut input: Vec<String> = inputs.iter().map(|&var| self.name(var)).collect();
        while input.last().is_some_and(String::is_empty) {
            input.pop();
        }
        let name = if self.rng.percent(30) { String::new() } else { self.fresh_name("n") };
        self.nodes.push(NodeProto {
            op_type: op.to_owned(),
            name,
            input,
            output: vars.iter().map(|&var| self.name(var)).collect(),
            attribute: attributes,
            ..NodeProto::default()
        });
        Some(vars)
    }

    /// A node with one result.
    pub fn one(
        &mut self,
        op: &str,
        inputs: &[Var],
        attributes: Vec<AttributeProto>,
        (of, shape, facts): Given,
    ) -> Option<Var> {
        Some(self.node(op, inputs, attributes, vec![(of, shape, facts)])?[0])
    }

    /// Adds a subgraph; its values are not visible outside. `work` returns the results.
    pub fn within(
        &mut self,
        parameters: Vec<ValueInfoProto>,
        work: impl FnOnce(&mut Graph) -> Option<Vec<Var>>,
    ) -> Option<(GraphProto, Vec<Var>)> {
        let outer_nodes = std::mem::take(&mut self.nodes);
        let outer_initializers = std::mem::take(&mut self.initializers);
        let visible = self.visible.len();
        self.depth += 1;
        let results = work(self);
        self.depth -= 1;
        let results = results.and_then(|results| self.as_own_results(results));
        let node = std::mem::replace(&mut self.nodes, outer_nodes);
        let mut initializer = std::mem::replace(&mut self.initializers, outer_initializers);
        self.visible.truncate(visible);
        let results = results?;
        if self.rng.percent(40) {
            self.initializers.append(&mut initializer);
        }
        let output = results.iter().map(|&var| self.port(var, true)).collect();
        let name = self.fresh_name("body");
        let graph = GraphProto {
            node,
            name,
            initializer,
            input: parameters,
            output,
            ..GraphProto::default()
        };
        Some((graph, results))
    }

    /// Results of a graph must come from its own nodes.
    fn as_own_results(&mut self, results: Vec<Var>) -> Option<Vec<Var>> {
        let mut own = Vec::new();
        for var in results {
            let name = self.name(var);
            let made = self.nodes.iter().any(|node| node.output.contains(&name));
            own.push(if made && !own.contains(&var) { var } else { self.identity(var)? });
        }
        Some(own)
    }

    /// The same value under another name.
    pub fn identity(&mut self, var: Var) -> Option<Var> {
        let (of, shape, facts) = (self.of(var), self.shape(var), self.facts(var));
        self.one("Identity", &[var], vec![], (of, shape, facts))
    }

    /// A parameter of this subgraph.
    pub fn parameter(&mut self, of: Type, shape: Vec<Dim>, facts: Facts) -> Var {
        let name = self.fresh_name("p");
        self.add(Value { name, of, shape, facts, data: None, is_constant: false, is_list: false })
    }

    /// The declaration of a value, with its rank or without.
    pub fn port(&self, var: Var, ranked: bool) -> ValueInfoProto {
        let value = self.value(var);
        let shape = vec![Declared::Nothing; value.rank()];
        proto::port(&value.name, value.of, ranked.then_some(shape.as_slice()))
    }

    /// A result of an earlier node, an input or a constant; preferably a recent one.
    pub fn find(&mut self, want: impl Fn(&Value) -> bool) -> Option<Var> {
        let fitting: Vec<Var> =
            self.visible.iter().copied().filter(|&var| want(self.value(var))).collect();
        let last = fitting.len().min(5);
        match last {
            0 => None,
            _ if self.rng.percent(60) => Some(fitting[fitting.len() - 1 - self.rng.below(last)]),
            _ => Some(fitting[self.rng.below(fitting.len())]),
        }
    }

    /// A value of one of these types that satisfies `want`: an existing one, or a new input.
    pub fn value_of(&mut self, types: &[Type], want: impl Fn(&Value) -> bool) -> Option<Var> {
        if self.rng.percent(88)
            && let Some(var) = self.find(|value| types.contains(&value.of) && want(value))
        {
            return Some(var);
        }
        for _ in 0..TRIES {
            let mut of = self.rng.pick(types);
            if types.contains(&Type::F16) && of.is_float() {
                of = if self.rng.percent(self.halves) { Type::F16 } else { of };
            }
            let rank = self.rng.pick(&[0, 1, 1, 2, 2, 3, 3, 4, 4, 5]);
            let shape = self.any_shape(rank);
            if count_most(&shape) > ELEMENTS_MAX {
                continue;
            }
            let trial = self.attempt(|g| {
                let spread = g.usual(of);
                let var = g.input(of, shape, spread)?;
                want(g.value(var)).then_some(var)
            });
            if trial.is_some() {
                return trial;
            }
        }
        None
    }

    /// Typical numbers of models.
    pub fn usual(&mut self, of: Type) -> Spread {
        match of {
            Type::F32 => match self.rng.below(10) {
                0..7 => Spread::Grid(3, -4.0, 4.0),
                7 | 8 => Spread::Plain(-3.0, 3.0),
                _ => Spread::Grid(0, -9.0, 9.0),
            },
            Type::F16 => match self.rng.below(4) {
                0..3 => Spread::Grid(2, -3.0, 3.0),
                _ => Spread::Plain(-2.0, 2.0),
            },
            Type::I8 if self.rng.percent(30) => Spread::whole(-128, 127),
            Type::U8 if self.rng.percent(30) => Spread::whole(0, 255),
            Type::I8 => Spread::whole(-10, 10),
            Type::U8 => Spread::whole(0, 15),
            Type::I32 if self.rng.percent(10) => Spread::whole(-1_000_000, 1_000_000),
            Type::I64 if self.rng.percent(4) => {
                self.is_wide = true;
                Spread::whole(-(1 << 34), 1 << 34)
            }
            Type::I32 | Type::I64 => Spread::whole(-12, 12),
            Type::Bool => Spread::whole(0, 1),
        }
    }

    /// Whether sums or products of many numbers of a type may be used. For 64-bit integers they are rare, because we may bound
    /// their operands.
    pub fn sums(&mut self, of: Type) -> Option<()> {
        if of == Type::I64 {
            if self.rng.percent(75) {
                return None;
            }
            self.is_wide = true;
        }
        Some(())
    }

    /// A size for each run, or one for all.
    pub fn any_dim(&mut self) -> Dim {
        let known: Vec<Dim> = self.symbols.iter().map(|(dim, _)| *dim).collect();
        if !known.is_empty() && self.rng.percent(60) {
            return self.rng.pick(&known);
        }
        if self.rng.percent(35) {
            return Dim::Fixed(self.rng.pick(&[1, 1, 2, 3, 4, 5, 6]));
        }
        let size = |rng: &mut Random| match rng.below(100) {
            0 | 1 => 0,
            _ => rng.between(1, 7) as usize,
        };
        let dim = Dim::Sizes([size(&mut self.rng), size(&mut self.rng)]);
        self.symbol(dim);
        dim
    }

    /// A shape of such dimensions.
    pub fn any_shape(&mut self, rank: usize) -> Vec<Dim> {
        (0..rank).map(|_| self.any_dim()).collect()
    }

    /// The name of a dimension with these sizes; sometimes a second one.
    fn symbol(&mut self, dim: Dim) -> String {
        let known: Vec<&(Dim, String)> =
            self.symbols.iter().filter(|(known, _)| known.equals(dim)).collect();
        if !known.is_empty() && !self.rng.percent(12) {
            return known[self.rng.below(known.len())].1.clone();
        }
        let free: Vec<&str> = SYMBOLS
            .into_iter()
            .filter(|name| self.symbols.iter().all(|(_, known)| known != name))
            .collect();
        let name = match free.as_slice() {
            [] => self.fresh_name("s"),
            free => self.rng.pick(free).to_owned(),
        };
        self.symbols.push((dim, name.clone()));
        name
    }

    /// Generates elements.
    fn drawn(&mut self, of: Type, count: usize, spread: &Spread, run: usize) -> Vec<f64> {
        match spread {
            Spread::Exactly(numbers) => {
                numbers[run].iter().map(|&number| of.nearest(number)).collect()
            }
            &Spread::Grid(grid, low, high) => {
                let unit = 2f64.powi(grid);
                let (low, high) = ((low * unit).ceil() as i64, (high * unit).floor() as i64);
                (0..count).map(|_| self.rng.between(low, high) as f64 / unit).collect()
            }
            &Spread::Plain(low, high) => {
                (0..count).map(|_| of.nearest(low + (high - low) * self.rng.unit())).collect()
            }
        }
    }

    fn facts_of(of: Type, shape: &[Dim], data: &[Vec<f64>; RUNS], spread: &Spread) -> Facts {
        let all = || data.iter().flatten().copied();
        let grid = match spread {
            Spread::Grid(grid, ..) => Some(*grid),
            Spread::Plain(..) => None,
            Spread::Exactly(_) => {
                (0..12).find(|&grid| all().all(|number| (number * 2f64.powi(grid)).fract() == 0.0))
            }
        };
        let is_row = matches!(of, Type::I64 | Type::I32)
            && shape.len() <= 1
            && data.iter().all(|data| data.len() <= NUMBERS_MAX);
        let numbers = is_row.then(|| {
            data.clone().map(|data| data.into_iter().map(|number| number as i64).collect())
        });
        Facts {
            low: all().reduce(f64::min).unwrap_or(0.0),
            high: all().reduce(f64::max).unwrap_or(0.0),
            error: 0.0,
            grid,
            numbers,
        }
    }

    /// A new input; dimensions that are not numbers of the file get names.
    pub fn input(&mut self, of: Type, shape: Vec<Dim>, spread: Spread) -> Option<Var> {
        let mut data: [Vec<f64>; RUNS] = Default::default();
        for (run, data) in data.iter_mut().enumerate() {
            let sizes = shape.iter().map(|dim| Some(dim.sizes()?[run]));
            let count = sizes.collect::<Option<Vec<usize>>>()?.iter().product();
            *data = self.drawn(of, count, &spread, run);
        }
        let declared = shape
            .iter()
            .map(|&dim| match dim {
                Dim::Fixed(size) => Declared::Number(size),
                _ => Declared::Name(self.symbol(dim)),
            })
            .collect();
        let facts = Graph::facts_of(of, &shape, &data, &spread).settled(of)?;
        let kind = self.rng.pick(&["x", "input.", "in "]);
        let name = self.fresh_name(kind);
        let var = self.add(Value {
            name,
            of,
            shape,
            facts,
            data: Some(data),
            is_constant: false,
            is_list: false,
        });
        self.inputs.push(Input { var, declared });
        Some(var)
    }

    /// A constant of the file.
    pub fn constant(&mut self, of: Type, sizes: &[usize], spread: Spread) -> Option<Var> {
        let count = sizes.iter().product();
        let numbers = self.drawn(of, count, &spread, 0);
        let shape: Vec<Dim> = sizes.iter().map(|&size| Dim::Fixed(size)).collect();
        let data = [numbers.clone(), numbers];
        let facts = Graph::facts_of(of, &shape, &data, &spread).settled(of)?;
        let name = self.fresh_name("c");
        let tensor = proto::tensor(&name, of, sizes, &data[0]);
        if self.rng.percent(70) {
            self.initializers.push(tensor);
        } else {
            let tensor = TensorProto { name: String::new(), ..tensor };
            self.nodes.push(NodeProto {
                op_type: "Constant".to_owned(),
                output: vec![name.clone()],
                attribute: vec![proto::held("value", tensor)],
                ..NodeProto::default()
            });
        }
        Some(self.add(Value {
            name,
            of,
            shape,
            facts,
            data: Some(data),
            is_constant: true,
            is_list: false,
        }))
    }

    /// A constant of floats that may be infinite or NaN, which only its user reads.
    pub fn odd_constant(&mut self, sizes: &[usize], numbers: &[f64]) -> Var {
        let (of, name) = (Type::F32, self.fresh_name("c"));
        self.initializers.push(proto::tensor(&name, of, sizes, numbers));
        let shape = sizes.iter().map(|&size| Dim::Fixed(size)).collect();
        let facts = Facts::between(0.0, 0.0);
        let var = self.add(Value {
            name,
            of,
            shape,
            facts,
            data: None,
            is_constant: true,
            is_list: false,
        });
        self.hide(&[var]);
        var
    }

    /// A sequence of tensors, which only nodes of sequences read.
    pub fn list(
        &mut self,
        op: &str,
        inputs: &[Var],
        attributes: Vec<AttributeProto>,
    ) -> Option<Var> {
        let var = self.one(op, inputs, attributes, (Type::Bool, vec![], Facts::truth()))?;
        self.values[var.0 as usize].is_list = true;
        self.hide(&[var]);
        Some(var)
    }

    /// Sets the error of a value on which nothing else depends.
    pub fn set_error(&mut self, var: Var, error: f64) {
        self.values[var.0 as usize].facts.error = error;
    }

    /// Hides values from other nodes.
    pub fn hide(&mut self, vars: &[Var]) {
        self.visible.retain(|var| !vars.contains(var));
    }

    /// A constant of one number, of rank 0.
    pub fn scalar(&mut self, of: Type, number: f64) -> Option<Var> {
        self.constant(of, &[], Spread::these([number]))
    }

    /// A constant row of `I64`.
    pub fn row(&mut self, numbers: &[i64]) -> Option<Var> {
        let spread = Spread::these(numbers.iter().map(|&number| number as f64));
        self.constant(Type::I64, &[numbers.len()], spread)
    }

    /// The same for numbers of any size, on which nothing else depends.
    pub fn exact_row(&mut self, numbers: &[i64]) -> Option<Var> {
        let (of, name) = (Type::I64, self.fresh_name("c"));
        let raw_data = encode(numbers, i64::to_le_bytes);
        let tensor = proto::tensor(&name, of, &[numbers.len()], &[]);
        self.initializers.push(TensorProto { raw_data, ..tensor });
        let shape = vec![Dim::Fixed(numbers.len())];
        let facts = Facts::between(0.0, 0.0);
        let var = self.add(Value {
            name,
            of,
            shape,
            facts,
            data: None,
            is_constant: true,
            is_list: false,
        });
        self.hide(&[var]);
        Some(var)
    }

    /// Elements of this shape from the file or from a run.
    pub fn given(&mut self, of: Type, shape: &[Dim], spread: Spread) -> Option<Var> {
        let sizes: Option<Vec<usize>> = shape.iter().map(|dim| dim.same_size()).collect();
        match sizes {
            Some(sizes) if self.rng.percent(70) => self.constant(of, &sizes, spread),
            _ => self.input(of, shape.to_vec(), spread),
        }
    }

    /// The same, from the file if possible, else an input of fixed sizes; for operands whose sizes the importer must know.
    pub fn weights(&mut self, of: Type, sizes: &[usize], spread: Spread) -> Option<Var> {
        if self.rng.percent(75) {
            return self.constant(of, sizes, spread);
        }
        let shape = sizes.iter().map(|&size| Dim::Fixed(size)).collect();
        self.input(of, shape, spread)
    }

    /// A value whose elements are in this range: the value itself, or a clipped one.
    pub fn clipped(&mut self, var: Var, low: f64, high: f64) -> Option<Var> {
        let facts = self.facts(var);
        if facts.within(low, high) {
            return Some(var);
        }
        let (of, shape) = (self.of(var), self.shape(var));
        let (low, high) = (of.nearest(low), of.nearest(high));
        if self.opset < 12 && of != Type::F32 {
            return None;
        }
        let bounded = Facts {
            low: facts.low.clamp(low, high),
            high: facts.high.clamp(low, high),
            numbers: None,
            ..facts
        };
        let bounded = Facts {
            grid: bounded.grid.filter(|&grid| {
                let unit = 2f64.powi(grid);
                (low * unit).fract() == 0.0 && (high * unit).fract() == 0.0
            }),
            ..bounded
        };
        if self.opset < 11 {
            let attributes = vec![proto::float("min", low), proto::float("max", high)];
            return self.one("Clip", &[var], attributes, (of, shape, bounded));
        }
        let (low, high) = (self.scalar(of, low)?, self.scalar(of, high)?);
        self.one("Clip", &[var, low, high], vec![], (of, shape, bounded))
    }
}
