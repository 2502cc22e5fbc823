//! The data link's logic, independent of the transport.

use std::{
    cell::RefCell,
    collections::{BTreeMap, BTreeSet, VecDeque},
    future::poll_fn,
    pin::{Pin, pin},
    task::Poll,
};

use flotilla_protocol::{
    AdapterInfo, Backend, BlobSource, Epoch, FromPage, LoadError, LoadReport, LoadTerms,
    PlacementId, RunError, Split, ToPage,
};
use flotilla_tensor::Tensor;
use futures_channel::mpsc;
use futures_util::{Stream, StreamExt as _};

use crate::{
    backend::DeviceLoss,
    faults::Faults,
    fetch::BlobFetcher,
    platform::now_us,
    runtime::{Options, Placement, Runtime},
};

/// Shortest time between two reports of progress.
const PROGRESS_MIN_US: u64 = 100_000;

/// A message of the data link and the tensors of its frame.
pub type Message = (ToPage, Vec<Tensor>);

/// Where answers go.
type Send<'a> = &'a mut dyn FnMut(FromPage, Vec<Tensor>);

/// Answers the messages of a data link. Stays on the thread that made it.
pub struct Peer<F> {
    runtime: Runtime,
    fetcher: F,
    placements: Placements,
}

type Placements = BTreeMap<PlacementId, (Epoch, Placement)>;

/// A load that was ordered.
struct Order {
    placement: PlacementId,
    epoch: Epoch,
    backend: Backend,
    program: Vec<u8>,
    blobs: BlobSource,
    terms: LoadTerms,
}

/// Losses of devices, as messages; they may happen between other messages.
pub struct Losses(mpsc::Receiver<DeviceLoss>);

impl Losses {
    /// The next loss; `None` when the peer is gone.
    pub async fn next(&mut self) -> Option<FromPage> {
        Some(message_of(self.0.recv().await.ok()?))
    }
}

fn message_of(loss: DeviceLoss) -> FromPage {
    let DeviceLoss { backend, generation, reason } = loss;
    FromPage::DeviceLost { backend, generation, reason }
}

impl<F: BlobFetcher> Peer<F> {
    /// A peer without placements.
    pub fn new(options: Options, fetcher: F) -> Peer<F> {
        Peer { runtime: Runtime::new(options), fetcher, placements: BTreeMap::new() }
    }

    /// The channel of device losses; to be called once.
    pub fn losses(&mut self) -> Losses {
        Losses(self.runtime.losses())
    }

    /// The faults that can be injected into this peer.
    pub fn faults(&self) -> Faults {
        self.runtime.faults()
    }

    /// Answers messages until there are no more.
    ///
    /// They are handled one after the other, except that a message that does not need a load is handled before it: a load may
    /// take a minute and a run milliseconds. A load pauses every few milliseconds, so that messages can arrive.
    pub async fn serve(&mut self, messages: impl Stream<Item = Message>, send: Send<'_>) {
        let mut messages = pin!(messages);
        let mut waiting: VecDeque<Message> = VecDeque::new();
        loop {
            let message = match waiting.pop_front() {
                Some(message) => message,
                None => match messages.next().await {
                    Some(message) => message,
                    None => return,
                },
            };
            let order = match Order::of(message) {
                Ok(order) => order,
                Err(message) => {
                    self.answer(message, send).await;
                    continue;
                }
            };
            let Peer { runtime, fetcher, placements } = &mut *self;
            begin(runtime, placements, order.placement);
            let faults = runtime.faults();
            let mut forward = |message, tensors| send(message, tensors);
            let shared: RefCell<Send<'_>> = RefCell::new(&mut forward);
            let answer = async |placements: &mut Placements, message| {
                let mut send = |message, tensors| shared.borrow_mut()(message, tensors);
                answer(placements, &faults, message, &mut send).await;
            };
            for message in take_ready(&mut waiting, order.placement) {
                answer(placements, message).await;
            }
            let mut load = pin!(load(runtime, fetcher, &order, &shared));
            let loaded = loop {
                match first(messages.as_mut(), load.as_mut()).await {
                    First::Message(None) => return,
                    First::Message(Some(message)) => {
                        waiting.push_back(message);
                        for message in take_ready(&mut waiting, order.placement) {
                            answer(placements, message).await;
                        }
                    }
                    First::Loaded(loaded) => break loaded,
                }
            };
            placements.extend(loaded.map(|loaded| (order.placement, (order.epoch, loaded))));
        }
    }

    /// Answers one message. `send` may be called any number of times before this returns.
    pub async fn handle(&mut self, message: ToPage, tensors: Vec<Tensor>, send: Send<'_>) {
        match Order::of((message, tensors)) {
            Ok(order) => {
                let Peer { runtime, fetcher, placements } = self;
                begin(runtime, placements, order.placement);
                let loaded = load(runtime, fetcher, &order, &RefCell::new(send)).await;
                placements.extend(loaded.map(|loaded| (order.placement, (order.epoch, loaded))));
            }
            Err(message) => self.answer(message, send).await,
        }
    }

    /// Answers a message that is not a load.
    async fn answer(&mut self, message: Message, send: Send<'_>) {
        if let ToPage::Inspect = message.0 {
            send(FromPage::Backends(self.runtime.inspect().await), Vec::new());
            return;
        }
        let faults = self.runtime.faults();
        answer(&mut self.placements, &faults, message, send).await;
    }
}

