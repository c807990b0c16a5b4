//! The whole: rules as text, frames, and what becomes of them, against the
//! naive model of a bridge; and the laws of megaflows.

use std::sync::Arc;

use arbitrary::{Result, Unstructured};
use ringway_flow::action::{Controller, GroupType};
use ringway_flow::compose::compose;
use ringway_flow::extract::extract_slice;
use ringway_flow::key::PacketKey;
use ringway_flow::pipeline::{FlowTables, Pipeline};
use ringway_flow::program::{DpAction, DropCause, Program};
use ringway_flow::reference::{Bridge, Outcome, Sent, To};
use ringway_flow::rewrite::Head;
use ringway_flow::rule::{Change, FlowSpec, Rule};
use ringway_flow::stats::StatsTable;
use ringway_flow::text::{NoNames, parse_bundle_file, parse_meter};
use ringway_flow::trace::{BridgeNow, NormalNow, Request, trace};
use ringway_flow::translate::{Start, Translation, Untraced, translate};

use super::{input, rewrite};

/// Most lines of text that are read.
const LINES: usize = 48;
/// Most frames.
const FRAMES: usize = 6;
/// Where frames come from.
const PORTS: [u16; 5] = [1, 2, 3, 0x100, 0xfffe];

/// Lines as of a bundle's file, or `meter=…`; behind a line `then` they are
/// changes that come later; behind a byte 0 there are frames. Lines that are
/// refused do not count.
pub fn law(data: &[u8]) {
    let end = data.iter().position(|byte| *byte == 0);
    let (text, frames) = data.split_at(end.unwrap_or(data.len()));
    let Ok(text) = std::str::from_utf8(text) else {
        return;
    };
    let frames = Frame::read(frames.get(1..).unwrap_or_default());
    let (first, later) = text.split_once("\nthen\n").unwrap_or((text, ""));
    let (first, later) = (changes(first), changes(later));
    let select = |change: &Change| match change {
        Change::AddGroup(group) | Change::ModifyGroup(group, _) => {
            group.kind == GroupType::Select && group.buckets.len() > 1
        }
        _ => false,
    };
    if first.iter().chain(&later).any(select) {
        let _ = megaflows(&first, &later, &frames);
    }
    let (first, later) = (with_one_choice(first), with_one_choice(later));
    let tables = megaflows(&first, &later, &frames);
    against_model(&tables, &frames);
}

/// A frame that comes in.
struct Frame {
    bytes: Vec<u8>,
    in_port: u16,
    well_formed: bool,
    key: PacketKey,
}

impl Frame {
    fn read(data: &[u8]) -> Vec<Self> {
        let mut input = Unstructured::new(data);
        let mut frames = Vec::new();
        while frames.len() < FRAMES
            && !input.is_empty()
            && let Ok(frame) = Self::one(&mut input)
        {
            frames.push(frame);
        }
        frames
    }

    fn one(input: &mut Unstructured<'_>) -> Result<Self> {
        let in_port = *input.choose(&PORTS)?;
        let well_formed = input.ratio(3, 4)?;
        let bytes = match well_formed {
            true => input::frame(input)?.1,
            false => input::bytes(input, 200)?.to_vec(),
        };
        let key = extract_slice(&bytes, 0, in_port);
        Ok(Self {
            bytes,
            in_port,
            well_formed,
            key,
        })
    }
}

/// The changes that the lines ask for.
fn changes(text: &str) -> Vec<Change> {
    let mut changes = Vec::new();
    for line in text.lines().take(LINES) {
        if line.starts_with("meter") {
            changes.extend(parse_meter(line).ok().map(Change::AddMeter));
        } else if let Ok(parsed) = parse_bundle_file(line, &NoNames) {
            changes.extend(parsed.into_iter().map(|parsed| parsed.value));
        }
    }
    for change in &mut changes {
        if let Change::Flow(_, flow) = change {
            // Which of two equals is met is nobody's business.
            flow.flags.check_overlap = true;
        }
    }
    changes
}

