//! What a campaign found.

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use serde::{Deserialize, Serialize};

use crate::{faults::Moment, firing::Firing};

/// Outcome of one request.
#[derive(Clone, Debug, PartialEq)]
pub enum Verdict {
    /// The known answer.
    Right,
    /// The daemon's error message.
    Error(String),
    /// Another vector; with the question that it would have answered, if there is one.
    Wrong {
        /// The question.
        whose: Option<usize>,
    },
    /// Accepted and never answered.
    Lost(String),
}

/// One request and its end.
#[derive(Clone, Debug)]
pub struct Asked {
    /// Which question.
    pub question: usize,
    /// When it was sent.
    pub sent: Instant,
    /// When its end was known.
    pub done: Instant,
    /// Its outcome.
    pub verdict: Verdict,
    /// Failed attempts, as the daemon reports them.
    pub tried: Vec<String>,
    /// The daemon's name of the request, where it was recorded.
    pub request: Option<String>,
}

/// Percentiles of a set of times, in milliseconds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub struct Times {
    /// How many.
    pub count: usize,
    /// Half of them are at most this.
    pub p50: f64,
    /// 95 of 100 are at most this.
    pub p95: f64,
    /// The longest.
    pub max: f64,
}

impl Times {
    /// Of so many times. By nearest rank; all zero of none.
    pub fn of(mut times: Vec<Duration>) -> Times {
        times.sort_unstable();
        let ms = |time: Duration| time.as_secs_f64() * 1e3;
        let rank = |percent: usize| {
            let rank = (times.len() * percent).div_ceil(100).max(1);
            times.get(rank - 1).copied().map_or(0.0, ms)
        };
        Times { count: times.len(), p50: rank(50), p95: rank(95), max: rank(100) }
    }
}

/// An occasion that passed without its fault.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Miss {
    /// What should have happened.
    pub fault: String,
    /// When, from the first request on.
    pub at_ms: u64,
    /// Why it did not.
    pub reason: String,
}

/// What one kind of fault did.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct FaultLine {
    /// The kind.
    pub fault: String,
    /// Occasions.
    pub scheduled: usize,
    /// How often it happened; a fault of several frames, for each.
    pub fired: usize,
    /// From each occasion's first firing to the next right answer to any request.
    pub ms_to_next_right: Times,
    /// Occasions after which no right answer came any more.
    pub never_right: usize,
}

/// Recoveries from failures of one kind by one step, as the daemon reports them.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct RecoveryLine {
    /// The failure.
    pub failure: String,
    /// `request` or `browser`.
    pub of: String,
    /// A recovery step, or a repair of the browser.
    #[serde(alias = "step")]
    pub rung: String,
    /// How often it succeeded.
    pub succeeded: u64,
    /// How often another failure came first.
    pub failed: u64,
    /// Half of those that succeeded took at most this.
    pub p50_ms: f64,
    /// 95 of 100 of them took at most this.
    pub p95_ms: f64,
}

/// Recovery of the pool after the last fault.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Healing {
    /// Whether it recovered within the limit.
    pub converged: bool,
    /// How long it took.
    pub ms: f64,
    /// Questions asked to find out.
    pub probes: usize,
    /// What was missing, if it did not.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub missing: Option<String>,
}

