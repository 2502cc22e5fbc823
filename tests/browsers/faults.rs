//! Injected faults in a browser's owner and its page: who reports them, and what still works.

use std::time::{Duration, Instant};

use flotilla::browser::{
    Adapter, Build, DesiredBrowser, Facts, Kind,
    fault::{Fault, FaultError},
    guardian,
    owner::{Launch, Limits, Owner, OwnerReport, Script},
};
use flotilla_browser_runtime::probe;
use flotilla_fleet::{Failure, FailureKind};
use flotilla_protocol::{
    Backend, BlobSource, BrowserId, Epoch, FromPage, Link, LoadTerms, RunError, RunId, RunReport,
    ToPage,
};
use flotilla_tensor::Tensor;
use flotilla_tests::{
    place, process,
    runner::{PageLink, Received, Runner},
    skip::{BOTH, has_browsers, skip},
};
use rustix::process::Signal;
use tokio::sync::mpsc;

/// Longest start of a browser, and longest time of any command to it.
const SLOW_MAX: Duration = Duration::from_secs(60);
/// Longest silence of a page that works: some ten heartbeats, and longer than any answer takes.
const SILENCE_MAX: Duration = Duration::from_secs(2);
/// A frame of this size is visible in the memory measurement of a whole browser.
const HOARD_MB: u32 = 256;

/// A browser with its page; the test takes the place of the daemon.
struct Subject {
    runtime: tokio::runtime::Runtime,
    runner: Runner,
    owner: Owner,
    reports: mpsc::Receiver<(BrowserId, OwnerReport)>,
    facts: Facts,
    control: PageLink,
    data: PageLink,
    pages: u32,
    epoch: u64,
    runs: u64,
}

impl Subject {
    fn start(build: impl Into<Build>, simulated: bool, limits: Limits) -> Subject {
        let build = build.into();
        let name = build.name.clone();
        let runtime = tokio::runtime::Runtime::new().expect("a runtime");
        let runner = Runner::start();
        let (sender, mut reports) = mpsc::channel(64);
        let tokens = tokens(0);
        let launch = Launch {
            browser: BrowserId(7),
            desired: DesiredBrowser {
                simulated,
                backends: Backend::ALL.to_vec(),
                adapter: flotilla::browser::adapter::decide(Adapter::Auto, &build),
                build,
            },
            origin: runner.origin(),
            tokens: tokens.clone(),
            guardian: if simulated { "unused".into() } else { place::binary() },
            data_dir_id: "faults".to_owned(),
            limits,
            takes_faults: true,
        };
        let owner = {
            let _entered = runtime.enter();
            let start = if simulated { flotilla::simulated::launch } else { Owner::launch };
            start(launch, sender)
        };
        let facts = match report(&runtime, &mut reports) {
            OwnerReport::Started(facts) => facts,
            other => panic!("{name} did not start: {other:?}"),
        };
        let (control, data) = runner.page(&tokens, SLOW_MAX);
        Subject {
            runtime,
            runner,
            owner,
            reports,
            facts,
            control,
            data,
            pages: 0,
            epoch: 0,
            runs: 0,
        }
    }

    /// Injects the fault, and fails if it did not happen.
    fn inject(&mut self, fault: Fault) {
        assert_eq!(self.try_inject(fault), Ok(()), "{fault:?}");
    }

    fn try_inject(&mut self, fault: Fault) -> Result<(), FaultError> {
        let outcome = self.owner.fault(fault)?;
        let outcome =
            self.runtime.block_on(async { tokio::time::timeout(SLOW_MAX, outcome).await });
        outcome.expect("an outcome in time").expect("an outcome")
    }

    /// The next report that is not about memory.
    fn report(&mut self) -> OwnerReport {
        loop {
            match report(&self.runtime, &mut self.reports) {
                OwnerReport::Memory { .. } => {}
                other => return other,
            }
        }
    }

    fn failure(&mut self) -> Failure {
        match self.report() {
            OwnerReport::Failed(failure) => failure,
            other => panic!("{other:?}"),
        }
    }