/// How a bucket is chosen among several is no concern of the model's.
fn with_one_choice(mut changes: Vec<Change>) -> Vec<Change> {
    for change in &mut changes {
        if let Change::AddGroup(group) | Change::ModifyGroup(group, _) = change
            && group.kind == GroupType::Select
        {
            for bucket in group.buckets.iter_mut().skip(1) {
                bucket.weight = 0;
            }
        }
    }
    changes
}

/// Makes the changes that are possible; a refused one changes nothing.
fn apply(tables: &mut FlowTables, changes: &[Change]) {
    for change in changes {
        let before = (tables.pipeline().version(), tables.len());
        if tables.apply(std::slice::from_ref(change), 0).is_err() {
            assert_eq!(before, (tables.pipeline().version(), tables.len()));
        }
    }
}

fn run(pipeline: &Pipeline, key: &PacketKey) -> Translation {
    let mut out = Translation::default();
    translate(pipeline, key, Start::Tables, &mut out, &mut Untraced);
    out
}

/// Makes tables, and checks that packets which agree on a megaflow's mask have
/// its program, also after changes that say they leave it valid.
fn megaflows(first: &[Change], later: &[Change], frames: &[Frame]) -> FlowTables {
    let mut tables = FlowTables::new(Arc::new(StatsTable::default()));
    apply(&mut tables, first);
    let old: Vec<_> = (frames.iter())
        .map(|frame| (frame, run(&tables.pipeline(), &frame.key)))
        .collect();
    agree(&tables.pipeline(), &old);
    if later.is_empty() {
        return tables;
    }
    apply(&mut tables, later);
    let pipeline = tables.pipeline();
    for (frame, old) in &old {
        let key = frame.key.masked(&old.mask);
        if !pipeline.is_stale(old.version, &old.dependencies, &key.0, &old.mask.0) {
            let new = run(&pipeline, &frame.key);
            assert_eq!(new.program, old.program, "a megaflow should be stale");
            assert_eq!(new.counted, old.counted, "a megaflow should be stale");
        }
    }
    let new: Vec<_> = (frames.iter())
        .map(|frame| (frame, run(&pipeline, &frame.key)))
        .collect();
    agree(&pipeline, &new);
    tables
}

fn agree(pipeline: &Pipeline, translations: &[(&Frame, Translation)]) {
    for (first, out) in translations {
        execute(&out.program, &first.bytes);
        for (other, expected) in translations {
            if other.key.matches(&first.key, &out.mask) {
                assert_eq!(expected.program, out.program, "{:x?}", out.mask);
                assert_eq!(expected.counted, out.counted, "{:x?}", out.mask);
            }
            if let Some(mixed) = mixed(first, other, &out.mask) {
                let mixed = run(pipeline, &mixed);
                assert_eq!(mixed.program, out.program, "{:x?}", out.mask);
                assert_eq!(mixed.counted, out.counted, "{:x?}", out.mask);
            }
        }
    }
}

/// `other` with the bits of `first` where the mask has them, if a frame can
/// have such a key.
fn mixed(first: &Frame, other: &Frame, mask: &PacketKey) -> Option<PacketKey> {
    let mut mixed = PacketKey::default();
    for (i, word) in mixed.0.iter_mut().enumerate() {
        *word = other.key.0[i] & !mask.0[i] | first.key.0[i] & mask.0[i];
    }
    let in_port = (mixed.0[0] >> 32) as u16;
    (extract_slice(&compose(&mixed), 0, in_port) == mixed).then_some(mixed)
}

/// What a program does with a frame.
fn execute(program: &Program, frame: &[u8]) -> Vec<Sent> {
    let mut bytes = frame.to_vec();
    let (mut len, mut frame_len) = (bytes.len(), bytes.len());
    // A program cannot push more tags than this.
    bytes.resize(len + 4 * ringway_flow::program::PROGRAM_WORDS, 0);
    let mut sent = Vec::new();
    let mut meters_only = true;
    for step in program.steps() {
        let to = match step {
            DpAction::Output(port) => To::Port(port),
            DpAction::Normal => To::Normal,
            DpAction::Flood => To::Flood,
            DpAction::Controller {
                reason,
                max_len,
                id,
                table,
            } => To::Controller(
                Controller {
                    reason,
                    max_len,
                    id,
                },
                table,
            ),
            DpAction::Meter(id) => {
                let frame = Vec::new();
                sent.push(Sent {
                    to: To::Meter(id),
                    frame,
                });
                continue;
            }
            DpAction::Drop(_) => {
                assert!(meters_only, "a drop behind an output");
                continue;
            }
            _ => {
                let mut head = Head {
                    bytes: &mut bytes,
                    len: &mut len,
                    frame_len: &mut frame_len,
                    partial: None,
                };
                let done = rewrite::act(&mut head, step);
                assert!(done || frame.len() < 14);
                continue;
            }
        };
        meters_only = false;
        let frame = bytes[..len].to_vec();
        sent.push(Sent { to, frame });
    }
    sent
}

