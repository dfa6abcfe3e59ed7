//! Randomness that can be repeated: every draw is a function of named numbers.
//!
//! The outputs are part of the contract (the same seed gives the same test on any version and any
//! number of workers), so the generator is written out here and pinned by a test, rather than taken
//! from a library that may change its streams.

/// Mixes two numbers into one that looks independent of both (SplitMix64's finaliser, by Steele, Lea
/// and Flood, "Fast splittable pseudorandom number generators", 2014).
#[must_use]
pub const fn mix(a: u64, b: u64) -> u64 {
    let mut z = a ^ b.wrapping_mul(0x9E37_79B9_7F4A_7C15).wrapping_add(0x9E37_79B9_7F4A_7C15);
    z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    z ^ (z >> 31)
}

/// A 64-bit hash of a text (FNV-1a, finished by [`mix`]); for names, never for secrets.
#[must_use]
pub fn hash_text(text: &str) -> u64 {
    let mut hash = 0xCBF2_9CE4_8422_2325_u64;
    for byte in text.bytes() {
        hash = (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01B3);
    }
    mix(hash, text.len() as u64)
}

/// A stream of draws, keyed by what it is for.
#[derive(Clone, Copy, Debug)]
pub struct Draws {
    key: u64,
    next: u64,
}

impl Draws {
    /// The stream for `keys`, for example (seed, user, iteration, step).
    #[must_use]
    pub fn keyed(keys: &[u64]) -> Self {
        Self { key: keys.iter().fold(0x1A2B_3C4D_5E6F_7081, |key, &next| mix(key, next)), next: 0 }
    }

    /// The next 64 random bits.
    pub const fn bits(&mut self) -> u64 {
        self.next += 1;
        mix(self.key, self.next)
    }

    /// A number in `[0, 1)` with 53 random bits.
    pub const fn unit(&mut self) -> f64 {
        (self.bits() >> 11) as f64 / (1_u64 << 53) as f64
    }

    /// A number in `[0, n)`; 0 for `n` = 0. The bias is below `n` / 2⁶⁴.
    pub const fn below(&mut self, n: u64) -> u64 {
        ((self.bits() as u128 * n as u128) >> 64) as u64
    }

    /// A number in `[low, high]`; `low` where the range is empty.
    pub const fn between(&mut self, low: i64, high: i64) -> i64 {
        if high <= low {
            return low;
        }
        let span = high.wrapping_sub(low).cast_unsigned();
        let offset = if span == u64::MAX { self.bits() } else { self.below(span + 1) };
        low.wrapping_add_unsigned(offset)
    }

    /// A draw of the standard normal distribution (Box and Muller, 1958).
    pub fn normal(&mut self) -> f64 {
        let u = 1.0 - self.unit();
        let v = self.unit();
        (-2.0 * u.ln()).sqrt() * (std::f64::consts::TAU * v).cos()
    }

    /// A draw of the exponential distribution with mean 1.
    pub fn exponential(&mut self) -> f64 {
        -(1.0 - self.unit()).ln()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_streams_are_pinned() {
        let mut draws = Draws::keyed(&[42, 7, 0, 3]);
        assert_eq!([draws.bits(), draws.bits()], [13_226_975_666_830_292_934, 14_536_376_525_599_854_584]);
        assert_eq!(hash_text("login"), 8_292_607_909_386_354_785);
    }

    #[test]
    fn draws_stay_in_their_range_and_cover_it() {
        let mut draws = Draws::keyed(&[1]);
        let mut seen = [0_u32; 6];
        for _ in 0..6_000 {
            let n = draws.between(1, 6);
            seen[usize::try_from(n - 1).unwrap()] += 1;
            assert!((0.0..1.0).contains(&draws.unit()));
        }
        assert!(seen.iter().all(|&n| (800..1200).contains(&n)), "{seen:?}");
        assert_eq!(draws.between(5, 5), 5);
        assert_eq!(draws.between(9, 2), 9);
        let _any = draws.between(i64::MIN, i64::MAX);
    }
}
