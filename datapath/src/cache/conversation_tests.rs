//! Counts by conversation: they are true, whatever comes and goes.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::Duration;

use proptest::prelude::*;
use ringway_flow::action::Action;
use ringway_flow::rule::{Change, FlowCommand, FlowSpec};
use ringway_flow::stats::{Counts, StatsId, StatsTable};
use ringway_vhost::BURST;

use super::conversations::CONVERSATIONS;
use super::read::Conversations;
use super::table::CacheTable;
use super::{MegaflowRecord, hold, read_all};
use crate::rig::{Rig, standalone};

const LONG_SILENT: Duration = Duration::from_millis(200);
/// More than a rig's cache keeps what is idle.
const DEAD: Duration = Duration::from_secs(30);

/// A frame of `bytes` bytes between two stations.
fn frame(from: u16, to: u16, dl_type: u16, bytes: usize) -> Vec<u8> {
    let mac = |station: u16| {
        let [high, low] = station.to_be_bytes();
        [2, 0, 0, 0, high, low]
    };
    let mut frame = [mac(to), mac(from)].concat();
    frame.extend(dl_type.to_be_bytes());
    frame.resize(bytes, 0);
    frame
}

/// The only rule's cell and what living megaflows have for it.
fn of_rule(table: &CacheTable, stats: &StatsTable, rule: StatsId, now: u64) -> (Counts, Counts) {
    let mut living = Counts::default();
    let held = hold(std::iter::once(table));
    read_all(table, now, |record| {
        assert_eq!(record.counted, [rule]);
        living.packets += record.packets;
        living.bytes += record.bytes;
    });
    let cell = stats.cell(rule).map(|cell| cell.read()).unwrap_or_default();
    drop(held);
    (cell, living)
}

impl Rig {
    fn only_rule(&self) -> StatsId {
        self.tables.rules(&FlowSpec::default())[0].stats
    }

    /// Packets and bytes of the rule.
    fn rule_counts(&self) -> (u64, u64) {
        let stats = &self.bridge().stats;
        let (cell, living) = of_rule(&self.table, stats, self.only_rule(), self.now());
        (cell.packets + living.packets, cell.bytes + living.bytes)
    }

    fn megaflows(&self) -> Vec<MegaflowRecord> {
        let mut all = Vec::new();
        read_all(&self.table, self.now(), |record| all.push(record));
        all
    }

    /// Of the only megaflow.
    fn conversations(&self) -> Conversations {
        let mut all = self.megaflows();
        assert_eq!(all.len(), 1, "{all:#?}");
        all.remove(0).conversations.expect("conversations")
    }

    /// One packet each of so many made-up sources, from port 2.
    fn make_up(&mut self, sources: std::ops::Range<u16>) {
        let sources: Vec<u16> = sources.collect();
        for sources in sources.chunks(BURST) {
            let frames: Vec<_> = (sources.iter())
                .map(|source| frame(0x1000 + source, 1, 0x1234, 60))
                .collect();
            let outcome = self.burst(2, &frames);
            assert_eq!(outcome.sent[&1].len(), frames.len());
        }
    }
}

