//! One direction of a link: which faults apply to a frame, and when it is passed on. No IO: frames and time come in as
//! arguments.

use std::{
    collections::BTreeMap,
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
    time::{Duration, Instant},
};

use bytes::Bytes;
use rand::{RngExt as _, SeedableRng as _, rngs::Xoshiro256PlusPlus, seq::IndexedMutRandom as _};

use crate::{
    faults::{LinkFault, LinkName, Toward},
    firing::Bell,
};

/// Longest wait of a frame that is to be overtaken for the one that overtakes it.
const OVERTAKE_MAX: Duration = Duration::from_secs(1);

/// A fault in force.
#[derive(Clone, Debug)]
pub struct Rule {
    /// What happens.
    pub how: LinkFault,
    /// On which links.
    pub link: LinkName,
    /// In which direction.
    pub toward: Toward,
    /// In which kind of browser; in all unless given.
    pub kind: Option<String>,
    /// Seed of what is random in it.
    pub seed: u64,
    /// Reports each time.
    pub bell: Bell,
    pub(crate) left: Arc<AtomicU32>,
}

impl Rule {
    /// A fault that happens to so many frames.
    pub fn new(how: LinkFault, frames: u32, bell: Bell) -> Rule {
        Rule {
            how,
            link: LinkName::Any,
            toward: Toward::Any,
            kind: None,
            seed: 0,
            bell,
            left: Arc::new(AtomicU32::new(frames)),
        }
    }

    /// Takes one of the frames that it may still happen to.
    fn take(&self) -> bool {
        self.left
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| left.checked_sub(1))
            .is_ok()
    }
}

/// Which lane of which link of which browser.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Spot {
    pub(super) link: LinkName,
    pub(super) toward: Toward,
    pub(super) kind: Option<String>,
}

impl Spot {
    fn meets(&self, rule: &Rule) -> bool {
        (rule.link == LinkName::Any || rule.link == self.link)
            && (rule.toward == Toward::Any || rule.toward == self.toward)
            && (rule.kind.is_none() || rule.kind == self.kind)
    }
}

/// State of a lane after a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Fate {
    Open,
    Cut,
}

/// Frames that wait to go on.
#[derive(Debug)]
pub(super) struct Lane {
    spot: Spot,
    queue: BTreeMap<(Instant, u64), Bytes>,
    sequence: u64,
    /// No frame goes on before those that came before it.
    last: Option<Instant>,
    /// Frames that the next one overtakes, and until when they wait for it.
    overtaken: Option<(Instant, Vec<Bytes>)>,
    silent: bool,
}

impl Lane {
    pub(super) fn new(spot: Spot) -> Lane {
        Lane {
            spot,
            queue: BTreeMap::new(),
            sequence: 0,
            last: None,
            overtaken: None,
            silent: false,
        }
    }

