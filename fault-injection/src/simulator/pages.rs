//! Plays browsers and their pages: starts, loads, runs, and every way in which they fail.

use std::{collections::BTreeMap, time::Duration};

use flotilla_fleet::{
    Batching, Event, Failure, FailureKind, Instant, ModelId, Repair, SlotId, recovery,
};
use flotilla_protocol::{Backend, BrowserId, Epoch, PlacementId, RequestId, RunId};

use super::{
    faults::{Scope, What},
    invariants::{Invariant, Violation},
    pool::{Browser, Life, Placed, Run, RunState, Stage},
    world::{Core, Happening, World},
};

/// Words of a failure that was reported in an epoch that is over.
pub(super) const STALE: &str = "stale";
/// Words of every other failure.
const PLAYED: &str = "played";
/// A browser that slows down takes this many times as long, and no longer.
const SLOWNESS_MAX: u32 = 50;
/// Device losses that follow each other.
const REPEATED_LOSSES: u64 = 3;
/// What a run may fail of, as its page says.
const RUN_FAILURES: [FailureKind; 5] = [
    FailureKind::DeviceLost,
    FailureKind::OutOfMemory,
    FailureKind::UnsupportedOperation,
    FailureKind::PageCrashed,
    FailureKind::Overloaded,
];

impl<C: Core> World<C> {
    pub(super) fn launch(&mut self, id: BrowserId, slot: SlotId) -> Result<(), Violation> {
        let highest = self.pool.browser_highest;
        self.judge
            .holds(Invariant::FreshIds, id.0 > highest, || format!("browser id {id} again"))?;
        self.pool.browser_highest = id.0;
        let before = self.pool.slots.insert(slot, id);
        self.judge.holds(Invariant::OneOwner, before.is_none(), || {
            format!("{id} is launched for {slot:?}, which has {before:?}")
        })?;
        let browser = Browser {
            slot,
            life: Life::Starting,
            page: 1,
            heard_at: self.now,
            silent: false,
            stuck: false,
            slows_since: None,
            placements: BTreeMap::new(),
            in_flight: Vec::new(),
            busy_until: self.now,
        };
        self.pool.browsers.insert(id, browser);
        let delay = self.random.ms(200, 2000);
        if self.fault(What::StartFails) {
            let failure = Failure::new(FailureKind::DriverUnresponsive, PLAYED);
            let event = Event::BrowserDown { browser: id, failure };
            self.later(delay, Happening::Page { browser: id, page: 1, event });
        } else if !self.fault(What::StartHangs) {
            self.report_up(id, 1, delay);
            for fault in 0..self.plan.faults.len() {
                if self.plan.faults[fault].what.scope() == Scope::Browser {
                    self.expect_strike(fault, |fault| Happening::Strike { browser: id, fault });
                }
            }
        }
        Ok(())
    }

    /// A page opens its links and starts to beat.
    fn report_up(&mut self, id: BrowserId, page: u32, delay: Duration) {
        let backends = match self.random.chance(50.0) {
            true => vec![Backend::Cpu, Backend::WebGpu],
            false => vec![Backend::Cpu],
        };
        let event = Event::BrowserUp { browser: id, backends, refused: Vec::new() };
        self.later(delay, Happening::Page { browser: id, page, event });
        // The first beat is counted from the launch, as all must be planned in order.
        self.agenda.add_beat(self.now.after(self.plan.heartbeat), id);
    }

    pub(super) fn beat(&mut self, id: BrowserId) -> Result<(), Violation> {
        let Some(browser) = self.pool.browsers.get(&id) else { return Ok(()) };
        self.agenda.add_beat(self.now.after(self.plan.heartbeat), id);
        match browser.life {
            Life::Up if !browser.silent => self.tell(Event::Heartbeat { browser: id }),
            Life::Up | Life::Starting | Life::Doomed => Ok(()),
        }
    }

