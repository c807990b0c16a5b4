//! The decisions of `DECISIONS.md`, each as narrow as it can be put: what may
//! differ, and nothing else.

use crate::compare::Sent;
use crate::execute::HEAD;
use crate::subject::Subject;

/// A heading of `DECISIONS.md`.
pub type Decision = &'static str;

/// Whether a frame may be read in two ways, as [`crate::printed`] writes them.
pub fn extracted(frame: &[u8], oracle: &str, ringway: &str) -> Option<Decision> {
    // Fields of transport and neighbour discovery that lie, in part, beyond
    // the head: zero with us, the rest the same.
    let beyond = |(theirs, ours): (&str, &str)| {
        let (Some((name, _)), Some((same, value))) = (theirs.split_once('='), ours.split_once('='))
        else {
            return false;
        };
        let zero = matches!(value, "0" | "::" | "00:00:00:00:00:00");
        let late = [
            "tp_src",
            "tp_dst",
            "tcp_flags",
            "nd_target",
            "nd_sll",
            "nd_tll",
        ];
        name == same && zero && late.contains(&name)
    };
    let fields = oracle.split(',').zip(ringway.split(','));
    let allowed = frame.len() > HEAD
        && oracle.split(',').count() == ringway.split(',').count()
        && fields.into_iter().all(|(a, b)| a == b || beyond((a, b)));
    allowed.then_some("Headers beyond the head")
}

/// Whether one of both may refuse a text, and the other not.
pub fn acceptance(text: &str, oracle: Option<&str>, ringway: Option<&str>) -> Option<Decision> {
    match (oracle, ringway) {
        (Some(why), None) if why.contains("none of the usable flow formats") => {
            Some("One version of OpenFlow")
        }
        (None, Some(why)) if why.contains("the value does not fit") => {
            Some("Values that do not fit")
        }
        (None, Some(why)) if why.contains("ICMP's type and code are 0 to 255") => {
            Some("Values that do not fit")
        }
        (None, Some(why)) if why.contains("NXM_OF_ARP_OP is only 8 bits wide") => {
            Some("Values that do not fit")
        }
        (Some(why), None) if why.contains("BAD_PREREQ") && text.contains("ipv6_label=") => {
            Some("Fields without their prerequisites")
        }
        _ => None,
    }
}

/// Whether a frame may come to something else.
pub fn outputs(subject: &Subject, sent: &Sent) -> Option<Decision> {
    if subject.most_tags(sent.port, &sent.frame) > 2 {
        return Some("A third tag");
    }
    let executed = subject.execute(sent.port, &sent.frame);
    (executed.normal_in_vlan_0).then_some("NORMAL and priority tags")
}
