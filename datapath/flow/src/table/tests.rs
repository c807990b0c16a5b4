use proptest::prelude::*;

use super::*;
use crate::field::Field;
use crate::rule::FlowFlags;

/// A rule that does nothing, known by its statistics cell.
fn rule(id: u32, priority: u16, matching: &Match) -> Arc<Rule> {
    Arc::new(Rule {
        stats: id,
        table: 0,
        priority,
        cookie: 0,
        matching: MiniMatch::new(matching),
        actions: Box::default(),
        idle_timeout: 0,
        hard_timeout: 0,
        importance: 0,
        flags: FlowFlags::default(),
        created_ms: 0,
        modified_ms: 0,
    })
}

fn table_of(rules: &[(u16, Match)]) -> Table {
    let mut table = Table::default();
    for (id, (priority, matching)) in rules.iter().enumerate() {
        table.insert(rule(id as u32, *priority, matching));
    }
    table
}

/// Fields of every stage with values of which few are in use, so that rules and
/// packets meet.
const FEW: &[(Field, &[u128], &[u128])] = &[
    (Field::InPort, &[1, 2, 3], &[0xffff]),
    (Field::Reg0, &[0, 1, 0x8000_0000], &[u128::MAX, 1]),
    (
        Field::EthDst,
        &[0x0200_0000_0001, 0x0200_0000_0002, 0xffff_ffff_ffff],
        &[u128::MAX, 1 << 40],
    ),
    (Field::EthType, &[0x800, 0x86dd, 0x806], &[0xffff]),
    (Field::VlanTci, &[0, 0x1005, 0x1006], &[0xffff, 0x1000]),
    (
        Field::IpSrc,
        &[0x0a00_0001, 0x0a00_0002, 0x0a01_0000, 0xc0a8_0101],
        &[0xffff_ffff, 0xffff_ff00, 0xff00_0000, 0x0000_00ff],
    ),
    (
        Field::IpDst,
        &[0x0a00_0001, 0x0a00_0003, 0x0a80_0000, 0xc0a8_0101],
        &[0xffff_ffff, 0xffff_8000, 0xff00_0000, 0x8000_0000],
    ),
    (Field::IpProto, &[6, 17], &[0xff]),
    (Field::IpTos, &[0, 0xb8], &[0xfc]),
    (Field::TcpSrc, &[80, 443, 0x8000], &[0xffff, 0xff00, 0x00ff]),
    (Field::TcpDst, &[80, 443, 0x8001], &[0xffff, 0xfff0]),
    (Field::TcpFlags, &[0, 2, 0x12], &[0x3f, 2]),
    (
        Field::Ipv6Src,
        &[1 << 125, (1 << 125) + 1, 1 << 125 | 1 << 60],
        &[u128::MAX, u128::MAX << 64, u128::MAX << 58],
    ),
    (Field::ArpSha, &[1, 2], &[u128::MAX]),
];

/// A match on a few fields: those of `shape`, which pairs a field and a mask.
fn a_match() -> impl Strategy<Value = Match> {
    let one = (0..FEW.len(), any::<[u8; 2]>());
    prop::collection::vec(one, 0..4).prop_map(|fields| {
        let mut matching = Match::default();
        for (field, [value, mask]) in fields {
            let (field, values, masks) = FEW[field];
            let mask = masks[usize::from(mask) % masks.len()] & field.ones();
            matching.masked(field, values[usize::from(value) % values.len()], mask);
        }
        matching
    })
}

/// A packet with values that rules have, mostly.
fn a_flow() -> impl Strategy<Value = FlowKey> {
    (
        any::<[u8; 14]>(),
        prop::option::of((0..FLOW_WORDS, any::<u64>())),
    )
        .prop_map(|(picks, noise)| {
            let mut flow = FlowKey::default();
            for ((field, values, _), pick) in FEW.iter().zip(picks) {
                field.set(&mut flow, values[usize::from(pick) % values.len()]);
            }
            if let Some((word, bits)) = noise {
                flow.0[word] ^= bits;
            }
            flow
        })
}

