//! A browser whose page has reported: its placements, its runs and its health.

use std::collections::{BTreeMap, VecDeque};

use flotilla_protocol::{Backend, BrowserId, PlacementId, RunId};

use super::{
    health::Health,
    measurements::Measurement,
    placement::{Placement, Stage},
};
use crate::event::{Instant, LeaseId, ModelId};

/// A browser whose page has reported.
#[derive(Debug)]
pub(super) struct Live {
    browser: BrowserId,
    offered: Vec<Backend>,
    /// Why the page does not offer the others.
    refused: Vec<(Backend, String)>,
    /// One per model, loaded in the models' order.
    placements: BTreeMap<ModelId, Placement>,
    /// Placements that another one has superseded: they get no more runs and are unloaded when those that they have are
    /// ended.
    left: Vec<(ModelId, Placement)>,
    /// A backend that is measured beside what answers, or is about to take its place.
    measurement: Option<Measurement>,
    runs: InFlight,
    health: Health,
    devices_lost: u32,
    /// A placement has been ready: the start was a success.
    is_proven: bool,
    /// Why it gets no more work and is replaced as soon as it has none.
    recycling: Option<String>,
    /// The client that has it for itself, or will as soon as its runs have ended.
    lease: Option<LeaseId>,
}

impl Live {
    pub(super) fn new(
        browser: BrowserId,
        offered: Vec<Backend>,
        refused: Vec<(Backend, String)>,
        now: Instant,
    ) -> Live {
        Live {
            browser,
            offered,
            refused,
            placements: BTreeMap::new(),
            left: Vec::new(),
            measurement: None,
            runs: InFlight { ids: VecDeque::new(), head_since: now, hedged_at: None, failures: 0 },
            health: Health::new(now),
            devices_lost: 0,
            is_proven: false,
            recycling: None,
            lease: None,
        }
    }

    pub(super) fn browser(&self) -> BrowserId {
        self.browser
    }

    /// Why a backend is not offered, if it is not.
    pub(super) fn not_offered(&self, backend: Backend) -> Option<String> {
        if self.offered.contains(&backend) {
            return None;
        }
        let reason = self.refused.iter().find(|(refused, _)| *refused == backend);
        Some(match reason {
            Some((_, reason)) => format!("not offered by the page: {reason}"),
            None => "not offered by the page".to_owned(),
        })
    }

    /// Nothing runs or loads on it.
    pub(super) fn is_idle(&self) -> bool {
        self.runs.is_empty() && !self.loads() && !self.is_measured()
    }

    /// A placement loads on it.
    pub(super) fn loads(&self) -> bool {
        self.placements.values().any(|each| each.loading_on().is_some())
            || self.measurement.as_ref().is_some_and(Measurement::is_loading)
    }

    /// Its page is busy with a run that measures.
    pub(super) fn is_measured(&self) -> bool {
        self.measurement.as_ref().is_some_and(Measurement::is_running)
    }

    /// Every placement is ready or refused.
    pub(super) fn is_settled(&self) -> bool {
        self.placements
            .values()
            .all(|placement| matches!(placement.stage(), Stage::Ready { .. } | Stage::Refused))
    }

    /// A placement has been ready: the start was a success.
    pub(super) fn is_proven(&self) -> bool {
        self.is_proven
    }

    pub(super) fn recycling(&self) -> Option<&str> {
        self.recycling.as_deref()
    }

    pub(super) fn lease(&self) -> Option<LeaseId> {
        self.lease
    }

    pub(super) fn runs(&self) -> &InFlight {
        &self.runs
    }

    pub(super) fn runs_mut(&mut self) -> &mut InFlight {
        &mut self.runs
    }

    pub(super) fn health(&self) -> &Health {
        &self.health
    }

    pub(super) fn health_mut(&mut self) -> &mut Health {
        &mut self.health
    }

    pub(super) fn measurement(&self) -> Option<&Measurement> {
        self.measurement.as_ref()
    }

    pub(super) fn measurement_mut(&mut self) -> Option<&mut Measurement> {
        self.measurement.as_mut()
    }

    pub(super) fn begin_measurement(&mut self, measurement: Measurement) {
        self.measurement = Some(measurement);
    }

    pub(super) fn end_measurement(&mut self) -> Option<Measurement> {
        self.measurement.take()
    }

    /// A run or a probe has shown that it computes.
    pub(super) fn computed(&mut self, now: Instant) {
        self.health.proved(now);
        self.runs.failures = 0;
    }

    /// A load has ended with success. Its last step was a dispatch, so it computes.
    pub(super) fn load_succeeded(&mut self, now: Instant) {
        self.is_proven = true;
        self.health.computed_at(now);
    }

    /// Counts the devices that it has lost.
    pub(super) fn device_lost(&mut self) -> u32 {
        self.devices_lost += 1;
        self.devices_lost
    }

