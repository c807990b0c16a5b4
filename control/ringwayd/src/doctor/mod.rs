//! Finds what people stumble over, and names the commands that mend it.
//!
//! [`facts`] asks the host, the desired state and the datapath; each check is
//! a function of those facts alone.

mod bridges;
mod cores;
mod facts;
mod guards;
mod guests;
mod interfaces;
mod memory;
#[cfg(test)]
mod tests;

use ringway_proto::v1 as pb;

pub use facts::{Core, Facts, Flapping, Interface, NumaPages, PollingThread, gather};

/// A check's name, and the check.
type Check = (&'static str, fn(&Facts) -> Vec<Found>);

/// Every check, in the order of the packet's way through people's mistakes.
const CHECKS: &[Check] = &[
    ("desired-not-actual", bridges::not_actual),
    ("address-on-port", interfaces::address_on_port),
    ("internal-port-down", interfaces::internal_down),
    ("interface-down", interfaces::interface_down),
    ("mtu-mismatch", bridges::mtu_mismatch),
    ("offloads-clash", interfaces::offloads_clash),
    ("loop", bridges::flapping),
    ("guard", guards::refused),
    ("secure-without-flows", bridges::secure_without_flows),
    ("memory-not-shared", guests::memory_not_shared),
    ("socket-permissions", guests::socket_permissions),
    ("hugepages", memory::hugepages),
    ("core-shared", cores::shared),
];

/// What a check found; it is told under the check's name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Found {
    /// How bad it is.
    pub severity: pb::Severity,
    /// `port tap124`, `bridge br0`, `host`.
    pub object: String,
    /// What is the case.
    pub what: String,
    /// What follows from it.
    pub why: String,
    /// Commands that mend it.
    pub remedy: Vec<String>,
}

impl Found {
    fn error(object: impl Into<String>, what: impl Into<String>, why: impl Into<String>) -> Self {
        Self {
            severity: pb::Severity::Error,
            object: object.into(),
            what: what.into(),
            why: why.into(),
            remedy: Vec::new(),
        }
    }

    fn warning(object: impl Into<String>, what: impl Into<String>, why: impl Into<String>) -> Self {
        Self {
            severity: pb::Severity::Warning,
            ..Self::error(object, what, why)
        }
    }

    fn note(object: impl Into<String>, what: impl Into<String>, why: impl Into<String>) -> Self {
        Self {
            severity: pb::Severity::Note,
            ..Self::error(object, what, why)
        }
    }

    fn mended_by(self, remedy: Vec<String>) -> Self {
        Self { remedy, ..self }
    }
}

/// All that the checks find, the worst first.
pub fn examine(facts: &Facts) -> pb::DoctorResponse {
    let findings = |(check, examine): &Check| {
        let found = examine(facts).into_iter();
        found
            .map(|found| pb::Finding {
                check: (*check).to_owned(),
                severity: found.severity.into(),
                object: found.object,
                what: found.what,
                why: found.why,
                remedy: found.remedy,
            })
            .collect::<Vec<_>>()
    };
    let mut findings: Vec<pb::Finding> = CHECKS.iter().flat_map(findings).collect();
    // Within one severity the checks' order stays.
    findings.sort_by_key(|finding| std::cmp::Reverse(finding.severity));
    pb::DoctorResponse {
        findings,
        checks: CHECKS.iter().map(|(name, _)| (*name).to_owned()).collect(),
    }
}
