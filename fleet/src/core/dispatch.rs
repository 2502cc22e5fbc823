//! Which request runs next, where, and with whom.

use std::time::Duration;

use flotilla_protocol::{Backend, BrowserId, Epoch, PlacementId, RequestId, RunId};

use super::{
    Fleet, Phase,
    browsers::{BrowserState, Live},
    ladder::Target,
    placements::Placement,
    requests::{Request, RequestState},
    runs::Run,
};
use crate::event::{Action, Batching, Instant, ModelId, SlotId, TaskId};

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
/// How many browsers are compared for a run. In a larger fleet every run begins to look at another place, which is as good
/// as looking everywhere: so many choices are hardly ever all bad ones.
const CANDIDATES_MAX: usize = 64;

/// A ready placement with room for a run.
#[derive(Clone, Copy)]
struct Candidate {
    berth: usize,
    browser: BrowserId,
    placement: PlacementId,
    epoch: Epoch,
    backend: Backend,
    idle: bool,
    /// Until the runs that are there are expected to have ended.
    backlog: Duration,
    /// 1, or more for a browser that failed lately or that loads a model.
    factor: u32,
    loads: bool,
}

/// A run that is decided but not ordered.
struct Draft {
    candidate: Candidate,
    model: ModelId,
    batch: Batch,
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
            requests: vec![request.id],
            rows: request.rows.into(),
            length: request.length.into(),
            tokens: request.tokens(),
        }
    }

    fn padded_tokens(&self) -> u64 {
        self.rows * self.length
    }

    /// Adds a request if the batch stays within its limits and the padding is worth it.
    fn join(&mut self, other: &Request, rows_max: u64, tokens_max: u64) {
        let rows = self.rows + u64::from(other.rows);
        let length = self.length.max(other.length.into());
        let tokens = self.tokens + other.tokens();
        let padded = rows * length;
        let dense = padded <= PADDING_FREE_TOKENS || padded <= PADDING_FACTOR_MAX * tokens;
        if rows <= rows_max && padded <= tokens_max && dense {
            self.requests.push(other.id);
            (self.rows, self.length, self.tokens) = (rows, length, tokens);
        }
    }
}

impl Fleet {
    /// Dispatches until no waiting request has a browser with room, or all that have wait for company.
    pub(super) fn dispatch_all(&mut self) {
        self.refresh();
        while let Some(draft) = self.next_draft() {
            self.dispatch(draft);
            self.refresh();
        }
    }

    /// When a request has waited for company long enough.
    pub(super) fn batch_timeout(&self) -> Option<Instant> {
        if self.phase != Phase::Serving || self.config.batch_delay.is_zero() {
            return None;
        }
        self.queue
            .models()
            .into_iter()
            .flat_map(|model| {
                self.queue
                    .of(model)
                    .filter_map(|id| self.requests.get(&id))
                    .find(|request| request.is_plain())
            })
            .map(|request| request.arrived_at.after(self.config.batch_delay))
            // One that is overdue waits for a browser, not for time.
            .filter(|&at| at > self.now)
            .min()
    }

    /// The run of the oldest request that has a browser; models take turns by the age of their oldest request.
    fn next_draft(&self) -> Option<Draft> {
        self.queue.models().into_iter().find_map(|model| self.draft(model))
    }

    fn draft(&self, model: ModelId) -> Option<Draft> {
        let batching = *self.models.get(&model)?;
        let open: Vec<Candidate> = self
            .index
            .open(model, self.run_ids as usize % self.berths.len().max(1))
            .take(CANDIDATES_MAX)
            .filter_map(|berth| self.candidate(berth, model, None))
            .collect();
        // Requests that wait for a certain browser come first, but for those of tasks, which may be anywhere.
        let only_some = open.is_empty() && self.tasks.is_empty();
        for seed in self.queue.of(model).filter_map(|id| self.requests.get(&id)) {
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
            return Some(Draft { candidate: usable[best], model, batch });
        }
        None
    }

    /// The browsers that a request may run on, of those that have room.
    fn usable(&self, seed: &Request, open: &[Candidate]) -> Vec<Candidate> {
        let at = |berth: Option<usize>| {
            let candidate = |berth| self.candidate(berth, seed.model, seed.policy.task);
            berth.and_then(candidate).into_iter().collect()
        };
        let those = |fit: &dyn Fn(&Candidate) -> bool| {
            open.iter().copied().filter(|candidate| fit(candidate)).collect()
        };
        if let Some(task) = seed.policy.task {
            return at(self.held_by(task));
        }
        match seed.target() {
            Target::Any => open.to_vec(),
            Target::Elsewhere => those(&|candidate| !seed.failed_on(candidate.browser)),
            Target::Newer => {
                let horizon = seed.climb.map_or(0, |climb| climb.horizon);
                those(&|candidate| candidate.browser.0 > horizon)
            }
            Target::Browser(browser) => at(self.homes.get(&browser).copied()),
            Target::Slot(berth) => at(Some(berth)),
            Target::Fallback => {
                let fallbacks = (0..self.berths.len()).filter(|&berth| self.is_fallback(berth));
                fallbacks.filter_map(|berth| self.candidate(berth, seed.model, None)).collect()
            }
        }
    }

