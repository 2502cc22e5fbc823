//! Orders to a page, as the pool's loop sends them: references, no bytes. The link's task makes the frame and derives from it
//! what the results must be.

use std::{borrow::Cow, collections::BTreeMap, sync::Arc};

use flotilla_browser_runtime::probe;
use flotilla_protocol::{
    Backend, BlobSource, Epoch, FromPage, Level, LoadError, LoadTerms, PlacementId, RunError,
    RunId, ToPage, decode, encode,
};
use flotilla_tensor::Tensor;

use crate::{
    batch::{self, Input, Wanted},
    catalog::Model,
    usual,
};

/// Bytes that a message takes beside its tensors or its program; only the order of magnitude matters.
pub(super) const MESSAGE_BYTES: usize = 1 << 10;
/// The same for inputs that are generated when the frame is made.
const USUAL_BYTES: usize = 1 << 20;

/// An order for a page.
#[derive(Clone, Debug)]
pub(crate) enum Order {
    /// Report the backends.
    Inspect,
    /// Load a program.
    Load {
        placement: PlacementId,
        epoch: Epoch,
        backend: Backend,
        program: Loadable,
        blobs: BlobSource,
        terms: LoadTerms,
    },
    /// Free a placement.
    Unload { placement: PlacementId },
    /// Execute a placement.
    Run { run: RunId, placement: PlacementId, epoch: Epoch, inputs: Inputs },
}

/// A program that a page loads.
#[derive(Clone, Debug)]
pub(crate) enum Loadable {
    /// The tiny one with a known answer.
    Probe,
    /// A model's.
    Model(Arc<Model>),
}

/// What a run computes on.
#[derive(Clone, Debug)]
pub(crate) enum Inputs {
    /// Inputs of the probe of this run.
    Probe,
    /// Generated inputs of usual size, to measure a backend.
    Usual(Arc<Model>),
    /// Requests that share the run.
    Requests { model: Arc<Model>, inputs: Vec<Arc<Input>> },
}

/// What the results of a run must be.
#[derive(Clone, Debug)]
enum Expected {
    Probe,
    Results { wanted: Vec<Wanted>, rows: usize, is_tensors: bool },
}

/// Results of a run that passed the checks, or what is wrong with them.
pub(crate) type Results = Result<Vec<Tensor>, String>;

impl Order {
    /// About how many bytes its frame has.
    pub(crate) fn bytes(&self) -> usize {
        let body = match self {
            Order::Inspect | Order::Unload { .. } => 0,
            Order::Load { program: Loadable::Probe, .. }
            | Order::Run { inputs: Inputs::Probe, .. } => 0,
            Order::Run { inputs: Inputs::Usual(_), .. } => USUAL_BYTES,
            Order::Load { program: Loadable::Model(model), .. } => model.program_bytes.len(),
            Order::Run { inputs: Inputs::Requests { inputs, .. }, .. } => {
                inputs.iter().map(|input| input.bytes()).sum()
            }
        };
        MESSAGE_BYTES + body
    }
}

/// Runs that were ordered on a link and have not been reported.
#[derive(Debug, Default)]
pub(crate) struct Runs {
    expected: BTreeMap<(RunId, Epoch), Expected>,
}

impl Runs {
    /// Registers a run whose results are expected.
    pub(crate) fn expect(&mut self, run: Ordered) {
        self.expected.insert((run.run, run.epoch), run.expected);
    }

    /// If a message ends a run, removes the run and returns the checks for its results. Nothing for other messages.
    pub(crate) fn take(&mut self, message: &FromPage) -> Option<Checks> {
        match message {
            FromPage::Ran { run, epoch, .. } => {
                Some(Checks { run: *run, expected: self.expected.remove(&(*run, *epoch)) })
            }
            FromPage::RunFailed { run, epoch, .. } => {
                self.expected.remove(&(*run, *epoch));
                None
            }
            FromPage::Hello(_)
            | FromPage::Heartbeat
            | FromPage::Console { .. }
            | FromPage::Backends(_)
            | FromPage::LoadProgress { .. }
            | FromPage::Loaded { .. }
            | FromPage::LoadFailed { .. }
            | FromPage::DeviceLost { .. } => None,
        }
    }
}

/// A run that was ordered.
#[derive(Debug)]
pub(crate) struct Ordered {
    run: RunId,
    epoch: Epoch,
    expected: Expected,
}

/// Checks for the results of a run.
#[derive(Debug)]
pub(crate) struct Checks {
    run: RunId,
    expected: Option<Expected>,
}

impl Checks {
    /// Checks results. Blocks while it reads every number.
    pub(crate) fn check(&self, outputs: Vec<Tensor>) -> Results {
        match &self.expected {
            None => {
                Err(format!("run {} was not ordered on this link, or in another epoch", self.run))
            }
            Some(Expected::Probe) => probe::check(self.run, &outputs).map(|()| Vec::new()),
            Some(Expected::Results { wanted, rows, is_tensors }) => {
                batch::check(&outputs, wanted, *rows, *is_tensors).map(|()| outputs)
            }
        }
    }
}

