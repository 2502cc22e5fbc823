//! Simulates browsers and their pages: starts, loads and runs, with their failures.

use std::{collections::BTreeMap, time::Duration};

use flotilla_fleet::{
    Batching, Event, Failure, FailureKind, FailureSort, Instant, LeaseId, ModelId, Repair, Role,
    SlotId, recovery,
};
use flotilla_protocol::{Backend, BrowserId, Epoch, PlacementId, RequestId, RunId};

use super::Simulation;
use crate::{
    core::Core,
    faults::{FaultKind, Scope},
    invariants::{Invariant, Violation},
    pool::{Browser, BrowserState, Placement, PlacementState, Run, RunState},
    schedule::Scheduled,
};

/// Detail of a failure that is reported with another epoch.
pub(super) const STALE: &str = "stale";
/// Detail of a failure that the page of another browser reports.
pub(super) const FOREIGN: &str = "foreign";
/// Detail of every other failure.
pub(super) const PLAYED: &str = "played";
/// Largest factor by which a browser becomes slower.
const SLOWNESS_MAX: u32 = 50;
/// Memory of a browser's processes, its growth in a second while it grows, and the heartbeats between two measurements
/// otherwise.
const MEMORY_BASE: u64 = 400 << 20;
const MEMORY_GROWTH: u64 = 16 << 20;
const MEMORY_BEATS: u64 = 6;
/// Device losses that follow each other.
const REPEATED_LOSSES: u64 = 3;
/// Failures of runs that pages report.
pub(super) const RUN_FAILURES: [FailureKind; 6] = [
    FailureKind::DeviceLost,
    FailureKind::OutOfMemory,
    FailureKind::UnsupportedOperation,
    FailureKind::RunRefused,
    FailureKind::PageCrashed,
    FailureKind::Overloaded,
];

/// Backends that have a device to be lost.
const DEVICES: [Backend; 2] = [Backend::WebGpu, Backend::WebNn];

/// Failures of probes.
const PROBE_FAILURES: [FailureKind; 3] =
    [FailureKind::WrongResult, FailureKind::DeviceLost, FailureKind::OutOfMemory];

impl<C: Core> Simulation<C> {
    pub(super) fn launch(&mut self, id: BrowserId, slot: SlotId) -> Result<(), Violation> {
        let highest = self.pool.browser_highest;
        self.checker
            .check(Invariant::FreshIds, id.0 > highest, || format!("browser id {id} again"))?;
        self.pool.browser_highest = id.0;
        let is_desired = !self.pool.removed_slots.contains(&slot);
        self.checker.check(Invariant::RemovedSlots, is_desired, || {
            format!("{id} is launched for {slot:?}, which was removed")
        })?;
        let before = self.pool.slots.insert(slot, id);
        self.checker.check(Invariant::OneOwner, before.is_none(), || {
            format!("{id} is launched for {slot:?}, which has {before:?}")
        })?;
        let browser = Browser {
            slot,
            state: BrowserState::Starting,
            page: 1,
            heartbeat_at: self.now,
            silent: false,
            frozen: false,
            stuck: false,
            slows_since: None,
            grows_since: None,
            beats: 0,
            probe: None,
            measures: BTreeMap::new(),
            lease: None,
            placements: BTreeMap::new(),
            in_flight: Vec::new(),
            busy_until: self.now,
            head_since: self.now,
            idle_since: None,
        };
        self.pool.browsers.insert(id, browser);
        let delay = self.random.ms(200, 2000);
        if self.fault(FaultKind::StartFails) {
            let failure = Failure::new(FailureKind::DriverUnresponsive, PLAYED);
            let event = Event::BrowserDown { browser: id, failure };
            self.schedule_in(delay, Scheduled::PageMessage { browser: id, page: 1, event });
        } else if !self.fault(FaultKind::StartHangs) {
            self.report_up(id, 1, delay);
            // Heartbeats must be added in order of time, so the first one does not wait for the start.
            self.schedule.add_heartbeat(self.now.after(self.plan.heartbeat), id);
            for fault in 0..self.plan.faults.len() {
                if self.plan.faults[fault].what.scope() == Scope::Browser {
                    self.schedule_fault(fault, |fault| Scheduled::BrowserFault {
                        browser: id,
                        fault,
                    });
                }
            }
        }
        Ok(())
    }

