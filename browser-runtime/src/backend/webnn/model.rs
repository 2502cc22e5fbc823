//! A program in a context: a graph for each set of shapes.

use std::{
    cell::{Cell, RefCell},
    collections::VecDeque,
    rc::Rc,
};

use flotilla_program::{Program, SymbolSource};
use flotilla_protocol::{Backend, LoadError, RefusedNode, RunError};
use flotilla_webnn::{MlGraph, MlGraphBuilder, MlTensor, MlTensorDescriptor};
use js_sys::{Array, ArrayBuffer, Object, Promise, Reflect, Uint8Array, Uint32Array};
use wasm_bindgen::{JsCast, JsValue};
use wasm_bindgen_futures::{JsFuture, spawn_local};

use super::{
    context::{Context, words},
    draft::{Operand, Type},
    emit::{elements, emit, input_name, output_name},
    loading::Held,
    lower::lower,
};
use crate::{
    deciding::define_input_elements,
    flow::sized_by,
    weights::{Constants, Stored},
};
use flotilla_kernels::Shapes;

/// Named as refused if the browser does not name the node.
const WHOLE_GRAPH: &str = "the whole graph";

/// Most graphs that are kept; the least recently used one is dropped.
const GRAPHS_MAX: usize = 8;

/// Most bytes of constants that the kept graphs hold together, because each has its own copy; two are always kept.
const GRAPH_BYTES_MAX: u64 = 512 << 20;

/// A loaded program.
pub(crate) struct NnModel(Rc<Inner>);

struct Inner {
    context: Rc<Context>,
    program: Rc<Program>,
    /// By symbol: whether its value decides a graph.
    deciding: Vec<bool>,
    constants: Constants,
    held: RefCell<Vec<Held>>,
    /// The most recently used one is in front.
    graphs: RefCell<VecDeque<Rc<Graph>>>,
    graphs_max: usize,
    /// Whether a graph is being built while other work goes on.
    building: Cell<bool>,
    built: Cell<u32>,
}

/// A graph for one set of shapes, with the tensors of its inputs and outputs.
struct Graph {
    symbols: Vec<Option<i64>>,
    /// `None` if no result has elements.
    graph: Option<MlGraph>,
    /// How many results the program has; those without elements are not outputs of the graph.
    results: usize,
    inputs: Vec<Bound>,
    outputs: Vec<Bound>,
    input_record: Object,
    output_record: Object,
}

/// A tensor for an input or an output of this index.
struct Bound {
    index: usize,
    ty: Type,
    tensor: MlTensor,
}

/// Why there is no graph.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum GraphError {
    #[error("context was lost: {0}")]
    Lost(String),
    /// A node that the context does not take at these sizes.
    #[error("WebNN does not take {0}")]
    Node(RefusedNode),
    /// The browser's message, or ours if the browser was not asked.
    #[error("{0}")]
    Refused(String),
}

impl GraphError {
    /// `program` is the name of what was to be built: the browser does not name the node that it refuses.
    pub(crate) fn into_load(self, program: &str) -> LoadError {
        match self {
            GraphError::Lost(reason) => LoadError::DeviceLost { reason },
            GraphError::Node(refused) => {
                LoadError::UnsupportedNodes { backend: Backend::WebNn, nodes: vec![refused] }
            }
            GraphError::Refused(reason) => LoadError::UnsupportedNodes {
                backend: Backend::WebNn,
                nodes: vec![RefusedNode {
                    node: program.to_owned(),
                    op: WHOLE_GRAPH.to_owned(),
                    reason,
                }],
            },
        }
    }

    fn into_run(self, program: &str) -> RunError {
        match self {
            GraphError::Lost(reason) => RunError::DeviceLost { reason },
            GraphError::Node(RefusedNode { node, op, reason }) => {
                RunError::Unsupported { backend: Backend::WebNn, node, op, reason }
            }
            GraphError::Refused(reason) => RunError::Unsupported {
                backend: Backend::WebNn,
                node: program.to_owned(),
                op: WHOLE_GRAPH.to_owned(),
                reason,
            },
        }
    }
}

impl Drop for Graph {
    fn drop(&mut self) {
        self.graph.iter().for_each(MlGraph::destroy);
        self.inputs.iter().chain(&self.outputs).for_each(|bound| bound.tensor.destroy());
    }
}

impl NnModel {
    /// Bytes of the constants in which every element is a word, once; graphs may hold copies of their own.
    pub(crate) fn constants_bytes(&self) -> u64 {
        self.0.constants.refs.iter().map(Stored::widened_bytes).sum()
    }