/// Everything that a campaign found.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Report {
    /// Name of the scenario.
    pub scenario: String,
    /// Seed of faults, load and questions.
    pub seed: u64,
    /// How long requests were sent.
    pub duration_s: f64,
    /// How many a second, on average.
    pub load_per_s: f64,
    /// Requests sent.
    pub sent: usize,
    /// Answered with the known answer.
    pub right: usize,
    /// Answered with an error.
    pub error: usize,
    /// Accepted and not answered by their deadline and some grace.
    pub lost: usize,
    /// Answers that came more than once.
    pub duplicated: usize,
    /// Answered with something else.
    pub wrong: usize,
    /// Errors by their words.
    pub errors: BTreeMap<String, usize>,
    /// How requests were lost.
    pub losses: BTreeMap<String, usize>,
    /// Times of right answers, from sending.
    pub latency_ms: Times,
    /// The same of those that needed more than one attempt.
    pub disturbed_ms: Times,
    /// How often each fault happened.
    pub faults_fired: BTreeMap<String, usize>,
    /// Occasions that passed without their fault.
    pub faults_missed: Vec<Miss>,
    /// Faults with the time to the next right answer.
    pub faults: Vec<FaultLine>,
    /// The pool's recoveries; if the daemon was started again, those since then.
    pub recoveries: Vec<RecoveryLine>,
    /// Recovery after the faults.
    pub healed: Healing,
}

impl Report {
    /// Counts requests. An answer that was right for one question and came to another one, too, is a duplicate; so is a
    /// recorded request that answered two.
    pub fn count(&mut self, asked: &[Asked]) {
        self.sent += asked.len();
        let mut answered: BTreeMap<usize, usize> = BTreeMap::new();
        for Asked { question, verdict, .. } in asked {
            match verdict {
                Verdict::Right => {
                    self.right += 1;
                    *answered.entry(*question).or_default() += 1;
                }
                Verdict::Error(words) => {
                    self.error += 1;
                    *self.errors.entry(words.clone()).or_default() += 1;
                }
                Verdict::Wrong { whose } => {
                    self.wrong += 1;
                    if let Some(whose) = whose {
                        *answered.entry(*whose).or_default() += 1;
                    }
                }
                Verdict::Lost(words) => {
                    self.lost += 1;
                    *self.losses.entry(words.clone()).or_default() += 1;
                }
            }
        }
        let mut named: BTreeMap<&str, usize> = BTreeMap::new();
        for request in asked.iter().filter_map(|one| one.request.as_deref()) {
            *named.entry(request).or_default() += 1;
        }
        self.duplicated += named.values().map(|count| count - 1).sum::<usize>();
        self.duplicated += answered.values().map(|count| count - 1).sum::<usize>();
        let right = |one: &&Asked| one.verdict == Verdict::Right;
        let time = |one: &Asked| one.done - one.sent;
        self.latency_ms = Times::of(asked.iter().filter(right).map(time).collect());
        let disturbed = asked.iter().filter(right).filter(|one| !one.tried.is_empty());
        self.disturbed_ms = Times::of(disturbed.map(time).collect());
    }

    /// Counts faults: `names` are those of the schedule's `moments`, `misses` the reasons that are known.
    pub fn count_faults(
        &mut self,
        names: &[String],
        moments: &[Moment],
        firings: &[Firing],
        misses: &BTreeMap<usize, String>,
        asked: &[Asked],
    ) {
        let mut rights: Vec<Instant> =
            asked.iter().filter(|one| one.verdict == Verdict::Right).map(|one| one.done).collect();
        rights.sort_unstable();
        let mut lines: BTreeMap<&str, (FaultLine, Vec<Duration>)> = BTreeMap::new();
        for (index, moment) in moments.iter().enumerate() {
            let name = names[moment.fault].as_str();
            let (line, times) = lines.entry(name).or_default();
            line.scheduled += 1;
            let own: Vec<Instant> = firings
                .iter()
                .filter(|firing| firing.moment == index)
                .map(|firing| firing.at)
                .collect();
            line.fired += own.len();
            let Some(&first) = own.iter().min() else {
                let reason = misses.get(&index).cloned();
                self.faults_missed.push(Miss {
                    fault: name.to_owned(),
                    at_ms: moment.at.as_millis() as u64,
                    reason: reason.unwrap_or_else(|| "it met nothing before the end".to_owned()),
                });
                continue;
            };
            match rights.get(rights.partition_point(|right| *right < first)) {
                Some(&right) => times.push(right - first),
                None => line.never_right += 1,
            }
        }
        for (name, (line, times)) in lines {
            self.faults_fired.insert(name.to_owned(), line.fired);
            let ms_to_next_right = Times::of(times);
            self.faults.push(FaultLine { fault: name.to_owned(), ms_to_next_right, ..line });
        }
    }