    /// Waits for a measurement that satisfies `enough`.
    fn memory(&mut self, enough: impl Fn(u64) -> bool) -> u64 {
        loop {
            match report(&self.runtime, &mut self.reports) {
                OwnerReport::Memory { used_bytes } if enough(used_bytes) => return used_bytes,
                OwnerReport::Memory { .. } => {}
                other => panic!("{other:?}"),
            }
        }
    }

    /// Gives the browser a new page; the old links are returned.
    fn reset(&mut self) -> (PageLink, PageLink) {
        self.pages += 1;
        let tokens = tokens(self.pages);
        self.owner.reset(tokens.clone()).expect("the order is taken");
        match self.report() {
            OwnerReport::PageOpened => {}
            other => panic!("{other:?}"),
        }
        let (control, data) = self.runner.page(&tokens, SLOW_MAX);
        (std::mem::replace(&mut self.control, control), std::mem::replace(&mut self.data, data))
    }

    /// Loads the probe as a daemon does.
    fn load(&mut self, backend: Backend) -> Result<(), String> {
        self.epoch += 1;
        let (placement, epoch) = (probe::placement(backend), Epoch(self.epoch));
        let program = probe::program().to_bytes().expect("a program");
        let blobs = BlobSource { url_prefix: String::new() };
        let terms = LoadTerms::default();
        let load = ToPage::Load { placement, epoch, backend, program, blobs, terms };
        self.data.send(&load, &[]);
        self.data.wait("answer to a load", SLOW_MAX, |message, _| match message {
            FromPage::Loaded { epoch: loaded, .. } if loaded == epoch => Some(Ok(())),
            FromPage::LoadFailed { epoch: failed, error, .. } if failed == epoch => {
                Some(Err(error.to_string()))
            }
            _ => None,
        })
    }

    fn start_run(&mut self, backend: Backend) -> RunId {
        self.runs += 1;
        let (run, epoch) = (RunId(self.runs), Epoch(self.epoch));
        let inputs = probe::inputs(run).expect("inputs");
        self.data.send(&ToPage::Run { run, placement: probe::placement(backend), epoch }, &inputs);
        run
    }

    fn run(&mut self, backend: Backend) -> (RunId, Result<(Vec<Tensor>, RunReport), RunError>) {
        let run = self.start_run(backend);
        let result =
            self.data.wait("answer to a run", SLOW_MAX, |message, outputs| match message {
                FromPage::Ran { run: done, report, .. } if done == run => {
                    Some(Ok((outputs, report)))
                }
                FromPage::RunFailed { run: done, error, .. } if done == run => Some(Err(error)),
                _ => None,
            });
        (run, result)
    }

    /// Whether the page computes, and computes correctly.
    fn probe(&mut self, backend: Backend) -> Result<(), String> {
        self.load(backend)?;
        let (run, result) = self.run(backend);
        probe::check(run, &result.map_err(|error| error.to_string())?.0)
    }

    /// Waits for the loss of the device or context of this generation.
    fn lost(&mut self, want: u32) {
        let reason = self.data.wait("lost device", SLOW_MAX, |message, _| match message {
            FromPage::DeviceLost { generation, reason, .. } if generation == want => Some(reason),
            _ => None,
        });
        eprintln!("generation {want}: {reason}");
        assert!(!reason.is_empty());
    }

    /// Kills the browser and waits until no process of it is left.
    fn end(self) {
        let Subject { runtime, owner, facts, .. } = self;
        let tree = facts.guardian_pid.map(process::tree).unwrap_or_default();
        let ended = runtime.block_on(async { tokio::time::timeout(SLOW_MAX, owner.end()).await });
        ended.expect("it ends in time").expect("the owner does not panic");
        for process in tree {
            assert!(process.ends_before(Instant::now()), "{process:?} lives on");
        }
    }
}

fn report(
    runtime: &tokio::runtime::Runtime,
    reports: &mut mpsc::Receiver<(BrowserId, OwnerReport)>,
) -> OwnerReport {
    let report = runtime.block_on(async { tokio::time::timeout(SLOW_MAX, reports.recv()).await });
    report.expect("a report in time").expect("a report").1
}

fn tokens(page: u32) -> (String, String) {
    (format!("control{page}"), format!("data{page}"))
}