    /// A page opens its links.
    fn report_up(&mut self, id: BrowserId, page: u32, delay: Duration) {
        let mut backends = vec![Backend::Cpu];
        backends.extend(DEVICES.iter().filter(|_| self.random.chance(50.0)));
        let mut events = self.known_speeds(id);
        events.push(Event::BrowserUp { browser: id, backends, refused: Vec::new() });
        let event = Event::Together(events);
        self.schedule_in(delay, Scheduled::PageMessage { browser: id, page, event });
    }

    pub(super) fn heartbeat_due(&mut self, id: BrowserId) -> Result<(), Violation> {
        let Some(browser) = self.pool.browsers.get_mut(&id) else { return Ok(()) };
        self.schedule.add_heartbeat(self.now.after(self.plan.heartbeat), id);
        browser.beats += 1;
        let can_send = browser.state == BrowserState::Up && !browser.silent;
        // Memory is measured from outside, even if the page hangs; less often while it does not grow.
        let grown = browser.grows_since.map(|since| self.now.since(since).as_secs());
        let measured = match browser.state {
            BrowserState::Up | BrowserState::Failed => {
                grown.is_some() || browser.beats.is_multiple_of(MEMORY_BEATS)
            }
            BrowserState::Starting => false,
        };
        let used_bytes = MEMORY_BASE + grown.unwrap_or(0) * MEMORY_GROWTH;
        if can_send {
            self.send(Event::Heartbeat { browser: id })?;
        }
        match measured {
            true => self.send(Event::Memory { browser: id, used_bytes }),
            false => Ok(()),
        }
    }

    pub(super) fn kill(&mut self, id: BrowserId) -> Result<(), Violation> {
        let runs = self.pool.clear(id);
        let removed = self.pool.browsers.remove(&id);
        let browser = self.checker.require(Invariant::KnownTarget, removed, || {
            format!("{id} is killed, which is not there")
        })?;
        for run in runs {
            self.run_over(run, FailureKind::BrowserExited);
        }
        let there = self.pool.slots.remove(&browser.slot);
        self.checker.check(Invariant::OneOwner, there == Some(id), || {
            format!("{id} was in {:?}, where {there:?} is", browser.slot)
        })
    }

    /// A browser gets a new page, if its process can still give one.
    pub(super) fn reset(&mut self, id: BrowserId) -> Result<(), Violation> {
        let runs = self.pool.clear(id);
        for run in runs {
            self.run_over(run, FailureKind::PageCrashed);
        }
        let browser = self.checker.require(
            Invariant::KnownTarget,
            self.pool.browsers.get_mut(&id),
            || format!("a new page is ordered of {id}, which is not there"),
        )?;
        let state = browser.state;
        self.checker.check(Invariant::KnownTarget, state != BrowserState::Starting, || {
            format!("a new page is ordered of {id}, which is {state:?}")
        })?;
        browser.state = BrowserState::Starting;
        browser.page += 1;
        (browser.silent, browser.stuck) = (browser.frozen, false);
        browser.busy_until = self.now;
        let (page, frozen) = (browser.page, browser.frozen);
        let delay = self.random.ms(100, 1000);
        if self.fault(FaultKind::StartFails) {
            let failure = Failure::new(FailureKind::DriverUnresponsive, PLAYED);
            self.schedule_in(
                delay,
                Scheduled::Message(Event::BrowserDown { browser: id, failure }),
            );
        } else if !frozen && !self.fault(FaultKind::StartHangs) {
            self.report_up(id, page, delay);
        }
        Ok(())
    }

    /// A page gets a probe.
    pub(super) fn probe(
        &mut self,
        id: BrowserId,
        backend: Backend,
        probe: RunId,
    ) -> Result<(), Violation> {
        let highest = self.pool.run_highest;
        self.checker.check(Invariant::FreshIds, probe.0 > highest, || format!("{probe} again"))?;
        self.pool.run_highest = probe.0;
        let browser = self.checker.require(
            Invariant::KnownTarget,
            self.pool.browsers.get_mut(&id),
            || format!("{id} is probed, which is not there"),
        )?;
        let ready = browser
            .placements
            .values()
            .any(|placed| placed.backend == backend && placed.is_loaded());
        let state = browser.state;
        self.checker.check(Invariant::KnownTarget, state == BrowserState::Up && ready, || {
            format!("{id} is probed on {backend}, where nothing is ready; it is {state:?}")
        })?;
        browser.probe = Some((probe, backend));
        let (page, stuck) = (browser.page, browser.stuck);
        let delay = self.random.ms(1, 100);
        let from_page = |event| Scheduled::PageMessage { browser: id, page, event };
        if self.fault(FaultKind::ProbeFails)
            && let Some(kind) = self.random.one_of(&PROBE_FAILURES)
        {
            let failure = Failure::new(kind, PLAYED);
            self.schedule_in(delay, from_page(Event::ProbeFailed { browser: id, probe, failure }));
        } else if !self.fault(FaultKind::ProbeHangs) && !stuck {
            self.schedule_in(delay, from_page(Event::ProbeDone { browser: id, probe }));
        }
        Ok(())
    }