fn bits(mask: &FlowKey) -> u32 {
    mask.0.iter().map(|word| word.count_ones()).sum()
}

/// The best rules, by looking at each: of several that match with one priority,
/// those whose masks have the fewest bits.
fn naive<'r>(rules: &'r [Arc<Rule>], flow: &FlowKey) -> Vec<&'r Arc<Rule>> {
    let order = |rule: &Arc<Rule>| (Reverse(rule.priority), bits(&rule.matching.full().mask));
    let matching = |rule: &&Arc<Rule>| rule.matching.full().matches(flow);
    let best = rules.iter().filter(matching).map(order).min();
    let matching = rules.iter().filter(matching);
    matching.filter(|rule| Some(order(rule)) == best).collect()
}

fn check(
    table: &Table,
    rules: &[Arc<Rule>],
    flow: &FlowKey,
    other: &FlowKey,
) -> Result<(), TestCaseError> {
    let mut looked_at = FlowKey::default();
    let found = table.lookup(flow, &mut looked_at);
    let best = naive(rules, flow);
    prop_assert_eq!(found.is_some(), !best.is_empty());
    if let Some(found) = found {
        prop_assert!(best.iter().any(|rule| Arc::ptr_eq(rule, found)));
    }
    // Whatever agrees on what was looked at gets the same answer.
    let alike = FlowKey(std::array::from_fn(|i| {
        flow.0[i] & looked_at.0[i] | other.0[i] & !looked_at.0[i]
    }));
    let again = table.lookup(&alike, &mut FlowKey::default());
    prop_assert_eq!(again.map(|rule| rule.stats), found.map(|rule| rule.stats));
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    /// Rules come and go; after each step every answer is that of a search
    /// through all rules, also in a copy made before.
    #[test]
    fn the_answers_are_those_of_a_linear_search(
        steps in prop::collection::vec((0..5u8, 0..4u16, a_match(), any::<prop::sample::Index>()), 1..60),
        flows in prop::collection::vec((a_flow(), a_flow()), 12),
    ) {
        let mut table = Table::default();
        let mut rules: Vec<Arc<Rule>> = Vec::new();
        let mut snapshot = None;
        let half = steps.len() / 2;
        for (id, (kind, priority, matching, index)) in steps.into_iter().enumerate() {
            if kind == 0 && !rules.is_empty() {
                let gone = rules.swap_remove(index.index(rules.len()));
                let removed = table.remove(&gone.matching, gone.priority);
                prop_assert!(removed.is_some_and(|removed| Arc::ptr_eq(&removed, &gone)));
                prop_assert!(table.remove(&gone.matching, gone.priority).is_none());
            } else {
                let new = rule(id as u32, priority, &matching);
                let same = |other: &Arc<Rule>| other.priority == priority && other.matching == new.matching;
                let old = rules.iter().position(same).map(|at| rules.swap_remove(at));
                prop_assert_eq!(table.get(&new.matching, priority).map(|rule| rule.stats), old.as_ref().map(|rule| rule.stats));
                let replaced = table.insert(new.clone());
                prop_assert_eq!(replaced.map(|rule| rule.stats), old.map(|rule| rule.stats));
                rules.push(new);
            }
            prop_assert_eq!(table.len(), rules.len());
            if id == half {
                snapshot = Some((table.clone(), rules.clone()));
            }
        }
        prop_assert_eq!(table.iter().count(), rules.len());
        let (old_table, old_rules) = snapshot.unwrap();
        for (flow, other) in &flows {
            check(&table, &rules, flow, other)?;
            check(&old_table, &old_rules, flow, other)?;
        }
        // What was emptied takes no more room.
        for rule in rules {
            table.remove(&rule.matching, rule.priority).unwrap();
        }
        prop_assert_eq!((table.len(), table.masks(), table.bytes), (0, 0, 0));
    }

    #[test]
    fn finds_what_overlaps_and_what_lies_within(
        rules in prop::collection::vec((0..3u16, a_match()), 1..40),
        other in a_match(),
    ) {
        let table = table_of(&rules);
        for priority in 0..3 {
            let expected = rules.iter().any(|(other_priority, matching)| {
                *other_priority == priority && matching.overlaps(&other)
            });
            let found = table.overlapping(&other, priority);
            prop_assert_eq!(found.is_some(), expected);
            prop_assert!(found.is_none_or(|rule| rule.priority == priority && rule.matching.full().overlaps(&other)));
        }
        let mut found = Vec::new();
        table.within(&other, |rule| found.push((rule.priority, rule.matching.full())));
        let mut expected: Vec<_> = rules.into_iter().filter(|(_, matching)| matching.is_within(&other)).collect();
        let order = |(priority, matching): &(u16, Match)| (*priority, matching.key.0, matching.mask.0);
        found.sort_by_key(order);
        expected.sort_by_key(order);
        expected.dedup();
        prop_assert_eq!(found, expected);
    }
}