/// Runs the check on a simulated browser, then on every real one that is installed.
fn each(limits: Limits, check: impl Fn(&mut Subject, bool)) {
    for (kind, simulated) in [(Kind::Chrome, true), (Kind::Chrome, false), (Kind::Firefox, false)] {
        if !simulated && !has_browsers(&[kind]) {
            continue;
        }
        eprintln!("{kind}{}", if simulated { ", simulated" } else { "" });
        let mut subject = Subject::start(kind, simulated, limits);
        check(&mut subject, simulated);
        subject.end();
    }
}

#[test]
fn browser_lost_device_is_reported_and_replaced() {
    each(Limits::default(), |subject, simulated| {
        if simulated && let Err(error) = subject.load(Backend::WebGpu) {
            return skip(&format!("no webgpu in a simulated browser: {error}"));
        }
        assert_eq!(subject.probe(Backend::Cpu), Ok(()));
        for generation in 1..=3 {
            assert_eq!(subject.probe(Backend::WebGpu), Ok(()));
            subject.inject(Fault::LoseDevice);
            subject.lost(generation);
            let (_, failed) = subject.run(Backend::WebGpu);
            assert!(matches!(failed, Err(RunError::DeviceLost { .. })), "{failed:?}");
            // A device that is lost cannot be lost again.
            assert_eq!(subject.try_inject(Fault::LoseDevice), Err(FaultError::NothingThere));
        }
        assert_eq!(subject.probe(Backend::WebGpu), Ok(()));
        // Work that does not need the device is not affected.
        assert_eq!(subject.probe(Backend::Cpu), Ok(()));
    });
}

#[test]
fn browser_lost_webnn_context_is_reported_and_replaced() {
    if !has_browsers(&[Build::chrome_webnn()]) {
        return;
    }
    let mut subject = Subject::start(Build::chrome_webnn(), false, Limits::default());
    assert_eq!(subject.probe(Backend::Cpu), Ok(()));
    for generation in 1..=3 {
        assert_eq!(subject.probe(Backend::WebNn), Ok(()));
        subject.inject(Fault::LoseDevice);
        subject.lost(generation);
        let (_, failed) = subject.run(Backend::WebNn);
        assert!(matches!(failed, Err(RunError::DeviceLost { .. })), "{failed:?}");
        // A context that is lost cannot be lost again.
        assert_eq!(subject.try_inject(Fault::LoseDevice), Err(FaultError::NothingThere));
    }
    assert_eq!(subject.probe(Backend::WebNn), Ok(()));
    assert_eq!(subject.probe(Backend::Cpu), Ok(()));
    subject.end();
}

#[test]
fn browser_run_is_answered_though_its_device_is_lost_meanwhile() {
    each(Limits::default(), |subject, simulated| {
        if simulated && let Err(error) = subject.load(Backend::WebGpu) {
            return skip(&format!("no webgpu in a simulated browser: {error}"));
        }
        for generation in 1..=8 {
            assert_eq!(subject.probe(Backend::WebGpu), Ok(()));
            // With this many, some are running when the device is lost.
            let runs: Vec<RunId> = (0..64).map(|_| subject.start_run(Backend::WebGpu)).collect();
            subject.inject(Fault::LoseDevice);
            let mut failed = 0;
            for run in runs {
                let is_failed =
                    subject.data.wait(
                        "answer to every run",
                        SLOW_MAX,
                        |message, _| match message {
                            FromPage::Ran { run: done, .. } if done == run => Some(false),
                            FromPage::RunFailed { run: done, error, .. } if done == run => {
                                assert!(matches!(error, RunError::DeviceLost { .. }), "{error}");
                                Some(true)
                            }
                            _ => None,
                        },
                    );
                failed += u32::from(is_failed);
            }
            eprintln!("generation {generation}: {failed} failed");
        }
    });
}

#[test]
fn browser_gpu_process_may_die_again_and_again() {
    if !has_browsers(&[Kind::Chrome]) {
        return;
    }
    let mut subject = Subject::start(Kind::Chrome, false, Limits::default());
    for generation in 1..=5 {
        assert_eq!(subject.probe(Backend::WebGpu), Ok(()), "generation {generation}");
        let guardian = subject.facts.guardian_pid.expect("a guardian");
        let is_gpu = |pid: &u32| {
            let line = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
            String::from_utf8_lossy(&line).contains("--type=gpu-process")
        };
        let gpus: Vec<u32> = guardian::descendants(guardian).into_iter().filter(is_gpu).collect();
        assert!(!gpus.is_empty(), "there is no GPU process");
        gpus.iter().for_each(|&pid| process::signal(pid, Signal::KILL));
        subject.lost(generation);
    }
    // Whatever happens in between, the page gets a device in the end.
    assert_eq!(subject.probe(Backend::WebGpu), Ok(()));
    subject.end();
}