impl Order {
    /// The load that a message orders; the message, if it is another one.
    fn of((message, tensors): Message) -> Result<Order, Message> {
        match message {
            ToPage::Load { placement, epoch, backend, program, blobs, terms } => {
                Ok(Order { placement, epoch, backend, program, blobs, terms })
            }
            message => Err((message, tensors)),
        }
    }
}

/// Removes the messages that need not wait for the load of a placement. A message waits if it is about this placement or about
/// one whose load waits before the message, if it is a load, or if it needs the runtime, which is loading.
fn take_ready(waiting: &mut VecDeque<Message>, loading: PlacementId) -> Vec<Message> {
    let mut loads = BTreeSet::from([loading]);
    let mut ready = Vec::new();
    for (message, tensors) in std::mem::take(waiting) {
        let waits = match &message {
            ToPage::Load { placement, .. } => {
                loads.insert(*placement);
                true
            }
            ToPage::Inspect => true,
            ToPage::Run { placement, .. } | ToPage::Unload { placement } => {
                loads.contains(placement)
            }
            ToPage::Welcome { .. } | ToPage::Refused { .. } => false,
        };
        if waits {
            waiting.push_back((message, tensors));
        } else {
            ready.push((message, tensors));
        }
    }
    ready
}

/// What happens first while a placement loads.
enum First<L> {
    /// The next message; `None` after the last one.
    Message(Option<Message>),
    Loaded(L),
}

/// Waits for a message and for a load; the message goes first if both are ready.
async fn first<L>(
    mut messages: Pin<&mut impl Stream<Item = Message>>,
    mut load: Pin<&mut impl Future<Output = L>>,
) -> First<L> {
    poll_fn(|context| match messages.as_mut().poll_next(context) {
        Poll::Ready(message) => Poll::Ready(First::Message(message)),
        Poll::Pending => load.as_mut().poll(context).map(First::Loaded),
    })
    .await
}

/// Ends the previous epoch of a placement that will be loaded: two copies of a model may not fit.
fn begin(runtime: &mut Runtime, placements: &mut Placements, placement: PlacementId) {
    placements.remove(&placement);
    runtime.share(!placements.is_empty());
}

/// Executes a load and reports how it ended. Returns the placement, if it was loaded.
async fn load<F: BlobFetcher>(
    runtime: &mut Runtime,
    fetcher: &mut F,
    order: &Order,
    send: &RefCell<Send<'_>>,
) -> Option<Placement> {
    let started = now_us();
    let &Order { placement, epoch, .. } = order;
    let (message, loaded) = match try_load(runtime, fetcher, order, send).await {
        Ok(loaded) => {
            let (adapter, split): (AdapterInfo, Option<Split>) =
                (loaded.adapter().clone(), loaded.split().cloned());
            let report = LoadReport {
                load_us: now_us() - started,
                weights_bytes: loaded.weights_bytes(),
                device_bytes: loaded.device_bytes(),
            };
            (FromPage::Loaded { placement, epoch, adapter, split, report }, Some(loaded))
        }
        Err(error) => (FromPage::LoadFailed { placement, epoch, error }, None),
    };
    send.borrow_mut()(message, Vec::new());
    loaded
}

async fn try_load<F: BlobFetcher>(
    runtime: &mut Runtime,
    fetcher: &mut F,
    order: &Order,
    send: &RefCell<Send<'_>>,
) -> Result<Placement, LoadError> {
    let Order { placement, epoch, backend, program, blobs, terms } = order;
    let (placement, epoch) = (*placement, *epoch);
    let program = runtime.decode(program).await?;
    let mut reported = now_us();
    let mut progress = |done_bytes, total_bytes| {
        let now = now_us();
        if done_bytes == total_bytes || now - reported >= PROGRESS_MIN_US {
            reported = now;
            let message = FromPage::LoadProgress { placement, epoch, done_bytes, total_bytes };
            send.borrow_mut()(message, Vec::new());
        }
    };
    runtime.load(*backend, program, terms, fetcher, blobs, &mut progress).await
}

/// Answers a message that needs nothing but placements.
async fn answer(
    placements: &mut Placements,
    faults: &Faults,
    (message, tensors): Message,
    send: Send<'_>,
) {
    match message {
        // Both are answered elsewhere.
        ToPage::Inspect | ToPage::Load { .. } => {}
        ToPage::Welcome { .. } | ToPage::Refused { .. } => {}
        ToPage::Unload { placement } => {
            placements.remove(&placement);
        }
        ToPage::Run { run, placement, epoch } => {
            let result = match placements.get_mut(&placement) {
                Some((loaded, placement)) if *loaded == epoch => placement.run(&tensors).await,
                _ => Err(RunError::NotLoaded { placement, epoch }),
            };
            match result {
                Ok((mut outputs, report)) => {
                    faults.delay(report.run_us).await;
                    faults.spoil(&mut outputs);
                    send(FromPage::Ran { run, epoch, report }, outputs);
                }
                Err(error) => send(FromPage::RunFailed { run, epoch, error }, Vec::new()),
            }
        }
    }
}
