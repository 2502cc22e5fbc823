//! A model on a browser: on which backend, and how far.

use flotilla_protocol::{Backend, Epoch, PlacementId};

use super::status::PlacementStage;
use crate::{
    config::Slot,
    event::Instant,
    recovery::{Failure, FailureKind},
};

/// Loads of a placement on one browser and backend before the browser is suspected instead.
const LOAD_TRIES_MAX: u32 = 2;

/// A model on a browser.
#[derive(Debug)]
pub(super) struct Placement {
    id: PlacementId,
    epoch: Epoch,
    stage: Stage,
    /// Backends of the slot that cannot run the model here, and why.
    refusals: Vec<(Backend, String)>,
}

/// How far a placement is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Stage {
    /// Waits until the browser loads nothing else. `tries` counts the loads that failed.
    Waiting { backend: Backend, tries: u32 },
    /// Ordered.
    Loading { backend: Backend, tries: u32, until: Instant },
    /// Loaded by a migration that is not recorded yet: answers nothing.
    Staged { backend: Backend },
    /// Answers runs.
    Ready { backend: Backend },
    /// Gets no more runs and is unloaded when those that it has are ended.
    Leaving { backend: Backend },
    /// No backend of the slot can run the model.
    Refused,
}

/// What follows from a load that failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum LoadFailed {
    /// The backend is refused; the next one is to be chosen.
    NextBackend,
    /// The same load waits for its second try.
    TryAgain,
    /// It has failed too often: the browser is suspected.
    BrowserSuspected,
}

impl Stage {
    /// Waiting for the first load on a backend, or refused where there is none.
    pub(super) fn first(backend: Option<Backend>) -> Stage {
        match backend {
            Some(backend) => Stage::Waiting { backend, tries: 0 },
            None => Stage::Refused,
        }
    }

    /// As in status; None for one that is not there.
    pub(super) fn shown(&self) -> Option<PlacementStage> {
        match self {
            Stage::Waiting { .. } => Some(PlacementStage::Waiting),
            Stage::Loading { .. } => Some(PlacementStage::Loading),
            Stage::Staged { .. } => Some(PlacementStage::Staged),
            Stage::Ready { .. } => Some(PlacementStage::Ready),
            Stage::Leaving { .. } => Some(PlacementStage::Leaving),
            Stage::Refused => None,
        }
    }

    /// Name as in records.
    pub(super) fn name(&self) -> &'static str {
        match self {
            Stage::Waiting { .. } => "waiting",
            Stage::Loading { .. } => "loading",
            Stage::Staged { .. } => "staged",
            Stage::Ready { .. } => "ready",
            Stage::Leaving { .. } => "leaving",
            Stage::Refused => "refused",
        }
    }
}

impl Placement {
    pub(super) fn new(
        id: PlacementId,
        stage: Stage,
        refusals: Vec<(Backend, String)>,
    ) -> Placement {
        Placement { id, epoch: Epoch(1), stage, refusals }
    }

    /// One that was loaded beside another one, which it is about to supersede.
    pub(super) fn loaded(
        id: PlacementId,
        epoch: Epoch,
        backend: Backend,
        refusals: Vec<(Backend, String)>,
    ) -> Placement {
        Placement { id, epoch, stage: Stage::Ready { backend }, refusals }
    }

    pub(super) fn id(&self) -> PlacementId {
        self.id
    }

    pub(super) fn epoch(&self) -> Epoch {
        self.epoch
    }

    pub(super) fn stage(&self) -> Stage {
        self.stage
    }

    /// Backends of the slot that cannot run the model here, and why.
    pub(super) fn refusals(&self) -> &[(Backend, String)] {
        &self.refusals
    }

    pub(super) fn is_refused(&self) -> bool {
        self.stage == Stage::Refused
    }

    pub(super) fn is_waiting(&self) -> bool {
        matches!(self.stage, Stage::Waiting { .. })
    }

    pub(super) fn is_leaving(&self) -> bool {
        matches!(self.stage, Stage::Leaving { .. })
    }

    /// The backend of a load under way.
    pub(super) fn loading_on(&self) -> Option<Backend> {
        match self.stage {
            Stage::Loading { backend, .. } => Some(backend),
            Stage::Waiting { .. }
            | Stage::Staged { .. }
            | Stage::Ready { .. }
            | Stage::Leaving { .. }
            | Stage::Refused => None,
        }
    }

    /// When a load under way has taken too long.
    pub(super) fn load_until(&self) -> Option<Instant> {
        match self.stage {
            Stage::Loading { until, .. } => Some(until),
            Stage::Waiting { .. }
            | Stage::Staged { .. }
            | Stage::Ready { .. }
            | Stage::Leaving { .. }
            | Stage::Refused => None,
        }
    }

    /// The backend that answers runs.
    pub(super) fn ready_on(&self) -> Option<Backend> {
        match self.stage {
            Stage::Ready { backend } => Some(backend),
            Stage::Waiting { .. }
            | Stage::Loading { .. }
            | Stage::Staged { .. }
            | Stage::Leaving { .. }
            | Stage::Refused => None,
        }
    }