    /// A probe has ended, and the core is about to know.
    pub(super) fn probed(&mut self, id: BrowserId, probe: RunId, failure: Option<FailureKind>) {
        let Some(browser) = self.pool.browsers.get_mut(&id) else { return };
        let Some((_, backend)) = browser.probe.take_if(|(under_way, _)| *under_way == probe) else {
            return;
        };
        if failure.is_some_and(|kind| kind.sort() == FailureSort::Device) {
            self.lose_device(id, backend);
        }
    }

    /// A browser's memory was measured; one that is over the limit has failed.
    pub(super) fn measured(&mut self, id: BrowserId, used_bytes: u64) {
        if self.plan.config.memory_bytes_max.is_some_and(|max| used_bytes > max) {
            self.pool.report_failed(id, self.now);
        }
    }

    /// A fault of the plan happens to a browser; schedules the next one.
    pub(super) fn browser_fault(&mut self, id: BrowserId, index: usize) -> Result<(), Violation> {
        if !self.pool.browsers.contains_key(&id) {
            return Ok(());
        }
        self.schedule_fault(index, |fault| Scheduled::BrowserFault { browser: id, fault });
        let fault = self.plan.faults[index];
        let Some(browser) = self.pool.browsers.get_mut(&id) else { return Ok(()) };
        if !fault.is_on(self.now) || browser.state != BrowserState::Up {
            return Ok(());
        }
        self.fault_counts.count(fault.what);
        let page_down = |kind| Event::PageDown { browser: id, failure: Failure::new(kind, PLAYED) };
        match fault.what {
            FaultKind::ProcessKilled => {
                let failure = Failure::new(FailureKind::BrowserExited, PLAYED);
                self.send(Event::BrowserDown { browser: id, failure })
            }
            FaultKind::PageCrash => self.send(page_down(FailureKind::PageCrashed)),
            FaultKind::SocketDrop => self.send(page_down(FailureKind::ConnectionLost)),
            FaultKind::MemoryGrows => {
                browser.grows_since.get_or_insert(self.now);
                Ok(())
            }
            FaultKind::Hang => {
                browser.silent = true;
                // Either only the page hangs, and a reset helps, or the whole process.
                browser.frozen |= self.random.chance(50.0);
                Ok(())
            }
            FaultKind::SlowsDown => {
                browser.slows_since.get_or_insert(self.now);
                Ok(())
            }
            FaultKind::DeviceLoss => {
                let backend = self.random.one_of(&DEVICES).unwrap_or(Backend::WebGpu);
                self.send(Event::DeviceLost { browser: id, backend, reason: PLAYED.to_owned() })
            }
            FaultKind::DeviceLossRepeated => {
                let page = browser.page;
                let backend = self.random.one_of(&DEVICES).unwrap_or(Backend::WebGpu);
                for loss in 0..REPEATED_LOSSES {
                    let delay = self.random.ms(2000 * loss, 2000 * loss + 2000);
                    let reason = PLAYED.to_owned();
                    let event = Event::DeviceLost { browser: id, backend, reason };
                    self.schedule_in(delay, Scheduled::PageMessage { browser: id, page, event });
                }
                Ok(())
            }
            FaultKind::DaemonKilled
            | FaultKind::LoadPeak
            | FaultKind::StartFails
            | FaultKind::StartHangs
            | FaultKind::LoadFails
            | FaultKind::LoadHangs
            | FaultKind::LoadUnsupported
            | FaultKind::RunFails
            | FaultKind::RunHangs
            | FaultKind::RunSlow
            | FaultKind::WrongResult
            | FaultKind::ProbeFails
            | FaultKind::ProbeHangs
            | FaultKind::CommitFails
            | FaultKind::CommitSlow
            | FaultKind::StaleReport
            | FaultKind::ForeignReport
            | FaultKind::DuplicateReport
            | FaultKind::LateReport
            | FaultKind::ClientCancels
            | FaultKind::DeadlineShort => Ok(()),
        }
    }

