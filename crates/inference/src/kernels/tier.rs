//! Which vector instructions this machine has, found out at run time.

#[cfg(target_arch = "x86_64")]
use super::simd::{Avx2, Avx512, Avx512Bf16};
use super::simd::{Portable, Simd};
use std::sync::OnceLock;

/// A set of vector instructions that the running machine is known to have.
///
/// A value can only be obtained by detection, so holding one is the proof that its instructions may be executed.
/// All tiers do the same arithmetic in the same order; they differ in whether a product and a sum are rounded
/// together (every tier but the portable one on x86) and in how `bf16` pairs are summed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Tier(Kind);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    #[cfg(target_arch = "x86_64")]
    Avx512Bf16(Avx512Bf16),
    #[cfg(target_arch = "x86_64")]
    Avx512(Avx512),
    #[cfg(target_arch = "x86_64")]
    Avx2(Avx2),
    Portable,
}

impl Tier {
    /// The fastest tier of this machine.
    pub fn detect() -> Self {
        static FASTEST: OnceLock<Tier> = OnceLock::new();
        *FASTEST.get_or_init(|| Self::available()[0])
    }

    /// All tiers of this machine, the fastest first. Lets tests run every path that the machine can execute.
    pub fn available() -> Vec<Self> {
        let mut tiers = Vec::with_capacity(4);
        #[cfg(target_arch = "x86_64")]
        {
            if let Some(avx512) = Avx512::detect() {
                if let Some(bf16) = Avx512Bf16::detect() {
                    tiers.push(Self(Kind::Avx512Bf16(bf16)));
                }
                tiers.push(Self(Kind::Avx512(avx512)));
            }
            if let Some(avx2) = Avx2::detect() {
                tiers.push(Self(Kind::Avx2(avx2)));
            }
        }
        tiers.push(Self(Kind::Portable));
        tiers
    }

    /// Name for logs and benchmark tables.
    pub fn name(self) -> &'static str {
        match self.0 {
            #[cfg(target_arch = "x86_64")]
            Kind::Avx512Bf16(_) => "avx512_bf16",
            #[cfg(target_arch = "x86_64")]
            Kind::Avx512(_) => "avx512",
            #[cfg(target_arch = "x86_64")]
            Kind::Avx2(_) => "avx2",
            Kind::Portable => "portable",
        }
    }

    /// The tier with its proof.
    pub(super) fn kind(self) -> Kind {
        self.0
    }

    /// Runs `task` with this tier's vector type, compiled for its instructions.
    pub(super) fn run<T: Vectorized>(self, task: T) -> T::Output {
        match self.0 {
            #[cfg(target_arch = "x86_64")]
            Kind::Avx512Bf16(bf16) => bf16.avx512().run(task),
            #[cfg(target_arch = "x86_64")]
            Kind::Avx512(simd) => simd.run(task),
            #[cfg(target_arch = "x86_64")]
            Kind::Avx2(simd) => simd.run(task),
            Kind::Portable => Portable.run(task),
        }
    }
}

/// A piece of work written once over [`Simd`] and compiled for every tier.
///
/// A trait rather than a closure because only a named function can be forced inline, and code that is not inlined
/// into [`Simd::run`] is compiled without the vector instructions.
pub(super) trait Vectorized {
    type Output;

    /// Implementations must be `#[inline(always)]`, and so must everything they call with a `simd` argument. Nothing
    /// of the kind may be hidden in a closure, which the compiler is free not to inline: the result would be right,
    /// and fifty times slower.
    fn vectorized<S: Simd>(self, simd: S) -> Self::Output;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn detected_tier_is_the_first_available_one() {
        let tiers = Tier::available();
        assert_eq!(tiers.first(), Some(&Tier::detect()));
        assert_eq!(tiers.last().map(|t| t.name()), Some("portable"));
        let names: std::collections::HashSet<_> = tiers.iter().map(|t| t.name()).collect();
        assert_eq!(names.len(), tiers.len());
    }
}
