//! Statistics of vectors that are seen once and not kept.

/// Mean and covariance of vectors of one width, updated one vector at a time (Welford, "Note on a method for calculating
/// corrected sums of squares and products", 1962).
#[derive(Clone, Debug, PartialEq)]
pub struct Moments {
    n: usize,
    mean: Vec<f64>,
    /// Sums of products of deviations, `[width * width]`; symmetric.
    products: Vec<f64>,
}

impl Moments {
    /// Of nothing yet.
    #[must_use]
    pub fn new(width: usize) -> Self {
        Self { n: 0, mean: vec![0.0; width], products: vec![0.0; width * width] }
    }

    /// Adds a vector of this width.
    pub fn add(&mut self, vector: &[f32]) {
        self.n += 1;
        let count = self.n as f64;
        let before: Vec<f64> = vector.iter().zip(&self.mean).map(|(x, mean)| f64::from(*x) - mean).collect();
        for (mean, deviation) in self.mean.iter_mut().zip(&before) {
            *mean += deviation / count;
        }
        let after: Vec<f64> = vector.iter().zip(&self.mean).map(|(x, mean)| f64::from(*x) - mean).collect();
        let width = self.mean.len();
        for (row, left) in self.products.chunks_exact_mut(width.max(1)).zip(&before) {
            for (product, right) in row.iter_mut().zip(&after) {
                *product += left * right;
            }
        }
    }

    /// How many vectors were added.
    #[must_use]
    pub fn count(&self) -> usize {
        self.n
    }

    /// The mean.
    #[must_use]
    pub fn mean(&self) -> &[f64] {
        &self.mean
    }

    /// The covariance `[width * width]` with the divisor `n`; zero before the first vector.
    #[must_use]
    pub fn covariance(&self) -> Vec<f64> {
        let n = self.n.max(1) as f64;
        let width = self.mean.len();
        // Rounding makes the two triangles differ in their last bits.
        let at =
            |i: usize, j: usize| (self.products[i * width + j] + self.products[j * width + i]) / (2.0 * n);
        (0..width * width).map(|index| at(index / width, index % width)).collect()
    }
}

/// Mean, deviation and extremes of single features, each of which may be absent.
#[derive(Clone, Debug, PartialEq)]
pub struct Ranges(Vec<Range>);

#[derive(Clone, Copy, Debug, PartialEq)]
struct Range {
    n: usize,
    mean: f64,
    squares: f64,
    least: f64,
    most: f64,
}

/// Deviations below this share of a feature's magnitude are rounding.
const LEAST_DEVIATION: f64 = 1e-6;

impl Ranges {
    /// Of so many features.
    #[must_use]
    pub fn new(features: usize) -> Self {
        let empty = Range { n: 0, mean: 0.0, squares: 0.0, least: f64::INFINITY, most: f64::NEG_INFINITY };
        Self(vec![empty; features])
    }

    /// Adds an observation of all features.
    pub fn add(&mut self, features: impl IntoIterator<Item = Option<f32>>) {
        for (range, value) in self.0.iter_mut().zip(features) {
            let Some(value) = value.map(f64::from) else { continue };
            range.n += 1;
            let before = value - range.mean;
            range.mean += before / range.n as f64;
            range.squares += before * (value - range.mean);
            range.least = range.least.min(value);
            range.most = range.most.max(value);
        }
    }

    /// How far a feature lies outside of what was seen, in standard deviations; 0 within. `None` if it was seen fewer
    /// than twice. NaN stays NaN.
    #[must_use]
    pub fn excess(&self, feature: usize, value: f32) -> Option<f64> {
        self.beyond(feature, value, |range, value| (value - range.most).max(range.least - value))
    }

    /// The same above the largest value alone.
    #[must_use]
    pub fn above(&self, feature: usize, value: f32) -> Option<f64> {
        self.beyond(feature, value, |range, value| value - range.most)
    }

    fn beyond(&self, feature: usize, value: f32, by: impl Fn(&Range, f64) -> f64) -> Option<f64> {
        let range = self.0.get(feature).filter(|range| range.n > 1)?;
        let value = f64::from(value);
        let deviation = (range.squares / range.n as f64).sqrt();
        let deviation = deviation.max(LEAST_DEVIATION * range.mean.abs()).max(f64::MIN_POSITIVE.sqrt());
        Some(if value.is_nan() { value } else { by(range, value).max(0.0) / deviation })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn vectors(n: usize) -> Vec<[f32; 3]> {
        // A large mean would ruin sums of squares.
        (0..n).map(|i| [1e4 + (i as f32).sin(), (i as f32 * 0.7).cos(), (i % 5) as f32 - 300.0]).collect()
    }

    #[test]
    fn moments_equal_two_passes() {
        let vectors = vectors(40);
        let mut moments = Moments::new(3);
        vectors.iter().for_each(|vector| moments.add(vector));
        let mean = |i: usize| vectors.iter().map(|v| f64::from(v[i])).sum::<f64>() / 40.0;
        let covariance = moments.covariance();
        for i in 0..3 {
            assert!((moments.mean()[i] - mean(i)).abs() < 1e-9 * mean(i).abs().max(1.0));
            for j in 0..3 {
                let products =
                    vectors.iter().map(|v| (f64::from(v[i]) - mean(i)) * (f64::from(v[j]) - mean(j)));
                let expected = products.sum::<f64>() / 40.0;
                assert!((covariance[i * 3 + j] - expected).abs() < 1e-9, "{i} {j}");
            }
        }
        assert_eq!(moments.count(), 40);
    }

    #[test]
    fn ranges_equal_two_passes_and_skip_what_is_absent() {
        let vectors = vectors(30);
        let mut ranges = Ranges::new(3);
        for (i, v) in vectors.iter().enumerate() {
            ranges.add([Some(v[0]), (i > 0).then_some(v[1]), None]);
        }
        let seen: Vec<f64> = vectors[1..].iter().map(|v| f64::from(v[1])).collect();
        let mean = seen.iter().sum::<f64>() / 29.0;
        let deviation = (seen.iter().map(|x| (x - mean).powi(2)).sum::<f64>() / 29.0).sqrt();
        let most = seen.iter().copied().fold(f64::NEG_INFINITY, f64::max);
        let found = ranges.excess(1, 3.0).unwrap();
        assert!((found - (3.0 - most) / deviation).abs() < 1e-9);
        assert!(ranges.excess(1, 0.0).unwrap().abs() < 1e-12 && ranges.excess(1, -9.0).unwrap() > 5.0);
        assert_eq!(ranges.above(1, 3.0), Some(found));
        assert_eq!(ranges.above(1, -9.0), Some(0.0));
        assert_eq!(ranges.excess(2, 0.0), None);
        assert!(ranges.excess(1, f32::NAN).unwrap().is_nan(), "NaN cannot hide");
    }

    #[test]
    fn a_constant_feature_has_a_finite_excess() {
        let mut ranges = Ranges::new(1);
        (0..5).for_each(|_| ranges.add([Some(0.0)]));
        assert!(ranges.excess(0, 1.0).unwrap().is_finite());
        assert!(ranges.excess(0, 0.0).unwrap().abs() < 1e-12);
    }
}