    pub(super) fn place(
        &mut self,
        id: BrowserId,
        placement: PlacementId,
        epoch: Epoch,
        model: ModelId,
        backend: Backend,
    ) -> Result<(), Violation> {
        self.check_served(model, Some(id))?;
        let checker = &mut self.checker;
        let browser =
            checker.require(Invariant::KnownTarget, self.pool.browsers.get_mut(&id), || {
                format!("a load is ordered of {id}, which is not there")
            })?;
        checker.check(Invariant::KnownTarget, browser.state == BrowserState::Up, || {
            format!("a load is ordered of {id}, which is {:?}", browser.state)
        })?;
        let loading =
            browser.placements.values().any(|placed| placed.state == PlacementState::Loading);
        checker.check(Invariant::RunLimits, !loading, || {
            format!("{id} is to load two models at once")
        })?;
        let owner = self.pool.owners.insert(placement, id);
        checker.check(Invariant::OneOwner, owner.is_none_or(|owner| owner == id), || {
            format!("{placement} is loaded on {id} and is on {owner:?}")
        })?;
        let beside = browser.placements.iter().any(|(&other, placed)| {
            other != placement && placed.model == model && placed.is_loaded()
        });
        let state = PlacementState::Loading;
        let (was_ready, answers, failed) = (false, false, false);
        let placed = Placement { epoch, model, backend, state, beside, was_ready, answers, failed };
        match browser.placements.insert(placement, placed) {
            Some(last) => checker.check(Invariant::OneOwner, epoch > last.epoch, || {
                format!("{placement} is loaded again in {epoch} after {}", last.epoch)
            })?,
            None => {
                let is_new = self.pool.placement_ids.insert(placement);
                checker.check(Invariant::FreshIds, is_new, || format!("{placement} again"))?;
            }
        }
        let page = browser.page;
        self.pool.refresh_idle(id, self.now);
        self.load(id, page, placement, epoch);
        Ok(())
    }

    /// Simulates a load: progress, and then its end, if it has one.
    fn load(&mut self, browser: BrowserId, page: u32, placement: PlacementId, epoch: Epoch) {
        let from_page = |event| Scheduled::PageMessage { browser, page, event };
        let failed = |kind| {
            let failure = Failure::new(kind, PLAYED);
            from_page(Event::PlacementFailed { browser, placement, epoch, failure })
        };
        let ready = from_page(Event::PlacementReady { browser, placement, epoch });
        let delay = self.random.ms(50, 1000);
        self.schedule_in(delay, from_page(Event::PlacementProgress { browser, placement, epoch }));
        if self.fault(FaultKind::ForeignReport) {
            let other = BrowserId(browser.0 + 1);
            let ready = Event::PlacementReady { browser: other, placement, epoch };
            self.schedule_in(delay / 2, Scheduled::Message(ready));
        }
        if self.fault(FaultKind::LoadUnsupported) {
            self.schedule_in(delay * 2, failed(FailureKind::UnsupportedOperation));
        } else if self.fault(FaultKind::LoadFails) {
            self.schedule_in(delay * 2, failed(FailureKind::OutOfMemory));
            if self.fault(FaultKind::StaleReport) {
                // Of the epoch that has just failed, while the next one loads.
                self.schedule_in(delay * 2 + Duration::from_millis(1), ready);
            }
        } else if !self.fault(FaultKind::LoadHangs) {
            self.schedule_in(delay * 2, ready);
        }
    }

    /// A load that is under way has ended.
    pub(super) fn loaded(
        &mut self,
        by: BrowserId,
        placement: PlacementId,
        epoch: Epoch,
        ready: bool,
    ) {
        let Some((browser, placed)) = self.pool.placed_mut(placement) else { return };
        if browser == by && placed.epoch == epoch && placed.state == PlacementState::Loading {
            placed.state = match (ready, placed.beside) {
                (true, true) => PlacementState::Beside,
                (true, false) => PlacementState::Ready,
                (false, _) => PlacementState::Gone,
            };
            placed.was_ready |= ready;
            self.pool.refresh_idle(browser, self.now);
        }
    }

