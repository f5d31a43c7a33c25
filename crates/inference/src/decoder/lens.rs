//! Inner states read as if they were the last: the logit lens.

use candle_core::{DType, Tensor};

use super::Decoder;
use super::rows::{Rows, Side};
use crate::error::{Error, Result};

impl Decoder {
    /// What the base's final norm and head make of residual streams, `[rows * hidden]`: logits, `[vocabulary]` a row
    /// (nostalgebraist, "Interpreting GPT: the logit lens", 2020). A difference of streams can be read too: the norm
    /// takes its length away.
    ///
    /// # Errors
    /// If the length is no multiple of the hidden size, or the device fails.
    pub fn lens(&self, states: &[f32]) -> Result<Vec<Vec<f32>>> {
        let hidden = self.config.hidden_size;
        let rows = states.len() / hidden.max(1);
        if rows == 0 || rows * hidden != states.len() {
            return Err(Error::Request(format!(
                "expected residual streams of {hidden} numbers each, found {} numbers",
                states.len()
            )));
        }
        let x = Tensor::from_slice(states, (rows, hidden), &self.compute.device)?;
        let base = Rows::new((0..rows).map(|_| (1, 0, Side::BASE, 0)));
        let logits = self.head.forward(&self.norm.forward(&x)?, &base, &[])?;
        Ok(self.finished(&logits.to_dtype(DType::F32)?)?.to_vec2::<f32>()?)
    }
}