fn packets_of(conversations: &Conversations, source: u16) -> u64 {
    let [high, low] = source.to_be_bytes();
    let all = conversations.all.iter();
    let mut found = all.filter(|one| one.conversation.source.mac() == [2, 0, 0, 0, high, low]);
    found.next().map_or(0, |one| one.packets)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]
    /// Every conversation has its own packets and bytes, whether its burst was
    /// the first or not, alone or not.
    #[test]
    fn each_conversation_counts_its_own(
        bursts in proptest::collection::vec(
            (1u32..4, proptest::collection::vec((1u16..4, 1u16..4, 0usize..3, 60usize..1500), 1..BURST)),
            1..12,
        ),
    ) {
        const TYPES: [u16; 3] = [0x0806, 0x88b5, 0x1234];
        let mut rig = Rig::new(standalone(), &[1, 2, 3]);
        let mut expected: HashMap<(u16, u16, u16, u16), (u64, u64)> = HashMap::new();
        for (port, frames) in &bursts {
            let mut bytes = Vec::new();
            for (from, to, kind, len) in frames {
                let count = expected.entry((*port as u16, *from, *to, TYPES[*kind])).or_default();
                *count = (count.0 + 1, count.1 + *len as u64);
                bytes.push(frame(*from, *to, TYPES[*kind], *len));
            }
            rig.burst(*port, &bytes);
        }
        let conversations = rig.conversations();
        prop_assert_eq!((conversations.rest_packets, conversations.rest_bytes), (0, 0));
        let last = |mac: [u8; 6]| u16::from_be_bytes([mac[4], mac[5]]);
        let counted: HashMap<_, _> = (conversations.all.iter())
            .map(|record| {
                let who = record.conversation;
                let (from, to) = (last(who.source.mac()), last(who.destination.mac()));
                ((record.port, from, to, who.kind.dl_type()), (record.packets, record.bytes))
            })
            .collect();
        prop_assert_eq!(counted.len(), conversations.all.len());
        prop_assert_eq!(&counted, &expected);
        let sum = expected.values().fold((0, 0), |sum, one| (sum.0 + one.0, sum.1 + one.1));
        prop_assert_eq!(rig.rule_counts(), sum);
    }
}

/// What does not find a line counts in the rest; one that talks keeps its own.
#[test]
fn made_up_addresses_displace_only_the_silent() {
    const MADE_UP: u16 = 3 * CONVERSATIONS as u16;
    let mut rig = Rig::new(standalone(), &[1, 2]);
    rig.burst(1, &[frame(1, 7, 0x1234, 60), frame(2, 7, 0x1234, 60)]);
    rig.make_up(0..MADE_UP);
    let before = rig.conversations();
    assert_eq!((packets_of(&before, 1), packets_of(&before, 2)), (1, 1));
    assert!(
        before.all.len() > CONVERSATIONS * 3 / 4,
        "{}",
        before.all.len()
    );
    assert!(before.rest_packets > u64::from(MADE_UP) / 2);

    // All fall silent but one of the two; then others come.
    rig.ahead += LONG_SILENT.as_nanos() as u64;
    rig.burst(1, &[frame(1, 7, 0x1234, 60)]);
    rig.make_up(MADE_UP..2 * MADE_UP);
    let after = rig.conversations();
    assert_eq!(packets_of(&after, 1), 2);
    let newer = (MADE_UP..2 * MADE_UP).filter(|source| packets_of(&after, 0x1000 + source) > 0);
    assert!(newer.count() > CONVERSATIONS / 2);
    assert!(after.rest_packets > before.rest_packets + u64::from(MADE_UP) / 2);
    let packets = 2 * u64::from(MADE_UP) + 3;
    assert_eq!(rig.rule_counts(), (packets, 60 * packets));
}

/// The dead are not shown; what they counted stays with the rule.
#[test]
fn idle_conversations_go_and_their_counts_stay() {
    let mut rig = Rig::new(standalone(), &[1, 2]);
    let talks = [frame(1, 7, 0x1234, 60)];
    rig.burst(1, &talks);
    rig.make_up(0..2 * CONVERSATIONS as u16);
    let sent = 2 * CONVERSATIONS as u64 + 1;
    assert!(rig.conversations().rest_packets > 0);
    for step in 1..=12 {
        rig.pass(DEAD / 12);
        rig.burst(1, &talks);
        assert_eq!(rig.rule_counts().0, sent + step);
    }
    let conversations = rig.conversations();
    assert_eq!(conversations.all.len(), 1, "{conversations:#?}");
    assert_eq!(
        (packets_of(&conversations, 1), conversations.rest_packets),
        (13, 0)
    );
    rig.pass(DEAD);
    assert!(rig.megaflows().is_empty());
    assert_eq!(rig.rule_counts().0, sent + 12);
    assert!(rig.cache_is_empty());
    // Its lines are free for others.
    rig.make_up(0..100);
    assert_eq!(rig.conversations().all.len(), 100);
}

