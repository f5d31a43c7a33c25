//! SARIF 2.1.0 (OASIS, 2020), as much of it as findings about files and behaviour need.
//!
//! Plain data in the order and with the names of the standard. [`log`] is the way to make one: it keeps the limits
//! of GitHub's code scanning, which rejects a file that exceeds them, and says in the log what it left out.

mod limits;
mod log;

pub use limits::{LOCATIONS_PER_RESULT, RESULTS_PER_RUN, TAGS_PER_RULE, log};
pub use log::{
    Artifact, ArtifactLocation, AutomationDetails, ColumnKind, Configuration, Descriptor, Driver,
    Fingerprints, Hashes, Invocation, Level, Location, Log, LogicalLocation, Message, Notification,
    PhysicalLocation, Properties, Region, Run, SarifResult, Suppression, SuppressionKind, Tool,
};