    /// A placement is freed.
    pub(super) fn unload(
        &mut self,
        id: BrowserId,
        placement: PlacementId,
    ) -> Result<(), Violation> {
        let owner = self.pool.owners.remove(&placement);
        let placed = self
            .pool
            .browsers
            .get_mut(&id)
            .and_then(|browser| browser.placements.remove(&placement));
        let model = placed.map(|placed| placed.model);
        if let Some(placed) = placed {
            self.check_unload(id, placement, placed)?;
        }
        if let Some(idle) = model.and_then(|model| self.pool.idle.get_mut(&model)) {
            idle.remove(&id);
        }
        self.pool.refresh_idle(id, self.now);
        // A placement whose load was never ordered has no owner.
        self.checker.check(Invariant::OneOwner, owner.is_none_or(|owner| owner == id), || {
            format!("{placement} is unloaded from {id} and is on {owner:?}")
        })
    }

    pub(super) fn dispatch(
        &mut self,
        id: BrowserId,
        placement: PlacementId,
        epoch: Epoch,
        run: RunId,
        requests: Vec<RequestId>,
    ) -> Result<(), Violation> {
        let highest = self.pool.run_highest;
        self.checker
            .check(Invariant::FreshIds, run.0 > highest, || format!("run id {run} again"))?;
        self.pool.run_highest = run.0;
        let model = self.check_batch(run, &requests)?;
        self.check_desired(id)?;
        let checker = &mut self.checker;
        let browser =
            checker.require(Invariant::KnownTarget, self.pool.browsers.get_mut(&id), || {
                format!("{run} is sent to {id}, which is not there")
            })?;
        checker.check(Invariant::KnownTarget, browser.state == BrowserState::Up, || {
            format!("{run} is sent to {id}, which is {:?}", browser.state)
        })?;
        let placed = checker.require(
            Invariant::KnownTarget,
            browser.placements.get(&placement).copied(),
            || format!("{run} is sent to {placement}, which is not on {id}"),
        )?;
        checker.check(
            Invariant::KnownTarget,
            (placed.epoch, placed.model) == (epoch, model),
            || format!("{run} of {model:?} in {epoch} is sent to {placement}, which is {placed:?}"),
        )?;
        checker.check(Invariant::KnownTarget, placed.is_loaded(), || {
            format!("{run} is sent to {placement}, which is {placed:?}")
        })?;
        if let Some(placed) = browser.placements.get_mut(&placement) {
            (placed.state, placed.beside, placed.answers) = (PlacementState::Ready, false, true);
        }
        if browser.in_flight.is_empty() {
            browser.head_since = self.now;
        }
        let (slot, lease) = (browser.slot, browser.lease);
        browser.in_flight.push(run);
        let (depth, most) = (browser.in_flight.len(), self.plan.config.runs_in_flight_max as usize);
        checker.check(Invariant::RunLimits, depth <= most, || {
            format!("{depth} runs on {id}, the limit is {most}")
        })?;
        self.check_right(run, slot, lease, &requests)?;
        let waits = requests.len() as u32;
        let state = RunState::InFlight;
        let (is_slow, abandoned) = (false, false);
        let order =
            Run { browser: id, placement, epoch, requests, waits, is_slow, state, abandoned };
        self.pool.runs.insert(run, order);
        self.pool.refresh_idle(id, self.now);
        self.execute(id, run, epoch);
        Ok(())
    }

    /// A leased browser runs only the requests of its lease, a simulated one only requests that allow it.
    fn check_right(
        &mut self,
        run: RunId,
        slot: SlotId,
        lease: Option<LeaseId>,
        requests: &[RequestId],
    ) -> Result<(), Violation> {
        let simulated =
            self.pool.specs.get(slot.0 as usize).is_some_and(|slot| slot.role == Role::Fallback);
        for &id in requests {
            let Some(policy) = self.clients.get(id).map(|request| request.policy) else { continue };
            self.checker.check(Invariant::Exclusive, policy.lease == lease, || {
                format!("{id} of {:?} is in {run} on a browser of {lease:?}", policy.lease)
            })?;
            self.checker.check(
                Invariant::Fallback,
                !simulated || policy.fallback_to_simulation,
                || format!("{id} is in {run} on a simulated browser and does not allow it"),
            )?;
        }
        Ok(())
    }

