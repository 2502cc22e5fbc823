//! Which request runs next, where, and with whom.

use std::time::Duration;

use flotilla_protocol::{Backend, BrowserId, Epoch, PlacementId, RequestId};

use super::{
    assignments::Assignments,
    escalation::Target,
    leases::Leases,
    live::Live,
    requests::{Request, Requests},
    runs::{Run, Runs},
    slots::Slots,
    speed::Speeds,
};
use crate::{
    config::Config,
    event::{Batching, Instant, LeaseId, ModelId, SlotId},
};

/// A browser that failed is avoided for this long.
const DISTRUST: Duration = Duration::from_secs(30);
/// How much longer than measured its runs are expected to take meanwhile: another failure costs a second try.
const DISTRUST_FACTOR: u32 = 3;
/// How much longer runs are expected to take on a browser that loads a model beside them.
const LOADING_FACTOR: u32 = 2;
/// Padding may at most double the work of a batch.
const PADDING_FACTOR_MAX: u64 = 2;
/// Batches up to this many tokens are joined whatever the padding: a run's fixed cost outweighs it.
const PADDING_FREE_TOKENS: u64 = 256;
/// How many waiting requests are looked at for each row of a batch, to find some of similar length.
const LOOKAHEAD_PER_ROW: usize = 4;
/// How many browsers are compared for a run. In a larger fleet every run begins to look at another slot: a choice among so
/// many is hardly worse than one among all.
const CANDIDATES_MAX: usize = 64;

/// A ready placement with room for a run.
#[derive(Clone, Copy)]
struct Candidate {
    slot: usize,
    browser: BrowserId,
    placement: PlacementId,
    epoch: Epoch,
    backend: Backend,
    idle: bool,
    /// Expected time until its present runs have ended.
    backlog: Duration,
    /// 1, or more for a browser that failed lately or that loads a model.
    factor: u32,
    loads: bool,
}

/// Decides on runs, and changes nothing.
pub(super) struct Dispatcher<'a> {
    pub(super) now: Instant,
    pub(super) config: &'a Config,
    /// Whether requests may wait for others to join them: not while the fleet ends.
    pub(super) may_wait: bool,
    pub(super) slots: &'a Slots,
    pub(super) assignments: &'a Assignments,
    pub(super) requests: &'a Requests,
    pub(super) runs: &'a Runs,
    pub(super) leases: &'a Leases,
    pub(super) speeds: &'a Speeds,
}

/// Requests that run together.
struct Batch {
    requests: Vec<RequestId>,
    rows: u64,
    /// Of the longest row.
    length: u64,
    /// Without padding.
    tokens: u64,
}

impl Batch {
    fn of(request: &Request) -> Batch {
        Batch {
            requests: vec![request.id()],
            rows: request.rows().into(),
            length: request.length().into(),
            tokens: request.tokens(),
        }
    }

    fn padded_tokens(&self) -> u64 {
        self.rows * self.length
    }

    /// Adds a request if the batch stays within its limits and the padding is worth it.
    fn join(&mut self, other: &Request, rows_max: u64, tokens_max: u64) {
        let rows = self.rows + u64::from(other.rows());
        let length = self.length.max(other.length().into());
        let tokens = self.tokens + other.tokens();
        let padded = rows * length;
        let dense = padded <= PADDING_FREE_TOKENS || padded <= PADDING_FACTOR_MAX * tokens;
        if rows <= rows_max && padded <= tokens_max && dense {
            self.requests.push(other.id());
            (self.rows, self.length, self.tokens) = (rows, length, tokens);
        }
    }
}

