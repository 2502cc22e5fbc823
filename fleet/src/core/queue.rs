//! Accepted requests that wait for a browser.

use std::collections::BTreeMap;

use flotilla_protocol::RequestId;

use super::{escalation::Target, requests::Request};
use crate::event::ModelId;

/// A request's place in the queue: those that a browser has lost before come first, then in order of arrival.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Place {
    /// False for a request that is back from a browser; sorts first.
    pub(super) fresh: bool,
    /// Counts the accepted requests.
    pub(super) arrival: u64,
}

/// The waiting requests of one model.
#[derive(Debug, Default)]
struct Line {
    waiting: BTreeMap<Place, RequestId>,
    rows: u64,
    tokens: u64,
}

/// All waiting requests. Whoever accepts requests bounds it: those that come back from a browser are always taken in.
#[derive(Debug, Default)]
pub(super) struct Queue {
    lines: BTreeMap<ModelId, Line>,
    len: u32,
    /// Requests that will be inserted once they are recorded.
    reserved: u32,
    /// Waiting requests that only a fallback browser may run.
    fallback: u32,
}

impl Queue {
    /// How many requests wait, those that are being recorded included.
    pub(super) fn len(&self) -> u32 {
        self.len + self.reserved
    }

    /// Keeps a place for a request that is being recorded.
    pub(super) fn reserve(&mut self) {
        self.reserved += 1;
    }

    pub(super) fn unreserve(&mut self) {
        self.reserved = self.reserved.saturating_sub(1);
    }

    /// Whether a request waits that only a fallback browser may run.
    pub(super) fn wants_fallback(&self) -> bool {
        self.fallback > 0
    }

    pub(super) fn insert(&mut self, place: Place, request: &Request) {
        let line = self.lines.entry(request.model()).or_default();
        if line.waiting.insert(place, request.id()).is_none() {
            line.rows += u64::from(request.rows());
            line.tokens += request.tokens();
            self.len += 1;
            self.fallback += u32::from(request.target() == Target::Fallback);
        }
    }

    pub(super) fn remove(&mut self, place: Place, request: &Request) {
        let Some(line) = self.lines.get_mut(&request.model()) else { return };
        if line.waiting.remove(&place).is_some() {
            line.rows -= u64::from(request.rows());
            line.tokens -= request.tokens();
            self.len -= 1;
            self.fallback -= u32::from(request.target() == Target::Fallback);
        }
        if line.waiting.is_empty() {
            self.lines.remove(&request.model());
        }
    }

    /// The models that requests wait for, the one whose first request is the oldest first.
    pub(super) fn models(&self) -> Vec<ModelId> {
        let mut heads: Vec<(Place, ModelId)> = self
            .lines
            .iter()
            .filter_map(|(&model, line)| {
                line.waiting.first_key_value().map(|(&place, _)| (place, model))
            })
            .collect();
        heads.sort_unstable();
        heads.into_iter().map(|(_, model)| model).collect()
    }

    /// The waiting requests of a model in order.
    pub(super) fn of(&self, model: ModelId) -> impl Iterator<Item = RequestId> + '_ {
        self.lines.get(&model).into_iter().flat_map(|line| line.waiting.values().copied())
    }

    /// How many requests of a model wait.
    pub(super) fn len_of(&self, model: ModelId) -> u32 {
        self.lines.get(&model).map_or(0, |line| line.waiting.len() as u32)
    }

    /// Rows of a model that wait.
    pub(super) fn rows(&self, model: ModelId) -> u64 {
        self.lines.get(&model).map_or(0, |line| line.rows)
    }

    /// Tokens of a model that wait, without padding.
    pub(super) fn tokens(&self, model: ModelId) -> u64 {
        self.lines.get(&model).map_or(0, |line| line.tokens)
    }
}
