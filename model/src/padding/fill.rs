//! Facts about the elements in padded places.

use std::rc::Rc;

use flotilla_tensor::DType;

/// A mask's zero hides a score if it is lower than its one by at least this.
///
/// `exp` of less than -104 is exactly 0 in F32, so a score that is lower than a row's largest by that much contributes
/// nothing to a softmax. Exports add -1e4, -65504, -1e9 or the lowest F32 to scores of tens or hundreds; the smallest of
/// these leaves scores a range of 9,896 in which they may differ.
pub(super) const HIDING_GAP: f32 = 1e4;

/// Numbers beyond this may overflow when two of them are added, as the lowest F32 of masks does.
const HUGE: f32 = 1e38;

/// An exponent of less than this gives exactly 0: half of the smallest subnormal F32 is `exp(-103.98)`.
pub(super) const EXP_ZERO: f32 = -104.0;

/// Kinds of numbers; each is a subset of the ones after it. Words that are not F32 are [`Kind::Finite`].
///
/// Inputs and weights are assumed to be finite, and arithmetic not to overflow.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Kind {
    /// Ordinary and over 0.
    Positive,
    /// Ordinary and not below 0.
    NonNegative,
    /// Computed without a number of the magnitude of masks.
    Ordinary,
    /// Possibly computed with one.
    Finite,
    /// Finite, or negative infinity.
    NotAbove,
    /// Possibly infinite or NaN.
    Any,
}

impl Kind {
    pub(super) fn of(dtype: DType, word: u32) -> Kind {
        let number = f32::from_bits(word);
        match dtype {
            DType::F32 if number.is_nan() || number == f32::INFINITY => Kind::Any,
            DType::F32 if number < -HUGE => Kind::NotAbove,
            DType::F32 if number.abs() >= HIDING_GAP => Kind::Finite,
            DType::F32 if number > 0.0 => Kind::Positive,
            DType::F32 if number == 0.0 => Kind::NonNegative,
            DType::F32 => Kind::Ordinary,
            _ => Kind::Finite,
        }
    }

    pub(super) fn is_finite(self) -> bool {
        self <= Kind::Finite
    }
}

/// An input whose elements are 0 in padded places, and the positions of its dimensions in a value that is computed from it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Mask {
    /// Index in the program's inputs.
    pub(super) input: u32,
    /// The padded dimension.
    pub(super) axis: u32,
    /// For each dimension of the input, its dimension in the value, counted from the last one, which is 1; `None` where the
    /// input's dimension is 1.
    pub(super) places: Rc<[Option<usize>]>,
}

impl Mask {
    /// The position of the padded dimension in the value, counted from the last one.
    pub(super) fn place(&self) -> Option<usize> {
        self.places.get(self.axis as usize).copied().flatten()
    }

    /// The mask after its dimensions have moved; `None` if one of them has no position any more.
    pub(super) fn moved(&self, to: impl Fn(usize) -> Option<usize>) -> Option<Mask> {
        let places = self.places.iter().map(|place| match place {
            Some(place) => to(*place).map(Some),
            None => Some(None),
        });
        Some(Mask { places: places.collect::<Option<_>>()?, ..self.clone() })
    }
}

/// The facts about an element that is not padding.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Kept {
    /// The same word.
    Same,
    /// This word wherever the mask's element is one.
    At(Mask, u32),
    /// An ordinary number wherever the mask's element is one.
    Number(Mask),
    /// Anything.
    Unknown,
}

/// The facts about the elements in some places.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Fill {
    /// This word, of a value's or step's type.
    Known {
        /// The word.
        word: u32,
        /// The facts about it elsewhere.
        kept: Kept,
    },
    /// In every place an ordinary number if the mask's element is one, and a number lower by `gap` if it is zero.
    Hidden {
        /// The mask.
        mask: Mask,
        /// How much lower.
        gap: f32,
    },
    /// A number of this kind.
    Kind(Kind),
}

impl Fill {
    /// A constant.
    pub(super) fn same(word: u32) -> Fill {
        Fill::Known { word, kept: Kept::Same }
    }