    /// Checks that the requests of a run wait, are of one model and fit into a batch; puts them into the run.
    fn check_batch(&mut self, run: RunId, ids: &[RequestId]) -> Result<ModelId, Violation> {
        let (mut rows, mut length, mut model) = (0, 0, None);
        for &id in ids {
            let (request, before) = self.clients.start_run(id, run, &mut self.checker)?;
            if let Some(before) = before {
                // Hedged: it was sent elsewhere because its run is slow.
                let slow = self.is_slow_run(before);
                self.checker.check(Invariant::OneRun, slow, || {
                    format!("{id} is in {run} and in {before}, which is not slow")
                })?;
                self.leave_run(before);
            }
            let first = *model.get_or_insert(request.model);
            self.checker.check(Invariant::KnownTarget, first == request.model, || {
                format!("{run} is of {first:?} and of {:?}", request.model)
            })?;
            rows += request.rows;
            length = length.max(request.length);
        }
        let model =
            self.checker.require(Invariant::RunLimits, model, || format!("{run} is empty"))?;
        self.check_served(model, None)?;
        let batching = self.pool.models.get(&model).copied();
        let Batching { rows_max, tokens_max } =
            self.checker.require(Invariant::KnownTarget, batching, || format!("no {model:?}"))?;
        let fits = rows <= rows_max && rows * length <= tokens_max;
        self.checker.check(Invariant::RunLimits, fits || ids.len() == 1, || {
            format!("{rows} rows of {length} in {run}, the limits are {rows_max} and {tokens_max}")
        })?;
        Ok(model)
    }

    /// Simulates a run: results, failures, hangs, and wrong reports.
    fn execute(&mut self, id: BrowserId, run: RunId, epoch: Epoch) {
        let slow = self.fault(FaultKind::RunSlow);
        let took = if slow { self.random.ms(1000, 20_000) } else { self.random.ms(5, 100) };
        let hangs = self.fault(FaultKind::RunHangs);
        let now = self.now;
        let Some(browser) = self.pool.browsers.get_mut(&id) else { return };
        browser.stuck |= hangs;
        if browser.stuck {
            return;
        }
        let slowness = match browser.slows_since {
            Some(since) => 1 + (now.since(since).as_secs() / 60) as u32,
            None => 1,
        };
        // A run does not wait for a load but is slower beside one.
        let loads =
            browser.placements.values().any(|placed| placed.state == PlacementState::Loading);
        let beside = if loads { 2 } else { 1 };
        let took = took * slowness.min(SLOWNESS_MAX) * beside;
        browser.busy_until = browser.busy_until.max(now).after(took);
        let (page, delay) = (browser.page, browser.busy_until.since(now));
        let failed = |epoch, kind, words: &str| Event::RunFailed {
            browser: id,
            run,
            epoch,
            failure: Failure::new(kind, words),
        };
        let from_page = |event| Scheduled::PageMessage { browser: id, page, event };
        if self.fault(FaultKind::WrongResult) {
            self.schedule_in(delay, from_page(failed(epoch, FailureKind::WrongResult, PLAYED)));
            return;
        }
        if self.fault(FaultKind::RunFails)
            && let Some(kind) = self.random.one_of(&RUN_FAILURES)
        {
            self.schedule_in(delay, from_page(failed(epoch, kind, PLAYED)));
            return;
        }
        let done = Event::RunDone { browser: id, run, epoch };
        if self.fault(FaultKind::LateReport) {
            // Even if the page has ended.
            let late = delay + self.random.ms(1000, 30_000);
            self.schedule_in(late, Scheduled::Message(done.clone()));
        } else {
            self.schedule_in(delay, from_page(done.clone()));
        }
        if self.fault(FaultKind::StaleReport) {
            let other = match self.random.chance(50.0) {
                true => Epoch(epoch.0.wrapping_add(1)),
                false => Epoch(epoch.0.wrapping_sub(1)),
            };
            self.schedule_in(
                delay / 3,
                Scheduled::Message(Event::RunDone { browser: id, run, epoch: other }),
            );
            let stale = failed(other, FailureKind::PageCrashed, STALE);
            self.schedule_in(delay / 3 * 2, Scheduled::Message(stale));
        }
        if self.fault(FaultKind::ForeignReport) {
            let browser = BrowserId(id.0 + 1);
            let foreign = match self.random.chance(50.0) {
                true => Event::RunDone { browser, run, epoch },
                false => Event::RunFailed {
                    browser,
                    run,
                    epoch,
                    failure: Failure::new(FailureKind::PageCrashed, FOREIGN),
                },
            };
            self.schedule_in(delay / 3, Scheduled::Message(foreign));
        }
        if self.fault(FaultKind::DuplicateReport) {
            self.schedule_in(delay * 2, Scheduled::Message(done));
        }
    }

