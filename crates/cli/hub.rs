//! Models by their id (`org/name`): from the hub's cache on this machine, and over the network only where the user asks
//! for it and the program was built with the feature `hub`.

use std::path::{Path, PathBuf};

use inference::weights::cache;

use crate::exit::Failure;

/// What of a repository is needed.
#[derive(Clone, Copy)]
pub(crate) enum Part {
    /// Weights, configuration, tokenizer, template.
    Base,
    /// Everything: the audit looks at all that a download would bring.
    Adapter,
}

/// A path for itself, an id for its snapshot in the cache; `download` fetches what is not there.
pub(crate) fn resolve(path: &Path, part: Part, download: bool, quiet: bool) -> Result<PathBuf, Failure> {
    let found = cache::resolve(path)?;
    match cache::id(path) {
        Some((owner, name)) if download && !found.exists() => fetch(owner, name, part, quiet),
        _ => Ok(found),
    }
}

#[cfg(not(feature = "hub"))]
fn fetch(owner: &str, name: &str, _: Part, _: bool) -> Result<PathBuf, Failure> {
    Err(Failure::Input(format!(
        "`{owner}/{name}` is not in the hub's cache, and this program was built without the network: build it with `--features hub`, or fetch it with `hf download {owner}/{name}`"
    )))
}

#[cfg(feature = "hub")]
fn fetch(owner: &str, name: &str, part: Part, quiet: bool) -> Result<PathBuf, Failure> {
    let failed = |error: hf_hub::HFError| {
        Failure::Input(format!(
            "cannot download `{owner}/{name}`: {error} (endpoint and token are taken from HF_ENDPOINT and HF_TOKEN)"
        ))
    };
    let client = hf_hub::HFClientSync::new().map_err(failed)?;
    let patterns = match part {
        Part::Base => {
            Some(["*.json", "*.safetensors", "*.jinja", "tokenizer.model"].map(str::to_owned).to_vec())
        }
        Part::Adapter => None,
    };
    client
        .model(owner, name)
        .snapshot_download()
        .maybe_allow_patterns(patterns)
        .progress(Bytes::new(&format!("{owner}/{name}"), quiet))
        .send()
        .map_err(failed)
}

/// Bytes of a download on standard error.
#[cfg(feature = "hub")]
struct Bytes(indicatif::ProgressBar);

#[cfg(feature = "hub")]
impl Bytes {
    fn new(name: &str, quiet: bool) -> Self {
        use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
        let target = if quiet { ProgressDrawTarget::hidden() } else { ProgressDrawTarget::stderr() };
        let bar = ProgressBar::with_draw_target(None, target);
        if bar.is_hidden() && !quiet {
            crate::output::talk(&format!("downloading {name}"));
        }
        // The template is a constant; should it be wrong, the default bar serves.
        if let Ok(style) = ProgressStyle::with_template(
            "{msg:<28} {bar:32} {bytes}/{total_bytes}  {bytes_per_sec}  ETA {eta}",
        ) {
            bar.set_style(style);
        }
        bar.set_message(name.to_owned());
        Self(bar)
    }
}

#[cfg(feature = "hub")]
impl hf_hub::progress::ProgressHandler for Bytes {
    fn on_progress(&self, event: &hf_hub::progress::ProgressEvent) {
        use hf_hub::progress::{DownloadEvent, ProgressEvent};
        match event {
            ProgressEvent::Download(DownloadEvent::Start { total_bytes, .. }) => {
                self.0.set_length(*total_bytes)
            }
            ProgressEvent::Download(DownloadEvent::AggregateProgress {
                bytes_completed,
                total_bytes,
                ..
            }) => {
                self.0.set_length(*total_bytes);
                self.0.set_position(*bytes_completed);
            }
            ProgressEvent::Download(DownloadEvent::Complete) => self.0.finish_and_clear(),
            _ => {}
        }
    }
}
