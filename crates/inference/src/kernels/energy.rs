//! How large a low-rank branch is beside the frozen product that it is added to.

/// Squared lengths of a row's branch and of its frozen product.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Energy {
    /// `|s B A x|^2`.
    pub branch: f64,
    /// `|W x|^2`.
    pub frozen: f64,
}

impl Energy {
    /// `|s B A x| / |W x|`; `None` if the frozen product is zero.
    pub(crate) fn ratio(self) -> Option<f32> {
        (self.frozen > 0.0).then(|| (self.branch / self.frozen).sqrt() as f32)
    }
}