    pub(super) fn new(
        context: Rc<Context>,
        program: Rc<Program>,
        constants: Constants,
        held: Vec<Held>,
    ) -> NnModel {
        let bytes: u64 = constants.refs.iter().map(Stored::widened_bytes).sum();
        // Nodes whose sizes a run decides do not run on WebNN.
        let mut deciding: Vec<bool> =
            program.symbols.iter().map(|info| info.source == SymbolSource::Input).collect();
        for node in &program.nodes {
            let symbols = sized_by(&program, node).into_iter();
            symbols.for_each(|symbol| deciding[symbol.0 as usize] = true);
        }
        let graphs_max = (GRAPH_BYTES_MAX / bytes.max(1)).clamp(2, GRAPHS_MAX as u64) as usize;
        NnModel(Rc::new(Inner {
            context,
            program,
            deciding,
            constants,
            held: RefCell::new(held),
            graphs: RefCell::default(),
            graphs_max,
            building: Cell::new(false),
            built: Cell::new(0),
        }))
    }

    /// Graphs built so far.
    pub(crate) fn built(&self) -> u32 {
        self.0.built.get()
    }

    /// Whether there is a graph for these symbols.
    pub(crate) fn is_ready(&self, symbols: &[i64]) -> bool {
        self.ready().iter().any(|ready| ready == symbols)
    }

    /// Whether these shapes determine every size of a graph.
    pub(crate) fn has_sizes(&self, shapes: &Shapes) -> bool {
        let mut symbols = self.0.deciding.iter().zip(shapes.symbols());
        symbols.all(|(decides, size)| !decides || size.is_some())
    }

    /// The symbols for which graphs exist, of a program without data-dependent symbols.
    pub(crate) fn ready(&self) -> Vec<Vec<i64>> {
        let graphs = self.0.graphs.borrow();
        graphs.iter().filter_map(|graph| graph.symbols.iter().copied().collect()).collect()
    }

    /// Makes a graph for these shapes, unless it exists.
    ///
    /// # Errors
    /// The browser's refusal.
    pub(crate) async fn prepare(&self, shapes: &Shapes) -> Result<(), GraphError> {
        let symbols = self.0.symbols(shapes);
        if !self.0.graphs.borrow().iter().any(|graph| graph.symbols == symbols) {
            self.0.build(shapes).await?;
        }
        if self.0.program.symbols.is_empty() {
            // No other graph will be built.
            self.0.held.borrow_mut().clear();
        }
        Ok(())
    }

    /// Makes a graph for these shapes while other work goes on. One is built at a time, and none replaces another one:
    /// graphs that serve each other's sizes would otherwise be rebuilt in turns forever.
    pub(crate) fn prepare_later(&self, shapes: Shapes) {
        let is_full = self.0.graphs.borrow().len() >= self.0.graphs_max;
        if is_full || self.0.building.replace(true) {
            return;
        }
        let inner = self.0.clone();
        spawn_local(async move {
            if let Err(error) = inner.build(&shapes).await {
                // The run that needs the graph builds it again and gets the error.
                web_sys::console::warn_1(&format!("{}: {error}", inner.program.name).into());
            }
            inner.building.set(false);
        });
    }

    /// Executes the program; `inputs` are in the order of [`Program::given`], results in the order of [`Program::results`].
    pub(crate) async fn run(
        &mut self,
        shapes: &mut Shapes,
        inputs: &[Vec<u32>],
    ) -> Result<Vec<Vec<u32>>, RunError> {
        let inner = &self.0;
        define_input_elements(&inner.program, shapes, inputs)?;
        let named = |error: GraphError| error.into_run(&inner.program.name);
        self.prepare(shapes).await.map_err(named)?;
        let graph = inner.graph(&inner.symbols(shapes)).ok_or_else(|| {
            named(GraphError::Refused("it has no graph for these sizes".to_owned()))
        })?;
        match graph.run(&inner.context, inputs).await {
            Ok(outputs) => Ok(outputs),
            Err(error) => Err(named(inner.failure(error).await)),
        }
    }
}

impl Inner {
    /// The symbols that decide a graph.
    fn symbols(&self, shapes: &Shapes) -> Vec<Option<i64>> {
        let symbols = self.deciding.iter().zip(shapes.symbols());
        symbols.map(|(&decides, size)| size.filter(|_| decides)).collect()
    }

    /// The graph for these symbols, which becomes the most recently used one.
    fn graph(&self, symbols: &[Option<i64>]) -> Option<Rc<Graph>> {
        let mut graphs = self.graphs.borrow_mut();
        let index = graphs.iter().position(|graph| graph.symbols == symbols)?;
        let graph = graphs.remove(index)?;
        graphs.push_front(graph.clone());
        Some(graph)
    }

