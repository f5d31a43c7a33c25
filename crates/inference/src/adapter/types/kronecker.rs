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
            let first = Factor::of(contents, module, ["lokr_w1", "lokr_w1_a", "lokr_w1_b"])?;
            let second = Factor::of(contents, module, ["lokr_w2", "lokr_w2_a", "lokr_w2_b"])?;
            // Shapes first: a product of two small tensors could be of any size.
            let ([m, n], [p, q]) = (first.shape, second.shape);
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
            let (first, second) = (first.matrix()?, second.matrix()?);
            let product = first.reshape((m, 1, n, 1))?.broadcast_mul(&second.reshape((1, p, 1, q))?)?;
            let product = product.reshape((m * p, n * q))?;
            add_dense(change, site, &(product * contents.config().scaling(module))?)?;
        }
        Ok(())
    }
}

/// A matrix that is saved whole or as two factors.
struct Factor {
    parts: Vec<Tensor>,
    shape: [usize; 2],
}

impl Factor {
    fn of(contents: &Contents<'_>, module: &str, [whole, a, b]: [&'static str; 3]) -> Result<Self> {
        let names = if contents.has(module, whole) { vec![whole] } else { vec![a, b] };
        let parts: Vec<Tensor> = names
            .into_iter()
            .map(|part| match contents.shape(module, part) {
                // Of what is absent, the error says so.
                None => contents.part(module, part, &[]),
                Some(shape) if shape.len() == 2 => contents.part(module, part, &shape),
                Some(shape) => Err(Error::malformed(
                    contents.origin(),
                    format!("`{module}`: expected a matrix as {part}, found a tensor of shape {shape:?}"),
                )),
            })
            .collect::<Result<_>>()?;
        let dims: Vec<(usize, usize)> =
            parts.iter().map(Tensor::dims2).collect::<candle_core::Result<_>>()?;
        let shape = match dims[..] {
            [(rows, columns)] => [rows, columns],
            [(rows, inner), (other, columns)] if inner == other => [rows, columns],
            _ => {
                return Err(Error::malformed(
                    contents.origin(),
                    format!("`{module}`: matrices of shapes {dims:?} are no factors of a product"),
                ));
            }
        };
        Ok(Self { parts, shape })
    }

    fn matrix(&self) -> Result<Tensor> {
        match &self.parts[..] {
            [a, b] => Ok(a.matmul(b)?),
            parts => Ok(parts[0].clone()),
        }
    }
}