    /// Takes a frame in; `fired` receives the bells of the faults that applied.
    pub(super) fn pass(
        &mut self,
        now: Instant,
        frame: Bytes,
        rules: &[Rule],
        fired: &mut Vec<Bell>,
    ) -> Fate {
        if self.silent {
            return Fate::Open;
        }
        let mut frames = vec![frame];
        let mut wait = Duration::ZERO;
        let mut again = Vec::new();
        let mut is_overtaken = false;
        for rule in rules.iter().filter(|rule| self.spot.meets(rule)) {
            // One frame after the other: the one that overtakes is not overtaken itself.
            let is_waiting = rule.how == LinkFault::Reorder && self.overtaken.is_some();
            if is_waiting || !rule.take() {
                continue;
            }
            fired.push(rule.bell.clone());
            match rule.how {
                LinkFault::Delay { by_ms } => wait += Duration::from_millis(by_ms),
                LinkFault::Throttle { bytes_per_s } => {
                    let bytes: usize = frames.iter().map(Bytes::len).sum();
                    wait += Duration::from_secs_f64(bytes as f64 / bytes_per_s as f64);
                }
                LinkFault::Drop => return Fate::Cut,
                LinkFault::Truncate => {
                    for frame in &mut frames {
                        frame.truncate(frame.len() / 2);
                    }
                }
                LinkFault::Corrupt { bits } => {
                    let seed = rule.seed ^ self.sequence;
                    let mut random = Xoshiro256PlusPlus::seed_from_u64(seed);
                    for frame in &mut frames {
                        *frame = flipped(frame, bits, &mut random);
                    }
                }
                LinkFault::Duplicate => frames.extend(frames.clone()),
                LinkFault::Reorder => is_overtaken = true,
                LinkFault::Replay { after_ms } => {
                    again.push((now + Duration::from_millis(after_ms), frames[0].clone()));
                }
                LinkFault::HalfOpen => {
                    self.silent = true;
                    return Fate::Open;
                }
            }
        }
        let due = self.last.map_or(now, |last| last.max(now)) + wait;
        self.last = Some(due);
        if is_overtaken {
            self.overtaken = Some((due + OVERTAKE_MAX, frames));
        } else {
            let overtaken = self.overtaken.take().into_iter().flat_map(|(_, frames)| frames);
            for frame in frames.into_iter().chain(overtaken) {
                self.enqueue(due, frame);
            }
        }
        for (due, frame) in again {
            self.enqueue(due, frame);
        }
        Fate::Open
    }

    /// The frame that goes on now, if there is one.
    pub(super) fn next(&mut self, now: Instant) -> Option<Bytes> {
        if self.overtaken.as_ref().is_some_and(|(until, _)| *until <= now) {
            self.release(now);
        }
        let entry = self.queue.first_entry().filter(|entry| entry.key().0 <= now)?;
        Some(entry.remove())
    }

    /// When [`Lane::next`] must be called again, if nothing else happens.
    pub(super) fn wake(&self) -> Option<Instant> {
        let queued = self.queue.keys().next().map(|(due, _)| *due);
        let overtaken = self.overtaken.as_ref().map(|(until, _)| *until);
        queued.into_iter().chain(overtaken).min()
    }

    /// Ends lasting faults. Frames that were dropped stay dropped.
    pub(super) fn heal(&mut self, now: Instant) {
        self.silent = false;
        self.release(now);
    }

    fn release(&mut self, now: Instant) {
        for frame in self.overtaken.take().into_iter().flat_map(|(_, frames)| frames) {
            self.enqueue(now, frame);
        }
    }

    fn enqueue(&mut self, due: Instant, frame: Bytes) {
        self.sequence += 1;
        self.queue.insert((due, self.sequence), frame);
    }
}