#[test]
fn browser_gets_a_new_page_whatever_the_old_one_does() {
    each(Limits::default(), |subject, simulated| {
        assert_eq!(subject.probe(Backend::Cpu), Ok(()));
        let is_firefox = subject.facts.kind == Kind::Firefox;
        for fault in [None, Some(Fault::Silence), Some(Fault::Hang), Some(Fault::Crash), None] {
            if let Some(fault) = fault {
                // Firefox exits when a page crashes.
                if fault == Fault::Crash && is_firefox && !simulated {
                    continue;
                }
                subject.inject(fault);
            }
            match fault {
                Some(Fault::Crash) => {
                    assert!(subject.control.ends_within(SLOW_MAX), "{fault:?}");
                    assert!(subject.data.ends_within(SLOW_MAX), "{fault:?}");
                }
                Some(Fault::Hang) => stops(&mut subject.control),
                Some(Fault::Silence) => stops(&mut subject.data),
                _ => {}
            }
            let (mut control, mut data) = subject.reset();
            assert!(
                control.ends_within(SLOW_MAX),
                "{fault:?}: the old page's control link is open"
            );
            assert!(data.ends_within(SLOW_MAX), "{fault:?}: the old page's data link is open");
            assert_eq!(subject.probe(Backend::Cpu), Ok(()), "{fault:?}");
            assert!(subject.control.works(1, SLOW_MAX), "{fault:?}");
        }
    });
}

/// Waits until this thread of the page has been silent for longer than a working one is.
fn stops(link: &mut PageLink) {
    let deadline = Instant::now() + SLOW_MAX;
    while link.works(99, SILENCE_MAX) {
        assert!(Instant::now() < deadline, "the thread goes on");
    }
}

#[test]
fn browser_threads_stop_one_by_one() {
    each(Limits::default(), |subject, _| {
        subject.inject(Fault::Silence);
        stops(&mut subject.data);
        // The main thread is not affected.
        assert!(subject.control.works(2, SILENCE_MAX));
        subject.control.wait("heartbeat", SILENCE_MAX, |message, _| {
            matches!(message, FromPage::Heartbeat).then_some(())
        });
        subject.inject(Fault::Hang);
        stops(&mut subject.control);
        let deadline = Instant::now() + SILENCE_MAX;
        let received = subject.control.receive(deadline);
        assert!(matches!(received, Received::Nothing), "{received:?}");
    });
}

#[test]
fn browser_links_drop_one_by_one() {
    each(Limits::default(), |subject, _| {
        subject.inject(Fault::DropLink(Link::Data));
        assert!(subject.data.ends_within(SLOW_MAX));
        assert!(subject.control.works(3, SLOW_MAX));
        subject.inject(Fault::DropLink(Link::Control));
        assert!(subject.control.ends_within(SLOW_MAX));
        let _ = subject.reset();
        assert_eq!(subject.probe(Backend::Cpu), Ok(()));
    });
}

#[test]
fn browser_wrong_and_slow_answers_are_noticed() {
    each(Limits::default(), |subject, _| {
        assert_eq!(subject.probe(Backend::Cpu), Ok(()));
        subject.inject(Fault::WrongAnswers(true));
        let wrong = subject.probe(Backend::Cpu);
        assert!(wrong.is_err(), "a wrong answer passed");
        subject.inject(Fault::WrongAnswers(false));
        assert_eq!(subject.probe(Backend::Cpu), Ok(()));

        let factor = 2000.0;
        subject.inject(Fault::SlowDown(factor));
        let begin = Instant::now();
        let (run, result) = subject.run(Backend::Cpu);
        let (outputs, report) = result.expect("a result");
        assert_eq!(probe::check(run, &outputs), Ok(()));
        let least = Duration::from_micros((report.run_us as f64 * (factor - 2.0)) as u64);
        // Waits are whole milliseconds, and clocks of pages have a low resolution.
        let took = begin.elapsed() + Duration::from_millis(2);
        assert!(took >= least, "{took:?} for a run of {} us", report.run_us);
    });
}

