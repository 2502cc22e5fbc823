//! How long lines are divided among invocations: enough parts to keep an adapter busy, each within the limit of one
//! invocation.

use super::{Memory, Scratch};

/// Longest line that is never divided: another dispatch costs more than its parts would save.
pub(super) const WHOLE_MAX: usize = 1024;

/// Invocations that keep an adapter busy.
const BUSY: usize = 4096;

/// Fewest parts for which another dispatch is worth its cost.
const PARTS_MIN: usize = 4;

/// Parts into which each of `lines` lines of `size` elements is divided; 1 if a line stays whole. No part has more than
/// `length_max` elements. The results of the parts are a line again, which may have to be divided, too.
pub(super) fn parts(lines: usize, size: usize, length_max: usize) -> usize {
    if size <= WHOLE_MAX.min(length_max) {
        return 1;
    }
    // If there were more parts than elements in a part, joining them would take longest.
    let wanted = (BUSY / lines.max(1)).min(size.isqrt());
    let wanted = if wanted < PARTS_MIN { 1 } else { wanted };
    wanted.max(size.div_ceil(length_max))
}

/// Whether lines of this size may be divided; `None` is a size that is known only in a run.
pub(super) fn may_divide(size: Option<i64>, length_max: usize) -> bool {
    size.and_then(|size| usize::try_from(size).ok())
        .is_none_or(|size| size > WHOLE_MAX.min(length_max))
}

/// Results of a line that one invocation computes once the values of the line that they need are known. The position of
/// the line is computed once for all of them.
pub(super) const RESULTS: usize = 8;

/// Numbers the scratch buffers of a node.
#[derive(Default)]
pub(super) struct Scratchpad {
    count: usize,
}

impl Scratchpad {
    /// A buffer of this many words.
    pub(super) fn take(&mut self, words: usize) -> Memory {
        self.count += 1;
        Memory::Scratch(Scratch { index: self.count - 1, words: words as u64 })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn short_or_many_lines_stay_whole() {
        assert_eq!(parts(1, 1024, 4096), 1);
        assert_eq!(parts(2000, 4096, 4096), 1);
        assert_eq!(parts(0, 0, 4096), 1);
    }

    #[test]
    fn parts_keep_within_the_length() {
        for lines in [1, 12, 5000] {
            for size in [1025, 4097, 1 << 17, 1 << 29] {
                let parts = parts(lines, size, 4096);
                assert!(size.div_ceil(parts) <= 4096 && parts < size, "{lines} {size}: {parts}");
            }
        }
    }
}
