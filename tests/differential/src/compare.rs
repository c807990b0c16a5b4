//! One rule set and its frames through both; what differs is told with a
//! reproduction as small as it can be made.

use std::collections::BTreeMap;
use std::fmt;

use ringway_tests::Result;

use crate::allowed::{self, Decision};
use crate::execute::HEAD;
use crate::oracle::{Oracle, Outputs, hex};
use crate::printed;
use crate::rules::{Dialect, RuleSet};
use crate::subject::Subject;

/// A frame and the port that it comes in at.
#[derive(Clone, Debug)]
pub struct Sent {
    /// The port.
    pub port: u16,
    /// The frame.
    pub frame: Vec<u8>,
}

/// Something on which both disagree.
#[derive(Clone, Debug)]
pub enum Difference {
    /// One accepts the text, the other does not.
    Acceptance {
        /// The text.
        text: String,
        /// Why Open vSwitch refused it, if it did.
        oracle: Option<String>,
        /// Why ringway refused it, if it did.
        ringway: Option<String>,
    },
    /// The same rule is printed in two ways.
    Printed {
        /// The rule's text.
        text: String,
        /// What `ovs-ofctl dump-flows` prints.
        oracle: String,
        /// What ringway prints.
        ringway: String,
    },
    /// Other frames, or other ports.
    Outputs {
        /// As few rules as show it.
        set: RuleSet,
        /// The frame.
        sent: Sent,
        /// What Open vSwitch sent.
        oracle: Outputs,
        /// What ringway sent.
        ringway: Outputs,
        /// Open vSwitch's own account.
        trace: String,
        /// ringway's program.
        program: String,
    },
}

impl fmt::Display for Difference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let verdict = |refusal: &Option<String>| match refusal {
            Some(why) => format!("refused: {why}"),
            None => "accepted".into(),
        };
        match self {
            Self::Acceptance {
                text,
                oracle,
                ringway,
            } => {
                writeln!(f, "acceptance of {text}")?;
                writeln!(f, "  Open vSwitch {}", verdict(oracle))?;
                writeln!(f, "  ringway      {}", verdict(ringway))
            }
            Self::Printed {
                text,
                oracle,
                ringway,
            } => {
                writeln!(f, "print of {text}")?;
                writeln!(f, "  Open vSwitch {oracle}\n  ringway      {ringway}")
            }
            Self::Outputs {
                set,
                sent,
                oracle,
                ringway,
                trace,
                program,
            } => {
                writeln!(f, "outputs of in_port={} {}", sent.port, hex(&sent.frame))?;
                write!(f, "{set}")?;
                writeln!(f, "  Open vSwitch sent{}", outputs(oracle))?;
                writeln!(f, "  ringway sent     {}", outputs(ringway))?;
                writeln!(f, "  ringway's program: {program}\n{trace}")
            }
        }
    }
}

fn outputs(outputs: &Outputs) -> String {
    if outputs.is_empty() {
        return " nothing".into();
    }
    let frames = |(port, frames): (&u16, &Vec<Vec<u8>>)| {
        let frames: Vec<String> = frames.iter().map(|frame| hex(frame)).collect();
        format!("\n    {port}: {}", frames.join("\n       "))
    };
    outputs.iter().map(frames).collect()
}

/// How much was compared.
#[derive(Clone, Copy, Debug, Default)]
pub struct Tally {
    /// Rule sets.
    pub sets: usize,
    /// Rules that both accepted.
    pub accepted: usize,
    /// Rules that both refused.
    pub refused: usize,
    /// Frames.
    pub frames: usize,
    /// Frames that came out somewhere, of both.
    pub came_out: usize,
    /// Differences that a decision allows.
    pub allowed: usize,
}