    /// Models that a berth's browser could take a run of, from whoever asks.
    pub(super) fn open_for(&self, berth: usize) -> Vec<ModelId> {
        let state = &self.berths[berth].state;
        let Some(live) = state.usable().filter(|live| live.task.is_none()) else {
            return Vec::new();
        };
        if live.runs.len() >= self.config.runs_in_flight_max as usize || self.is_fallback(berth) {
            return Vec::new();
        }
        let is_ready = |(_, placement): &(&ModelId, &Placement)| placement.ready_on().is_some();
        live.placements.iter().filter(is_ready).map(|(&model, _)| model).collect()
    }

    /// A berth's browser, if it is ready to run a model, has room, and is there for the task or for everybody.
    fn candidate(&self, berth: usize, model: ModelId, task: Option<TaskId>) -> Option<Candidate> {
        let state = self.berths.get(berth)?;
        let BrowserState::Ready(live) = &state.state else { return None };
        if live.recycling.is_some() || live.runs.len() >= self.config.runs_in_flight_max as usize {
            return None;
        }
        if live.task != task {
            return None;
        }
        let placement = live.placements.get(&model)?;
        let backend = placement.ready_on()?;
        let distrusted = state.failed_at.is_some_and(|at| self.now.since(at) < DISTRUST);
        let loads = live.loads();
        Some(Candidate {
            berth,
            browser: live.browser,
            placement: placement.id,
            epoch: placement.epoch,
            backend,
            idle: live.runs.is_empty(),
            backlog: self.backlog(live),
            factor: if distrusted { DISTRUST_FACTOR } else { 1 }
                * if loads { LOADING_FACTOR } else { 1 },
            loads,
        })
    }

    fn backlog(&self, live: &Live) -> Duration {
        let expected: Duration =
            live.runs.iter().filter_map(|run| self.runs.get(run)).map(|run| run.expected).sum();
        let elapsed =
            if live.runs.is_empty() { Duration::ZERO } else { self.now.since(live.head_since) };
        let measuring = live.trial.as_ref().map_or(Duration::ZERO, |trial| trial.expected());
        // One that is overdue is expected to take as long again: an optimist would queue behind a hang.
        measuring + if elapsed > expected { elapsed } else { expected - elapsed }
    }

    fn expected(&self, candidate: &Candidate, model: ModelId, tokens: u64) -> Duration {
        let slot = SlotId(candidate.berth as u32);
        self.speeds.predict(model, slot, candidate.backend, tokens).saturating_mul(candidate.factor)
    }

    /// A request waits for others while a batch of them would not be full and its delay is not over.
    fn waits_for_company(&self, seed: &Request, batching: Batching) -> bool {
        self.phase == Phase::Serving
            && seed.is_plain()
            && seed.arrived_at.after(self.config.batch_delay) > self.now
            && self.queue.rows(seed.model) < u64::from(batching.rows_max)
            && self.queue.tokens(seed.model) < u64::from(batching.tokens_max)
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
        let share = self.queue.rows(model) as f64 * speed(&candidates[best]) / all;
        // Less a trifle, or a share that is whole but for its last bit would be one row more.
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
            .queue
            .of(seed.model)
            .filter_map(|id| self.requests.get(&id))
            .filter(|other| other.id != seed.id && other.is_plain())
            .take(LOOKAHEAD_PER_ROW.saturating_mul(batching.rows_max as usize))
            .collect();
        // Stable, so that of the equally long the oldest comes first.
        others.sort_by_key(|other| other.length.abs_diff(seed.length));
        for other in others {
            batch.join(other, rows_max, batching.tokens_max.into());
        }
        batch
    }

    fn dispatch(&mut self, draft: Draft) {
        let Draft { candidate, model, batch } = draft;
        self.run_ids += 1;
        let id = RunId(self.run_ids);
        for request in &batch.requests {
            let Some(request) = self.requests.get_mut(request) else { continue };
            if let RequestState::Queued(place) = request.state {
                self.queue.remove(place, request);
            }
            request.state = RequestState::Running(id);
        }
        for &request in &batch.requests {
            self.name_rung(request, candidate.browser, candidate.berth);
        }
        let tokens = batch.padded_tokens();
        let Candidate { berth, browser, placement, epoch, backend, idle, loads, .. } = candidate;
        let run = Run {
            berth,
            browser,
            placement,
            epoch,
            model,
            backend,
            tokens,
            requests: batch.requests.clone(),
            joined: batch.requests.len() > 1,
            expected: self.expected(&candidate, model, tokens),
            sent_at: self.now,
            beside_load: loads,
        };
        self.runs.insert(id, run);
        let now = self.now;
        if let Some(live) = self.berth_mut(berth).state.live_mut() {
            if idle {
                live.head_since = now;
                live.hedged_at = None;
            }
            live.runs.push_back(id);
        }
        self.actions.push_back(Action::Dispatch {
            browser,
            placement,
            epoch,
            run: id,
            requests: batch.requests,
        });
    }
}
