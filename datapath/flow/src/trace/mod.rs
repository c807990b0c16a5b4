//! A packet's way through the tables, told in words, as `ovs-appctl
//! ofproto/trace` 3.1 tells it.
//!
//! Beside what Open vSwitch says, each table has a line ` -> mask: …` with the
//! fields that its lookup put into the megaflow's mask. Where the megaflow's
//! actions hold `normal` or `flood`, which the datapath looks up for every
//! packet, `Datapath actions:` says what they come to now, and a last line
//! what the megaflow holds.

mod flow;
#[cfg(test)]
mod tests;

use std::fmt::Write;

use crate::action::Action;
use crate::datapath_text::print_steps;
use crate::field::Subfield;
use crate::key::{FlowKey, PacketKey};
use crate::pipeline::Pipeline;
use crate::program::{DpAction, DropCause};
use crate::rule::Rule;
use crate::text::{PortNames, print_actions, print_match};
use crate::translate::{Note, Start, Tracer, Translation, translate};

/// What NORMAL does with a packet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum NormalNow {
    /// The destination was learned on this port.
    Learned(u16),
    /// It is not known, or it is a group: to these ports.
    Flood(Vec<u16>),
    /// To one or more ports, each with the tags that its VLANs ask for.
    Tagged {
        /// The destination was learned.
        learned: bool,
        /// Outputs, with the tags that come and go before each.
        steps: Vec<DpAction>,
        /// What gives the packet the tags back that it had.
        restore: Vec<DpAction>,
    },
    /// Nowhere; why, in a few words (`packet has reserved destination MAC`).
    Drop(String),
}

/// What of a bridge changes without its rules being changed.
pub trait BridgeNow {
    /// What NORMAL would do now with the packet as it is, which came in on
    /// the port in its key. Learns nothing.
    fn normal(&self, packet: &PacketKey) -> NormalNow;
    /// The ports that FLOOD would send to a packet from this port.
    fn flood(&self, in_port: u16) -> Vec<u16>;
}

/// What is to be traced.
pub struct Request<'a> {
    /// The bridge's name.
    pub bridge: &'a str,
    /// The packet.
    pub packet: &'a PacketKey,
    /// Where its way begins.
    pub start: Start<'a>,
    /// Who names its ports; [`NoNames`](crate::text::NoNames): nobody.
    pub ports: &'a dyn PortNames,
    /// What NORMAL and FLOOD come to.
    pub now: &'a dyn BridgeNow,
}

/// A trace.
pub struct TraceText {
    /// The text, ending in a newline.
    pub text: String,
    /// What was translated.
    pub translation: Translation,
    /// The program with NORMAL and FLOOD as they come out for this packet now.
    pub steps: Vec<DpAction>,
}

/// Sends a packet through a pipeline and tells its way.
pub fn trace(pipeline: &Pipeline, request: &Request<'_>) -> TraceText {
    let mut tree = Tree {
        request,
        entries: Vec::new(),
        normals: Vec::new(),
    };
    let mut out = Translation::default();
    translate(pipeline, request.packet, request.start, &mut out, &mut tree);

    let (packet, ports) = (request.packet, request.ports);
    let initial = packet.to_flow();
    let mut text = format!("Flow: {}\n", flow::print_flow(&initial, ports));
    let bridge = format!("bridge(\"{}\")", request.bridge);
    let _ = write!(text, "\n{bridge}\n{}\n", "-".repeat(bridge.len()));
    tree.print(&mut text);
    let last = match out.flow == initial {
        true => "unchanged".to_owned(),
        false => flow::print_flow(&out.flow, ports),
    };
    let megaflow = flow::print_megaflow(packet, &out.mask, ports);
    let _ = write!(text, "\nFinal flow: {last}\nMegaflow: {megaflow}\n");
    let steps = steps_now(&out, request, &tree.normals);
    let actions = print_steps(steps.iter().copied(), packet, ports);
    let _ = writeln!(text, "Datapath actions: {actions}");
    if let Some(why) = failure(&out) {
        let _ = writeln!(text, "Translation failed ({why}), packet is dropped.");
    }
    if steps_differ(&out, &steps) {
        let held = print_steps(out.program.steps(), packet, ports);
        let _ = writeln!(
            text,
            "Megaflow actions: {held} (normal and flood are looked up for each packet)"
        );
    }
    TraceText {
        text,
        translation: out,
        steps,
    }
}

fn steps_differ(out: &Translation, steps: &[DpAction]) -> bool {
    !out.program.steps().eq(steps.iter().copied())
}

/// Why nothing of the packet is sent, whatever its rules say.
fn failure(out: &Translation) -> Option<&'static str> {
    match out.program.steps().next()? {
        DpAction::Drop(DropCause::ResubmitLimit) => Some("Too many resubmits, or nested too deep"),
        DpAction::Drop(DropCause::TooManyActions) => Some("Too many actions"),
        DpAction::Drop(DropCause::NoMeter) => Some("No such meter"),
        _ => None,
    }
}

