//! Exit codes and failures. The same numbers stand in `--help`, the README and every record.

use report::audit::RepositoryAudit;
use report::verdict::Verdict;

use crate::args::{FailOn, FailOnSeverity};

/// Verdict below `--fail-on`, everything planned was run.
pub(crate) const PASS: u8 = 0;
/// Verdict at or above `--fail-on`.
pub(crate) const FOUND: u8 = 1;
/// Usage, configuration or input error.
pub(crate) const INPUT: u8 = 2;
/// Something could not be checked, and nothing worse was found. Never a pass.
pub(crate) const INCOMPLETE: u8 = 3;
/// A fault of this program or of the machine.
pub(crate) const INTERNAL: u8 = 4;

/// Exit codes of `run`, which schedulers act on; names and numbers are those of sysexits.h.
pub(crate) mod scheduled {
    /// The arguments are wrong: another try changes nothing.
    pub(crate) const USAGE: u8 = 64;
    /// Plan or files are not what they must be: another try changes nothing.
    pub(crate) const DATA: u8 = 65;
    /// A fault of this program.
    pub(crate) const SOFTWARE: u8 = 70;
    /// Interrupted, or the machine failed: try again.
    pub(crate) const RETRY: u8 = 75;
    /// The store or the program is not what the plan needs: another try here changes nothing.
    pub(crate) const CONFIGURATION: u8 = 78;
}

/// Why a verb could not do its work.
#[derive(Debug)]
pub(crate) enum Failure {
    /// Something in the input or the arguments.
    Input(String),
    /// Something differs from the lock.
    Drift(String),
    /// A probe or a model.
    Probe(probe::Error),
    /// What a scheduler acts on, by one of the codes of [`scheduled`].
    Scheduled(u8, String),
    /// The machine: files that cannot be written, a thread pool that cannot start.
    Machine(String),
}

impl Failure {
    pub(crate) fn code(&self) -> u8 {
        match self {
            Self::Input(_) => INPUT,
            Self::Drift(_) => INCOMPLETE,
            Self::Machine(_) => INTERNAL,
            Self::Scheduled(code, _) => *code,
            Self::Probe(error) => match error {
                probe::Error::Inference(inference::Error::Unsupported { .. }) => INCOMPLETE,
                probe::Error::Inference(inference::Error::Tensor(_)) | probe::Error::Statistics(_) => {
                    INTERNAL
                }
                _ => INPUT,
            },
        }
    }

    /// What the user can do, where we know it.
    pub(crate) fn hint(&self) -> Option<&str> {
        match self {
            Self::Probe(probe::Error::Inference(error)) => error.hint(),
            Self::Drift(_) => Some(
                "review what changed, scan it, and record it again (`triggerfish pin`, `activations --profile`)",
            ),
            _ => None,
        }
    }
}

impl std::fmt::Display for Failure {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Input(message)
            | Self::Drift(message)
            | Self::Scheduled(_, message)
            | Self::Machine(message) => f.write_str(message),
            Self::Probe(error) => error.fmt(f),
        }
    }
}

impl From<probe::Error> for Failure {
    fn from(error: probe::Error) -> Self {
        Self::Probe(error)
    }
}

impl From<inference::Error> for Failure {
    fn from(error: inference::Error) -> Self {
        Self::Probe(error.into())
    }
}

/// The code of two runs together: a finding outranks a run that failed, which outranks one that is incomplete.
pub(crate) fn worse(a: u8, b: u8) -> u8 {
    const ORDER: [u8; 5] = [PASS, INCOMPLETE, INPUT, INTERNAL, FOUND];
    let rank = |code: u8| ORDER.iter().position(|known| *known == code);
    if rank(b) > rank(a) { b } else { a }
}

/// The exit code of a finished scan: a finding outranks incompleteness, which outranks a pass.
pub(crate) fn of_verdict(verdict: Verdict, complete: bool, fail_on: FailOn, incomplete_ok: bool) -> u8 {
    if fail_on.fails(verdict) {
        FOUND
    } else if (verdict == Verdict::Inconclusive || !complete) && !incomplete_ok {
        INCOMPLETE
    } else {
        PASS
    }
}

/// The exit code of a finished audit: a finding outranks what could not be checked, which outranks a pass.
pub(crate) fn of_audits(audits: &[RepositoryAudit], fail_on: FailOnSeverity, incomplete_ok: bool) -> u8 {
    let worst = audits.iter().filter_map(RepositoryAudit::worst).max();
    if fail_on.0.is_some_and(|least| worst.is_some_and(|worst| worst >= least)) {
        FOUND
    } else if !incomplete_ok && !audits.iter().all(RepositoryAudit::complete) {
        INCOMPLETE
    } else {
        PASS
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_worse_of_two_codes_counts() {
        assert_eq!(worse(PASS, INCOMPLETE), INCOMPLETE);
        assert_eq!(worse(FOUND, INTERNAL), FOUND);
        assert_eq!(worse(INCOMPLETE, INPUT), INPUT);
    }

    #[test]
    fn a_finding_outranks_incompleteness() {
        let code = |verdict, complete| of_verdict(verdict, complete, FailOn::Suspicious, false);
        assert_eq!(code(Verdict::Backdoored, false), FOUND);
        assert_eq!(code(Verdict::Suspicious, true), FOUND);
        assert_eq!(code(Verdict::NoEvidence, true), PASS);
        assert_eq!(code(Verdict::NoEvidence, false), INCOMPLETE);
        assert_eq!(code(Verdict::Inconclusive, true), INCOMPLETE);
        assert_eq!(of_verdict(Verdict::Suspicious, true, FailOn::Backdoored, false), PASS);
        assert_eq!(of_verdict(Verdict::Backdoored, true, FailOn::Never, false), PASS);
        assert_eq!(of_verdict(Verdict::Inconclusive, false, FailOn::Never, true), PASS);
    }
}