    /// The backend that it is or will be on.
    pub(super) fn backend(&self) -> Option<Backend> {
        match self.stage {
            Stage::Waiting { backend, .. }
            | Stage::Loading { backend, .. }
            | Stage::Staged { backend }
            | Stage::Ready { backend }
            | Stage::Leaving { backend } => Some(backend),
            Stage::Refused => None,
        }
    }

    /// Backends of the slot that are not refused, in its order.
    pub(super) fn fit<'a>(&'a self, slot: &'a Slot) -> impl Iterator<Item = Backend> + 'a {
        fit(slot, &self.refusals)
    }

    /// Why the backends that the slot prefers to the present one are not used; where there is none, why all are not.
    pub(super) fn fallback(&self, slot: &Slot) -> Option<String> {
        let present = self.backend();
        let reasons: Vec<String> = slot
            .backends
            .iter()
            .take_while(|&&backend| Some(backend) != present)
            .filter_map(|backend| self.refusals.iter().find(|(refused, _)| refused == backend))
            .map(|(backend, reason)| format!("{backend}: {reason}"))
            .collect();
        match (reasons.is_empty(), present) {
            (false, _) => Some(reasons.join("; ")),
            (true, Some(_)) => None,
            (true, None) => Some("no backends are configured".to_owned()),
        }
    }

    /// Starts the load that it waits for; gives its backend.
    pub(super) fn start_load(&mut self, until: Instant) -> Option<Backend> {
        let Stage::Waiting { backend, tries } = self.stage else { return None };
        self.stage = Stage::Loading { backend, tries, until };
        Some(backend)
    }

    /// A load proceeds, so its time-out starts anew.
    pub(super) fn load_proceeds(&mut self, limit: Instant) {
        if let Stage::Loading { until, .. } = &mut self.stage {
            *until = limit;
        }
    }

    /// A load has ended; gives the backend that answers now.
    pub(super) fn load_succeeded(&mut self) -> Option<Backend> {
        let backend = self.loading_on()?;
        self.stage = Stage::Ready { backend };
        Some(backend)
    }

    pub(super) fn load_failed(&mut self, failure: &Failure) -> Option<LoadFailed> {
        let Stage::Loading { backend, tries, .. } = self.stage else { return None };
        if refuses_backend(failure.kind) {
            self.refuse(backend, failure.to_string());
            return Some(LoadFailed::NextBackend);
        }
        if tries + 1 >= LOAD_TRIES_MAX {
            return Some(LoadFailed::BrowserSuspected);
        }
        self.renew(backend);
        self.stage = Stage::Waiting { backend, tries: tries + 1 };
        Some(LoadFailed::TryAgain)
    }

    /// A backend cannot run the model here.
    pub(super) fn refuse(&mut self, backend: Backend, reason: String) {
        self.refusals.push((backend, reason));
    }

    /// Becomes another placement, on another backend.
    pub(super) fn restart_as(&mut self, id: PlacementId, stage: Stage) {
        (self.id, self.epoch, self.stage) = (id, Epoch(1), stage);
    }

    /// What was ready is loaded anew in a new epoch; false where nothing was.
    pub(super) fn reload(&mut self) -> bool {
        let Some(backend) = self.ready_on() else { return false };
        self.renew(backend);
        true
    }

    fn renew(&mut self, backend: Backend) {
        self.epoch = Epoch(self.epoch.0 + 1);
        self.stage = Stage::Waiting { backend, tries: 0 };
    }

    /// It is loaded and answers nothing before its migration is recorded.
    pub(super) fn withhold(&mut self) {
        if let Stage::Ready { backend } = self.stage {
            self.stage = Stage::Staged { backend };
        }
    }

    /// Its migration is recorded, so it answers.
    pub(super) fn answer(&mut self) {
        if let Some(backend) = self.backend() {
            self.stage = Stage::Ready { backend };
        }
    }

    /// It gets no more runs and is unloaded when those that it has are ended.
    pub(super) fn leave(&mut self) {
        if let Stage::Ready { backend } = self.stage {
            self.stage = Stage::Leaving { backend };
        }
    }
}

/// Backends of a slot that are not refused.
pub(super) fn fit<'a>(
    slot: &'a Slot,
    refusals: &'a [(Backend, String)],
) -> impl Iterator<Item = Backend> + 'a {
    let is_refused =
        |backend: Backend| refusals.iter().any(move |&(refused, _)| refused == backend);
    slot.backends.iter().copied().filter(move |&backend| !is_refused(backend))
}

/// Whether a failed load shows that the backend cannot run the model; after other failures another try may succeed.
fn refuses_backend(kind: FailureKind) -> bool {
    match kind {
        FailureKind::UnsupportedOperation => true,
        FailureKind::ConnectionLost
        | FailureKind::PageCrashed
        | FailureKind::BrowserExited
        | FailureKind::DriverUnresponsive
        | FailureKind::DeviceLost
        | FailureKind::OutOfMemory
        | FailureKind::DeadlineExceeded
        | FailureKind::MemoryLimitExceeded
        | FailureKind::RunRefused
        | FailureKind::WrongResult
        | FailureKind::Overloaded => false,
    }
}