/// A rule as it was asked for.
fn spec(rule: &Rule) -> FlowSpec {
    FlowSpec {
        table: Some(rule.table),
        priority: rule.priority,
        matching: rule.matching.full(),
        actions: rule.actions.to_vec(),
        ..FlowSpec::default()
    }
}

/// Whether some packet may meet one of two rules as well as the other (`mod-flows`
/// adds rules without looking for that).
fn ambiguous(rules: &[FlowSpec]) -> bool {
    rules.iter().enumerate().any(|(i, rule)| {
        let mut others = rules[i + 1..].iter();
        others.any(|other| {
            (rule.table, rule.priority) == (other.table, other.priority)
                && rule.matching.overlaps(&other.matching)
        })
    })
}

/// The same bytes on the same ports.
fn against_model(tables: &FlowTables, frames: &[Frame]) {
    let pipeline = tables.pipeline();
    let rules = tables.rules(&FlowSpec::default());
    let rules: Vec<_> = rules.iter().map(|rule| spec(rule)).collect();
    if ambiguous(&rules) {
        return;
    }
    let groups = tables.groups();
    let groups: Vec<_> = groups.iter().map(|group| group.spec.clone()).collect();
    let meters: Vec<_> = tables.meters().iter().map(|meter| meter.id).collect();
    let bridge = Bridge {
        rules: &rules,
        groups: &groups,
        meters: &meters,
        is_live: &|bucket| pipeline.is_live(bucket),
        choose: &|group, _| {
            let mut buckets = group.buckets.iter();
            buckets.position(|bucket| bucket.weight > 0 && pipeline.is_live(bucket))
        },
    };
    for frame in frames {
        let out = run(&pipeline, &frame.key);
        traced(&pipeline, frame, &out);
        if !frame.well_formed {
            continue;
        }
        let dropped = match out.program.steps().last() {
            Some(DpAction::Drop(cause)) => Some(cause),
            _ => None,
        };
        // Longer than a program may be; the model knows no such limit.
        if dropped == Some(DropCause::TooManyActions) {
            continue;
        }
        match bridge.receive(&frame.bytes, frame.in_port) {
            Outcome::ResubmitLimit => assert_eq!(dropped, Some(DropCause::ResubmitLimit)),
            Outcome::NoMeter => assert_eq!(dropped, Some(DropCause::NoMeter)),
            Outcome::Sent(sent) => {
                let steps: Vec<_> = out.program.steps().collect();
                assert_eq!(execute(&out.program, &frame.bytes), sent, "{steps:x?}");
                let goes_on = |sent: &Sent| !matches!(sent.to, To::Meter(_));
                assert_eq!(dropped.is_none(), sent.iter().any(goes_on), "{steps:x?}");
            }
        }
    }
}

/// Whoever looks changes nothing.
fn traced(pipeline: &Pipeline, frame: &Frame, out: &Translation) {
    let request = Request {
        bridge: "br0",
        packet: &frame.key,
        start: Start::Tables,
        ports: &NoNames,
        now: &Quiet,
    };
    let text = trace(pipeline, &request);
    assert_eq!(text.translation.program, out.program);
    assert_eq!(text.translation.mask, out.mask);
    assert!(text.text.contains("Datapath actions: "));
}

/// A bridge with two other ports that has learned nothing.
struct Quiet;

impl BridgeNow for Quiet {
    fn normal(&self, _: &PacketKey) -> NormalNow {
        NormalNow::Flood(vec![1, 2])
    }

    fn flood(&self, _: u16) -> Vec<u16> {
        vec![1, 2]
    }
}