    /// Zero in these places.
    pub(super) const ZERO: Fill = Fill::Known { word: 0, kept: Kept::Unknown };

    pub(super) fn kind(&self, dtype: DType) -> Kind {
        match self {
            Fill::Known { word, .. } => Kind::of(dtype, *word),
            Fill::Hidden { gap, .. } if *gap < HUGE => Kind::Finite,
            Fill::Hidden { .. } => Kind::NotAbove,
            Fill::Kind(kind) => *kind,
        }
    }

    pub(super) fn word(&self) -> Option<u32> {
        match self {
            Fill::Known { word, .. } => Some(*word),
            Fill::Hidden { .. } | Fill::Kind(_) => None,
        }
    }

    /// Whether it is zero; of floats, with either sign.
    pub(super) fn is_zero(&self, dtype: DType) -> bool {
        let sign = if dtype == DType::F32 { 1 << 31 } else { 0 };
        self.word().is_some_and(|word| word & !sign == 0)
    }

    /// Whether it is a finite float that may overflow when another one is added.
    pub(super) fn is_huge(&self) -> bool {
        self.word().map(f32::from_bits).is_some_and(|x| x.is_finite() && x.abs() > HUGE)
    }

    /// The facts that hold for both.
    pub(super) fn or(&self, other: &Fill, dtype: DType) -> Fill {
        match (self.word(), other.word()) {
            _ if self == other => self.clone(),
            (Some(word), Some(same)) if word == same => Fill::Known { word, kept: Kept::Unknown },
            _ => Fill::Kind(self.kind(dtype).max(other.kind(dtype))),
        }
    }

    /// The same after elements have been moved: [`Mask::moved`], or without a mask.
    pub(super) fn moved(&self, dtype: DType, to: impl Fn(usize) -> Option<usize>) -> Fill {
        let kept = |word: u32, kept: Option<Kept>| {
            let kept = kept.unwrap_or(Kept::Unknown);
            Fill::Known { word, kept }
        };
        match self {
            Fill::Known { word, kept: Kept::At(mask, one) } => {
                kept(*word, mask.moved(to).map(|mask| Kept::At(mask, *one)))
            }
            Fill::Known { word, kept: Kept::Number(mask) } => {
                kept(*word, mask.moved(to).map(Kept::Number))
            }
            Fill::Hidden { mask, gap } => match mask.moved(to) {
                Some(mask) => Fill::Hidden { mask, gap: *gap },
                None => self.without_mask(dtype),
            },
            Fill::Known { kept: Kept::Same | Kept::Unknown, .. } | Fill::Kind(_) => self.clone(),
        }
    }

    /// The facts that still hold in these places when nothing is known of the others.
    pub(super) fn without_mask(&self, dtype: DType) -> Fill {
        match self.word() {
            Some(word) => Fill::Known { word, kept: Kept::Unknown },
            None => Fill::Kind(self.kind(dtype)),
        }
    }

    /// By how much these numbers are lower than ordinary ones, and the mask that lowers them.
    pub(super) fn lowered(&self) -> Option<(&Mask, f32)> {
        match self {
            Fill::Hidden { mask, gap } => Some((mask, *gap)),
            Fill::Known { word, kept: Kept::At(mask, one) } => Some((mask, gap(*word, *one)?)),
            Fill::Known { word, kept: Kept::Number(mask) } => Some((mask, gap(*word, 0)?)),
            Fill::Known { .. } | Fill::Kind(_) => None,
        }
    }

    /// The mask that hides these numbers well enough for a softmax or a maximum.
    pub(super) fn hiding(&self) -> Option<&Mask> {
        self.lowered().filter(|(_, gap)| *gap >= HIDING_GAP).map(|(mask, _)| mask)
    }
}

/// How much lower a float is in padded places than where the mask's element is one, if that is an ordinary number there.
fn gap(padded: u32, one: u32) -> Option<f32> {
    let ordinary = Kind::of(DType::F32, one) <= Kind::Ordinary;
    let gap = f32::from_bits(one) - f32::from_bits(padded);
    (ordinary && gap > 0.0).then_some(gap)
}
