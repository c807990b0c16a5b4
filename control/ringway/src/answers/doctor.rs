//! `doctor`: what keeps traffic from passing, and what to do about it.

use std::fmt::Write;

use ringway_proto::v1::{self as pb, Severity};
use serde_json::{Value, json};

fn word(severity: Severity) -> &'static str {
    match severity {
        Severity::Error => "error",
        Severity::Warning => "warning",
        Severity::Note | Severity::Unspecified => "note",
    }
}

/// Whether something is wrong: more than a note.
pub fn ill(answer: &pb::DoctorResponse) -> bool {
    let mut severities = answer.findings.iter().map(pb::Finding::severity);
    severities.any(|severity| matches!(severity, Severity::Error | Severity::Warning))
}

/// For people. The commands stand on lines of their own, to be copied.
pub fn text(answer: &pb::DoctorResponse) -> String {
    let mut out = String::new();
    for finding in &answer.findings {
        let severity = word(finding.severity());
        let (object, what, check) = (&finding.object, &finding.what, &finding.check);
        let _ = writeln!(
            out,
            "{severity}: {object}: {what} [{check}]\n{}",
            finding.why
        );
        for command in &finding.remedy {
            let _ = writeln!(out, "  {command}");
        }
        out.push('\n');
    }
    let count = |wanted: Severity| {
        let findings = answer.findings.iter();
        let count = findings
            .filter(|finding| finding.severity() == wanted)
            .count();
        counted(count, word(wanted))
    };
    let _ = writeln!(
        out,
        "{}: {}, {}, {}",
        counted(answer.checks.len(), "check"),
        count(Severity::Error),
        count(Severity::Warning),
        count(Severity::Note)
    );
    out
}

/// `1 error`, `2 errors`.
fn counted(count: usize, what: &str) -> String {
    let plural = if count == 1 { "" } else { "s" };
    format!("{count} {what}{plural}")
}

/// For programs.
pub fn json(answer: &pb::DoctorResponse) -> Value {
    let findings = answer.findings.iter().map(|finding| {
        json!({
            "check": finding.check,
            "severity": word(finding.severity()),
            "object": finding.object,
            "what": finding.what,
            "why": finding.why,
            "remedy": finding.remedy,
        })
    });
    json!({
        "findings": findings.collect::<Vec<_>>(),
        "checks": answer.checks,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn commands_stand_on_lines_of_their_own() {
        let mut answer = pb::DoctorResponse {
            findings: vec![pb::Finding {
                check: "interface-down".into(),
                severity: Severity::Error.into(),
                object: "port tap124".into(),
                what: "interface tap124 is down".into(),
                why: "nothing passes through this port".into(),
                remedy: vec!["ip link set tap124 up".into()],
            }],
            checks: vec!["interface-down".into(), "loop".into()],
        };
        assert!(ill(&answer));
        let expected = "error: port tap124: interface tap124 is down [interface-down]\n\
                        nothing passes through this port\n\
                        \x20 ip link set tap124 up\n\n\
                        2 checks: 1 error, 0 warnings, 0 notes\n";
        assert_eq!(text(&answer), expected);
        answer.findings[0].severity = Severity::Note.into();
        assert!(!ill(&answer));
    }
}
