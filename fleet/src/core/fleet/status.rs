//! What the fleet shows of itself.

use flotilla_protocol::{Backend, BrowserId, PlacementId};

use super::{Fleet, Phase};
use crate::{
    core::{
        live::Live,
        placement::Placement,
        slot::{BrowserState, SlotState},
        status::{
            Account, BrowserStage, ModelStatus, PlacementStatus, RefusalStatus, ServingPhase,
            Sizes, SlotStatus, Status,
        },
    },
    event::{ModelId, SlotId},
};

impl Fleet {
    /// The fleet as it is after the latest event.
    pub fn status(&self) -> Status {
        let counts = self.requests.counts();
        Status {
            phase: match self.phase {
                Phase::New | Phase::Serving => ServingPhase::Serving,
                Phase::Draining => ServingPhase::Draining,
                Phase::Drained => ServingPhase::Drained,
            },
            slots: (0..self.slots.len()).map(|index| self.slot_status(index)).collect(),
            models: self.assignments.models().map(|model| self.model_status(model)).collect(),
            queued: counts.queued,
            running: counts.running,
            recording: counts.recording,
            leases: self.leases.holding(),
            commit_failures: self.journal.failures(),
        }
    }

    /// How much the fleet holds.
    pub fn sizes(&self) -> Sizes {
        Sizes {
            requests: self.requests.len(),
            runs: self.runs.len(),
            placements: self.slots.placed_len(),
            timers: self.requests.timers(),
            records: self.journal.records().len(),
            transactions: self.journal.open(),
            actions: self.actions.len(),
        }
    }

    /// What a record says.
    pub fn record_of(&self, key: crate::state::Key) -> Option<&crate::state::Value> {
        self.journal.records().get(key)
    }

    /// Why a placement is not on its slot's first choice of backends, if it is not, and why it is where it is. `None` for
    /// one that is not there any more.
    pub fn account(&self, id: PlacementId) -> Option<(Option<String>, Account)> {
        let (index, model) = self.slots.placed(id)?;
        let mut there = self.slots.live(index)?.all_placements().map(|(_, placement)| placement);
        let placement = there.find(|placement| placement.id() == id)?;
        let fallback = placement.fallback(self.slots.get(index).spec());
        Some((fallback, self.account_of(index, model, placement)))
    }

    /// The backend that a model is on in a browser, and why.
    pub fn chosen(&self, browser: BrowserId, model: ModelId) -> Option<(Backend, Account)> {
        let index = self.slots.home(browser)?;
        let placement = self.slots.placement(index, model)?;
        Some((placement.ready_on()?, self.account_of(index, model, placement)))
    }

    fn account_of(&self, index: usize, model: ModelId, placement: &Placement) -> Account {
        self.measurements.account(index, self.slots.get(index).spec(), model, placement)
    }

    fn slot_status(&self, index: usize) -> SlotStatus {
        let slot = self.slots.get(index);
        let (state, words) = self.describe(slot);
        let live = slot.live();
        let health = live.map(Live::health);
        let (placements, refused) =
            live.map(|live| self.placement_status(index, live)).unwrap_or_default();
        SlotStatus {
            slot: SlotId(index as u32),
            kind: slot.spec().kind.clone(),
            browser: slot.browser(),
            state,
            words,
            last_failure: slot.last_failure().map(ToString::to_string),
            last_failure_kind: slot.last_failure().map(|failure| failure.kind),
            failed_starts: slot.failed_starts(),
            runs_in_flight: live.map_or(0, |live| live.runs().len() as u32),
            jobs: health.map_or(0, |health| health.jobs()),
            used_bytes: health.map_or(0, |health| health.used_bytes()),
            slowness: health.map_or(1.0, |health| health.slowness()),
            recycling: live.and_then(|live| live.recycling().map(str::to_owned)),
            lease: live.and_then(Live::lease),
            placements,
            refused,
        }
    }

    fn describe(&self, slot: &SlotState) -> (BrowserStage, String) {
        match slot.state() {
            BrowserState::Wanted => (BrowserStage::Starting, "not launched yet".to_owned()),
            BrowserState::Starting { until, .. } => (
                BrowserStage::Starting,
                format!("waits for its page, for at most {:?}", until.since(self.now)),
            ),
            BrowserState::Ready(_) => (BrowserStage::Ready, "answers".to_owned()),
            BrowserState::Suspect { live, .. } => {
                let silence = self.now.since(live.health().heartbeat_at());
                (BrowserStage::Suspect, format!("no heartbeat for {silence:?}"))
            }
            BrowserState::Recovering { relaunch_at } => (
                BrowserStage::Recovering,
                format!("is launched anew in {:?}", relaunch_at.since(self.now)),
            ),
            BrowserState::Retired { failure, until } => (
                BrowserStage::Retired,
                format!(
                    "rests after {} failed starts, is launched anew in {:?}; the last one: {failure}",
                    slot.failed_starts(),
                    until.since(self.now)
                ),
            ),
            BrowserState::Stopped => (BrowserStage::Stopped, "ended by the daemon".to_owned()),
            BrowserState::Removed => {
                (BrowserStage::Removed, format!("removed: {}", slot.removal().unwrap_or_default()))
            }
        }
    }

    fn model_status(&self, model: ModelId) -> ModelStatus {
        let serves = |slot: &&SlotState| match slot.state() {
            BrowserState::Ready(live) => {
                live.placement(model).is_some_and(|placement| placement.ready_on().is_some())
            }
            BrowserState::Wanted
            | BrowserState::Starting { .. }
            | BrowserState::Suspect { .. }
            | BrowserState::Recovering { .. }
            | BrowserState::Retired { .. }
            | BrowserState::Stopped
            | BrowserState::Removed => false,
        };
        ModelStatus {
            model,
            ready: self.slots.iter().filter(serves).count() as u32,
            queued: self.requests.queue().len_of(model),
            unplaceable: self.slots.unplaceable(model, self.now),
        }
    }

    fn placement_status(
        &self,
        index: usize,
        live: &Live,
    ) -> (Vec<PlacementStatus>, Vec<RefusalStatus>) {
        let slot = self.slots.get(index).spec();
        let (mut placements, mut refused) = (Vec::new(), Vec::new());
        for (model, placement) in live.placements() {
            let fallback = placement.fallback(slot);
            let (Some(backend), Some(state)) = (placement.backend(), placement.stage().shown())
            else {
                refused.push(RefusalStatus { model, reason: fallback.unwrap_or_default() });
                continue;
            };
            placements.push(PlacementStatus {
                placement: placement.id(),
                model,
                backend,
                state,
                fallback,
                account: self.account_of(index, model, placement),
            });
        }
        (placements, refused)
    }
}
