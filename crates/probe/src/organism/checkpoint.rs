//! Where a training run stands, as a file: a run that was stopped goes on with the same steps.

use ::safetensors::tensor::{Dtype, SafeTensors};
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use inference::weights::digest::hex;
use inference::weights::safetensors;

use super::adamw::Parameter;
use super::recipe::Recipe;
use super::train::State;

/// Key of the metadata that holds everything but the matrices.
const KEY: &str = "triggerfish";
/// The matrices of a parameter.
const PARTS: [&str; 3] = ["values", "first", "second"];

#[derive(Serialize, Deserialize)]
struct About {
    /// Of the recipe and the base.
    digest: String,
    step: usize,
    tokens: u64,
    losses: Vec<f64>,
    pending: f64,
}

/// What a run depends on: the recipe, what the base is, and how it is computed.
#[must_use]
pub fn digest(recipe: &Recipe, base: &str) -> String {
    let recipe = serde_json::to_string(recipe).unwrap_or_default();
    hex(&Sha256::digest(format!("{recipe}\n{base}")))
}

/// A state as bytes.
///
/// # Errors
/// If it cannot be written, with the reason.
pub fn to_bytes(state: &State, digest: &str) -> Result<Vec<u8>, String> {
    let about = About {
        digest: digest.to_owned(),
        step: state.step,
        tokens: state.tokens,
        losses: state.losses.clone(),
        pending: state.pending,
    };
    let about = serde_json::to_string(&about).map_err(|error| error.to_string())?;
    let bytes = |values: &[f32]| values.iter().flat_map(|value| value.to_le_bytes()).collect::<Vec<u8>>();
    let mut tensors = Vec::new();
    for (site, factors) in &state.factors {
        for (name, factor) in ["a", "b"].into_iter().zip(factors) {
            for (part, values) in PARTS.into_iter().zip([&factor.values, &factor.first, &factor.second]) {
                tensors.push((format!("{site:06}.{name}.{part}"), factor.shape.to_vec(), bytes(values)));
            }
        }
    }
    safetensors::to_bytes(Dtype::F32, &tensors, (KEY, about)).map_err(|error| error.to_string())
}

/// The state in a file, if it is of the same run; `start` has the matrices that there must be.
///
/// # Errors
/// If the file is damaged or of another run, with the reason.
pub fn from_bytes(bytes: &[u8], digest: &str, start: &State) -> Result<State, String> {
    let (_, metadata) = SafeTensors::read_metadata(bytes).map_err(|error| error.to_string())?;
    let about =
        metadata.metadata().as_ref().and_then(|metadata| metadata.get(KEY)).ok_or("it is no checkpoint")?;
    let about: About = serde_json::from_str(about).map_err(|error| error.to_string())?;
    if about.digest != digest {
        return Err("it was begun with another recipe, base or precision".into());
    }
    let tensors = SafeTensors::deserialize(bytes).map_err(|error| error.to_string())?;
    let read = |name: &str, shape: [usize; 2]| -> Result<Vec<f32>, String> {
        let tensor = tensors.tensor(name).map_err(|error| error.to_string())?;
        if tensor.shape() != shape || tensor.dtype() != Dtype::F32 {
            return Err(format!(
                "`{name}`: expected f32 {shape:?}, found {:?} {:?}",
                tensor.dtype(),
                tensor.shape()
            ));
        }
        let value = |bytes: &[u8]| f32::from_le_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]);
        Ok(tensor.data().chunks_exact(4).map(value).collect())
    };
    let mut factors = Vec::with_capacity(start.factors.len());
    for (site, [a, b]) in &start.factors {
        let parameter = |name: &str, shape: [usize; 2]| -> Result<Parameter, String> {
            let [values, first, second] = PARTS.map(|part| read(&format!("{site:06}.{name}.{part}"), shape));
            Ok(Parameter { shape, values: values?, first: first?, second: second? })
        };
        factors.push((*site, [parameter("a", a.shape)?, parameter("b", b.shape)?]));
    }
    Ok(State {
        step: about.step,
        tokens: about.tokens,
        losses: about.losses,
        pending: about.pending,
        factors,
    })
}
