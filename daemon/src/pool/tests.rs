//! The pool with browsers whose pages the test plays: every message comes from here, so that rare cases can be tested.

use std::{collections::BTreeSet, path::Path, time::Instant};

use flotilla_browsers::{Kind, owner::OwnerReport};
use flotilla_fleet::{Action, Batching, Choice, Event, Persistence, RecoveryStep};
use flotilla_protocol::{
    AdapterInfo, Epoch, FromPage, Hello, Link, LoadError, LoadReport, PROTOCOL_VERSION, RunError,
    RunId, RunReport, ToPage, decode,
};

use super::{
    state::{Received, State},
    *,
};
use crate::link::{self, LinkReport, Outgoing, Runs};

/// Names of an enum's variants, and which of them a value is. A new variant does not compile before it is in the list.
macro_rules! variants {
    ($all:ident, $of:ident, $type:ident: $($variant:ident),* $(,)?) => {
        const $all: &[&str] = &[$(concat!(stringify!($type), "::", stringify!($variant))),*];

        fn $of(value: &$type) -> &'static str {
            match value {
                $($type::$variant { .. } => concat!(stringify!($type), "::", stringify!($variant)),)*
            }
        }
    };
}

variants!(
    EVENTS, event_name, Event: Wake, Together, ModelAdded, ModelRemoved, BrowserUp, PageDown, BrowserDown, Heartbeat,
    Memory, ProbeDone, ProbeFailed, PlacementProgress, PlacementReady, PlacementFailed, Request,
    Cancel, RunDone, RunFailed, Measured, MeasureFailed, Unmeasurable, SpeedKnown, DeviceLost,
    Committed, CommitFailed, Acquire, Release, Recycle, Migrate, Drain, SlotAdded, SlotRemoved,
);
variants!(
    ACTIONS, action_name, Action: Launch, Kill, Reset, Probe, Measure, Keep, Unload, Commit, Acquired,
    Revoked, Migrated, Recovered, Place, Dispatch, Abandon, Answer, Fail, Drained,
);

pub(super) fn see_event(seen: &mut BTreeSet<&'static str>, event: &Event) {
    seen.insert(event_name(event));
    if let Event::Together(events) = event {
        events.iter().for_each(|event| see_event(seen, event));
    }
}

pub(super) fn see_action(seen: &mut BTreeSet<&'static str>, action: &Action) {
    seen.insert(action_name(action));
}

const MODEL: ModelId = ModelId(0);
/// An address without a server: the simulated browsers cannot connect, and the test plays their pages.
const NOWHERE: &str = "http://127.0.0.1:9";
const LONG: Duration = Duration::from_secs(1000);

/// A pool and the pages of its browsers.
struct Played {
    state: State,
    /// Messages to each page on its data link, and the runs that were ordered there.
    pages: std::collections::BTreeMap<BrowserId, (Outgoing, Runs)>,
    requests: u64,
    _queues:
        (mpsc::Receiver<(BrowserId, OwnerReport)>, watch::Receiver<u64>, mpsc::Receiver<LeaseId>),
}

type Answering = oneshot::Receiver<Result<Share, AnswerError>>;

/// A run that was ordered from a page.
struct Ordered {
    run: RunId,
    placement: PlacementId,
    epoch: Epoch,
    inputs: Vec<Tensor>,
}