fn flipped(frame: &Bytes, bits: u32, random: &mut Xoshiro256PlusPlus) -> Bytes {
    let mut bytes = frame.to_vec();
    for _ in 0..bits {
        let Some(byte) = bytes.choose_mut(random) else { break };
        *byte ^= 1 << random.random_range(0..8);
    }
    bytes.into()
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);

    /// Frames `0, 1, 2` pass at once under a fault of so many frames: what comes out after how many milliseconds, how often the
    /// fault was reported, and the lane's state.
    fn play(how: LinkFault, frames: u32) -> (Vec<(u128, Vec<u8>)>, usize, Fate) {
        let (firings, _ledger) = Bell::channel();
        let rules = [Rule::new(how, frames, Bell::new(0, firings))];
        let spot = Spot { link: LinkName::Data, toward: Toward::Page, kind: None };
        let mut lane = Lane::new(spot);
        let begin = Instant::now();
        let mut fired = Vec::new();
        let mut fate = Fate::Open;
        for frame in 0..3u8 {
            fate = lane.pass(begin, Bytes::from(vec![frame; 10]), &rules, &mut fired);
            if fate == Fate::Cut {
                break;
            }
        }
        let mut out = Vec::new();
        while let Some(at) = lane.wake() {
            while let Some(frame) = lane.next(at) {
                out.push(((at - begin).as_millis(), frame.to_vec()));
            }
        }
        (out, fired.len(), fate)
    }

    fn order(out: &[(u128, Vec<u8>)]) -> Vec<(u128, u8)> {
        out.iter().map(|(at, frame)| (*at, frame[0])).collect()
    }

    /// A fault, how many frames it happens to, and which frame comes out after how many milliseconds.
    type Case = (LinkFault, u32, &'static [(u128, u8)]);

    #[test]
    fn each_fault_does_what_it_says() {
        let table: [Case; 7] = [
            (LinkFault::Delay { by_ms: 20 }, 1, &[(20, 0), (20, 1), (20, 2)]),
            (LinkFault::Delay { by_ms: 20 }, 2, &[(20, 0), (40, 1), (40, 2)]),
            (LinkFault::Throttle { bytes_per_s: 1000 }, 9, &[(10, 0), (20, 1), (30, 2)]),
            (LinkFault::Duplicate, 1, &[(0, 0), (0, 0), (0, 1), (0, 2)]),
            (LinkFault::Reorder, 1, &[(0, 1), (0, 0), (0, 2)]),
            (LinkFault::Replay { after_ms: 50 }, 1, &[(0, 0), (0, 1), (0, 2), (50, 0)]),
            (LinkFault::HalfOpen, 1, &[]),
        ];
        for (how, frames, want) in table {
            let (out, fired, fate) = play(how, frames);
            assert_eq!(order(&out), want, "{how:?}");
            assert_eq!((fired, fate), (frames.min(3) as usize, Fate::Open), "{how:?}");
        }
        let (out, fired, fate) = play(LinkFault::Drop, 1);
        assert_eq!((out.len(), fired, fate), (0, 1, Fate::Cut));
        let (out, fired, _) = play(LinkFault::Truncate, 1);
        assert_eq!((out[0].1.len(), out[1].1.len(), fired), (5, 10, 1));
        let (out, fired, _) = play(LinkFault::Corrupt { bits: 1 }, 1);
        let flipped: u32 = out[0].1.iter().map(|byte| byte.count_ones()).sum();
        assert_eq!((flipped, &out[1].1, fired), (1, &vec![1u8; 10], 1));
    }

    #[test]
    fn a_frame_that_nothing_overtakes_goes_on_after_a_while() {
        let (out, fired, _) = play(LinkFault::Reorder, 3);
        // 1 overtakes 0; then 2 waits in vain.
        assert_eq!((order(&out), fired), (vec![(0, 1), (0, 0), (1000, 2)], 2));
    }

    #[test]
    fn only_the_named_frames_are_affected() {
        let (firings, _ledger) = Bell::channel();
        let rule = Rule {
            link: LinkName::Data,
            toward: Toward::Page,
            kind: Some("chrome".to_owned()),
            ..Rule::new(LinkFault::Drop, 10, Bell::new(0, firings))
        };
        let hit = |link, toward, kind: Option<&str>| {
            Spot { link, toward, kind: kind.map(str::to_owned) }.meets(&rule)
        };
        assert!(hit(LinkName::Data, Toward::Page, Some("chrome")));
        assert!(!hit(LinkName::Control, Toward::Page, Some("chrome")));
        assert!(!hit(LinkName::Data, Toward::Daemon, Some("chrome")));
        assert!(!hit(LinkName::Data, Toward::Page, Some("firefox")));
        assert!(!hit(LinkName::Data, Toward::Page, None));
    }

    #[test]
    fn healing_lets_frames_through_again() {
        let (firings, _ledger) = Bell::channel();
        let rules = [Rule::new(LinkFault::HalfOpen, 1, Bell::new(0, firings))];
        let spot = Spot { link: LinkName::Data, toward: Toward::Page, kind: None };
        let mut lane = Lane::new(spot);
        let now = Instant::now();
        let mut fired = Vec::new();
        for frame in 0..2 {
            lane.pass(now, Bytes::from(vec![frame]), &rules, &mut fired);
        }
        assert_eq!((lane.next(now + MS), fired.len()), (None, 1));
        lane.heal(now);
        lane.pass(now, Bytes::from(vec![2]), &[], &mut fired);
        assert_eq!(lane.next(now + MS), Some(Bytes::from(vec![2])));
    }
}
