//! What follows when browsers start, fail and are replaced: new device, new page, new process. Each repair is tried when
//! the one before did not help.

use flotilla_protocol::{Backend, BrowserId, PlacementId, RunId};

use super::{Fleet, Phase};
use crate::{
    core::{live::Live, placement::Stage, slot::RepairUnderWay},
    event::{Action, ModelId, Recovered, Recovery, SlotId},
    recovery::{Failure, FailureKind, FailureSort, Repair, repair},
};

/// New devices that a browser may need before it gets a new page: a page may be unable to recover.
const DEVICES_LOST_MAX: u32 = 1;

impl Fleet {
    /// Launches a browser in every slot whose turn it is.
    pub(super) fn launch_due(&mut self) {
        for index in self.slots.pending(self.now) {
            let wants_fallback = self.requests.queue().wants_fallback();
            if self.slots.get(index).is_due(self.now, wants_fallback) {
                let browser = self.slots.launch(index, self.now, &self.config);
                self.order(Action::Launch { browser, slot: SlotId(index as u32) });
            }
        }
        self.refresh();
    }

    /// Brings the index of slots up to date.
    pub(super) fn refresh(&mut self) {
        self.slots.refresh(self.now, &self.config, &self.runs);
    }

    pub(super) fn browser_up(
        &mut self,
        browser: BrowserId,
        offered: Vec<Backend>,
        refused: Vec<(Backend, String)>,
    ) {
        let Some(index) = self.slots.home(browser) else { return };
        if !self.slots.change(index).up(offered, refused, self.now) {
            return;
        }
        let models: Vec<ModelId> = self.assignments.models().collect();
        for &model in &models {
            self.complete_assignment(model);
        }
        for model in models {
            if self.slots.get(index).is_fallback() || self.assignments.has(model, index) {
                self.place(index, model);
            }
        }
        // A browser that is to hold no model is ready at once.
        if self.slots.live(index).is_some_and(|live| live.placements().next().is_none()) {
            self.end_repair(index, true);
        }
    }

    /// Ends a browser and arranges for the next one; its runs are lost and their requests go on to a recovery step.
    pub(super) fn browser_down(&mut self, index: usize, failure: Failure) {
        let Some((browser, live)) = self.slots.end(index, &failure, self.now, &self.config) else {
            return;
        };
        self.order(Action::Kill { browser, reason: failure.to_string() });
        if self.slots.get(index).is_removed() {
            self.end_repair(index, false);
        } else {
            self.begin_repair(index, browser, failure.kind, Repair::Replace);
        }
        self.lose_browser(index, browser, live, &failure);
    }

    /// Gives a browser a new page, or replaces it where that has not helped before.
    pub(super) fn page_down(&mut self, index: usize, failure: Failure) {
        if self.slots.get(index).needs_new_browser() {
            self.browser_down(index, failure);
            return;
        }
        let until = self.now.after(self.config.reset_timeout);
        let Some(live) = self.slots.change(index).reset(&failure, self.now, until) else { return };
        let browser = live.browser();
        self.order(Action::Reset { browser, reason: failure.to_string() });
        self.begin_repair(index, browser, failure.kind, Repair::ResetPage);
        self.lose_browser(index, browser, Some(live), &failure);
    }

    /// What follows from the loss of a browser or its page for placements, assignments, leases and runs.
    fn lose_browser(
        &mut self,
        index: usize,
        browser: BrowserId,
        live: Option<Live>,
        failure: &Failure,
    ) {
        if let Some(live) = &live {
            for placement in self.slots.forget_placements(live) {
                self.journal.placement_gone(placement);
            }
            if live.measurement().is_some() {
                self.measurements.end();
            }
        }
        self.leave_assignments(index);
        if let Some(live) = live {
            for model in self.assignments.migrating_to(browser) {
                self.undo_migration(model, failure.clone());
            }
            if let Some(lease) = live.lease() {
                self.revoke(lease, failure);
            }
            let lost = live.runs().iter().collect();
            self.lose_runs(lost, live.runs().head(), browser, failure);
        }
        self.lose_target(browser);
    }

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

