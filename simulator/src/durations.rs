//! Many durations in little memory.

use std::time::Duration;

use serde::{Serialize, Serializer, ser::SerializeStruct as _};

/// Buckets per doubling: a quantile is at most a sixteenth too high.
const STEPS: u32 = 16;

/// How often each duration was seen, to a sixteenth.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Durations {
    /// By bucket of microseconds.
    counts: Vec<u64>,
    count: u64,
}

impl Durations {
    pub(crate) fn add(&mut self, duration: Duration) {
        let bucket = bucket(duration.as_micros() as u64);
        if self.counts.len() <= bucket {
            self.counts.resize(bucket + 1, 0);
        }
        self.counts[bucket] += 1;
        self.count += 1;
    }

    pub(crate) fn merge(&mut self, other: &Durations) {
        if self.counts.len() < other.counts.len() {
            self.counts.resize(other.counts.len(), 0);
        }
        for (mine, theirs) in self.counts.iter_mut().zip(&other.counts) {
            *mine += theirs;
        }
        self.count += other.count;
    }

    /// How many there are.
    pub fn count(&self) -> u64 {
        self.count
    }

    /// This many percent of the durations are not longer; `None` where there are no durations.
    pub fn percentile(&self, percent: u64) -> Option<Duration> {
        let rank = (self.count * percent).div_ceil(100).max(1);
        let mut seen = 0;
        let at = self.counts.iter().position(|count| {
            seen += count;
            seen >= rank
        })?;
        Some(Duration::from_micros(top(at)))
    }
}

/// Values below `STEPS` have a bucket each; from there on each doubling has `STEPS`.
fn bucket(value: u64) -> usize {
    let Some(doublings) = value.checked_ilog2().and_then(|log| log.checked_sub(STEPS.ilog2()))
    else {
        return value as usize;
    };
    ((doublings as usize) * STEPS as usize) + (value >> doublings) as usize
}

/// The greatest value of a bucket.
fn top(bucket: usize) -> u64 {
    let steps = STEPS as usize;
    if bucket < 2 * steps {
        return bucket as u64;
    }
    let doublings = bucket / steps - 1;
    let first = (bucket - doublings * steps) as u64;
    ((first + 1) << doublings) - 1
}

impl Serialize for Durations {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let ms = |percent| self.percentile(percent).map(|at| at.as_secs_f64() * 1e3);
        let mut fields = serializer.serialize_struct("Durations", 4)?;
        fields.serialize_field("count", &self.count)?;
        fields.serialize_field("p50_ms", &ms(50))?;
        fields.serialize_field("p95_ms", &ms(95))?;
        fields.serialize_field("p99_ms", &ms(99))?;
        fields.end()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bucket_holds_a_sixteenth_of_its_values() {
        let mut values: Vec<u64> = (0..200).collect();
        values.extend([1000, 4095, 4096, 1 << 20, (1 << 40) + 12345]);
        for value in values {
            let top = top(bucket(value));
            assert!(top >= value && top - value <= value / 16, "{value} counts as {top}");
            assert_eq!(bucket(top), bucket(value), "{value}");
            assert_ne!(bucket(top + 1), bucket(value), "{value}");
        }
    }

    #[test]
    fn percentiles_are_of_what_was_added() {
        let mut durations = Durations::default();
        assert_eq!(durations.percentile(50), None);
        for us in 1..=10 {
            durations.add(Duration::from_micros(us));
        }
        let mut twice = durations.clone();
        twice.merge(&durations);
        for durations in [durations, twice] {
            assert_eq!(durations.percentile(50), Some(Duration::from_micros(5)));
            assert_eq!(durations.percentile(95), Some(Duration::from_micros(10)));
        }
    }
}