    pub(super) fn run_done(&mut self, by: BrowserId, id: RunId, epoch: Epoch) {
        let Some(run) = self.pool.runs.get_mut(&id) else { return };
        if (run.browser, run.epoch) == (by, epoch) && run.state == RunState::InFlight {
            run.state = RunState::Done;
            let browser = run.browser;
            let is_slow = self.is_slow_run(id);
            if let Some(run) = self.pool.runs.get_mut(&id) {
                run.is_slow = is_slow;
            }
            self.pool.changed_runs.push(id);
            self.pool.leave_browser(id, browser, self.now);
        }
    }

    /// Whether a run has taken so long, or its browser has been silent for so long, that its requests may be sent
    /// elsewhere.
    fn is_slow_run(&self, id: RunId) -> bool {
        let Some(run) = self.pool.runs.get(&id) else { return true };
        let Some(browser) = self.pool.browsers.get(&run.browser) else { return true };
        let config = &self.plan.config;
        run.is_slow
            || browser.head_since.after(config.straggler_min) <= self.now
            || browser.heartbeat_at.after(config.suspect_after) <= self.now
    }

    pub(super) fn run_failed(&mut self, by: BrowserId, id: RunId, epoch: Epoch, failure: &Failure) {
        let Some(run) = self.pool.runs.get(&id) else { return };
        if (run.browser, run.epoch) != (by, epoch) || run.state != RunState::InFlight {
            return;
        }
        let (browser, placement) = (run.browser, run.placement);
        self.pool.leave_browser(id, browser, self.now);
        self.run_over(id, failure.kind);
        match recovery::repair(failure.kind) {
            Repair::RenewDevice => self.lose_device_of(placement),
            Repair::Reload => self.lose_placement(placement),
            // The core orders these repairs itself.
            Repair::Nothing | Repair::ResetPage | Repair::Replace => {}
        }
    }

    /// The device that a placement is on is gone.
    pub(super) fn lose_device_of(&mut self, placement: PlacementId) {
        if let Some((browser, placed)) = self.pool.placed_mut(placement) {
            let backend = placed.backend;
            self.lose_device(browser, backend);
        }
    }

    /// A backend's device is gone, and with it all that was ready there.
    pub(super) fn lose_device(&mut self, id: BrowserId, backend: Backend) {
        if !backend.has_device() {
            return;
        }
        let Some(browser) = self.pool.browsers.get(&id) else { return };
        let lost: Vec<PlacementId> = browser
            .placements
            .iter()
            .filter(|(_, placed)| placed.is_loaded() && placed.backend == backend)
            .map(|(&placement, _)| placement)
            .collect();
        lost.into_iter().for_each(|placement| self.lose_placement(placement));
    }

    /// A placement is lost with its runs; it must be loaded again.
    pub(super) fn lose_placement(&mut self, placement: PlacementId) {
        let Some((id, placed)) = self.pool.placed_mut(placement) else { return };
        if !placed.is_loaded() {
            return;
        }
        placed.state = PlacementState::Gone;
        let Some(browser) = self.pool.browsers.get(&id) else { return };
        let of_placement =
            |run: &RunId| self.pool.runs.get(run).is_some_and(|run| run.placement == placement);
        let lost: Vec<RunId> = browser.in_flight.iter().copied().filter(of_placement).collect();
        for run in lost {
            self.pool.leave_browser(run, id, self.now);
            self.run_over(run, FailureKind::DeviceLost);
        }
        self.pool.refresh_idle(id, self.now);
    }

    /// A run has ended without results; its requests wait for another run.
    fn run_over(&mut self, id: RunId, why: FailureKind) {
        let Some(run) = self.pool.runs.remove(&id) else { return };
        self.pool.lost_runs.push(id);
        for request in run.requests {
            self.clients.lose_run(request, id, why, self.now);
        }
    }

