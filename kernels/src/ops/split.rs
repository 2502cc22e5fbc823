//! How long lines are divided among invocations: by what keeps an adapter busy, and by how far one invocation may go.

use super::{Memory, Scratch};

/// Longest line that is never divided: another dispatch costs more than its parts would save.
pub(super) const WHOLE_MAX: usize = 1024;

/// Invocations that keep an adapter busy.
const BUSY: usize = 4096;

/// Least parts that are worth another dispatch.
const PARTS_MIN: usize = 4;

/// Parts into which each of `lines` lines of `size` elements is divided; 1 where a line stays whole. No part has more than
/// `length_max` elements. What the parts give is a line again, which may have to be divided, too.
pub(super) fn parts(lines: usize, size: usize, length_max: usize) -> usize {
    if size <= WHOLE_MAX.min(length_max) {
        return 1;
    }
    // With more parts than a part has elements, joining them would take longest.
    let wanted = (BUSY / lines.max(1)).min(size.isqrt());
    let wanted = if wanted < PARTS_MIN { 1 } else { wanted };
    wanted.max(size.div_ceil(length_max))
}

/// Whether lines of this size may be divided; `None` is a size that only a run has.
pub(super) fn may_divide(size: Option<i64>, length_max: usize) -> bool {
    size.and_then(|size| usize::try_from(size).ok())
        .is_none_or(|size| size > WHOLE_MAX.min(length_max))
}

/// Results of a line that one invocation computes when what they need of the line is known: where it stands is found once
/// for all of them.
pub(super) const RESULTS: usize = 8;

/// Numbers the scratch buffers of a node.
#[derive(Default)]
pub(super) struct Scratchpad {
    count: usize,
}

impl Scratchpad {
    /// A buffer of so many words.
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
