//! LoHa: `alpha / r * (W1a W1b) * (W2a W2b)`, the element-wise product of two low-rank matrices.

use super::{PeftType, add_dense, present};
use crate::adapter::change::Change;
use crate::adapter::config::keys::{LYCORIS, Treatment};
use crate::adapter::contents::Contents;
use crate::error::Result;

pub(super) struct LoHa;

impl PeftType for LoHa {
    fn name(&self) -> &'static str {
        "LOHA"
    }

    fn keys(&self) -> &'static [&'static [(&'static str, Treatment)]] {
        &[LYCORIS]
    }

    fn parts(&self) -> &'static [&'static str] {
        &["hada_w1_a", "hada_w1_b", "hada_w2_a", "hada_w2_b"]
    }

    fn apply(&self, contents: &Contents<'_>, targeted: &[bool], change: &mut Change<'_>) -> Result<()> {
        for (_, site) in present(contents, targeted, change) {
            let module = &site.name;
            let rank = contents.config().rank(module);
            let product = |left, right| -> Result<_> {
                let left = contents.part(module, left, &[site.outputs, rank])?;
                Ok(left.matmul(&contents.part(module, right, &[rank, site.inputs])?)?)
            };
            let both = (product("hada_w1_a", "hada_w1_b")? * product("hada_w2_a", "hada_w2_b")?)?;
            add_dense(change, site, &(both * contents.config().scaling(module))?)?;
        }
        Ok(())
    }
}
