//! Dimensions that a run's data decide.

use serde::{Deserialize, Serialize};

use crate::{
    Program, ProgramError, ValueId,
    dim::{Dim, Symbol},
};

/// A dimension that a run's data decide. While the program runs it is as long as it can become; results are cut to what
/// it has become.
///
/// Elements beyond that are there, without a meaning: no node may let them into others (lowering sees to that).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Count {
    /// Its symbol, which no input binds.
    pub symbol: Symbol,
    /// The most that it can become; symbols of inputs and of earlier counts may be in it.
    pub most: Dim,
    /// What it has become: a value of one element (I32).
    pub value: ValueId,
}

impl Program {
    /// What a run gives back: the outputs, then the counts that say how long they are.
    pub fn results(&self) -> impl Iterator<Item = ValueId> + '_ {
        let outputs = self.outputs.iter().map(|port| port.value);
        outputs.chain(self.counts.iter().map(|count| count.value))
    }

    /// Symbols' values once a run's counts are known, in the order of [`Program::counts`]; `None` for a count that cannot be.
    pub fn counted(&self, symbols: &[i64], counts: &[i64]) -> Option<Vec<i64>> {
        let mut known = symbols.to_vec();
        for (count, &got) in self.counts.iter().zip(counts) {
            let symbol = known.get_mut(count.symbol.0 as usize)?;
            // Until here it is the most that it can become.
            if !(0..=*symbol).contains(&got) {
                return None;
            }
            *symbol = got;
        }
        Some(known)
    }

    pub(super) fn bind_counts(&self, bound: &mut [Option<i64>]) {
        for count in &self.counts {
            let known: Vec<i64> = bound.iter().map(|value| value.unwrap_or(0)).collect();
            bound[count.symbol.0 as usize] = count.most.eval(&known);
        }
    }

    pub(super) fn check_counts(&self) -> Result<(), ProgramError> {
        let symbols = self.symbols.len();
        for (index, count) in self.counts.iter().enumerate() {
            let value = self.values.get(count.value.index());
            let one = value.is_some_and(|value| {
                let sizes = value.shape.iter().map(Dim::as_fixed);
                value.dtype == crate::DType::I32 && sizes.into_iter().all(|size| size == Some(1))
            });
            if !one || count.symbol.0 as usize >= symbols || !count.most.symbols_below(symbols) {
                return Err(ProgramError::Inconsistent {
                    place: format!("count {index}"),
                    what: "it is no number, or about an unknown symbol".to_owned(),
                });
            }
        }
        Ok(())
    }
}
