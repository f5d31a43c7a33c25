//! What a failure says of a unit: that it cannot be scanned, or that somebody should try again.

use std::path::Path;

use report::fleet::Class;

use crate::exit::Failure;

/// What becomes of a unit that failed.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Consequence {
    /// A property of the adapter or its base: the same on every machine, and so a result.
    Errored(Class, String),
    /// Of this machine at this time.
    Retry(String),
}

/// Tells them apart. `places` are paths of this machine and what stands for them in a reason, since results must not
/// depend on where files lie.
pub(crate) fn consequence(failure: &Failure, places: &[(&Path, &str)]) -> Consequence {
    let mut reason = failure.to_string();
    if let Some(hint) = failure.hint() {
        reason.push_str(&format!(" ({hint})"));
    }
    let class = match failure {
        Failure::Probe(probe::Error::Statistics(_)) => Class::Numeric,
        Failure::Probe(probe::Error::Inference(error)) => match error {
            inference::Error::Malformed { .. }
            | inference::Error::Template(_)
            | inference::Error::Request(_) => Class::Malformed,
            inference::Error::Unsupported { .. } => Class::Unsupported,
            // The disk, the device, memory: another machine may fare better.
            _ => return Consequence::Retry(reason),
        },
        _ => return Consequence::Retry(reason),
    };
    for (path, name) in places {
        reason = reason.replace(&path.display().to_string(), name);
    }
    Consequence::Errored(class, reason)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn properties_of_an_adapter_are_results_without_paths() {
        let unsupported = inference::Error::Unsupported {
            path: "/data/a/x.json".into(),
            reason: "`/data/a` says so".into(),
            hint: Some("train another".into()),
        };
        let found = consequence(&unsupported.into(), &[(Path::new("/data/a"), "adapter")]);
        let reason = "`adapter/x.json`: `adapter` says so (train another)".to_owned();
        assert_eq!(found, Consequence::Errored(Class::Unsupported, reason));
    }

    #[test]
    fn a_failing_machine_is_tried_again() {
        let io =
            inference::Error::Io { path: "/x".into(), source: std::io::Error::other("stale file handle") };
        for failure in [io.into(), Failure::Machine("no threads".into()), probe::Error::Stopped.into()] {
            assert!(matches!(consequence(&failure, &[]), Consequence::Retry(_)), "{failure:?}");
        }
    }
}
