//! Seeded random streams, one for each resample.
//!
//! A stream belongs to an index, never to a thread, so a resampling statistic is the same for any number of
//! threads.

use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{Rng, SeedableRng};

/// The stream of resample `index` under `seed`.
pub(crate) fn stream(seed: u64, index: u64) -> ChaCha8Rng {
    // The key is written out because `seed_from_u64` may expand seeds otherwise in another version.
    let mut key = [0; 32];
    key[..8].copy_from_slice(&seed.to_le_bytes());
    let mut random = ChaCha8Rng::from_seed(key);
    random.set_stream(index);
    random
}

/// A uniform index in `0..n`, and 0 if `n` is 0.
///
/// Multiply-and-shift (Lemire, "Fast random integer generation in an interval", 2019) without the rejection
/// step: the bias is below `n / 2^64`, and each index costs exactly one draw.
pub(crate) fn index_below(random: &mut ChaCha8Rng, n: usize) -> usize {
    ((u128::from(random.next_u64()) * n as u128) >> 64) as usize
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stream_is_fixed_by_seed_and_index() {
        let draws = |seed, index| -> Vec<usize> {
            let mut random = stream(seed, index);
            (0..8).map(|_| index_below(&mut random, 1000)).collect()
        };
        assert_eq!(draws(7, 3), draws(7, 3));
        assert_ne!(draws(7, 3), draws(7, 4));
        assert_ne!(draws(7, 3), draws(8, 3));
    }

    #[test]
    fn indices_cover_the_range_evenly() {
        let mut random = stream(1, 0);
        let mut counts = [0_u32; 6];
        for _ in 0..60_000 {
            counts[index_below(&mut random, 6)] += 1;
        }
        // Five standard deviations of a binomial(60000, 1/6) are 456.
        assert!(counts.iter().all(|&count| count.abs_diff(10_000) < 456), "{counts:?}");
    }
}