impl Played {
    /// Browsers that are launched and have no page yet.
    fn new(browsers: usize, change: impl FnOnce(&mut Options)) -> Played {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/models/bert");
        let catalog = Catalog::open(&[path]);
        assert!(catalog.broken.is_empty(), "{:?}", catalog.broken);
        let desired = DesiredBrowser {
            build: Kind::Chrome.into(),
            simulated: true,
            backends: vec![Backend::Cpu],
            adapter: Adapter::Hardware,
        };
        let mut options = Options {
            browsers: vec![desired; browsers],
            fallback: Vec::new(),
            limits: Limits::default(),
            resume_timeout: LONG,
            fleet: flotilla_fleet::Config {
                suspect_after: LONG / 2,
                heartbeat_timeout: LONG,
                straggler_min: LONG,
                probe_interval: LONG,
                restart_delay: Duration::from_millis(1),
                ..flotilla_fleet::Config::default()
            },
            backends: vec![Backend::Cpu].into(),
            settings: Settings {
                batching: Batching { rows_max: 1, tokens_max: 512 },
                ..Settings::default()
            },
            heartbeat: LONG,
            guardian: PathBuf::new(),
            data_dir_id: "0".repeat(32),
        };
        change(&mut options);
        let (owners, owner_queue) = mpsc::channel(QUEUE_MAX);
        let (change, changed) = watch::channel(0);
        let (releases, release_queue) = mpsc::channel(QUEUE_MAX);
        let mut state = State::new(
            options,
            watch::channel(Arc::new(catalog)).0,
            NOWHERE.to_owned(),
            owners,
            change,
            releases,
            None,
        );
        state.begin();
        Played {
            state,
            pages: std::collections::BTreeMap::new(),
            requests: 0,
            _queues: (owner_queue, changed, release_queue),
        }
    }

    /// Browsers with the model loaded.
    fn ready(browsers: usize, change: impl FnOnce(&mut Options)) -> Played {
        let mut played = Played::new(browsers, change);
        for browser in played.browsers() {
            played.open(browser, &[Backend::Cpu]);
            played.load(browser);
        }
        played
    }

    fn browsers(&self) -> Vec<BrowserId> {
        self.state.browsers.keys().copied().collect()
    }

    /// Opens the browser's session; its page opens both links and offers these backends.
    fn open(&mut self, browser: BrowserId, offered: &[Backend]) {
        let facts = Facts {
            name: "chrome".to_owned(),
            kind: Kind::Chrome,
            version: "1".to_owned(),
            channel: Channel::Unknown,
            simulated: true,
            pid: None,
            guardian_pid: None,
            driver_pid: None,
            start_ms: 1,
        };
        let report = match self.state.browsers[&browser].facts {
            None => OwnerReport::Started(facts),
            Some(_) => OwnerReport::PageOpened,
        };
        self.state.receive(Received::Owner(browser, report));
        let (control, data) = self.state.browsers[&browser].tokens.clone();
        for (link, token) in [(Link::Control, control), (Link::Data, data)] {
            let token = token.expect("a link that was not opened");
            let user_agent = "test".to_owned();
            let hello = Hello { version: PROTOCOL_VERSION, token, link, user_agent };
            let (outbox, outgoing) = link::outbox(Memory::default().orders_bytes_max);
            self.state.hello(&hello, outbox).expect("a link");
            if link == Link::Data {
                self.pages.insert(browser, (outgoing, Runs::default()));
            }
        }
        let offers = offered.iter().map(|&backend| BackendReport {
            backend,
            device: None,
            outcome: Ok(AdapterInfo::default()),
        });
        self.says(browser, FromPage::Backends(offers.collect()), Vec::new());
    }

    /// Messages to a page since the last call.
    fn sent(&mut self, browser: BrowserId) -> Vec<(ToPage, Vec<Tensor>)> {
        let (outgoing, runs) = self.pages.get_mut(&browser).expect("a page");
        std::iter::from_fn(|| outgoing.orders.try_recv().ok())
            .map(|order| {
                let (frame, run) = link::frame(&order).expect("a frame");
                run.into_iter().for_each(|run| runs.expect(run));
                decode(&frame).expect("what was encoded")
            })
            .collect()
    }

    /// Sends a page's message on its data link.
    fn says(&mut self, browser: BrowserId, message: FromPage, tensors: Vec<Tensor>) {
        let id = self.state.browsers[&browser].data.as_ref().expect("a data link").id();
        let checks = self.pages.get_mut(&browser).and_then(|(_, runs)| runs.take(&message));
        let results = checks.map(|checks| checks.check(tensors));
        let room = link::Room::default();
        self.state.link(LinkReport::Message { browser, id, message, results, room });
    }