/// The frame of an order, and the run that it orders. Blocks while it copies the inputs.
///
/// # Errors
/// No frame can be made of it; the error is the message with which a page would refuse these inputs or this program.
pub(crate) fn frame(order: &Order) -> Result<(Vec<u8>, Option<Ordered>), Box<FromPage>> {
    match order {
        Order::Inspect => plain(&ToPage::Inspect),
        Order::Unload { placement } => plain(&ToPage::Unload { placement: *placement }),
        Order::Load { placement, epoch, backend, program, blobs, terms } => {
            let (placement, epoch, backend) = (*placement, *epoch, *backend);
            let failed = |reason: String| {
                let error = LoadError::Program { reason };
                Box::new(FromPage::LoadFailed { placement, epoch, error })
            };
            let program = match program {
                Loadable::Probe => {
                    probe::program().to_bytes().map_err(|error| failed(error.to_string()))?
                }
                Loadable::Model(model) => model.program_bytes.clone(),
            };
            let (blobs, terms) = (blobs.clone(), terms.clone());
            let load = ToPage::Load { placement, epoch, backend, program, blobs, terms };
            encode(&load, &[]).map(|frame| (frame, None)).map_err(|error| failed(error.to_string()))
        }
        Order::Run { run, placement, epoch, inputs } => {
            let (run, placement, epoch) = (*run, *placement, *epoch);
            let failed = |reason: String| FromPage::RunFailed {
                run,
                epoch,
                error: RunError::Inputs { reason },
            };
            let (tensors, expected) = inputs.tensors(run).map_err(failed)?;
            let frame = encode(&ToPage::Run { run, placement, epoch }, &tensors);
            let frame = frame.map_err(|error| failed(error.to_string()))?;
            Ok((frame, Some(Ordered { run, epoch, expected })))
        }
    }
}

/// Of a message without tensors.
fn plain(message: &ToPage) -> Result<(Vec<u8>, Option<Ordered>), Box<FromPage>> {
    encode(message, &[]).map(|frame| (frame, None)).map_err(|error| {
        let text = format!("{message:?} cannot be sent: {error}");
        Box::new(FromPage::Console { level: Level::Error, text })
    })
}

impl Inputs {
    fn tensors(&self, run: RunId) -> Result<(Cow<'_, [Tensor]>, Expected), String> {
        match self {
            Inputs::Probe => {
                let tensors = probe::inputs(run).map_err(|error| error.to_string())?;
                Ok((tensors.into(), Expected::Probe))
            }
            Inputs::Usual(model) => {
                let tensors = usual::input(model)?;
                let is_tensors = !batch::takes_tokens(&model.program);
                let wanted = batch::wanted(&model.program, &tensors);
                let rows = usual::rows(&model.program);
                Ok((tensors.into(), Expected::Results { wanted, rows, is_tensors }))
            }
            Inputs::Requests { model, inputs } => {
                let tensors =
                    batch::join(&model.program, inputs).map_err(|error| error.to_string())?;
                let is_tensors =
                    matches!(inputs.first().map(|input| &**input), Some(Input::Tensors(_)));
                let wanted = batch::wanted(&model.program, &tensors);
                let rows = batch::FixedSizes::of(&model.program).rows.unwrap_or(inputs.len());
                Ok((tensors, Expected::Results { wanted, rows, is_tensors }))
            }
        }
    }
}

/// A page's frame.
///
/// # Errors
/// The bytes are not a frame.
pub(crate) fn read(frame: &[u8]) -> Result<(FromPage, Vec<Tensor>), String> {
    decode(frame).map_err(|error| format!("a frame cannot be read: {error}"))
}

#[cfg(test)]
mod tests {
    use flotilla_protocol::RunReport;
    use flotilla_tensor::DType;

    use super::*;
    use crate::catalog::Catalog;

    const RUN: RunId = RunId(7);
    /// One more than a frame may have.
    const TENSORS: usize = 257;

    fn order(inputs: Inputs) -> Order {
        Order::Run { run: RUN, placement: PlacementId(1), epoch: Epoch(2), inputs }
    }

    fn requests(tensors: Vec<Tensor>) -> Inputs {
        let mut catalog = Catalog::default();
        catalog.add_program("probe", probe::program(), BTreeMap::new()).expect("a program");
        let inputs = vec![Arc::new(Input::Tensors(tensors))];
        Inputs::Requests { model: catalog.models[0].clone(), inputs }
    }

    #[test]
    fn an_order_without_a_frame_fails_as_its_page_would() {
        let tensor = Tensor::new(DType::F32, vec![0], Vec::new()).expect("a tensor");
        let refused = frame(&order(requests(vec![tensor; TENSORS])));
        let FromPage::RunFailed { run, epoch, error } = *refused.expect_err("too many tensors")
        else {
            panic!("another message")
        };
        assert_eq!((run, epoch), (RUN, Epoch(2)));
        assert!(matches!(&error, RunError::Inputs { .. }), "{error}");
        assert!(error.to_string().contains("257 tensors"), "{error}");
    }

    #[test]
    fn results_are_checked_once_against_their_order() {
        let ran = FromPage::Ran {
            run: RUN,
            epoch: Epoch(2),
            report: RunReport { run_us: 1, pipelines_created: 0 },
        };
        let mut runs = Runs::default();
        let check = |runs: &mut Runs, outputs| runs.take(&ran).expect("a run's end").check(outputs);
        let right = probe::answer(RUN).expect("tensors");
        assert!(check(&mut runs, right.clone()).unwrap_err().contains("was not ordered"));
        for inputs in [Inputs::Probe, requests(probe::inputs(RUN).expect("tensors"))] {
            let order = order(inputs);
            let (bytes, ordered) = frame(&order).expect("a frame");
            let (message, tensors) = decode::<ToPage>(&bytes).expect("a frame");
            assert!(matches!(message, ToPage::Run { run: RUN, .. }));
            assert_eq!(tensors, probe::inputs(RUN).expect("tensors"));
            runs.expect(ordered.expect("a run"));
            assert!(check(&mut runs, right.clone()).is_ok());
            assert!(check(&mut runs, right.clone()).is_err(), "a second time");
            let (_, ordered) = frame(&order).expect("a frame");
            runs.expect(ordered.expect("a run"));
            assert!(check(&mut runs, Vec::new()).is_err(), "too few");
        }
    }
}
