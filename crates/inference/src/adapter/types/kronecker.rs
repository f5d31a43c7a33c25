//! LoKr: `alpha / r` times the Kronecker product of two matrices, each whole or itself a product of two.

use candle_core::Tensor;

use super::{PeftType, add_dense, present};
use crate::adapter::change::Change;
use crate::adapter::config::keys::{LYCORIS, Treatment};
use crate::adapter::contents::Contents;
use crate::error::{Error, Result};

pub(super) struct LoKr;

impl PeftType for LoKr {
    fn name(&self) -> &'static str {
        "LOKR"
    }

    fn keys(&self) -> &'static [&'static [(&'static str, Treatment)]] {
        &[LYCORIS]
    }

    fn parts(&self) -> &'static [&'static str] {
        &["lokr_w1", "lokr_w1_a", "lokr_w1_b", "lokr_w2", "lokr_w2_a", "lokr_w2_b"]
    }

    fn apply(&self, contents: &Contents<'_>, targeted: &[bool], change: &mut Change<'_>) -> Result<()> {
        for (_, site) in present(contents, targeted, change) {
            let module = &site.name;
            let first = factor(contents, module, ["lokr_w1", "lokr_w1_a", "lokr_w1_b"])?;
            let second = factor(contents, module, ["lokr_w2", "lokr_w2_a", "lokr_w2_b"])?;
            let ((m, n), (p, q)) = (first.dims2()?, second.dims2()?);
            if (m.checked_mul(p), n.checked_mul(q)) != (Some(site.outputs), Some(site.inputs)) {
                return Err(Error::malformed(
                    contents.origin(),
                    format!(
                        "`{module}`: expected factors whose Kronecker product is [{}, {}], found [{m}, {n}] and [{p}, {q}]",
                        site.outputs, site.inputs
                    ),
                )
                .with_hint(contents.config().base_hint()));
            }
            let product = first.reshape((m, 1, n, 1))?.broadcast_mul(&second.reshape((1, p, 1, q))?)?;
            let product = product.reshape((m * p, n * q))?;
            add_dense(change, site, &(product * contents.config().scaling(module))?)?;
        }
        Ok(())
    }
}

/// A matrix that is saved whole or as two factors.
fn factor(contents: &Contents<'_>, module: &str, [whole, a, b]: [&'static str; 3]) -> Result<Tensor> {
    let read = |part: &'static str| -> Result<Tensor> {
        let shape = contents.shape(module, part).unwrap_or_default();
        if shape.len() == 2 || shape.is_empty() {
            return contents.part(module, part, &shape);
        }
        Err(Error::malformed(
            contents.origin(),
            format!("`{module}`: expected a matrix as {part}, found a tensor of shape {shape:?}"),
        ))
    };
    if contents.has(module, whole) {
        return read(whole);
    }
    let (a, b) = (read(a)?, read(b)?);
    if a.dims()[1] != b.dims()[0] {
        return Err(Error::malformed(
            contents.origin(),
            format!("`{module}`: {:?} and {:?} are no factors of a product", a.dims(), b.dims()),
        ));
    }
    Ok(a.matmul(&b)?)
}