impl Dispatcher<'_> {
    /// The next run: that of the oldest request that has a browser. `None` when no waiting request has a browser with room,
    /// or all that have wait for others to join them. Models take turns by the age of their oldest request.
    pub(super) fn next(&self) -> Option<Run> {
        self.requests.queue().models().into_iter().find_map(|model| self.next_of(model))
    }

    /// When a request has waited long enough for others to join it.
    pub(super) fn next_due(&self) -> Option<Instant> {
        if !self.may_wait || self.config.batch_delay.is_zero() {
            return None;
        }
        self.requests
            .queue()
            .models()
            .into_iter()
            .flat_map(|model| self.requests.waiting(model).find(|request| request.is_plain()))
            .map(|request| request.arrived_at().after(self.config.batch_delay))
            // After that time it waits for a browser, which no timer brings.
            .filter(|&at| at > self.now)
            .min()
    }

    fn next_of(&self, model: ModelId) -> Option<Run> {
        let batching = self.assignments.batching(model)?;
        let from = self.runs.last_id() as usize % self.slots.len().max(1);
        let open: Vec<Candidate> = self
            .slots
            .open(model, from)
            .take(CANDIDATES_MAX)
            .filter_map(|slot| self.candidate(slot, model, None))
            .collect();
        // Requests that wait for a certain browser come first in the queue, except those of leases. So where no browser is
        // open and there are no leases, none behind the first plain request can run.
        let only_some = open.is_empty() && self.leases.is_empty();
        for seed in self.requests.waiting(model) {
            if only_some && seed.is_plain() {
                return None;
            }
            let usable = self.usable(seed, &open);
            let finish = |at: &usize| {
                let candidate = &usable[*at];
                candidate.backlog.saturating_add(self.expected(candidate, model, seed.tokens()))
            };
            let Some(best) = (0..usable.len()).min_by_key(finish) else { continue };
            if self.waits_for_company(seed, batching) {
                return None;
            }
            let rows_max = self.fair_rows(model, &usable, best, seed).min(batching.rows_max.into());
            let batch = self.join(seed, rows_max, batching);
            return Some(self.run(&usable[best], model, batch));
        }
        None
    }

    fn run(&self, candidate: &Candidate, model: ModelId, batch: Batch) -> Run {
        let tokens = batch.padded_tokens();
        Run {
            slot: candidate.slot,
            browser: candidate.browser,
            placement: candidate.placement,
            epoch: candidate.epoch,
            model,
            backend: candidate.backend,
            tokens,
            joined: batch.requests.len() > 1,
            requests: batch.requests,
            expected: self.expected(candidate, model, tokens),
            sent_at: self.now,
            beside_load: candidate.loads,
        }
    }

    /// The browsers that a request may run on, of those that have room.
    fn usable(&self, seed: &Request, open: &[Candidate]) -> Vec<Candidate> {
        let at = |slot: Option<usize>| {
            let candidate = |slot| self.candidate(slot, seed.model(), seed.policy().lease);
            slot.and_then(candidate).into_iter().collect()
        };
        let those = |fit: &dyn Fn(&Candidate) -> bool| {
            open.iter().copied().filter(|candidate| fit(candidate)).collect()
        };
        if let Some(lease) = seed.policy().lease {
            return at(self.leases.held_by(lease));
        }
        match seed.target() {
            Target::Any => open.to_vec(),
            Target::Elsewhere => those(&|candidate| !seed.failed_on(candidate.browser)),
            Target::Newer { than } => those(&|candidate| candidate.browser.0 > than),
            Target::Browser(browser) => at(self.slots.home(browser)),
            Target::Slot(slot) => at(Some(slot)),
            Target::Fallback => self
                .slots
                .fallbacks()
                .filter_map(|slot| self.candidate(slot, seed.model(), None))
                .collect(),
        }
    }

    /// A slot's browser, if it is ready to run a model, has room, and is there for the client or for everybody.
    fn candidate(&self, slot: usize, model: ModelId, lease: Option<LeaseId>) -> Option<Candidate> {
        let state = self.slots.get(slot);
        let live = state.usable()?;
        if live.runs().len() >= self.config.runs_in_flight_max as usize || live.lease() != lease {
            return None;
        }
        let placement = live.placement(model)?;
        let backend = placement.ready_on()?;
        let distrusted = state.failed_at().is_some_and(|at| self.now.since(at) < DISTRUST);
        let loads = live.loads();
        Some(Candidate {
            slot,
            browser: live.browser(),
            placement: placement.id(),
            epoch: placement.epoch(),
            backend,
            idle: live.runs().is_empty(),
            backlog: self.backlog(live),
            factor: if distrusted { DISTRUST_FACTOR } else { 1 }
                * if loads { LOADING_FACTOR } else { 1 },
            loads,
        })
    }

    fn backlog(&self, live: &Live) -> Duration {
        let runs = live.runs();
        let expected: Duration =
            runs.iter().filter_map(|run| self.runs.get(run)).map(|run| run.expected).sum();
        let elapsed =
            if runs.is_empty() { Duration::ZERO } else { self.now.since(runs.head_since()) };
        let measuring = live.measurement().map_or(Duration::ZERO, |each| each.expected());
        // An overdue run is assumed to need as long again as it has taken so far.
        measuring + if elapsed > expected { elapsed } else { expected - elapsed }
    }

    fn expected(&self, candidate: &Candidate, model: ModelId, tokens: u64) -> Duration {
        let slot = SlotId(candidate.slot as u32);
        self.speeds.predict(model, slot, candidate.backend, tokens).saturating_mul(candidate.factor)
    }

    /// A request waits for others while a batch of them would not be full and its delay is not over.
    fn waits_for_company(&self, seed: &Request, batching: Batching) -> bool {
        let queue = self.requests.queue();
        self.may_wait
            && seed.is_plain()
            && seed.arrived_at().after(self.config.batch_delay) > self.now
            && queue.rows(seed.model()) < u64::from(batching.rows_max)
            && queue.tokens(seed.model()) < u64::from(batching.tokens_max)
    }

    /// How many of the waiting rows one browser takes: its share by speed where others are idle too.
    fn fair_rows(
        &self,
        model: ModelId,
        candidates: &[Candidate],
        best: usize,
        seed: &Request,
    ) -> u64 {
        if !candidates[best].idle
            || candidates.iter().filter(|candidate| candidate.idle).count() < 2
        {
            return u64::MAX;
        }
        let speed = |candidate: &Candidate| {
            let expected = self.expected(candidate, model, seed.tokens());
            1.0 / expected.as_secs_f64().max(1e-9)
        };
        let all: f64 = candidates.iter().filter(|candidate| candidate.idle).map(speed).sum();
        let share = self.requests.queue().rows(model) as f64 * speed(&candidates[best]) / all;
        // Subtracts an epsilon so that rounding cannot add a row.
        (share - 1e-6).ceil().max(1.0) as u64
    }

    /// The seed and the waiting requests that run with it, those of similar length first.
    ///
    /// A request that failed before runs alone: it may be the cause, and must not fail others with it.
    fn join(&self, seed: &Request, rows_max: u64, batching: Batching) -> Batch {
        let mut batch = Batch::of(seed);
        if !seed.is_plain() || batch.rows >= rows_max {
            return batch;
        }
        let mut others: Vec<&Request> = self
            .requests
            .waiting(seed.model())
            .filter(|other| other.id() != seed.id() && other.is_plain())
            .take(LOOKAHEAD_PER_ROW.saturating_mul(batching.rows_max as usize))
            .collect();
        // The sort is stable: of requests of the same length the oldest comes first.
        others.sort_by_key(|other| other.length().abs_diff(seed.length()));
        for other in others {
            batch.join(other, rows_max, batching.tokens_max.into());
        }
        batch
    }
}
