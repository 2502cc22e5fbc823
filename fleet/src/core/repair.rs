//! Repairs of browsers: new device, new page, new process. Each is tried when the one before did not help.

use std::mem;

use flotilla_protocol::{Backend, BrowserId, PlacementId, RunId};

use super::{
    Fleet,
    browsers::{BrowserState, Live},
    placements::Stage,
};
use crate::{
    event::{Action, Instant, ModelId, Recovered, Recovery, SlotId},
    recovery::{Failure, FailureKind, FailureSort, Repair, repair},
};

/// New devices that a browser may need before it gets a new page: a page may be unable to recover.
const DEVICES_LOST_MAX: u32 = 1;
/// New pages that a browser may need between two answers before it is replaced.
const RESETS_MAX: u32 = 1;

/// A repair under way.
#[derive(Clone, Copy, Debug)]
pub(super) struct Repairing {
    pub(super) browser: BrowserId,
    pub(super) failure: FailureKind,
    pub(super) repair: Repair,
    pub(super) since: Instant,
}

impl Fleet {
    /// Does to a browser what a failure of this kind calls for. `model` is the one that failed, if one did, and `backend`
    /// where.
    pub(super) fn repair(
        &mut self,
        index: usize,
        model: Option<ModelId>,
        backend: Backend,
        failure: Failure,
    ) {
        match repair(failure.kind) {
            Repair::Nothing => {}
            Repair::Reload => match model {
                Some(model) => self.reload(index, &[model], &failure),
                None => self.page_down(index, failure),
            },
            Repair::RenewDevice => self.device_lost(index, backend, failure),
            Repair::ResetPage => self.page_down(index, failure),
            Repair::Replace => self.browser_down(index, failure),
        }
    }

    /// Gives a browser a new page, or replaces it where that has not helped before.
    pub(super) fn page_down(&mut self, index: usize, failure: Failure) {
        let berth = &self.berths[index];
        let again = berth.resets >= RESETS_MAX;
        let proven = berth.state.live().is_some_and(|live| live.proven);
        if again || !proven {
            // What never worked is better started from nothing.
            self.browser_down(index, failure);
            return;
        }
        let until = self.now.after(self.config.reset_timeout);
        let berth = self.berth_mut(index);
        let live = match mem::take(&mut berth.state) {
            BrowserState::Ready(live) | BrowserState::Suspect { live, .. } => live,
            other => {
                berth.state = other;
                return;
            }
        };
        let browser = live.browser;
        berth.state = BrowserState::Starting { browser, until };
        berth.resets += 1;
        self.actions.push_back(Action::Reset { browser, reason: failure.to_string() });
        self.distrust(index, &failure);
        self.begin_repair(index, browser, failure.kind, Repair::ResetPage);
        self.blame_load(index, &live, &failure);
        self.lose_browser(index, browser, Some(live), &failure);
    }

    /// A backend's device or context is gone, with it every ready placement on that backend and their runs.
    ///
    /// One loss may be told several times, by an event and by the runs that failed of it: where no placement is ready on
    /// the backend, it was told before.
    pub(super) fn device_lost(&mut self, index: usize, backend: Backend, failure: Failure) {
        if !backend.has_device() {
            return;
        }
        self.lose_staged(index, backend, &failure);
        self.lose_trial(index, backend, &failure);
        let Some(live) = self.berth_mut(index).state.live_mut() else { return };
        let lost: Vec<ModelId> = live
            .placements
            .iter()
            .filter(|(_, placement)| placement.ready_on() == Some(backend))
            .map(|(&model, _)| model)
            .collect();
        if lost.is_empty() {
            return;
        }
        live.devices_lost += 1;
        if live.devices_lost > DEVICES_LOST_MAX {
            self.page_down(index, failure);
            return;
        }
        let browser = live.browser;
        self.begin_repair(index, browser, failure.kind, Repair::RenewDevice);
        self.reload(index, &lost, &failure);
    }

    /// What a migration has loaded is lost with the device too, though nothing ran on it yet.
    fn lose_staged(&mut self, index: usize, backend: Backend, failure: &Failure) {
        let Some(live) = self.berths[index].state.live() else { return };
        let staged: Vec<PlacementId> = live
            .placements
            .values()
            .filter(|each| each.stage == Stage::Staged { backend })
            .map(|each| each.id)
            .collect();
        for placement in staged {
            self.migration_failed_on(placement, failure);
        }
    }

    pub(super) fn device_lost_event(&mut self, browser: BrowserId, backend: Backend, reason: &str) {
        if let Some(&index) = self.homes.get(&browser) {
            self.device_lost(index, backend, Failure::new(FailureKind::DeviceLost, reason));
        }
    }

    /// Loads ready placements anew in a new epoch; their runs are lost.
    pub(super) fn reload(&mut self, index: usize, models: &[ModelId], failure: &Failure) {
        self.distrust(index, failure);
        let Some(live) = self.berths[index].state.live_mut() else { return };
        let (browser, head) = (live.browser, live.runs.front().copied());
        let mut gone = Vec::new();
        for model in models {
            let Some(placement) = live.placements.get_mut(model) else { continue };
            if let Some(backend) = placement.ready_on() {
                placement.renew(backend);
                gone.push(placement.id);
            }
        }
        if live.trial.as_ref().is_some_and(|trial| gone.contains(&trial.placement)) {
            live.trial = None;
            self.trials.end();
        }
        if !gone.is_empty() && failure.kind.sort() != FailureSort::Device {
            self.begin_repair(index, browser, failure.kind, Repair::Reload);
        }
        let of_gone =
            |run: &RunId| self.runs.get(run).is_some_and(|run| gone.contains(&run.placement));
        let lost: Vec<RunId> = self.berths[index]
            .state
            .live()
            .into_iter()
            .flat_map(|live| live.runs.iter().copied())
            .filter(of_gone)
            .collect();
        self.unlist(index, &lost);
        self.lose_runs(lost, head, browser, failure);
    }

    /// A repair has begun; one that was under way has not helped.
    pub(super) fn begin_repair(
        &mut self,
        index: usize,
        browser: BrowserId,
        failure: FailureKind,
        repair: Repair,
    ) {
        self.end_repair(index, false);
        let since = self.now;
        self.berth_mut(index).repairing = Some(Repairing { browser, failure, repair, since });
    }

    /// A repair has ended: a placement is ready again, or something else failed first.
    pub(super) fn end_repair(&mut self, index: usize, succeeded: bool) {
        let Some(Repairing { browser, failure, repair, since }) =
            self.berth_mut(index).repairing.take()
        else {
            return;
        };
        self.actions.push_back(Action::Recovered(Recovery {
            failure,
            browser,
            what: Recovered::Browser(SlotId(index as u32), repair),
            took: self.now.since(since),
            succeeded,
        }));
    }

    /// A run has shown that a browser computes.
    pub(super) fn proved(live: &mut Live, now: Instant) {
        live.proved_at = now;
        live.probe_failures = 0;
        live.run_failures = 0;
    }
}