fn ip() -> Match {
    *Match::default().exact(Field::EthType, 0x800)
}

fn prefix(field: Field, value: u128, bits: u32) -> Match {
    let mask = (0xffff_ffff_u128 << (32 - bits)) & 0xffff_ffff;
    *ip().masked(field, value, mask)
}

fn looked_at(table: &Table, flow: &Match) -> (Option<u32>, FlowKey) {
    let mut looked_at = FlowKey::default();
    let found = table.lookup(&flow.key, &mut looked_at);
    (found.map(|rule| rule.stats), looked_at)
}

#[test]
fn a_packet_elsewhere_is_told_by_leading_bits() {
    let rules: Vec<_> = (8..=32)
        .map(|bits| (bits as u16, prefix(Field::IpDst, 0x0a01_0203, bits)))
        .collect();
    let table = table_of(&rules);
    assert_eq!(table.masks(), 25);

    // 192.168.1.1: the first bit is another.
    let (found, mask) = looked_at(
        &table,
        prefix(Field::IpDst, 0xc0a8_0101, 32).exact(Field::TcpDst, 80),
    );
    assert_eq!(found, None);
    assert_eq!(mask, prefix(Field::IpDst, 0, 1).mask);

    // 10.1.128.0: the rules up to /16 match, the first bit after it is another.
    let (found, mask) = looked_at(&table, &prefix(Field::IpDst, 0x0a01_8000, 32));
    assert_eq!(found, Some(8));
    assert_eq!(mask, prefix(Field::IpDst, 0, 17).mask);

    // 11.0.0.0: 10 and 11 part at their eighth bit.
    let (found, mask) = looked_at(&table, &prefix(Field::IpDst, 0x0b00_0000, 32));
    assert_eq!(found, None);
    assert_eq!(mask, prefix(Field::IpDst, 0, 8).mask);
}

#[test]
fn a_packet_that_fails_early_is_not_looked_at_later() {
    let mut l2 = ip();
    l2.exact(Field::InPort, 1)
        .exact(Field::EthDst, 0x0200_0000_0001);
    let mut rules = Vec::new();
    for host in 0..200 {
        let mut matching = l2;
        matching
            .exact(Field::IpSrc, 0x0a00_0000 + host)
            .exact(Field::IpProto, 6)
            .exact(Field::TcpDst, host);
        rules.push((1, matching));
    }
    let table = table_of(&rules);

    let flow = *rules[7].1.clone().exact(Field::InPort, 2);
    let (found, mask) = looked_at(&table, &flow);
    assert_eq!(
        (found, mask),
        (None, Match::default().exact(Field::InPort, 0).mask)
    );

    let flow = *rules[7].1.clone().exact(Field::EthDst, 0x0200_0000_0002);
    let (found, mask) = looked_at(&table, &flow);
    assert_eq!((found, mask), (None, l2.mask));

    // Other addresses and ports would tell with fewer bits, but later.
    let mut flow = *rules[7].1.clone().exact(Field::EthDst, 0x0200_0000_0002);
    flow.exact(Field::IpSrc, 0xc0a8_0101)
        .exact(Field::TcpDst, 443);
    let (found, mask) = looked_at(&table, &flow);
    assert_eq!((found, mask), (None, l2.mask));

    let (found, mask) = looked_at(&table, &rules[7].1);
    assert_eq!((found, mask), (Some(7), rules[7].1.mask));
}