/// A megaflow that ends takes its conversations with it.
#[test]
fn counts_stay_when_rules_change() {
    let mut rig = Rig::new(standalone(), &[1, 2]);
    rig.burst(1, &[frame(1, 7, 0x1234, 60)]);
    rig.make_up(0..1000);
    let rule = FlowSpec {
        priority: 0,
        actions: vec![Action::Note(vec![1]), Action::Normal],
        ..FlowSpec::default()
    };
    rig.change(&[Change::Flow(FlowCommand::ModifyStrict, Box::new(rule))]);
    rig.burst(1, &[frame(3, 7, 0x1234, 60)]);
    let conversations = rig.conversations();
    assert_eq!(conversations.all.len(), 1, "{conversations:#?}");
    assert_eq!(rig.rule_counts(), (1002, 60 * 1002));
}

/// A rule that looks at port, destination and VLAN says where packets go; one
/// that looks at less has conversations beside those of other megaflows.
#[test]
fn megaflows_that_name_their_way_have_no_conversations() {
    use ringway_flow::field::Field;
    let add = |priority, fields: &[(Field, u128)]| {
        let mut rule = FlowSpec {
            priority,
            actions: vec![Action::Normal],
            ..FlowSpec::default()
        };
        for (field, value) in fields {
            rule.matching.exact(*field, *value);
        }
        Change::Flow(FlowCommand::Add, Box::new(rule))
    };
    let named = [
        (Field::InPort, 1),
        (Field::EthDst, 0x0200_0000_0007),
        (Field::VlanTci, 0),
    ];
    let mut rig = Rig::new(
        vec![add(2, &named), add(1, &named[..1]), add(0, &[])],
        &[1, 2],
    );
    for _ in 0..3 {
        rig.burst(1, &[frame(1, 7, 0x1234, 60), frame(2, 7, 0x1234, 60)]);
        rig.burst(2, &[frame(1, 8, 0x1234, 60), frame(2, 8, 0x1234, 60)]);
    }
    let all = rig.megaflows();
    let shown = |record: &MegaflowRecord| {
        let conversations = record.conversations.as_ref();
        (
            record.packets,
            conversations.map(|conversations| conversations.all.len()),
        )
    };
    let mut shown: Vec<_> = all.iter().map(shown).collect();
    shown.sort();
    assert_eq!(shown, [(6, None), (6, Some(2))], "{all:#?}");
}

/// Whoever reads meanwhile sees each packet once.
#[test]
fn sums_neither_miss_nor_double_a_packet_for_a_reader() {
    let mut rig = Rig::new(standalone(), &[1, 2]);
    let (begun, done) = (AtomicU64::new(0), AtomicU64::new(0));
    let stop = AtomicBool::new(false);
    let (table, stats) = (Arc::clone(&rig.table), Arc::clone(&rig.bridge().stats));
    let rule = rig.only_rule();
    thread::scope(|scope| {
        let reader = scope.spawn(|| {
            let (mut reads, mut last_cell) = (0, 0);
            while !stop.load(Ordering::Relaxed) {
                let least = done.load(Ordering::SeqCst);
                let (cell, living) = of_rule(&table, &stats, rule, 0);
                let most = begun.load(Ordering::SeqCst);
                let sum = cell.packets + living.packets;
                assert!(least <= sum && sum <= most, "{least} {sum} {most}");
                assert!(last_cell <= cell.packets);
                last_cell = cell.packets;
                reads += 1;
                thread::yield_now();
            }
            (reads, last_cell)
        });
        let mut source = 0u16;
        for round in 0..3_000 {
            begun.fetch_add(BURST as u64, Ordering::SeqCst);
            let frames: Vec<_> = (0..BURST as u16)
                .map(|i| frame(source.wrapping_add(i) % 20_000, 1, 0x1234, 60))
                .collect();
            rig.burst(2, &frames);
            done.fetch_add(BURST as u64, Ordering::SeqCst);
            source = source.wrapping_add(BURST as u16);
            match round % 16 {
                0 => rig.pass(DEAD / 40),
                _ => rig.ahead += LONG_SILENT.as_nanos() as u64 / 8,
            }
        }
        stop.store(true, Ordering::Relaxed);
        let (reads, ended) = reader.join().expect("the reader");
        assert!(
            reads > 10 && ended > 0,
            "{reads} reads, {ended} of the ended"
        );
    });
    assert_eq!(rig.rule_counts().0, done.load(Ordering::SeqCst));
}