/// The program with NORMAL and FLOOD as they come out; `normals` is what each
/// NORMAL came to.
fn steps_now(out: &Translation, request: &Request<'_>, normals: &[NormalNow]) -> Vec<DpAction> {
    let in_port = (request.packet.0[0] >> 32) as u16;
    let mut normals = normals.iter();
    let mut steps = Vec::new();
    let mut sent = false;
    let mut restore = Vec::new();
    for step in out.program.steps() {
        steps.append(&mut restore);
        match step {
            DpAction::Normal => match normals.next() {
                Some(NormalNow::Learned(port)) => steps.push(DpAction::Output(*port)),
                Some(NormalNow::Flood(ports)) => {
                    steps.extend(ports.iter().copied().map(DpAction::Output));
                }
                Some(NormalNow::Tagged {
                    steps: more,
                    restore: back,
                    ..
                }) => {
                    steps.extend(more);
                    restore.clone_from(back);
                }
                Some(NormalNow::Drop(_)) | None => {}
            },
            DpAction::Flood => {
                let ports = request.now.flood(in_port);
                steps.extend(ports.into_iter().map(DpAction::Output));
            }
            _ => steps.push(step),
        }
        sent |= steps
            .last()
            .is_some_and(|step| matches!(step, DpAction::Output(_) | DpAction::Controller { .. }));
    }
    // What was done to the packet for a NORMAL that drops it does not count.
    if !sent {
        steps.retain(|step| matches!(step, DpAction::Drop(_)));
        if steps.is_empty() {
            steps.push(DpAction::Drop(DropCause::Rule));
        }
    }
    steps
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Table,
    Bucket,
    Action,
    Note(Note),
}

struct Entry {
    depth: usize,
    kind: Kind,
    text: String,
}

/// What the translation said, in order. An entry's list is what follows it and
/// is deeper.
struct Tree<'a> {
    request: &'a Request<'a>,
    entries: Vec<Entry>,
    normals: Vec<NormalNow>,
}

impl Tree<'_> {
    fn add(&mut self, depth: usize, kind: Kind, text: String) {
        self.entries.push(Entry { depth, kind, text });
    }

    fn detail(&mut self, depth: usize, text: String) {
        self.add(depth, Kind::Note(Note::Detail), text);
    }

    /// As Open vSwitch does: the last entry of a list, if it is a table, is
    /// not indented any further, so that long pipelines stay readable.
    fn print(&self, out: &mut String) {
        // For each depth, how far the lists above it are indented.
        let mut levels = vec![0];
        for (i, entry) in self.entries.iter().enumerate() {
            levels.truncate(entry.depth + 1);
            let level = levels.last().copied().unwrap_or(0);
            let mut behind = self.entries[i + 1..].iter();
            let next = behind.find(|other| other.depth <= entry.depth);
            let is_last = next.is_none_or(|other| other.depth < entry.depth);
            let more = usize::from(!is_last || entry.kind != Kind::Table);
            let indent = 4 * (level + more);
            let text = &entry.text;
            let _ = match entry.kind {
                Kind::Table | Kind::Bucket | Kind::Action => {
                    writeln!(out, "{:indent$}{text}", "")
                }
                Kind::Note(Note::Detail) => writeln!(out, "{:indent$} -> {text}", ""),
                Kind::Note(Note::Warning) => writeln!(out, "{:indent$} >> {text}", ""),
                Kind::Note(Note::Error) => writeln!(out, "{:indent$} >>>> {text} <<<<", ""),
            };
            levels.push(level + 2 * more);
        }
    }
}

impl Tracer for Tree<'_> {
    fn table(
        &mut self,
        depth: usize,
        table: u8,
        _: &FlowKey,
        rule: Option<&Rule>,
        added: &PacketKey,
    ) {
        let mut text = format!("{table:2}. ");
        match rule {
            None => text.push_str("No match."),
            Some(rule) => {
                let matching = print_match(&rule.matching.full(), self.request.ports);
                text.push_str(&matching);
                if !matching.is_empty() {
                    text.push_str(", ");
                }
                let _ = write!(text, "priority {}", rule.priority);
                if rule.cookie != 0 {
                    let _ = write!(text, ", cookie {:#x}", rule.cookie);
                }
            }
        }
        self.add(depth, Kind::Table, text);
        let fields = flow::print_mask(self.request.packet, added);
        if !fields.is_empty() {
            self.detail(depth + 1, format!("mask: {fields}"));
        }
    }

    fn action(&mut self, depth: usize, action: &Action) {
        let text = print_actions(std::slice::from_ref(action), self.request.ports);
        self.add(depth, Kind::Action, text);
    }

    fn nothing(&mut self, depth: usize) {
        self.add(depth, Kind::Action, "drop".to_owned());
    }

    fn bucket(&mut self, depth: usize, id: u32) {
        self.add(depth, Kind::Bucket, format!("bucket {id}"));
    }

    fn action_set(&mut self, depth: usize) {
        self.add(depth, Kind::Table, "--. Executing action set:".to_owned());
    }

    fn note(&mut self, depth: usize, kind: Note, note: std::fmt::Arguments<'_>) {
        self.add(depth, Kind::Note(kind), note.to_string());
    }

    fn action_set_now(
        &mut self,
        depth: usize,
        verb: &str,
        actions: &mut dyn Iterator<Item = &Action>,
    ) {
        let actions: Vec<_> = actions.cloned().collect();
        let text = match actions.as_slice() {
            [] => format!("action set {verb} empty"),
            actions => format!(
                "action set {verb}: {}",
                print_actions(actions, self.request.ports)
            ),
        };
        self.detail(depth, text);
    }

    fn moved(&mut self, depth: usize, to: Subfield, now: &FlowKey) {
        let text = flow::print_subfield(to, now);
        self.detail(depth, text);
    }

    fn normal(&mut self, depth: usize, now: &FlowKey) {
        let answer = self.request.now.normal(&now.packet());
        let text = match &answer {
            NormalNow::Learned(_) | NormalNow::Tagged { learned: true, .. } => {
                "forwarding to learned port".to_owned()
            }
            NormalNow::Flood(_) | NormalNow::Tagged { .. } => {
                "no learned MAC for destination, flooding".to_owned()
            }
            NormalNow::Drop(why) => format!("{why}, dropping"),
        };
        self.normals.push(answer);
        self.detail(depth, text);
    }
}