/// Each field alone tells what it can: many sources and one destination.
#[test]
fn the_field_that_needs_fewest_bits_tells() {
    let mut rules = Vec::new();
    for host in 0..1000u32 {
        let mut matching = prefix(Field::IpSrc, 0x0a00_0000 + u128::from(host) * 7919, 32);
        matching.exact(Field::IpDst, 0xc0a8_0001);
        rules.push((1, matching));
    }
    let table = table_of(&rules);
    let flow = *rules[0].1.clone().exact(Field::IpDst, 0x0808_0808);
    let (found, mask) = looked_at(&table, &flow);
    assert_eq!((found, mask), (None, prefix(Field::IpDst, 0, 1).mask));
}

#[test]
fn ports_are_told_with_their_protocol() {
    let tcp = |src: u128, dst: u128| {
        let mut matching = ip();
        *matching
            .exact(Field::IpProto, 6)
            .exact(Field::TcpSrc, src)
            .exact(Field::TcpDst, dst)
    };
    let rules: Vec<_> = (0..1000).map(|src| (1, tcp(0x8000 + src, 80))).collect();
    let table = table_of(&rules);
    // The sources' first bit is 1.
    let (found, mask) = looked_at(&table, &tcp(0x1000, 80));
    let expected = *ip()
        .exact(Field::IpProto, 0)
        .masked(Field::TcpSrc, 0, 0x8000);
    assert_eq!((found, mask), (None, expected.mask));
    // One of the sources, but 443 is not 80, from the eighth bit on.
    let (found, mask) = looked_at(&table, &tcp(0x8001, 443));
    let expected = *ip()
        .exact(Field::IpProto, 0)
        .masked(Field::TcpDst, 0, 0xff00);
    assert_eq!((found, mask), (None, expected.mask));
}

#[test]
fn subtables_that_cannot_win_are_left_alone() {
    let mut table = table_of(&[
        (10, *Match::default().exact(Field::InPort, 1)),
        (5, prefix(Field::IpSrc, 1, 32)),
    ]);
    let flow = *Match::default().exact(Field::InPort, 1);
    let (found, mask) = looked_at(&table, &flow);
    assert_eq!((found, mask), (Some(0), flow.mask));
    // With a rule of higher priority the other subtable comes first.
    let high = prefix(Field::IpSrc, 2, 32);
    table.insert(rule(7, 20, &high));
    let (_, mask) = looked_at(&table, &flow);
    assert_ne!(mask, flow.mask);
    table.remove(&MiniMatch::new(&high), 20);
    assert_eq!(looked_at(&table, &flow).1, flow.mask);
}

/// The verdict between rules of one priority does not hang on other rules.
#[test]
fn ties_are_settled_by_the_masks() {
    let mut wide = *Match::default().exact(Field::InPort, 1);
    let narrow = prefix(Field::IpSrc, 1, 32);
    let mut flow = narrow;
    flow.exact(Field::InPort, 1);
    let mut table = table_of(&[(5, narrow), (5, wide)]);
    assert_eq!(looked_at(&table, &flow).0, Some(1));
    table.insert(rule(2, 9, &prefix(Field::IpSrc, 2, 32)));
    assert_eq!(looked_at(&table, &flow).0, Some(1));
    wide.exact(Field::InPort, 2);
    table.insert(rule(3, 9, &wide));
    assert_eq!(looked_at(&table, &flow).0, Some(1));
}
