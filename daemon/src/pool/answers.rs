//! Results of runs on their way to clients.

use std::sync::Arc;

use flotilla_fleet::Attempt;
use flotilla_protocol::{Backend, PlacementId, RequestId, RunId, RunReport};

use super::{AnswerError, Chosen, Provenance, Share, state::State};
use crate::batch;

impl State {
    pub(super) fn answer(&mut self, request: RequestId, run: RunId, tried: &[Attempt]) {
        let kept = self.waiting.get_mut(&request).and_then(|waiting| waiting.kept.take());
        let answer = match kept {
            // It was recorded; the run's results may have been freed meanwhile.
            Some(answer) => Ok(answer),
            None => self.share(request, run, tried),
        };
        self.reply(request, answer);
    }

    pub(super) fn share(
        &self,
        request: RequestId,
        run: RunId,
        tried: &[Attempt],
    ) -> Result<Share, AnswerError> {
        let lost = || AnswerError::Lost { run: run.to_string() };
        let flight = self.flights.get(&run).ok_or_else(lost)?;
        let (results, provenance) = flight.done.as_ref().ok_or_else(lost)?;
        let index = flight.requests.iter().position(|&other| other == request).ok_or_else(lost)?;
        let row = flight.rows.map(|rows| (index, rows));
        let provenance = match tried {
            [] => provenance.clone(),
            // Rows that were tried before have their own provenance.
            tried => Arc::new(Provenance {
                tried: Provenance::tried_words(tried),
                ..Provenance::clone(provenance)
            }),
        };
        Ok(Share { results: results.clone(), row, provenance })
    }

    /// Provenance of a placement's results. It is taken before the core gets the event, because the core's orders may unload
    /// the placement.
    pub(super) fn provenance(
        &self,
        placement: PlacementId,
        report: RunReport,
        rows: usize,
    ) -> Option<Provenance> {
        let entry = self.placements.get(&placement)?;
        let browser = self.browsers.get(&entry.browser)?;
        let facts = browser.facts.as_ref()?;
        let (fallback, account) = self.fleet.account(placement)?;
        let loaded = entry.ready.as_ref()?;
        Some(Provenance {
            browser: facts.name.clone(),
            browser_version: facts.version.clone(),
            browser_channel: facts.channel,
            browser_id: entry.browser.to_string(),
            backend: entry.backend,
            device: loaded.device,
            split: loaded.split.clone(),
            chosen: Chosen::from(&account),
            adapter: loaded.adapter.label(),
            webgpu_adapter: Some(browser.desired.adapter).filter(|_| {
                let is_chromium = facts.kind.is_chromium() && !facts.simulated;
                is_chromium && entry.backend == Backend::WebGpu
            }),
            fallback,
            simulated: facts.simulated,
            run_ms: report.run_us as f64 / 1e3,
            rows,
            pipelines_created: report.pipelines_created,
            tried: Vec::new(),
        })
    }

    pub(super) fn reply(&mut self, request: RequestId, reply: Result<Share, AnswerError>) {
        if let Some(waiting) = self.waiting.remove(&request) {
            self.unwatch(waiting.job.as_ref().map(|(job, _)| job), request);
            // The client may have disconnected at this moment; its answer is then dropped.
            let _ = waiting.reply.send(reply);
            batch::discard(waiting.input.bytes(), waiting.input);
        }
    }
}