    async fn build(&self, shapes: &Shapes) -> Result<(), GraphError> {
        if let Some(reason) = self.context.lost() {
            return Err(GraphError::Lost(reason));
        }
        let lowered = lower(&self.program, &self.constants, shapes, &self.context.limits)
            .map_err(GraphError::Node)?;
        let graph = {
            let held = self.held.borrow();
            let begun = MlGraphBuilder::new(&self.context.ml).and_then(|builder| {
                let emitted = emit(&builder, &lowered, &*held)?;
                let has_outputs = lowered.results.iter().any(Option::is_some);
                let promise = has_outputs.then(|| builder.build(&emitted.outputs)).transpose()?;
                Ok((promise, emitted.inputs))
            });
            begun
        };
        let made = match graph {
            Ok((promise, inputs)) => {
                let operands: Vec<(usize, &Operand)> = lowered
                    .operands
                    .iter()
                    .filter_map(|operand| match operand.operation {
                        super::draft::Operation::Input(index) if inputs.contains(&index) => {
                            Some((index, operand))
                        }
                        _ => None,
                    })
                    .collect();
                let results: Vec<Option<&Operand>> =
                    lowered.results.iter().map(|id| id.map(|id| &lowered.operands[id.0])).collect();
                Graph::make(&self.context, self.symbols(shapes), promise, &operands, &results).await
            }
            Err(error) => Err(error),
        };
        match made {
            Ok(graph) => {
                let mut graphs = self.graphs.borrow_mut();
                graphs.push_front(Rc::new(graph));
                graphs.truncate(self.graphs_max);
                self.built.set(self.built.get() + 1);
                Ok(())
            }
            Err(error) => Err(self.failure(error).await),
        }
    }

    /// Finds the cause of an exception: the context may have been lost.
    async fn failure(&self, error: JsValue) -> GraphError {
        let is_operational = js_sys::Error::from(error.clone()).name() == "InvalidStateError";
        let reason = match self.context.lost() {
            None if is_operational => self.context.await_loss().await,
            known => known,
        };
        match reason {
            Some(reason) => GraphError::Lost(reason),
            None => GraphError::Refused(explained(words(error))),
        }
    }
}

/// The browser's message, with an explanation if it names no cause: Chromium's TensorFlow Lite backend keeps weights of more
/// than some 128 MB in a file of the folder for temporary files, and fails if that disk is almost full.
fn explained(words: String) -> String {
    if words.contains("over inline limit") {
        return format!(
            "{words} The disk of the browser's temporary files (TMPDIR) is nearly full; weights of this size need a file there."
        );
    }
    words
}

impl Graph {
    async fn make(
        context: &Context,
        symbols: Vec<Option<i64>>,
        building: Option<Promise>,
        inputs: &[(usize, &Operand)],
        results: &[Option<&Operand>],
    ) -> Result<Graph, JsValue> {
        let graph = match building {
            Some(building) => Some(JsFuture::from(building).await?.unchecked_into()),
            None => None,
        };
        let mut made = Graph {
            symbols,
            graph,
            results: results.len(),
            inputs: Vec::new(),
            outputs: Vec::new(),
            input_record: Object::new(),
            output_record: Object::new(),
        };
        for &(index, operand) in inputs {
            let tensor = tensor(context, operand, false).await?;
            Reflect::set(&made.input_record, &input_name(index).into(), &tensor)?;
            made.inputs.push(Bound { index, ty: operand.ty, tensor });
        }
        for (index, operand) in results.iter().enumerate() {
            let Some(operand) = operand else { continue };
            let tensor = tensor(context, operand, true).await?;
            Reflect::set(&made.output_record, &output_name(index).into(), &tensor)?;
            made.outputs.push(Bound { index, ty: operand.ty, tensor });
        }
        Ok(made)
    }

    async fn run(&self, context: &Context, inputs: &[Vec<u32>]) -> Result<Vec<Vec<u32>>, JsValue> {
        let mut results = vec![Vec::new(); self.results];
        let Some(graph) = &self.graph else { return Ok(results) };
        for bound in &self.inputs {
            let data = elements(&inputs[bound.index], bound.ty);
            context.ml.write_tensor(&bound.tensor, &data)?;
        }
        context.ml.dispatch(graph, &self.input_record, &self.output_record)?;
        let reading: Array =
            self.outputs.iter().map(|bound| context.ml.read_tensor(&bound.tensor)).collect();
        let read: Array = JsFuture::from(Promise::all(&reading)).await?.unchecked_into();
        for (bound, buffer) in self.outputs.iter().zip(read.iter()) {
            results[bound.index] = taken(&buffer.unchecked_into(), bound.ty);
        }
        Ok(results)
    }
}

async fn tensor(
    context: &Context,
    operand: &Operand,
    is_output: bool,
) -> Result<MlTensor, JsValue> {
    let descriptor = MlTensorDescriptor::new(operand.ty.name(), &operand.shape);
    descriptor.set_readable(is_output);
    descriptor.set_writable(!is_output);
    let promise = context.ml.create_tensor(&descriptor)?;
    Ok(JsFuture::from(promise).await?.unchecked_into())
}

/// Elements as words.
fn taken(buffer: &ArrayBuffer, ty: Type) -> Vec<u32> {
    match ty {
        Type::Float32 | Type::Int32 => Uint32Array::new(buffer).to_vec(),
        Type::Uint8 => Uint8Array::new(buffer).to_vec().into_iter().map(u32::from).collect(),
        Type::Int8 => Uint8Array::new(buffer)
            .to_vec()
            .into_iter()
            .map(|byte| i32::from(byte as i8) as u32)
            .collect(),
        Type::Float16 => js_sys::Uint16Array::new(buffer)
            .to_vec()
            .into_iter()
            .map(|half| half::f16::from_bits(half).to_f32().to_bits())
            .collect(),
    }
}