    pub(super) fn kill(&mut self, id: BrowserId) -> Result<(), Violation> {
        let removed = self.pool.remove(id);
        let browser = self.judge.some(Invariant::KnownTarget, removed, || {
            format!("{id} is killed, which is not there")
        })?;
        for run in browser.in_flight {
            self.run_over(run, None);
        }
        let there = self.pool.slots.remove(&browser.slot);
        self.judge.holds(Invariant::OneOwner, there == Some(id), || {
            format!("{id} was in {:?}, where {there:?} is", browser.slot)
        })
    }

    /// A fault of the plan strikes a browser, and will again.
    pub(super) fn strike(&mut self, id: BrowserId, index: usize) -> Result<(), Violation> {
        if !self.pool.browsers.contains_key(&id) {
            return Ok(());
        }
        self.expect_strike(index, |fault| Happening::Strike { browser: id, fault });
        let fault = self.plan.faults[index];
        let Some(browser) = self.pool.browsers.get_mut(&id) else { return Ok(()) };
        if !fault.is_on(self.now) || browser.life != Life::Up {
            return Ok(());
        }
        self.fired.count(fault.what);
        let down = |kind| Event::BrowserDown { browser: id, failure: Failure::new(kind, PLAYED) };
        match fault.what {
            What::ProcessKilled => self.tell(down(FailureKind::BrowserExited)),
            What::PageCrash => self.tell(down(FailureKind::PageCrashed)),
            What::SocketDrop => self.tell(down(FailureKind::ConnectionLost)),
            What::MemoryGrows => self.tell(down(FailureKind::MemoryLimitExceeded)),
            What::Hang => {
                browser.silent = true;
                Ok(())
            }
            What::SlowsDown => {
                browser.slows_since.get_or_insert(self.now);
                Ok(())
            }
            What::DeviceLoss => {
                self.tell(Event::DeviceLost { browser: id, reason: PLAYED.to_owned() })
            }
            What::DeviceLossRepeated => {
                let page = browser.page;
                for loss in 0..REPEATED_LOSSES {
                    let delay = self.random.ms(2000 * loss, 2000 * loss + 2000);
                    let event = Event::DeviceLost { browser: id, reason: PLAYED.to_owned() };
                    self.later(delay, Happening::Page { browser: id, page, event });
                }
                Ok(())
            }
            What::DaemonKilled
            | What::LoadPeak
            | What::StartFails
            | What::StartHangs
            | What::LoadFails
            | What::LoadHangs
            | What::LoadUnsupported
            | What::RunFails
            | What::RunHangs
            | What::RunSlow
            | What::WrongResult
            | What::StaleReport
            | What::DuplicateReport
            | What::LateReport
            | What::ClientCancels
            | What::DeadlineShort => Ok(()),
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
        let judge = &mut self.judge;
        let browser =
            judge.some(Invariant::KnownTarget, self.pool.browsers.get_mut(&id), || {
                format!("a load is ordered of {id}, which is not there")
            })?;
        judge.holds(Invariant::KnownTarget, browser.life == Life::Up, || {
            format!("a load is ordered of {id}, which is {:?}", browser.life)
        })?;
        let loading = browser.placements.values().any(|placed| placed.stage == Stage::Loading);
        judge.holds(Invariant::RunLimits, !loading, || {
            format!("{id} is to load two models at once")
        })?;
        let owner = self.pool.owners.insert(placement, id);
        judge.holds(Invariant::OneOwner, owner.is_none_or(|owner| owner == id), || {
            format!("{placement} is loaded on {id} and is on {owner:?}")
        })?;
        let placed = Placed { epoch, model, backend, stage: Stage::Loading };
        match browser.placements.insert(placement, placed) {
            Some(last) => judge.holds(Invariant::OneOwner, epoch > last.epoch, || {
                format!("{placement} is loaded again in {epoch} after {}", last.epoch)
            })?,
            None => {
                let fresh = self.pool.placement_ids.insert(placement);
                judge.holds(Invariant::FreshIds, fresh, || format!("{placement} again"))?;
            }
        }
        let page = browser.page;
        self.pool.refresh_idle(id);
        self.load(id, page, placement, epoch);
        Ok(())
    }

    /// Plays a load: progress, and then its end, if it has one.
    fn load(&mut self, browser: BrowserId, page: u32, placement: PlacementId, epoch: Epoch) {
        let from_page = |event| Happening::Page { browser, page, event };
        let failed = |kind| {
            let failure = Failure::new(kind, PLAYED);
            from_page(Event::PlacementFailed { placement, epoch, failure })
        };
        let ready = from_page(Event::PlacementReady { placement, epoch });
        let delay = self.random.ms(50, 1000);
        self.later(delay, from_page(Event::PlacementProgress { placement, epoch }));
        if self.fault(What::LoadUnsupported) {
            self.later(delay * 2, failed(FailureKind::UnsupportedOperation));
        } else if self.fault(What::LoadFails) {
            self.later(delay * 2, failed(FailureKind::OutOfMemory));
            if self.fault(What::StaleReport) {
                // Of the epoch that has just failed, while the next one loads.
                self.later(delay * 2 + Duration::from_millis(1), ready);
            }
        } else if !self.fault(What::LoadHangs) {
            self.later(delay * 2, ready);
        }
    }

    /// A load that is under way has ended.
    pub(super) fn loaded(&mut self, placement: PlacementId, epoch: Epoch, ready: bool) {
        let Some((browser, placed)) = self.pool.placed_mut(placement) else { return };
        if placed.epoch == epoch && placed.stage == Stage::Loading {
            placed.stage = if ready { Stage::Ready } else { Stage::Gone };
            self.pool.refresh_idle(browser);
        }
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
        self.judge.holds(Invariant::FreshIds, run.0 > highest, || format!("run id {run} again"))?;
        self.pool.run_highest = run.0;
        let model = self.check_batch(run, &requests)?;
        let judge = &mut self.judge;
        let browser =
            judge.some(Invariant::KnownTarget, self.pool.browsers.get_mut(&id), || {
                format!("{run} is sent to {id}, which is not there")
            })?;
        judge.holds(Invariant::KnownTarget, browser.life == Life::Up, || {
            format!("{run} is sent to {id}, which is {:?}", browser.life)
        })?;
        let placed = judge.some(
            Invariant::KnownTarget,
            browser.placements.get(&placement).copied(),
            || format!("{run} is sent to {placement}, which is not on {id}"),
        )?;
        judge.holds(
            Invariant::KnownTarget,
            (placed.epoch, placed.model) == (epoch, model),
            || format!("{run} of {model:?} in {epoch} is sent to {placement}, which is {placed:?}"),
        )?;
        judge.holds(Invariant::KnownTarget, placed.stage == Stage::Ready, || {
            format!("{run} is sent to {placement}, which is {placed:?}")
        })?;
        browser.in_flight.push(run);
        let (depth, most) = (browser.in_flight.len(), self.plan.config.runs_in_flight_max as usize);
        judge.holds(Invariant::RunLimits, depth <= most, || {
            format!("{depth} runs on {id}, the limit is {most}")
        })?;
        let waits = requests.len() as u32;
        let state = RunState::InFlight;
        self.pool.runs.insert(
            run,
            Run { browser: id, placement, epoch, requests, waits, state, abandoned: false },
        );
        self.pool.refresh_idle(id);
        self.execute(id, run, epoch);
        Ok(())
    }

    /// The requests of a run wait, are of one model and fit into a batch; from here on they run.
    fn check_batch(&mut self, run: RunId, ids: &[RequestId]) -> Result<ModelId, Violation> {
        let (mut rows, mut length, mut model) = (0, 0, None);
        for &id in ids {
            let request = self.clients.start_run(id, run, &mut self.judge)?;
            let first = *model.get_or_insert(request.model);
            self.judge.holds(Invariant::KnownTarget, first == request.model, || {
                format!("{run} is of {first:?} and of {:?}", request.model)
            })?;
            rows += request.rows;
            length = length.max(request.length);
        }
        let model = self.judge.some(Invariant::RunLimits, model, || format!("{run} is empty"))?;
        let batching = self.plan.models.get(&model).copied();
        let Batching { rows_max, tokens_max } =
            self.judge.some(Invariant::KnownTarget, batching, || format!("no {model:?}"))?;
        let fits = rows <= rows_max && rows * length <= tokens_max;
        self.judge.holds(Invariant::RunLimits, fits || ids.len() == 1, || {
            format!("{rows} rows of {length} in {run}, the limits are {rows_max} and {tokens_max}")
        })?;
        Ok(model)
    }

    /// Plays the page: runs one after the other, or fails, hangs, or says what is no longer asked.
    fn execute(&mut self, id: BrowserId, run: RunId, epoch: Epoch) {
        let slow = self.fault(What::RunSlow);
        let took = if slow { self.random.ms(1000, 20_000) } else { self.random.ms(5, 100) };
        let hangs = self.fault(What::RunHangs);
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
        let took = took * slowness.min(SLOWNESS_MAX);
        browser.busy_until = browser.busy_until.max(now).after(took);
        let (page, delay) = (browser.page, browser.busy_until.since(now));
        let failed = |epoch, kind, words: &str| Event::RunFailed {
            run,
            epoch,
            failure: Failure::new(kind, words),
        };
        let from_page = |event| Happening::Page { browser: id, page, event };
        if self.fault(What::WrongResult) {
            self.later(delay, from_page(failed(epoch, FailureKind::WrongResult, PLAYED)));
            return;
        }
        if self.fault(What::RunFails)
            && let Some(kind) = self.random.one_of(&RUN_FAILURES)
        {
            self.later(delay, from_page(failed(epoch, kind, PLAYED)));
            return;
        }
        let done = Event::RunDone { run, epoch };
        if self.fault(What::LateReport) {
            // Long after, and whatever has become of the page.
            let late = delay + self.random.ms(1000, 30_000);
            self.later(late, Happening::Tell(done.clone()));
        } else {
            self.later(delay, from_page(done.clone()));
        }
        if self.fault(What::StaleReport) {
            let other = match self.random.chance(50.0) {
                true => Epoch(epoch.0.wrapping_add(1)),
                false => Epoch(epoch.0.wrapping_sub(1)),
            };
            self.later(delay / 3, Happening::Tell(Event::RunDone { run, epoch: other }));
            let stale = failed(other, FailureKind::PageCrashed, STALE);
            self.later(delay / 3 * 2, Happening::Tell(stale));
        }
        if self.fault(What::DuplicateReport) {
            self.later(delay * 2, Happening::Tell(done));
        }
    }

    pub(super) fn run_done(&mut self, id: RunId, epoch: Epoch) {
        let Some(run) = self.pool.runs.get_mut(&id) else { return };
        if run.epoch == epoch && run.state == RunState::InFlight {
            run.state = RunState::Done;
            let browser = run.browser;
            self.pool.touched.push(id);
            self.pool.leave_browser(id, browser);
        }
    }

    pub(super) fn run_failed(&mut self, id: RunId, epoch: Epoch, failure: &Failure) {
        let Some(run) = self.pool.runs.get(&id) else { return };
        if run.epoch != epoch || run.state != RunState::InFlight {
            return;
        }
        let (browser, placement) = (run.browser, run.placement);
        self.pool.leave_browser(id, browser);
        self.run_over(id, Some(failure.kind));
        match recovery::repair(failure.kind) {
            Repair::RenewDevice => self.lose_device(browser),
            Repair::Reload => self.lose_placement(placement),
            // Whatever the core does about it, it says so.
            Repair::Nothing | Repair::Replace => {}
        }
    }

    /// A page's GPU device is gone, and with it all that was ready there.
    pub(super) fn lose_device(&mut self, id: BrowserId) {
        let Some(browser) = self.pool.browsers.get(&id) else { return };
        let lost: Vec<PlacementId> = browser
            .placements
            .iter()
            .filter(|(_, placed)| placed.stage == Stage::Ready && placed.backend == Backend::WebGpu)
            .map(|(&placement, _)| placement)
            .collect();
        lost.into_iter().for_each(|placement| self.lose_placement(placement));
    }

    /// Nothing may be sent to a placement until it is loaded anew, and its runs are no more.
    fn lose_placement(&mut self, placement: PlacementId) {
        let Some((id, placed)) = self.pool.placed_mut(placement) else { return };
        if placed.stage != Stage::Ready {
            return;
        }
        placed.stage = Stage::Gone;
        let Some(browser) = self.pool.browsers.get(&id) else { return };
        let of_placement =
            |run: &RunId| self.pool.runs.get(run).is_some_and(|run| run.placement == placement);
        let lost: Vec<RunId> = browser.in_flight.iter().copied().filter(of_placement).collect();
        for run in lost {
            self.pool.leave_browser(run, id);
            self.run_over(run, Some(FailureKind::DeviceLost));
        }
        self.pool.refresh_idle(id);
    }

    /// A run has ended without results: whoever waited for it waits for another one.
    fn run_over(&mut self, id: RunId, why: Option<FailureKind>) {
        let Some(run) = self.pool.runs.remove(&id) else { return };
        let why = why.unwrap_or(FailureKind::BrowserExited);
        for request in run.requests {
            self.clients.lose_run(request, id, why, self.now);
        }
    }

    pub(super) fn abandon(&mut self, id: RunId) -> Result<(), Violation> {
        let run = self.judge.some(Invariant::Abandoned, self.pool.runs.get_mut(&id), || {
            format!("{id} is abandoned and is not there")
        })?;
        self.judge
            .holds(Invariant::Abandoned, !run.abandoned, || format!("{id} is abandoned again"))?;
        run.abandoned = true;
        self.pool.touched.push(id);
        Ok(())
    }

    /// What holds of the runs and browsers that this step has changed.
    pub(super) fn check_runs(&mut self) -> Result<(), Violation> {
        for id in std::mem::take(&mut self.pool.touched) {
            let Some(run) = self.pool.runs.get(&id) else { continue };
            let (waits, abandoned) = (run.waits, run.abandoned);
            match run.state {
                RunState::InFlight => {
                    self.judge.holds(Invariant::Abandoned, (waits == 0) == abandoned, || {
                        format!("{waits} requests wait for {id}; abandoned: {abandoned}")
                    })?;
                }
                RunState::Done => {
                    self.judge.holds(Invariant::OneAnswer, waits == 0, || {
                        format!("{id} has results, and {waits} requests still wait for them")
                    })?;
                    self.pool.runs.remove(&id);
                }
            }
        }
        for id in std::mem::take(&mut self.pool.doomed) {
            let there = self.pool.browsers.contains_key(&id);
            self.judge.holds(Invariant::DeadBrowsers, !there, || {
                format!("{id} was reported dead and is not killed")
            })?;
        }
        Ok(())
    }

    /// Whether a browser could start a run of a ready model now, as far as the core can know.
    pub(super) fn is_free(&self, id: BrowserId) -> bool {
        let Some(browser) = self.pool.browsers.get(&id) else { return false };
        // One that is not heard of for a while is suspected, and rightly gets no work.
        let heard: Instant = browser.heard_at.after(self.plan.config.heartbeat_timeout / 2);
        browser.life == Life::Up && browser.in_flight.is_empty() && heard > self.now
    }

    pub(super) fn check_pool_memory(&mut self, open: u64) -> Result<(), Violation> {
        let most = self.plan.config.slots.len() as u64
            * u64::from(self.plan.config.runs_in_flight_max)
            + open;
        let runs = self.pool.runs.len() as u64;
        self.judge.holds(Invariant::Memory, runs <= most, || {
            format!("{runs} runs are known, the limit is {most}")
        })
    }
}
