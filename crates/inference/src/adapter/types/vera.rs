//! VeRA: `diag(b) B diag(d) A` with A and B shared by all modules, which take the corner of their shape.

use super::{PeftType, present};
use crate::adapter::change::Change;
use crate::adapter::config::keys::{Treatment, VERA};
use crate::adapter::contents::Contents;
use crate::adapter::delta::LoraDelta;
use crate::error::Result;

pub(super) struct Vera;

impl PeftType for Vera {
    fn name(&self) -> &'static str {
        "VERA"
    }

    fn keys(&self) -> &'static [&'static [(&'static str, Treatment)]] {
        &[VERA]
    }

    fn parts(&self) -> &'static [&'static str] {
        &["vera_lambda_b", "vera_lambda_d", "vera_A", "vera_B"]
    }

    fn apply(&self, contents: &Contents<'_>, targeted: &[bool], change: &mut Change<'_>) -> Result<()> {
        for (index, site) in present(contents, targeted, change) {
            let rank = contents.config().r;
            let d = contents.part(&site.name, "vera_lambda_d", &[rank])?.reshape((rank, 1))?;
            let b =
                contents.part(&site.name, "vera_lambda_b", &[site.outputs])?.reshape((site.outputs, 1))?;
            let shared_a = contents.shared("vera_A", [rank, site.inputs])?;
            let shared_b = contents.shared("vera_B", [site.outputs, rank])?;
            let a = shared_a.narrow(0, 0, rank)?.narrow(1, 0, site.inputs)?.broadcast_mul(&d)?;
            let b = shared_b.narrow(0, 0, site.outputs)?.narrow(1, 0, rank)?.broadcast_mul(&b)?;
            change.deltas[index] = Some(LoraDelta::new(&a, &b, 1.0)?);
        }
        Ok(())
    }
}
