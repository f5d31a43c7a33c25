//! Models in the cache of the Hugging Face hub: found by their folder or by their id, never downloaded.

use std::ffi::OsString;
use std::path::{Path, PathBuf};

use crate::error::{Error, Result};

/// The largest file that can be a reference: a commit has 40 digits.
const MAX_REFERENCE_BYTES: u64 = 256;

/// What a user's path stands for: a repository's folder in the cache for the snapshot of its `main`, an id such as
/// `org/name` that is no path for the same in the user's cache, anything else for itself.
///
/// # Errors
/// If a folder of the cache does not say which of its snapshots is meant.
pub fn resolve(path: &Path) -> Result<PathBuf> {
    resolve_in(path, cache(|name| std::env::var_os(name)).as_deref())
}

fn resolve_in(path: &Path, cache: Option<&Path>) -> Result<PathBuf> {
    if path.exists() {
        return if path.join("snapshots").is_dir() { snapshot(path) } else { Ok(path.to_owned()) };
    }
    let repository = cache
        .zip(id(path))
        .map(|(cache, (organisation, name))| cache.join(format!("models--{organisation}--{name}")));
    match repository.filter(|repository| repository.join("snapshots").is_dir()) {
        Some(repository) => snapshot(&repository),
        None => Ok(path.to_owned()),
    }
}

/// Organisation and name of a path that has the form of an id, `org/name`.
#[must_use]
pub fn id(path: &Path) -> Option<(&str, &str)> {
    let (organisation, name) = path.to_str()?.split_once('/')?;
    let plain = |part: &str| {
        !part.is_empty()
            && !part.starts_with('.')
            && part.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.'))
    };
    (plain(organisation) && plain(name)).then_some((organisation, name))
}

/// The cache as huggingface_hub finds it.
fn cache(variable: impl Fn(&str) -> Option<OsString>) -> Option<PathBuf> {
    let set = |name: &str| variable(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    set("HF_HUB_CACHE")
        .or_else(|| set("HF_HOME").map(|home| home.join("hub")))
        .or_else(|| set("XDG_CACHE_HOME").map(|home| home.join("huggingface/hub")))
        .or_else(|| set("HOME").map(|home| home.join(".cache/huggingface/hub")))
}

/// The snapshot that `refs/main` names, or the only one.
fn snapshot(repository: &Path) -> Result<PathBuf> {
    let snapshots = repository.join("snapshots");
    let reference = repository.join("refs/main");
    let small = std::fs::metadata(&reference).is_ok_and(|at| at.is_file() && at.len() <= MAX_REFERENCE_BYTES);
    if small {
        let commit = std::fs::read_to_string(&reference).map_err(Error::io(&reference))?;
        let commit = commit.trim();
        if !commit.is_empty() && commit.bytes().all(|byte| byte.is_ascii_alphanumeric()) {
            let path = snapshots.join(commit);
            if path.is_dir() {
                return Ok(path);
            }
        }
    }
    let mut found: Vec<PathBuf> = std::fs::read_dir(&snapshots)
        .map_err(Error::io(&snapshots))?
        .filter_map(|entry| Some(entry.ok()?.path()))
        .filter(|path| path.is_dir())
        .collect();
    found.sort();
    match &found[..] {
        [only] => Ok(only.clone()),
        _ => Err(Error::malformed(
            repository,
            format!("expected `refs/main` to name one of the {} snapshots", found.len()),
        )
        .with_hint("give the folder of the snapshot itself")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_and_folders_lead_to_the_snapshot_of_main() {
        let cache = tempfile::tempdir().unwrap();
        let repository = cache.path().join("models--org--name");
        for commit in ["abc", "def"] {
            std::fs::create_dir_all(repository.join("snapshots").join(commit)).unwrap();
        }
        assert!(resolve_in(&repository, None).unwrap_err().to_string().contains("2 snapshots"));
        std::fs::create_dir(repository.join("refs")).unwrap();
        std::fs::write(repository.join("refs/main"), "def\n").unwrap();
        let expected = repository.join("snapshots/def");
        assert_eq!(resolve_in(&repository, None).unwrap(), expected);
        assert_eq!(resolve_in(Path::new("org/name"), Some(cache.path())).unwrap(), expected);
        for other in ["org/other", "../name", "org/a/b", "name"] {
            assert_eq!(resolve_in(Path::new(other), Some(cache.path())).unwrap(), Path::new(other));
        }
        std::fs::write(repository.join("refs/main"), "../../..").unwrap();
        assert!(resolve_in(&repository, None).is_err(), "a reference is no path");
    }

    #[test]
    fn the_cache_is_where_the_hub_has_it() {
        let of = |set: &'static [(&'static str, &'static str)]| {
            cache(move |name| set.iter().find(|(known, _)| *known == name).map(|(_, value)| value.into()))
        };
        assert_eq!(of(&[("HOME", "/h")]).unwrap(), Path::new("/h/.cache/huggingface/hub"));
        assert_eq!(of(&[("HOME", "/h"), ("HF_HOME", "/x")]).unwrap(), Path::new("/x/hub"));
        assert_eq!(of(&[("HF_HOME", "/x"), ("HF_HUB_CACHE", "/c")]).unwrap(), Path::new("/c"));
        assert_eq!(of(&[]), None);
    }
}