#[test]
fn browser_memory_is_measured_and_grows() {
    each(Limits::default(), |subject, simulated| {
        let hoard = u64::from(HOARD_MB) << 20;
        let before = if simulated { 0 } else { subject.memory(|used| used > 0) };
        subject.inject(Fault::Memory(HOARD_MB));
        // Even if other memory shrinks meanwhile, most of it is visible.
        let after = subject.memory(|used| used >= before + hoard * 3 / 4);
        eprintln!("{} MB, then {} MB", before >> 20, after >> 20);
        let guardian = subject.facts.guardian_pid;
        if let Some(guardian) = guardian {
            let begin = Instant::now();
            let now = guardian::tree_pss_bytes(guardian);
            eprintln!("measured in {:?}: {} MB", begin.elapsed(), now >> 20);
            let begin = Instant::now();
            let resident = guardian::tree_resident_bytes(guardian);
            eprintln!("resident in {:?}: {} MB", begin.elapsed(), resident >> 20);
            assert!(resident >= now, "shared pages count more than once: {resident} < {now}");
            assert!(now >= hoard, "{now}");
        }
    });
}

#[test]
fn browser_that_exits_is_reported() {
    each(Limits::default(), |subject, _| {
        subject.inject(Fault::Exit);
        assert_eq!(subject.failure().kind, FailureKind::BrowserExited);
    });
    // Firefox exits when a page crashes.
    if has_browsers(&[Kind::Firefox]) {
        let mut subject = Subject::start(Kind::Firefox, false, Limits::default());
        subject.inject(Fault::Crash);
        assert_eq!(subject.failure().kind, FailureKind::BrowserExited);
        subject.end();
    }
}

#[test]
fn browser_driver_that_stops_is_noticed_and_does_not_stop_the_end() {
    let limits = Limits {
        driver_poll: Duration::from_millis(200),
        driver_answer_max: Duration::from_secs(2),
        page_open_max: Duration::from_secs(2),
        ..Limits::default()
    };
    for kind in BOTH {
        if !has_browsers(&[kind]) {
            continue;
        }
        let mut subject = Subject::start(kind, false, limits);
        process::signal(subject.facts.driver_pid.expect("a driver"), Signal::STOP);
        let failure = subject.failure();
        assert_eq!(failure.kind, FailureKind::DriverUnresponsive, "{failure}");
        assert!(failure.to_string().contains("no answer"), "{failure}");
        subject.end();

        // A new page that never opens.
        let mut subject = Subject::start(kind, false, Limits { driver_poll: SLOW_MAX, ..limits });
        process::signal(subject.facts.driver_pid.expect("a driver"), Signal::STOP);
        subject.owner.reset(tokens(1)).expect("the order is taken");
        let failure = subject.failure();
        assert_eq!(failure.kind, FailureKind::DriverUnresponsive, "{failure}");
        assert!(failure.to_string().contains("not opened"), "{failure}");
        subject.end();
    }
}

#[test]
fn browser_ends_in_the_middle_of_a_script() {
    for kind in BOTH {
        if !has_browsers(&[kind]) {
            continue;
        }
        let mut subject = Subject::start(kind, false, Limits::default());
        let (reply, result) = tokio::sync::oneshot::channel();
        // It reports that it runs, and never returns.
        let body = "console.log('the script runs')".to_owned();
        let script = Script { body, arguments: Vec::new(), reply };
        subject.owner.execute(script).expect("the script is taken");
        subject.control.wait("script", SLOW_MAX, |message, _| {
            matches!(message, FromPage::Console { text, .. } if text.contains("the script runs"))
                .then_some(())
        });
        let begin = Instant::now();
        subject.end();
        // The driver itself would wait for 30 s.
        assert!(begin.elapsed() < Duration::from_secs(20), "{:?}", begin.elapsed());
        assert!(result.blocking_recv().is_err(), "the script has no result");
    }
}