    /// It gets no more work and is replaced as soon as it has none.
    pub(super) fn recycle(&mut self, reason: String) {
        self.recycling.get_or_insert(reason);
    }

    pub(super) fn lend(&mut self, lease: LeaseId) {
        self.lease = Some(lease);
    }

    pub(super) fn take_back(&mut self) {
        self.lease = None;
    }
}

/// Its placements.
impl Live {
    pub(super) fn placement(&self, model: ModelId) -> Option<&Placement> {
        self.placements.get(&model)
    }

    pub(super) fn placement_mut(&mut self, model: ModelId) -> Option<&mut Placement> {
        self.placements.get_mut(&model)
    }

    /// In the models' order, without those that were superseded.
    pub(super) fn placements(&self) -> impl Iterator<Item = (ModelId, &Placement)> {
        self.placements.iter().map(|(&model, placement)| (model, placement))
    }

    /// Those that were superseded come last.
    pub(super) fn all_placements(&self) -> impl Iterator<Item = (ModelId, &Placement)> {
        self.placements().chain(self.left.iter().map(|(model, placement)| (*model, placement)))
    }

    /// The backend that a probe is to run on: one that its work runs on.
    pub(super) fn probe_backend(&self) -> Option<Backend> {
        self.placements.values().find_map(Placement::ready_on)
    }

    /// The first placement that waits for its load.
    pub(super) fn next_load(&mut self) -> Option<(ModelId, &mut Placement)> {
        self.placements
            .iter_mut()
            .find(|(_, placement)| placement.is_waiting())
            .map(|(&model, placement)| (model, placement))
    }

    /// Whether a superseded placement waits for its runs.
    pub(super) fn has_left(&self) -> bool {
        !self.left.is_empty()
    }

    /// Whether a placement waits for its load.
    pub(super) fn has_waiting(&self) -> bool {
        self.placements.values().any(Placement::is_waiting)
    }

    pub(super) fn insert(&mut self, model: ModelId, placement: Placement) {
        self.placements.insert(model, placement);
    }

    pub(super) fn remove(&mut self, model: ModelId) -> Option<Placement> {
        self.placements.remove(&model)
    }

    /// Puts a placement into the place of the present one, which is unloaded when its runs have ended.
    pub(super) fn supersede(&mut self, model: ModelId, successor: Placement) {
        let Some(present) = self.placements.get_mut(&model) else { return };
        let mut old = std::mem::replace(present, successor);
        old.leave();
        self.left.push((model, old));
    }

    /// Takes out superseded placements on which nothing runs any more.
    pub(super) fn take_left(
        &mut self,
        mut is_used: impl FnMut(RunId, PlacementId) -> bool,
    ) -> Vec<PlacementId> {
        let runs = &self.runs;
        self.left
            .extract_if(.., |(_, each)| !runs.iter().any(|run| is_used(run, each.id())))
            .map(|(_, placement)| placement.id())
            .collect()
    }
}

/// Runs that a page has not ended, in the order of dispatch, which is the order in which it executes them.
#[derive(Debug)]
pub(super) struct InFlight {
    ids: VecDeque<RunId>,
    /// When the first run became the first: its time-out starts here, not while it waited for others.
    head_since: Instant,
    /// When the first run had taken so long that its requests were sent elsewhere where that could be.
    hedged_at: Option<Instant>,
    /// Failed runs since the last one that succeeded.
    failures: u32,
}

impl InFlight {
    pub(super) fn len(&self) -> usize {
        self.ids.len()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.ids.is_empty()
    }

    pub(super) fn head(&self) -> Option<RunId> {
        self.ids.front().copied()
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = RunId> + '_ {
        self.ids.iter().copied()
    }

    pub(super) fn head_since(&self) -> Instant {
        self.head_since
    }

    pub(super) fn hedged_at(&self) -> Option<Instant> {
        self.hedged_at
    }

    pub(super) fn push(&mut self, id: RunId, now: Instant) {
        if self.ids.is_empty() {
            self.head_since = now;
            self.hedged_at = None;
        }
        self.ids.push_back(id);
    }

    /// Takes runs out; the clock of the one that is now the first starts.
    pub(super) fn remove(&mut self, gone: &[RunId], now: Instant) {
        let head = self.head();
        self.ids.retain(|run| !gone.contains(run));
        if self.head() != head {
            self.head_since = now;
            self.hedged_at = None;
        }
    }

    /// The page says that this run is the one it was at, so it is the first, whatever the order of dispatch was.
    pub(super) fn make_head(&mut self, id: RunId) {
        self.ids.retain(|&other| other != id);
        self.ids.push_front(id);
    }

    /// Counts a failed run; gives how many have failed since the last one that succeeded.
    pub(super) fn count_failure(&mut self) -> u32 {
        self.failures += 1;
        self.failures
    }

    pub(super) fn failures(&self) -> u32 {
        self.failures
    }

    pub(super) fn hedged(&mut self, now: Instant) {
        self.hedged_at = Some(now);
    }
}