    /// A backend's device or context is gone, with it every ready placement on that backend and their runs.
    ///
    /// One loss may be reported several times, by an event and by the runs that failed of it: where no placement is ready
    /// on the backend, it was reported before.
    pub(super) fn device_lost(&mut self, index: usize, backend: Backend, failure: Failure) {
        if !backend.has_device() {
            return;
        }
        self.lose_staged(index, backend, &failure);
        self.lose_measurement(index, backend, &failure);
        let Some(live) = self.slots.change_live(index) else { return };
        let lost: Vec<ModelId> = live
            .placements()
            .filter(|(_, placement)| placement.ready_on() == Some(backend))
            .map(|(model, _)| model)
            .collect();
        if lost.is_empty() {
            return;
        }
        if live.device_lost() > DEVICES_LOST_MAX {
            self.page_down(index, failure);
            return;
        }
        let browser = live.browser();
        self.begin_repair(index, browser, failure.kind, Repair::RenewDevice);
        self.reload(index, &lost, &failure);
    }

    /// What a migration has loaded is lost with the device too, though nothing ran on it yet.
    fn lose_staged(&mut self, index: usize, backend: Backend, failure: &Failure) {
        let Some(live) = self.slots.live(index) else { return };
        let staged: Vec<PlacementId> = live
            .placements()
            .filter(|(_, each)| each.stage() == Stage::Staged { backend })
            .map(|(_, each)| each.id())
            .collect();
        for placement in staged {
            self.migration_failed_on(placement, failure);
        }
    }

    /// Loads ready placements anew in a new epoch; their runs are lost.
    fn reload(&mut self, index: usize, models: &[ModelId], failure: &Failure) {
        let slot = self.slots.change(index);
        slot.distrust(failure, self.now);
        let Some(live) = slot.live_mut() else { return };
        let (browser, head) = (live.browser(), live.runs().head());
        let mut gone = Vec::new();
        for &model in models {
            if let Some(placement) = live.placement_mut(model)
                && placement.reload()
            {
                gone.push(placement.id());
            }
        }
        if live.measurement().is_some_and(|each| gone.contains(&each.placement())) {
            live.end_measurement();
            self.measurements.end();
        }
        if !gone.is_empty() && failure.kind.sort() != FailureSort::Device {
            self.begin_repair(index, browser, failure.kind, Repair::Reload);
        }
        let Some(live) = self.slots.change_live(index) else { return };
        let on_gone = |run: &RunId| gone.iter().any(|&placement| self.runs.is_on(*run, placement));
        let lost: Vec<RunId> = live.runs().iter().filter(on_gone).collect();
        live.runs_mut().remove(&lost, self.now);
        self.lose_runs(lost, head, browser, failure);
    }

    /// Lets a browser finish what it runs and then replaces it.
    pub(super) fn recycle(&mut self, index: usize, reason: String) {
        if self.phase != Phase::Serving {
            return;
        }
        if let Some(live) = self.slots.change_live(index) {
            live.recycle(reason);
        }
        self.leave_assignments(index);
    }

    /// Ends a browser that was to be recycled, or whose slot was removed, and has nothing to do any more. Not a failure.
    pub(super) fn replace_recycled(&mut self, index: usize) {
        let slot = self.slots.get(index);
        let recycling = slot.live().and_then(|live| live.recycling());
        let Some(reason) = slot.removal().or(recycling).map(str::to_owned) else { return };
        let Some(live) = self.slots.recycle(index, self.now) else { return };
        let browser = live.browser();
        // It has no runs, and a load that is cut off here did not fail.
        let failure = if self.slots.get(index).is_removed() {
            self.end_repair(index, false);
            self.order(Action::Kill { browser, reason: format!("removed: {reason}") });
            Failure::new(FailureKind::BrowserExited, format!("removed: {reason}"))
        } else {
            self.order(Action::Kill { browser, reason: format!("recycled: {reason}") });
            Failure::new(FailureKind::Overloaded, reason)
        };
        self.lose_browser(index, browser, Some(live), &failure);
    }

    /// A repair has begun; one that was under way has not helped.
    fn begin_repair(
        &mut self,
        index: usize,
        browser: BrowserId,
        failure: FailureKind,
        repair: Repair,
    ) {
        let begun = RepairUnderWay { browser, failure, repair, since: self.now };
        if let Some(ended) = self.slots.change(index).begin_repair(begun) {
            self.report_repair(index, ended, false);
        }
    }

    /// A placement is ready again, so a repair that was under way has ended.
    pub(super) fn end_repair(&mut self, index: usize, succeeded: bool) {
        if let Some(ended) = self.slots.change(index).end_repair() {
            self.report_repair(index, ended, succeeded);
        }
    }

    fn report_repair(&mut self, index: usize, ended: RepairUnderWay, succeeded: bool) {
        let RepairUnderWay { browser, failure, repair, since } = ended;
        let what = Recovered::Browser(SlotId(index as u32), repair);
        let took = self.now.since(since);
        self.order(Action::Recovered(Recovery { failure, browser, what, took, succeeded }));
    }
}