    /// The load that was ordered from a page.
    fn load_order(&mut self, browser: BrowserId) -> (PlacementId, Epoch) {
        let mut orders = self.sent(browser).into_iter().filter_map(|(message, _)| match message {
            ToPage::Load { placement, epoch, .. } => Some((placement, epoch)),
            _ => None,
        });
        orders.next_back().expect("a load")
    }

    fn loaded(&mut self, browser: BrowserId, (placement, epoch): (PlacementId, Epoch)) {
        let adapter = AdapterInfo::default();
        let loaded = FromPage::Loaded {
            placement,
            epoch,
            adapter,
            split: None,
            report: LoadReport::default(),
        };
        self.says(browser, loaded, Vec::new());
    }

    /// Loads what was ordered.
    fn load(&mut self, browser: BrowserId) {
        let order = self.load_order(browser);
        self.loaded(browser, order);
    }

    /// Sends a client's request.
    fn ask(&mut self, terms: impl Into<Terms>) -> Answering {
        let (reply, answer) = oneshot::channel();
        self.requests += 1;
        let request = RequestId(self.requests);
        let input = Arc::new(Input::Tokens(vec![1, 2, 3]));
        let requests = vec![NewRequest { request, input, reply }];
        let command = Command::Run { model: MODEL, terms: terms.into(), requests };
        self.state.receive(Received::Command(command));
        answer
    }

    /// The only run that was ordered from a page.
    fn run_order(&mut self, browser: BrowserId) -> Ordered {
        let mut runs =
            self.sent(browser).into_iter().filter_map(|(message, inputs)| match message {
                ToPage::Run { run, placement, epoch } => {
                    Some(Ordered { run, placement, epoch, inputs })
                }
                _ => None,
            });
        let run = runs.next().expect("a run");
        assert!(runs.next().is_none(), "one run");
        run
    }

    /// Results of the right types and shapes, all of whose numbers are `number`.
    fn results(&self, inputs: &[Tensor], number: f32) -> Vec<Tensor> {
        let program = &self.state.catalog.borrow().models[0].program;
        let shapes: Vec<&[usize]> = inputs.iter().map(|input| input.shape.as_slice()).collect();
        let symbols = program.bind(&shapes).expect("inputs that fit");
        let results = program.outputs.iter().map(|port| {
            let dims = program.value(port.value).shape.iter();
            let shape: Vec<usize> = dims
                .map(|dim| dim.eval_with(&|symbol| symbols[symbol.0 as usize]).expect("a size"))
                .map(|size| size as usize)
                .collect();
            let count = shape.iter().product();
            Tensor::from_f32(shape, &vec![number; count]).expect("floats")
        });
        results.collect()
    }

    /// A page's results of a run.
    fn ran(&mut self, browser: BrowserId, of: &Ordered, outputs: Vec<Tensor>) {
        let report = RunReport { run_us: 1000, pipelines_created: 0 };
        self.says(browser, FromPage::Ran { run: of.run, epoch: of.epoch, report }, outputs);
    }

    fn run_failed(&mut self, browser: BrowserId, of: &Ordered, error: RunError) {
        let failed = FromPage::RunFailed { run: of.run, epoch: of.epoch, error };
        self.says(browser, failed, Vec::new());
    }

    /// Time goes by.
    fn later(&mut self, by: Duration) {
        self.state.begin = self.state.begin.checked_sub(by).unwrap_or_else(Instant::now);
        self.state.receive(Received::Time);
    }
}

/// The numbers of an answer, which are all the same.
fn number(answer: &Share) -> f32 {
    answer.clone().answer().expect("rows").outputs[0].to_f32().expect("floats")[0]
}

fn out_of_memory() -> RunError {
    RunError::OutOfMemory { reason: "played".to_owned() }
}