/// Compares everything that a rule set and frames give occasion for.
pub fn compare(
    oracle: &mut Oracle,
    set: &RuleSet,
    frames: &[Sent],
    tally: &mut Tally,
) -> Result<Vec<Difference>> {
    let mut differences = Vec::new();
    tally.sets += 1;
    let common = compare_acceptance(oracle, set, tally, &mut differences)?;
    compare_dumps(oracle, &common, &mut differences)?;
    let mut subject = load(oracle, &common)?;
    for sent in frames {
        tally.frames += 1;
        if beyond_head(oracle, &subject, sent)? {
            tally.allowed += 1;
            continue;
        }
        let answer = ask(oracle, &subject, &common, sent)?;
        if !answer.differs {
            tally.came_out += usize::from(!answer.nothing);
            continue;
        }
        if answer.allowed.is_some() {
            tally.allowed += 1;
            continue;
        }
        let small = shrink(oracle, &common, sent)?;
        differences.push(described(oracle, small, sent)?);
        subject = load(oracle, &common)?;
    }
    Ok(differences)
}

/// Gives both what both accept of a rule set, and ringway's side of it.
pub fn accepted_by_both(oracle: &mut Oracle, set: &RuleSet) -> Result<(RuleSet, Subject)> {
    let common = compare_acceptance(oracle, set, &mut Tally::default(), &mut Vec::new())?;
    let subject = load(oracle, &common)?;
    Ok((common, subject))
}

/// Gives the texts to both; the result holds those that both accept.
fn compare_acceptance(
    oracle: &mut Oracle,
    set: &RuleSet,
    tally: &mut Tally,
    differences: &mut Vec<Difference>,
) -> Result<RuleSet> {
    oracle.reset()?;
    let mut subject = Subject::new(oracle.ports());
    let mut common = RuleSet::default();
    let mut judge = |text: &str, oracle: Option<String>, ringway: Option<String>| {
        let accepted = oracle.is_none() && ringway.is_none();
        if accepted {
            tally.accepted += 1;
        } else if oracle.is_some() && ringway.is_some() {
            tally.refused += 1;
        } else if allowed::acceptance(text, oracle.as_deref(), ringway.as_deref()).is_some() {
            tally.allowed += 1;
        } else {
            differences.push(Difference::Acceptance {
                text: text.to_owned(),
                oracle,
                ringway,
            });
        }
        accepted
    };
    for (group, theirs) in set.groups.iter().zip(oracle.add_groups(&set.groups)?) {
        if judge(group.text(), theirs, subject.add_group(group.text()).err()) {
            common.groups.push(group.clone());
        }
    }
    for (rule, theirs) in set.rules.iter().zip(oracle.add_flows(&set.rules)?) {
        if judge(&rule.text, theirs, subject.add_flow(&rule.text).err()) {
            common.rules.push(rule.clone());
        }
    }
    Ok(common)
}

/// Gives both the same rules, afresh.
fn load(oracle: &mut Oracle, set: &RuleSet) -> Result<Subject> {
    oracle.reset()?;
    oracle.add_groups(&set.groups)?;
    oracle.add_flows(&set.rules)?;
    let mut subject = Subject::new(oracle.ports());
    subject.add_all(set);
    Ok(subject)
}

/// Compares what is printed, one dialect after the other: neither can print all
/// rules of the other.
fn compare_dumps(
    oracle: &mut Oracle,
    set: &RuleSet,
    differences: &mut Vec<Difference>,
) -> Result<()> {
    for dialect in Dialect::ALL {
        let mut set = set.clone();
        set.rules.retain(|rule| rule.dialect == dialect);
        let subject = load(oracle, &set)?;
        let ours = printed::by_cookie(&subject.dump_flows());
        let theirs = printed::by_cookie(&oracle.dump_flows(dialect.version())?);
        for rule in &set.rules {
            let cookie = printed::cookie(&rule.text).unwrap_or_default();
            // A rule may have been replaced by a later one: then by both.
            let line = |lines: &BTreeMap<String, String>| match lines.get(&cookie) {
                Some(line) => printed::renamed(line),
                None => "(not there)".to_owned(),
            };
            let (theirs, ours) = (line(&theirs), line(&ours));
            if theirs != ours {
                differences.push(Difference::Printed {
                    text: rule.text.clone(),
                    oracle: theirs,
                    ringway: ours,
                });
            }
        }
    }
    Ok(())
}

