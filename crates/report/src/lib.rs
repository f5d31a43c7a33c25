//! From observations to judgement: divergences, estimates, tests of significance and payload graders.
//!
//! Everything here is plain data: slices of numbers and text go in, numbers come out. No tensor enters, and
//! the manifest of this crate does not name candle. Nothing here prints, reads files or the environment.
//!
//! Statistics of too little data are `None`, input that no statistic fits is a [`StatisticsError`], and
//! random resampling is seeded for each resample, so that the same data and seed give the same bytes on any
//! number of threads.

pub mod activation;
pub mod audit;
pub mod benchmark;
pub mod calibration;
pub mod collapse;
pub mod comparison;
pub mod divergence;
mod error;
pub mod escape;
pub mod estimate;
pub mod evidence;
pub mod fleet;
pub mod format;
#[cfg(test)]
mod goldens;
pub mod grader;
pub mod hunt;
pub mod outlier;
pub mod record;
pub mod sarif;
pub mod significance;
mod stream;
pub mod verdict;
pub mod words;

pub use error::StatisticsError;