#[tokio::test]
async fn messages_about_runs_of_another_page_or_epoch_are_ignored() {
    let mut played = Played::ready(2, |_| {});
    let [one, other] = played.browsers()[..] else { panic!("two browsers") };
    let mut answers = [played.ask(LONG), played.ask(LONG)];
    let (first, second) = (played.run_order(one), played.run_order(other));
    let before = format!("{:?}", played.state.fleet.status());

    // Results and a failure of the other browser's run.
    let wrong = played.results(&second.inputs, -1.0);
    played.ran(one, &second, wrong.clone());
    played.run_failed(one, &second, out_of_memory());
    // Results and a failure of its own run, with another epoch.
    let stale = Ordered { epoch: Epoch(first.epoch.0 + 1), inputs: Vec::new(), ..first };
    played.ran(one, &stale, wrong);
    played.run_failed(one, &stale, out_of_memory());
    // Reports about the other browser's placement.
    let (placement, epoch) = (second.placement, second.epoch);
    let error = LoadError::OutOfMemory { reason: "played".to_owned() };
    played.says(one, FromPage::LoadFailed { placement, epoch, error }, Vec::new());
    let progress = FromPage::LoadProgress { placement, epoch, done_bytes: 7, total_bytes: 8 };
    played.says(one, progress, Vec::new());
    played.loaded(one, (placement, epoch));
    assert_eq!(format!("{:?}", played.state.fleet.status()), before);
    assert_eq!(played.state.placements[&placement].progress, (0, 0));
    assert!(answers.iter_mut().all(|answer| answer.try_recv().is_err()), "nobody is answered");

    for (number, (browser, run)) in [(1.0, (one, &first)), (2.0, (other, &second))] {
        let results = played.results(&second.inputs, number);
        played.ran(browser, run, results);
    }
    for (want, mut answer) in [1.0, 2.0].into_iter().zip(answers) {
        let answer = answer.try_recv().expect("an answer").expect("results");
        assert_eq!(number(&answer), want);
        assert_eq!(answer.provenance.tried, Vec::<String>::new());
    }
}

#[tokio::test]
async fn loads_are_reported_by_their_own_page_in_their_own_epoch() {
    let mut played = Played::new(2, |_| {});
    let [one, other] = played.browsers()[..] else { panic!("two browsers") };
    played.open(one, &[Backend::Cpu]);
    played.open(other, &[Backend::Cpu]);
    let (placement, epoch) = played.load_order(one);
    let ready = |played: &Played| played.state.fleet.status().models[0].ready;
    played.loaded(other, (placement, epoch));
    played.loaded(one, (placement, Epoch(epoch.0 + 1)));
    assert_eq!(ready(&played), 0);
    assert!(played.state.view().loaded.is_empty());
    played.loaded(one, (placement, epoch));
    assert_eq!(ready(&played), 1);
}

#[tokio::test]
async fn results_that_do_not_fit_the_program_are_computed_elsewhere() {
    type Spoil = fn(&mut Vec<Tensor>);
    let spoils: [(&str, Spoil); 4] = [
        ("too few", |results| drop(results.pop())),
        ("too many", |results| results.push(results[0].clone())),
        ("another type", |results| results[0].dtype = flotilla_tensor::DType::I32),
        ("another shape", |results| {
            let Tensor { dtype, mut shape, bytes } = results[0].clone();
            shape.push(1);
            results[0] = Tensor::new(dtype, shape, bytes).expect("a tensor");
        }),
    ];
    for (what, spoil) in spoils {
        let mut played = Played::ready(2, |_| {});
        let [one, other] = played.browsers()[..] else { panic!("two browsers") };
        let mut answer = played.ask(LONG);
        let run = played.run_order(one);
        let mut results = played.results(&run.inputs, 1.0);
        spoil(&mut results);
        played.ran(one, &run, results);
        assert!(answer.try_recv().is_err(), "{what}: answered");
        let run = played.run_order(other);
        let results = played.results(&run.inputs, 2.0);
        played.ran(other, &run, results);
        let answer = answer.try_recv().expect("an answer").expect("results");
        assert_eq!(number(&answer), 2.0, "{what}");
        let [tried] = answer.provenance.tried.as_slice() else { panic!("{what}: {answer:?}") };
        assert!(
            tried.contains("wrong result") && tried.contains(RecoveryStep::Migrate.words()),
            "{tried}"
        );
    }
}