/// Whether the two read the frame in different ways, as they may.
fn beyond_head(oracle: &mut Oracle, subject: &Subject, sent: &Sent) -> Result<bool> {
    if sent.frame.len() <= HEAD {
        return Ok(false);
    }
    let theirs = printed::traced_flow(&oracle.trace(sent.port, &sent.frame)?);
    let ours = printed::key(&subject.key(sent.port, &sent.frame));
    Ok(theirs != ours && allowed::extracted(&sent.frame, &theirs, &ours).is_some())
}

/// What a frame came to.
struct Answer {
    /// Both sent nothing.
    nothing: bool,
    /// They sent different frames, or to different ports.
    differs: bool,
    /// What allows it.
    allowed: Option<Decision>,
}

fn ask(oracle: &mut Oracle, subject: &Subject, set: &RuleSet, sent: &Sent) -> Result<Answer> {
    let ours = subject.send(sent.port, &sent.frame);
    oracle.forget_learnt()?;
    let mut theirs = oracle.send(sent.port, &sent.frame)?;
    if theirs != ours {
        // Its cached flows with NORMAL may still know of stations that it was
        // told to forget.
        oracle.forget_cached()?;
        oracle.forget_learnt()?;
        theirs = oracle.send(sent.port, &sent.frame)?;
    }
    let differs = theirs != ours && !chosen_otherwise(subject, set, sent, &theirs);
    let allowed = match differs {
        true => allowed::outputs(subject, set, sent, [&theirs, &ours]),
        false => None,
    };
    Ok(Answer {
        nothing: theirs.is_empty() && ours.is_empty(),
        differs,
        allowed,
    })
}

/// Whether ringway sends the same once its select groups choose other buckets:
/// each switch has its own hash.
fn chosen_otherwise(subject: &Subject, set: &RuleSet, sent: &Sent, theirs: &Outputs) -> bool {
    let mut others = subject.with_other_choices(set);
    others.any(|other| other.send(sent.port, &sent.frame) == *theirs)
}

/// Leaves out rules and groups, one at a time, as long as the difference stays.
fn shrink(oracle: &mut Oracle, set: &RuleSet, sent: &Sent) -> Result<RuleSet> {
    let mut small = set.clone();
    let mut differs = |candidate: &RuleSet| -> Result<bool> {
        let subject = load(oracle, candidate)?;
        let answer = ask(oracle, &subject, candidate, sent)?;
        // Not another difference, which is allowed.
        Ok(answer.differs && answer.allowed.is_none())
    };
    let mut step = small.rules.len().div_ceil(2);
    while step > 0 {
        let mut at = 0;
        while at < small.rules.len() {
            let mut candidate = small.clone();
            candidate
                .rules
                .drain(at..(at + step).min(small.rules.len()));
            if differs(&candidate)? {
                small = candidate;
            } else {
                at += step;
            }
        }
        step /= 2;
    }
    for at in (0..small.groups.len()).rev() {
        let mut candidate = small.clone();
        candidate.groups.remove(at);
        if differs(&candidate)? {
            small = candidate;
        }
    }
    Ok(small)
}

fn described(oracle: &mut Oracle, set: RuleSet, sent: &Sent) -> Result<Difference> {
    let subject = load(oracle, &set)?;
    oracle.forget_learnt()?;
    let trace = oracle.trace(sent.port, &sent.frame)?;
    let theirs = oracle.send(sent.port, &sent.frame)?;
    let program = subject.translate(sent.port, &sent.frame).program;
    Ok(Difference::Outputs {
        ringway: subject.send(sent.port, &sent.frame),
        sent: sent.clone(),
        oracle: theirs,
        trace,
        program: format!("{:x?}", program.steps().collect::<Vec<_>>()),
        set,
    })
}
