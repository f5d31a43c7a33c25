//! A mixture of experts: a router sends each row through a few of many feed-forward blocks
//! (Shazeer et al. 2017, <https://arxiv.org/abs/1701.06538>).

use candle_core::{D, DType, Tensor};

use super::generic::FeedForward;
use super::linear::Linear;
use super::rows::Rows;
use crate::adapter::delta::Branches;
use crate::error::Result;

pub(crate) struct Experts {
    /// Rows to one logit an expert.
    pub(crate) router: Linear,
    pub(crate) experts: Vec<FeedForward>,
    /// Experts that a row is sent to.
    pub(crate) per_row: usize,
    /// Whether the weights of a row's experts sum to one.
    pub(crate) normalised: bool,
}

impl Experts {
    /// Rows `[rows, hidden]` to the same; differentiable, but for which experts are chosen.
    pub(crate) fn forward(
        &self,
        x: &Tensor,
        rows: &Rows,
        adapters: &[Branches],
        fused: bool,
    ) -> Result<Tensor> {
        let logits = self.router.forward(x, rows, adapters)?.to_dtype(DType::F32)?;
        let shares = candle_nn::ops::softmax(&logits, D::Minus1)?;
        let chosen = self.chosen(&shares)?;
        let (count, experts) = shares.dims2()?;
        let mut mask = vec![0f32; count * experts];
        for (expert, rows) in chosen.iter().enumerate() {
            rows.iter().for_each(|&row| mask[row as usize * experts + expert] = 1.0);
        }
        let mask = Tensor::from_vec(mask, (count, experts), shares.device())?;
        let mut shares = (shares * mask)?;
        if self.normalised {
            shares = shares.broadcast_div(&shares.sum_keepdim(D::Minus1)?)?;
        }
        let mut sum = x.zeros_like()?;
        for (expert, own) in chosen.iter().enumerate().filter(|(_, own)| !own.is_empty()) {
            let index = Tensor::from_slice(own, own.len(), x.device())?;
            let own_rows = rows.picked(own);
            let input = x.contiguous()?.index_select(&index, 0)?;
            let output = self.experts[expert].forward(&input, &own_rows, adapters, fused)?;
            let share = shares.index_select(&index, 0)?.narrow(1, expert, 1)?;
            sum = sum.index_add(&index, &output.broadcast_mul(&share.to_dtype(output.dtype())?)?, 0)?;
        }
        Ok(sum)
    }

    /// For each expert the rows that it takes: those where it is among the largest shares, of equal ones the first.
    fn chosen(&self, shares: &Tensor) -> Result<Vec<Vec<u32>>> {
        let mut chosen = vec![Vec::new(); self.experts.len()];
        for (row, shares) in shares.detach().to_vec2::<f32>()?.iter().enumerate() {
            let mut order: Vec<usize> = (0..shares.len()).collect();
            order.sort_by(|&a, &b| shares[b].total_cmp(&shares[a]).then(a.cmp(&b)));
            order.iter().take(self.per_row).for_each(|&expert| chosen[expert].push(row as u32));
        }
        Ok(chosen)
    }
}
