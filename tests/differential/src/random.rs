//! Pseudo-random numbers that are the same for the same seed.

use rand::{
    RngExt as _, SeedableRng as _,
    rngs::Xoshiro256PlusPlus,
    seq::{IndexedRandom as _, SliceRandom as _},
};

/// Draws what a graph is made of.
#[derive(Clone, Debug)]
pub struct Random(Xoshiro256PlusPlus);

impl Random {
    /// Numbers of a seed.
    pub fn new(seed: u64) -> Random {
        Random(Xoshiro256PlusPlus::seed_from_u64(seed))
    }

    /// From 0 to `count - 1`; 0 if `count` is 0.
    pub fn below(&mut self, count: usize) -> usize {
        if count == 0 { 0 } else { self.0.random_range(..count) }
    }

    /// From `low` to `high`, both included; `low` if it is larger.
    pub fn between(&mut self, low: i64, high: i64) -> i64 {
        self.0.random_range(low..=high.max(low))
    }

    /// From 0 to 1, with 24 bits.
    pub fn unit(&mut self) -> f64 {
        f64::from(self.0.random::<f32>())
    }

    /// True with this probability in percent.
    pub fn percent(&mut self, share: usize) -> bool {
        self.below(100) < share
    }

    /// One of several.
    ///
    /// # Panics
    /// There are none.
    pub fn pick<T: Copy>(&mut self, of: &[T]) -> T {
        *of.choose(&mut self.0).expect("there are several")
    }

    /// The numbers below `count` in random order.
    pub fn shuffled(&mut self, count: usize) -> Vec<usize> {
        let mut order: Vec<usize> = (0..count).collect();
        order.shuffle(&mut self.0);
        order
    }
}