/// Answers the measurements that were ordered from the page.
fn measure(played: &mut Played, browser: BrowserId) {
    loop {
        let orders = played.sent(browser);
        let mut runs = 0;
        for (message, inputs) in orders {
            match message {
                ToPage::Run { run, placement, epoch } => {
                    runs += 1;
                    let results = played.results(&inputs, 1.0);
                    played.ran(browser, &Ordered { run, placement, epoch, inputs }, results);
                }
                ToPage::Load { placement, epoch, .. } => {
                    runs += 1;
                    played.loaded(browser, (placement, epoch));
                }
                _ => {}
            }
        }
        if runs == 0 {
            return;
        }
    }
}

#[tokio::test]
async fn every_event_and_every_action_passes_through_the_pool() {
    let mut seen = BTreeSet::new();

    // Two backends: the faster one must be found.
    let mut played = Played::new(2, |options| {
        options.backends.choice = Choice::Fastest;
        options.fleet.probe_interval = Duration::from_secs(10);
        for desired in &mut options.browsers {
            desired.backends = vec![Backend::Cpu, Backend::WebGpu];
        }
    });
    let [one, other] = played.browsers()[..] else { panic!("two browsers") };
    played.open(one, &[Backend::Cpu, Backend::WebGpu]);
    let (placement, epoch) = played.load_order(one);
    let progress = FromPage::LoadProgress { placement, epoch, done_bytes: 1, total_bytes: 2 };
    played.says(one, progress, Vec::new());
    let error = LoadError::OutOfMemory { reason: "played".to_owned() };
    played.says(one, FromPage::LoadFailed { placement, epoch, error }, Vec::new());
    played.load(one);
    for _ in 0..20 {
        played.later(Duration::from_secs(1));
        measure(&mut played, one);
    }
    // The next browser is of the same kind, so that its speeds are known.
    played.open(other, &[Backend::Cpu, Backend::WebGpu]);
    measure(&mut played, other);

    // A probe with the right answer, and one with none.
    let mut probes = 0;
    while probes < 2 {
        played.later(Duration::from_secs(11));
        for (message, inputs) in played.sent(one) {
            let ToPage::Run { run, placement, epoch } = message else { continue };
            if flotilla_browser_runtime::probe::backend(placement).is_none() {
                let results = played.results(&inputs, 1.0);
                played.ran(one, &Ordered { run, placement, epoch, inputs }, results);
                continue;
            }
            let of = Ordered { run, placement, epoch, inputs: Vec::new() };
            probes += 1;
            match probes {
                1 => {
                    let outputs = flotilla_browser_runtime::probe::answer(run).expect("tensors");
                    played.ran(one, &of, outputs);
                }
                _ => played.run_failed(one, &of, out_of_memory()),
            }
        }
    }
    seen.append(&mut played.state.seen);

    // Measurements that fail and that are not possible.
    for error in [out_of_memory(), RunError::Inputs { reason: "played".to_owned() }] {
        let mut played = Played::new(1, |options| {
            options.backends.choice = Choice::Fastest;
            options.browsers[0].backends = vec![Backend::Cpu, Backend::WebGpu];
        });
        let [one] = played.browsers()[..] else { panic!("one browser") };
        played.open(one, &[Backend::Cpu, Backend::WebGpu]);
        played.load(one);
        played.later(Duration::from_secs(10));
        let run = played.run_order(one);
        played.run_failed(one, &run, error);
        seen.append(&mut played.state.seen);
    }

    let mut played = Played::ready(2, |_| {});
    let [one, other] = played.browsers()[..] else { panic!("two browsers") };
    played.says(one, FromPage::Heartbeat, Vec::new());
    let used_bytes = 1 << 20;
    played.state.receive(Received::Owner(one, OwnerReport::Memory { used_bytes }));
    // A run that fails, and is answered elsewhere.
    let mut answer = played.ask(LONG);
    let run = played.run_order(one);
    let error = RunError::Backend { node: "x".to_owned(), reason: "played".to_owned() };
    played.run_failed(one, &run, error);
    let run = played.run_order(other);
    let results = played.results(&run.inputs, 1.0);
    played.ran(other, &run, results);
    assert!(answer.try_recv().expect("an answer").is_ok());
    played.load(one);
    // A client that goes away while its run is in flight.
    drop(played.ask(LONG));
    let requests = played.requests..played.requests + 1;
    played.state.receive(Received::Command(Command::Cancel { requests }));
    played.sent(one);
    played.sent(other);
    // A record without a store, and a request that is not answered in time.
    let policy = Policy { persistence: Persistence::Record, ..Policy::default() };
    let mut answer = played.ask(Terms { policy, ..Terms::from(LONG) });
    assert!(answer.try_recv().expect("an answer").is_err());
    let mut late = played.ask(Duration::from_secs(1));
    played.later(Duration::from_secs(2));
    assert!(late.try_recv().expect("an answer").is_err());
    // A lost device, a page that crashes, a browser that ends.
    let reason = "played".to_owned();
    let lost = FromPage::DeviceLost { backend: Backend::WebGpu, generation: 1, reason };
    played.says(one, lost, Vec::new());
    let command =
        Command::Migrate { model: MODEL, from: one, to: one, reply: oneshot::channel().0 };
    played.state.receive(Received::Command(command));
    played.state.page_down(one, Failure::new(FailureKind::PageCrashed, "played"));
    played.open(one, &[Backend::Cpu]);
    played.load(one);
    // A client that leases a browser until the browser is gone.
    let (reply, mut acquired) = oneshot::channel();
    let (_hold, released) = oneshot::channel();
    let acquire = Command::Acquire { name: "task".to_owned(), reply, released };
    played.state.receive(Received::Command(acquire));
    let (task, _) = acquired.try_recv().expect("a task");
    let held = played.state.tasks[&task].browser.expect("a browser");
    played.state.down(held, Failure::new(FailureKind::BrowserExited, "played"));
    played.state.receive(Received::Released(task));
    let rest = if held == one { other } else { one };
    let reason = "played".to_owned();
    played.state.receive(Received::Command(Command::Recycle { browser: rest, reason }));
    // A model that goes while a request waits for it.
    let mut late = played.ask(LONG);
    let (reply, mut removed) = oneshot::channel();
    let name = played.state.catalog.borrow().models[0].name.clone();
    played.state.receive(Received::Command(Command::RemoveModel { name, reply }));
    assert!(removed.try_recv().expect("a reply"));
    assert!(late.try_recv().expect("an answer").is_err());
    assert!(played.ask(LONG).try_recv().expect("an answer").is_err(), "of no model");
    // A browser more, and one less.
    let desired = played.state.desired[0].0.clone();
    let (reply, mut added) = oneshot::channel();
    played.state.receive(Received::Command(Command::AddBrowser { desired, reply }));
    let slot = added.try_recv().expect("a reply").expect("room for it");
    for is_there in [true, false] {
        let (reply, mut removed) = oneshot::channel();
        played.state.receive(Received::Command(Command::RemoveBrowser { slot, reply }));
        assert_eq!(removed.try_recv().expect("a reply"), is_there);
    }
    // Waiting requests are answered before the end.
    played.state.receive(Received::Command(Command::Drain));
    played.state.receive(Received::Command(Command::Drain));
    assert!(played.state.drained);
    seen.append(&mut played.state.seen);

    let all = EVENTS.iter().chain(ACTIONS);
    let missing: Vec<&&str> = all.filter(|name| !seen.contains(**name)).collect();
    assert!(missing.is_empty(), "not played: {missing:?}");
}