    /// Whether no request was lost, answered wrongly or answered twice, and the pool became whole.
    pub fn is_sound(&self) -> bool {
        self.lost == 0 && self.wrong == 0 && self.duplicated == 0 && self.healed.converged
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);

    fn asked(begin: Instant, question: usize, done_ms: u32, verdict: Verdict) -> Asked {
        let done = begin + MS * done_ms;
        Asked { question, sent: begin, done, verdict, tried: Vec::new(), request: None }
    }

    #[test]
    fn every_request_counts_once() {
        let begin = Instant::now();
        let asked = [
            asked(begin, 0, 10, Verdict::Right),
            asked(begin, 1, 20, Verdict::Right),
            // The answer of 1 comes to 2 as well.
            asked(begin, 2, 20, Verdict::Wrong { whose: Some(1) }),
            // The answer of 5 comes to 3 only.
            asked(begin, 3, 20, Verdict::Wrong { whose: Some(5) }),
            asked(begin, 4, 20, Verdict::Error("429: full".to_owned())),
            asked(begin, 5, 20, Verdict::Lost("no answer in time".to_owned())),
            asked(begin, 6, 20, Verdict::Wrong { whose: None }),
        ];
        let mut report = Report::default();
        report.count(&asked);
        let counts =
            [report.sent, report.right, report.error, report.lost, report.wrong, report.duplicated];
        assert_eq!(counts, [7, 2, 1, 1, 3, 1]);
        assert_eq!(report.sent, report.right + report.error + report.lost + report.wrong);
        assert_eq!(report.latency_ms, Times { count: 2, p50: 10.0, p95: 20.0, max: 20.0 });
        report.healed.converged = true;
        assert!(!report.is_sound());

        let named = |question| Asked {
            request: Some("req_1".to_owned()),
            ..self::asked(begin, question, 1, Verdict::Right)
        };
        let mut report = Report::default();
        report.count(&[named(0), named(1)]);
        assert_eq!((report.right, report.duplicated), (2, 1));
    }

    #[test]
    fn faults_are_reported_with_the_next_right_answer_and_misses_with_their_reason() {
        let begin = Instant::now();
        let rights: Vec<Asked> = [10, 30, 90]
            .into_iter()
            .map(|at| asked(begin, at as usize, at, Verdict::Right))
            .collect();
        let names = ["kill_browser".to_owned(), "link_drop".to_owned()];
        let moment = |at, fault| Moment { at: MS * at, fault, choice: 0 };
        let moments = [moment(5, 0), moment(40, 0), moment(50, 1), moment(95, 0), moment(99, 0)];
        let firing = |moment, at| Firing { moment, at: begin + MS * at };
        let firings = [firing(0, 5), firing(0, 6), firing(1, 40), firing(3, 95)];
        let misses = BTreeMap::from([(4, "nobody was there".to_owned())]);
        let mut report = Report::default();
        report.count_faults(&names, &moments, &firings, &misses, &rights);
        assert_eq!(
            report.faults_fired,
            BTreeMap::from([("kill_browser".into(), 4), ("link_drop".into(), 0)])
        );
        let kill = &report.faults[0];
        assert_eq!((kill.scheduled, kill.fired, kill.never_right), (4, 4, 1));
        assert_eq!(kill.ms_to_next_right, Times { count: 2, p50: 5.0, p95: 50.0, max: 50.0 });
        let missed: Vec<(u64, &str)> =
            report.faults_missed.iter().map(|miss| (miss.at_ms, miss.reason.as_str())).collect();
        assert_eq!(missed, [(50, "it met nothing before the end"), (99, "nobody was there")]);
    }
}
