//! How long runs take, learned from runs.

use std::{collections::BTreeMap, time::Duration};

use flotilla_protocol::Backend;

use crate::event::{ModelId, SlotId};

/// Weight that a sample keeps when the next one arrives: the last ten or so count.
const DECAY: f64 = 0.9;
/// The same for usual times, which change slowly: some hundreds of samples count.
const USUAL_DECAY: f64 = 0.998;
/// Service time per token of a model that nobody has run yet. Only orders browsers; never shown.
const GUESS_SECONDS: f64 = 1e-4;

/// Exponentially weighted least-squares line of service time over tokens: a fixed cost per run and a cost per token.
#[derive(Clone, Copy, Debug, Default)]
struct Line {
    samples: u32,
    weight: f64,
    tokens: f64,
    seconds: f64,
    tokens_squared: f64,
    tokens_seconds: f64,
}

impl Line {
    fn learn(&mut self, tokens: f64, seconds: f64, decay: f64) {
        // The first run pays for pipelines and caches, so the second one replaces it.
        if self.samples == 1 {
            *self = Line { samples: 1, ..Line::default() };
        }
        self.samples = self.samples.saturating_add(1);
        self.weight = self.weight * decay + 1.0;
        self.tokens = self.tokens * decay + tokens;
        self.seconds = self.seconds * decay + seconds;
        self.tokens_squared = self.tokens_squared * decay + tokens * tokens;
        self.tokens_seconds = self.tokens_seconds * decay + tokens * seconds;
    }

    /// Whether it has learned more than a first run.
    fn is_settled(&self) -> bool {
        self.samples > 1
    }

    fn predict(&self, tokens: f64) -> f64 {
        let spread = self.weight * self.tokens_squared - self.tokens * self.tokens;
        // Runs of nearly the same size do not separate the fixed cost from the cost per token.
        if spread > 1e-3 * self.tokens * self.tokens {
            let slope = (self.weight * self.tokens_seconds - self.tokens * self.seconds) / spread;
            let fixed = (self.seconds - slope * self.tokens) / self.weight;
            if slope >= 0.0 && fixed >= 0.0 {
                return fixed + slope * tokens;
            }
            if slope < 0.0 {
                return self.seconds / self.weight;
            }
        }
        self.tokens_seconds / self.tokens_squared * tokens
    }
}

/// Service times of every model on every slot and backend. Kept by slot, so that they outlive its browsers.
#[derive(Debug, Default)]
pub(super) struct Speeds {
    lines: BTreeMap<(ModelId, SlotId, Backend), Line>,
    usual: BTreeMap<(ModelId, SlotId, Backend), Line>,
    /// Over all slots, for those without a history of their own.
    of_backend: BTreeMap<(ModelId, Backend), Line>,
    of_model: BTreeMap<ModelId, Line>,
}

impl Speeds {
    pub(super) fn learn(
        &mut self,
        model: ModelId,
        slot: SlotId,
        backend: Backend,
        tokens: u64,
        took: Duration,
    ) {
        let (tokens, seconds) = (tokens as f64, took.as_secs_f64());
        let key = (model, slot, backend);
        self.lines.entry(key).or_default().learn(tokens, seconds, DECAY);
        self.usual.entry(key).or_default().learn(tokens, seconds, USUAL_DECAY);
        if self.lines.get(&key).is_some_and(Line::is_settled) {
            self.of_backend.entry((model, backend)).or_default().learn(tokens, seconds, DECAY);
            self.of_model.entry(model).or_default().learn(tokens, seconds, DECAY);
        }
    }

    /// A model is no longer served.
    pub(super) fn forget_model(&mut self, model: ModelId) {
        self.lines.retain(|&(of, ..), _| of != model);
        self.usual.retain(|&(of, ..), _| of != model);
        self.of_backend.retain(|&(of, _), _| of != model);
        self.of_model.remove(&model);
    }

    /// How much longer than usual a run took.
    pub(super) fn slowness(
        &self,
        model: ModelId,
        slot: SlotId,
        backend: Backend,
        tokens: u64,
        took: Duration,
    ) -> Option<f64> {
        let usual = self.usual.get(&(model, slot, backend))?.predict(tokens as f64);
        (usual > 0.0).then(|| took.as_secs_f64() / usual)
    }

    /// Service time of a run: from its own history, else from what the other slots took lately, else a guess.
    pub(super) fn predict(
        &self,
        model: ModelId,
        slot: SlotId,
        backend: Backend,
        tokens: u64,
    ) -> Duration {
        let tokens = tokens as f64;
        let own = self.lines.get(&(model, slot, backend));
        // First runs are slow. A slot that is predicted by its first run alone would get no second one.
        let seconds = own
            .filter(|line| line.is_settled())
            .or_else(|| self.of_backend.get(&(model, backend)))
            .or_else(|| self.of_model.get(&model))
            .or(own)
            .map_or(GUESS_SECONDS * tokens, |line| line.predict(tokens));
        Duration::try_from_secs_f64(seconds).unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MODEL: ModelId = ModelId(3);
    const HERE: SlotId = SlotId(0);
    const THERE: SlotId = SlotId(1);

    fn learned(runs: &[(u64, u64)]) -> Speeds {
        let mut speeds = Speeds::default();
        for &(tokens, ms) in runs {
            speeds.learn(MODEL, HERE, Backend::Cpu, tokens, Duration::from_millis(ms));
        }
        speeds
    }

    #[test]
    fn predictions_follow_the_runs() {
        // Runs as (tokens, ms), tokens asked for, ms expected.
        type Case = (&'static [(u64, u64)], u64, f64);
        let cases: [Case; 6] = [
            (&[], 10, 1.0),
            (&[(100, 50)], 200, 100.0),
            (&[(100, 900), (100, 50)], 200, 100.0),
            (&[(1, 900), (100, 20), (300, 40), (200, 30)], 400, 50.0),
            (&[(1, 900), (100, 40), (300, 20), (100, 40), (300, 20)], 900, 29.5),
            (&[(1, 900), (100, 10), (200, 40), (100, 10), (200, 40)], 100, 17.0),
        ];
        for (runs, tokens, want) in cases {
            let got = learned(runs).predict(MODEL, HERE, Backend::Cpu, tokens).as_secs_f64() * 1e3;
            assert!((got - want).abs() < 0.1 * want, "{runs:?} at {tokens}: {got} ms, not {want}");
        }
    }

    #[test]
    fn a_slot_without_history_is_judged_by_the_others() {
        let mut speeds = learned(&[(100, 900), (100, 50)]);
        let ms = |speeds: &Speeds, backend| speeds.predict(MODEL, THERE, backend, 100).as_millis();
        assert_eq!(ms(&speeds, Backend::Cpu), 50);
        assert_eq!(ms(&speeds, Backend::WebGpu), 50);
        for took in [800, 10] {
            speeds.learn(MODEL, HERE, Backend::WebGpu, 100, Duration::from_millis(took));
        }
        assert_eq!(ms(&speeds, Backend::WebGpu), 10);
        assert_eq!(ms(&speeds, Backend::Cpu), 50);
        // Its own first run, which is slow, does not count against it.
        speeds.learn(MODEL, THERE, Backend::Cpu, 100, Duration::from_millis(3000));
        assert_eq!(ms(&speeds, Backend::Cpu), 50);
    }
}
