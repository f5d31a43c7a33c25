//! What stands before every load: the lock, and the audit of the adapter's files.

use report::audit::{RepositoryAudit, Severity};
use report::evidence::{Coverage, Evidence};
use report::record::{Artifact, Cost, Settings, Subject};
use report::verdict::Thresholds;

use crate::args::GateArguments;
use crate::conclusion::Run;
use crate::exit::Failure;
use crate::subject::Target;
use crate::{audit, output, pin};

/// What the files say; `None` if the user wants no audit.
///
/// # Errors
/// If something differs from the lock, or the audit cannot run.
pub(crate) fn examine(
    arguments: &GateArguments,
    target: &Target,
    suites: &[String],
    thresholds: Thresholds,
    quiet: bool,
) -> Result<Option<RepositoryAudit>, Failure> {
    // Of what is not there, the loader says so in its own words.
    let audit = if arguments.no_audit || target.adapter().symlink_metadata().is_err() {
        None
    } else {
        Some(audit::before(
            target.adapter(),
            target.adapter_name(),
            target.base(),
            arguments.suppressions.as_deref(),
        )?)
    };
    if let Some(lock) = &arguments.locked {
        pin::verify(lock, target.adapter(), audit.as_ref(), Some(target.base()), suites, thresholds)?;
    }
    // A load that fails leaves no report, and what the files are should be known all the same.
    let worst = audit.as_ref().and_then(RepositoryAudit::worst);
    if let Some(worst) = worst.filter(|worst| *worst >= Severity::Medium && !quiet) {
        output::talk(&format!(
            "the files of the adapter have findings up to {}: `triggerfish audit` shows them, and so does the report",
            worst.name()
        ));
    }
    Ok(audit)
}

/// Whether the files are so bad that nothing of them may be loaded.
pub(crate) fn refuses(audit: &RepositoryAudit) -> bool {
    audit.worst() == Some(Severity::Critical)
}

/// Tells the user of a verb without a record that nothing was loaded, if so.
pub(crate) fn stops(audit: Option<&RepositoryAudit>) -> bool {
    let stops = audit.is_some_and(refuses);
    if stops {
        output::talk(
            "the files of the adapter have critical findings, so nothing of it was loaded (`--no-audit` would): \
             `triggerfish audit` shows them",
        );
    }
    stops
}

/// A run that was not begun, because of what the files are.
pub(crate) fn refused(target: &Target, settings: Settings, audit: RepositoryAudit) -> Run {
    let unread = Artifact { name: target.base_name().to_owned(), files: Vec::new() };
    Run {
        subject: Subject {
            base: unread,
            adapter: Artifact { name: target.adapter_name().to_owned(), files: audit.files.clone() },
            declared_base: None,
            changed_modules: 0,
        },
        settings,
        evidence: Evidence::default(),
        coverage: Coverage {
            not_tested: vec![
                "any behaviour: the adapter was not loaded, because of the critical findings in its files"
                    .into(),
            ],
            ..Coverage::default()
        },
        cost: Cost::default(),
        hunt: None,
        audit: Some(audit),
    }
}
