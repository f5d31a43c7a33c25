//! The name of the base model in an adapter's configuration.

/// What kind of thing a base's name is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum BaseName {
    /// `organisation/model` or `model` of a hub.
    Hub,
    /// Fetched from an address.
    Address,
    /// A share of another machine.
    Share,
    /// A folder that holds secrets or belongs to the system.
    Sensitive,
    /// Climbs out of a folder.
    Traversal,
    /// Another folder of the author's machine.
    Local,
}

/// Folders that hold no models; some hold secrets.
const SENSITIVE: &[&str] = &[
    "/etc", "/proc", "/sys", "/dev", "/boot", "/var/run", "/run", "/bin", "/sbin", "/usr/bin", "/lib",
    "/var/log",
];

/// What kind of thing a base's name is.
pub(super) fn classify(name: &str) -> BaseName {
    let unix = name.replace('\\', "/");
    if name.starts_with("\\\\") || name.starts_with("//") {
        return BaseName::Share;
    }
    if let Some((scheme, _)) = name.split_once("://")
        && scheme.chars().all(|c| c.is_ascii_alphanumeric() || "+.-".contains(c))
    {
        return BaseName::Address;
    }
    let parts: Vec<&str> = unix.split('/').collect();
    let hidden =
        parts.iter().any(|part| part.starts_with('.') && !matches!(*part, "." | ".." | ".cache" | ".local"));
    let system = SENSITIVE
        .iter()
        .any(|folder| unix.strip_prefix(folder).is_some_and(|rest| rest.is_empty() || rest.starts_with('/')));
    if system || (hidden && (unix.starts_with('/') || unix.starts_with('~'))) {
        return BaseName::Sensitive;
    }
    let climbs = parts.iter().filter(|part| **part == "..").count();
    if climbs > 0 {
        let leads_to_system = SENSITIVE.iter().any(|folder| {
            let tail = unix.trim_start_matches("../");
            tail == &folder[1..] || tail.starts_with(&format!("{}/", &folder[1..]))
        });
        return if hidden || leads_to_system { BaseName::Sensitive } else { BaseName::Traversal };
    }
    let drive = name.as_bytes().get(1) == Some(&b':');
    if unix.starts_with('/') || unix.starts_with('~') || unix.starts_with("./") || drive || parts.len() > 2 {
        return BaseName::Local;
    }
    BaseName::Hub
}

/// The id of a hub, if a base's name is one.
pub(in crate::audit) fn hub_id(name: &str) -> Option<&str> {
    (classify(name) == BaseName::Hub).then_some(name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_told_apart() {
        for (name, kind) in [
            ("meta-llama/Llama-3.2-1B", BaseName::Hub),
            ("gpt2", BaseName::Hub),
            ("http://198.51.100.7/model", BaseName::Address),
            ("\\\\host\\share", BaseName::Share),
            ("/root/.ssh", BaseName::Sensitive),
            ("~/.aws/credentials", BaseName::Sensitive),
            ("../../../etc", BaseName::Sensitive),
            ("../../model", BaseName::Traversal),
            ("/workspace/models/llama", BaseName::Local),
            ("./base", BaseName::Local),
            ("C:\\models\\llama", BaseName::Local),
            ("/root/.cache/huggingface/hub/models--a--b/snapshots/x", BaseName::Local),
        ] {
            assert_eq!(classify(name), kind, "{name}");
        }
    }
}