    pub(super) fn abandon(&mut self, id: RunId) -> Result<(), Violation> {
        if self.pool.lost_runs.contains(&id) {
            // The run was lost and abandoned by the same event.
            return Ok(());
        }
        let run =
            self.checker.require(Invariant::Abandoned, self.pool.runs.get_mut(&id), || {
                format!("{id} is abandoned and is not there")
            })?;
        self.checker
            .check(Invariant::Abandoned, !run.abandoned, || format!("{id} is abandoned again"))?;
        run.abandoned = true;
        self.pool.changed_runs.push(id);
        Ok(())
    }

    /// The requests of an abandoned run have ended, or were hedged because the run is slow.
    fn check_abandoned(&mut self, id: RunId) -> Result<(), Violation> {
        let Some(run) = self.pool.runs.get(&id) else { return Ok(()) };
        let left = run.requests.clone();
        let slow = self.is_slow_run(id);
        for request in left {
            let Some(open) = self.clients.get(request).filter(|open| open.run == Some(id)) else {
                continue;
            };
            let ends = open.is_ending();
            self.checker.check(Invariant::Abandoned, slow || ends, || {
                format!("{id} is abandoned, is not slow, and {request} waits for it")
            })?;
            self.clients.lose_run(request, id, FailureKind::DeadlineExceeded, self.now);
        }
        if let Some(run) = self.pool.runs.get_mut(&id) {
            run.waits = 0;
        }
        Ok(())
    }

    /// Checks the runs and browsers that this step has changed.
    pub(super) fn check_runs(&mut self) -> Result<(), Violation> {
        self.pool.lost_runs.clear();
        for id in std::mem::take(&mut self.pool.changed_runs) {
            let Some(run) = self.pool.runs.get(&id) else { continue };
            let (waits, abandoned) = (run.waits, run.abandoned);
            match run.state {
                RunState::InFlight if abandoned => self.check_abandoned(id)?,
                RunState::InFlight => {
                    self.checker.check(Invariant::Abandoned, waits > 0, || {
                        format!("nobody waits for {id}, and it is not abandoned")
                    })?;
                }
                RunState::Done => self.check_done(id)?,
            }
        }
        for id in std::mem::take(&mut self.pool.reported_failed) {
            let kept = self
                .pool
                .browsers
                .get(&id)
                .is_some_and(|there| there.state == BrowserState::Failed);
            self.checker.check(Invariant::DeadBrowsers, !kept, || {
                format!("{id} was reported to have failed and goes on")
            })?;
        }
        Ok(())
    }

    /// The requests of a run with results are answered, or their outcomes are being recorded.
    fn check_done(&mut self, id: RunId) -> Result<(), Violation> {
        let Some(run) = self.pool.runs.get(&id) else { return Ok(()) };
        let is_slow = run.is_slow;
        let mut waits = 0;
        for request in run.requests.clone() {
            let Some(open) = self.clients.get(request) else { continue };
            if open.run != Some(id) {
                continue;
            }
            if open.is_ending() {
                waits += 1;
                continue;
            }
            self.checker.check(Invariant::OneAnswer, is_slow, || {
                format!("{id} has results, and {request} still waits for them")
            })?;
            // It was hedged and has left the run.
            self.clients.lose_run(request, id, FailureKind::DeadlineExceeded, self.now);
        }
        if waits == 0 {
            self.pool.runs.remove(&id);
        }
        Ok(())
    }

    /// Whether a browser has for a while been able to start a run of a model that is ready there.
    pub(super) fn is_free(&self, id: BrowserId, patience: Duration) -> bool {
        let Some(browser) = self.pool.browsers.get(&id) else { return false };
        let is_regular = self
            .pool
            .specs
            .get(browser.slot.0 as usize)
            .is_some_and(|slot| slot.role == Role::Regular);
        // A browser whose heartbeat is late is suspected and gets no runs.
        let suspected_at: Instant = browser.heartbeat_at.after(self.plan.config.suspect_after);
        is_regular
            && browser.state == BrowserState::Up
            && browser.lease.is_none()
            && suspected_at > self.now
            && browser.idle_since.is_some_and(|since| since.after(patience) < self.now)
    }

    pub(super) fn check_pool_memory(&mut self, open: u64) -> Result<(), Violation> {
        let most =
            self.pool.specs.len() as u64 * u64::from(self.plan.config.runs_in_flight_max) + open;
        let runs = self.pool.runs.len() as u64;
        self.checker.check(Invariant::Memory, runs <= most, || {
            format!("{runs} runs are known, the limit is {most}")
        })
    }
}
