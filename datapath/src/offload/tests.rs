//! Oversized frames from ring to ring, in every combination of what the two
//! ends take.

use std::sync::Arc;

use proptest::collection::vec;
use proptest::prelude::*;
use ringway_flow::rule::FlowCommand;
use ringway_flow::text::{self, NoNames};
use ringway_vhost::gso::naive::Flow;
use ringway_vhost::gso::{GSO_UFO, GSO_USO};
use ringway_vhost::{Burst, Dequeued, GsoKinds, MAX_FRAME_BYTES, RingFeatures, VnetHeader};

use super::*;
use crate::rig::Rig;
use crate::ring_end::{Got, RingEnd};

const SENDER: RingFeatures = RingFeatures {
    packed: false,
    indirect: false,
    event_idx: false,
    mergeable: true,
    long_header: true,
    csum: true,
    guest_csum: false,
    host_gso: GsoKinds::ALL,
    guest_gso: GsoKinds::NONE,
};

fn flow() -> impl Strategy<Value = Flow> {
    let tag = prop_oneof![Just(0x8100_0005u32), Just(0x88a8_1006)];
    let payload = prop_oneof![
        4 => vec(any::<u8>(), 1..9000),
        1 => vec(any::<u8>(), 60_000..65_000),
    ];
    let shape = (vec(tag, 0..3), any::<bool>(), any::<bool>());
    let numbers = (any::<u8>(), any::<u32>(), any::<u16>(), 400u16..3000);
    (shape, numbers, payload).prop_map(|((tags, is_ipv6, tcp), numbers, payload)| {
        let (flags, sequence, id, gso_size) = numbers;
        Flow {
            tags,
            tcp_options: 3,
            flags,
            sequence,
            id,
            ..Flow::new(is_ipv6, tcp, gso_size, payload)
        }
    })
}

/// One burst from one ring to another. What came of it, and what it was
/// counted as: in, replicated, out, dropped.
fn pass(from: &RingEnd, to: &RingEnd, limit: u32) -> (Dequeued, [u64; 4], PmdCounterCells) {
    let (own, counters) = (PmdCounterCells::default(), QueueCounters::default());
    let mut burst = Burst::default();
    let mut received = 0;
    let dequeued = from.ring.dequeue(&mut burst, |packets| {
        received = packets.len() as u64;
        let list: Vec<u8> = (0..packets.len() as u8).collect();
        to_ring(&to.ring, limit, packets, &list, &counters, &own);
    });
    let dropped = own.dropped.nonzero().iter().map(|(_, count)| count).sum();
    let counts = [
        received,
        own.replicated.get(),
        own.transmitted.get(),
        dropped,
    ];
    assert_eq!(counts[0] + counts[1], counts[2] + counts[3], "{counts:?}");
    (dequeued, counts, own)
}

/// The frame with its checksum completed, if it is partial.
fn completed(got: &Got) -> Vec<u8> {
    let mut frame = got.frame.clone();
    let mut burst = Burst::default();
    burst.lend_slices(
        1,
        |_| std::iter::once(&got.frame[..]),
        |packets| {
            packets.set_vnet_header(0, got.header);
            packets.complete_checksum(0);
            assert!(packets.copy_frame(0, &mut frame));
        },
    );
    frame
}

/// A taker's ring.
#[derive(Clone, Copy, Debug)]
struct Ring {
    mergeable: bool,
    buffer: usize,
    count: usize,
    partial: bool,
    gso: GsoKinds,
}

impl Ring {
    fn end(&self) -> RingEnd {
        let features = RingFeatures {
            mergeable: self.mergeable,
            long_header: true,
            guest_csum: self.partial,
            guest_gso: self.gso,
            ..RingFeatures::default()
        };
        let mut end = RingEnd::new(1024, features, (self.buffer * self.count) as u64);
        end.post(self.count, self.buffer);
        end
    }

    /// Buffers that a frame takes. `None`: it does not fit at all.
    fn chains(&self, len: usize) -> Option<usize> {
        let chains = (12 + len).div_ceil(self.buffer);
        match self.mergeable {
            true => (chains <= 128).then_some(chains),
            false => (chains == 1).then_some(1),
        }
    }
}

fn ring() -> impl Strategy<Value = Ring> {
    let buffers = prop_oneof![
        // As Linux has them for mergeable buffers and for MTU 1500, small
        // ones, and one for the longest frame.
        Just((true, 1536, 1024)),
        Just((true, 300, 1024)),
        Just((true, 4096, 256)),
        Just((false, 1536, 1024)),
        Just((false, 4096, 300)),
        Just((false, 65_600, 64)),
    ];
    let gso = prop_oneof![
        Just(GsoKinds::NONE),
        Just(GsoKinds::ALL),
        Just(GsoKinds::TCP4 | GsoKinds::TCP6),
    ];
    (buffers, any::<bool>(), gso).prop_map(|((mergeable, buffer, count), partial, gso)| Ring {
        mergeable,
        buffer,
        count,
        partial,
        gso: if partial { gso } else { GsoKinds::NONE },
    })
}

/// What is needed to take the frame uncut.
fn kinds(flow: &Flow, header: VnetHeader) -> GsoKinds {
    let ecn = match flow.tcp && flow.flags & 0x80 != 0 {
        true => GsoKinds::ECN,
        false => GsoKinds::NONE,
    };
    ecn | match (flow.tcp, flow.is_ipv6) {
        (true, false) => GsoKinds::TCP4,
        (true, true) => GsoKinds::TCP6,
        _ if header.gso_type == GSO_UFO => GsoKinds::UFO,
        (false, false) => GsoKinds::USO4,
        (false, true) => GsoKinds::USO6,
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, ..ProptestConfig::default() })]

    #[test]
    fn frames_cross_uncut_or_in_right_segments(
        flow in flow(), ufo in any::<bool>(), ring in ring(), cuts in vec(any::<usize>(), 0..20),
        mtu in prop_oneof![Just(None), Just(Some(1500u32)), (600u32..9000).prop_map(Some)],
    ) {
        let mut from = RingEnd::new(64, SENDER, 70_000);
        let mut to = ring.end();
        let (frame, header) = (flow.oversized(false), flow.header(ufo));
        from.send(VnetHeader { hdr_len: 7, ..header }, &frame, &cuts);
        let limit = mtu.map_or(u32::MAX, |mtu| mtu + 14);
        let (dequeued, counts, own) = pass(&from, &to, limit);
        prop_assert_eq!(dequeued, Dequeued { packets: 1, ..Dequeued::default() });
        prop_assert_eq!(from.reclaim(), 1);
        let got: Vec<Got> = std::iter::from_fn(|| to.take()).collect();
        prop_assert_eq!(got.len() as u64, counts[2]);

        let is_ufo = header.gso_type == GSO_UFO;
        let network = if is_ufo { flow.l4() } else { flow.headers() } - 14 - 4 * flow.tags.len();
        let more = if is_ufo && flow.is_ipv6 { 8 } else { 0 };
        let room = mtu.map_or(usize::MAX, |mtu| mtu as usize - network - more);
        let size = usize::from(flow.gso_size);
        if header.gso_type == GSO_USO && size.min(flow.payload.len()) > room {
            prop_assert_eq!(own.dropped.nonzero(), [(DropReason::ExceedsMtu, 1)]);
            return Ok(());
        }
        // Uncut, with segments of the taker's MTU.
        if ring.gso.has(kinds(&flow, header))
            && let Some(chains) = ring.chains(frame.len())
        {
            if chains > ring.count {
                prop_assert_eq!(own.dropped.nonzero(), [(DropReason::RingFull, 1)]);
                return Ok(());
            }
            prop_assert_eq!(got.len(), 1);
            prop_assert_eq!(&got[0].frame, &frame);
            let told = got[0].header;
            prop_assert_eq!(VnetHeader { gso_size: header.gso_size, ..told }, header);
            let tags = 4 * flow.tags.len();
            let needed = size.min(frame.len() - network - 14 - tags);
            prop_assert!(usize::from(told.gso_size) <= room || needed <= room);
            return Ok(());
        }
        // In segments, as far as they fit buffers and as there are buffers.
        let mut expected = if is_ufo {
            let id = if flow.is_ipv6 && !got.is_empty() {
                let at = flow.l4() + 4;
                u32::from_be_bytes(*got[0].frame[at..].first_chunk().expect("a header"))
            } else {
                0
            };
            flow.fragments(size.min(room) & !7, id)
        } else {
            flow.segments(size.min(room))
        };
        prop_assert_eq!(counts[1], expected.len() as u64 - 1);
        let mut left = ring.count;
        let mut is_full = false;
        expected.retain(|segment| match ring.chains(segment.len()) {
            None => false,
            Some(chains) if chains <= left && !is_full => {
                left -= chains;
                true
            }
            Some(_) => {
                is_full = true;
                false
            }
        });
        let all: Vec<_> = got.iter().map(completed).collect();
        if is_full {
            // The last segment, a short one, may have found room.
            prop_assert_eq!(&all[..expected.len()], &expected);
            prop_assert!(all.len() <= expected.len() + 1);
        } else {
            prop_assert_eq!(all, expected);
        }
        for got in &got {
            prop_assert_eq!((got.header.gso_type, got.header.gso_size), (0, 0));
            let is_partial = got.header.flags != 0;
            prop_assert_eq!(is_partial, ring.partial && !is_ufo);
        }
    }

    /// Whatever the header says of whatever frame: it is dropped with a
    /// reason, or leaves in frames that are no longer than it.
    #[test]
    fn no_header_does_harm(
        flow in flow(), ufo in any::<bool>(), cuts in vec(any::<usize>(), 0..8),
        words in prop::array::uniform4(prop_oneof![0u16..200, any::<u16>()]),
        flags in any::<u8>(), gso_type in prop_oneof![0u8..8, any::<u8>()], keep in 0u8..64,
        garbled in vec((0usize..130, any::<u8>()), 0..3), len in prop_oneof![Just(usize::MAX), 14usize..200],
    ) {
        let mut frame = flow.oversized(false);
        frame.truncate(len.min(MAX_FRAME_BYTES));
        for (at, byte) in garbled {
            if let Some(place) = frame.get_mut(at) {
                *place = byte;
            }
        }
        let right = flow.header(ufo);
        let keeps = |bit: u8| keep >> bit & 1 != 0;
        let choose = |bit: u8, right: u16, wrong: u16| if keeps(bit) { right } else { wrong };
        let header = VnetHeader {
            flags: if keeps(0) { right.flags } else { flags },
            gso_type: if keeps(1) { right.gso_type } else { gso_type },
            hdr_len: words[0],
            gso_size: choose(2, right.gso_size, words[1]),
            csum_start: choose(3, right.csum_start, words[2]),
            csum_offset: choose(4, right.csum_offset, words[3]),
        };
        let mut from = RingEnd::new(64, SENDER, 70_000);
        let plain = Ring { mergeable: true, buffer: 1536, count: 1024, partial: false, gso: GsoKinds::NONE };
        let mut to = plain.end();
        from.send(header, &frame, &cuts);
        let (dequeued, counts, _) = pass(&from, &to, u32::MAX);
        prop_assert_eq!(dequeued.packets + dequeued.bad_offload, 1);
        prop_assert_eq!(from.reclaim(), 1);
        let got: Vec<Got> = std::iter::from_fn(|| to.take()).collect();
        prop_assert_eq!(got.len() as u64, counts[2]);
        for got in got {
            prop_assert_eq!(got.header, VnetHeader::default());
            prop_assert!(got.frame.len() <= frame.len() + 8);
        }
    }
}

/// What rules do to an oversized frame is done to each of its segments.
#[test]
fn rules_rewrite_oversized_frames() {
    type Change = fn(&mut Flow);
    let all: [(&str, Change); 9] = [
        ("", |_| {}),
        ("push_vlan:0x8100,set_field:4103->vlan_vid,", |flow| {
            flow.tags.insert(0, 0x8100_0007)
        }),
        (
            "push_vlan:0x88a8,set_field:4103->vlan_vid,push_vlan:0x88a8,",
            |flow| {
                flow.tags.insert(0, 0x88a8_0007);
                flow.tags.insert(0, 0x88a8_0000);
            },
        ),
        ("pop_vlan,", |flow| drop(flow.tags.drain(..1))),
        ("pop_vlan,pop_vlan,", |flow| flow.tags.clear()),
        ("mod_tp_dst:99,mod_tp_src:7,", |flow| flow.ports = [7, 99]),
        ("dec_ttl,", |flow| flow.ttl = 63),
        ("ADDRESS,", |flow| flow.to = 200),
        ("ADDRESS,mod_tp_dst:99,dec_ttl,pop_vlan,", |flow| {
            (flow.to, flow.ports[1], flow.ttl) = (200, 99, 63);
            flow.tags.remove(0);
        }),
    ];
    let rings = [
        (GsoKinds::ALL, true),
        (GsoKinds::NONE, true),
        (GsoKinds::NONE, false),
    ];
    for (actions, change) in all {
        for (gso, partial) in rings {
            for (is_ipv6, tcp) in [(false, true), (true, true), (false, false), (true, false)] {
                // To the second port before and to the third one after.
                let (family, address) = match is_ipv6 {
                    true => ("6", "set_field:::c8/::ff->ipv6_dst"),
                    false => ("", "mod_nw_dst:5.6.7.200"),
                };
                let proto = if tcp { "tcp" } else { "udp" };
                let actions = actions.replace("ADDRESS", address);
                let rule = format!("{proto}{family},actions=output:2,{actions}output:3");
                let rule = text::parse_flow(&rule, FlowCommand::Add, &NoNames).expect("a flow");
                let rule = ringway_flow::rule::Change::Flow(FlowCommand::Add, Box::new(rule.value));
                let mut rig = Rig::new(vec![rule], &[1, 2, 3]);
                let ring = Ring {
                    mergeable: true,
                    buffer: 1536,
                    count: 200,
                    partial,
                    gso,
                };
                let mut ends = [ring.end(), ring.end()];
                rig.connect(2, Arc::clone(&ends[0].ring));
                rig.connect(3, Arc::clone(&ends[1].ring));
                let mut flow = Flow::new(is_ipv6, tcp, 1000, (0..9999).map(|i| i as u8).collect());
                flow.tags = vec![0x8100_0004, 0x8100_0005];
                let (frame, header) = (flow.oversized(false), flow.header(false));
                let outcome = rig.burst_with(1, &[frame], &[header]);
                let segments = if gso == GsoKinds::NONE { 10 } else { 1 };
                assert_eq!(outcome.replicated, 1 + 2 * (segments - 1), "{actions}");
                assert_eq!(rig.counters.transmitted.get(), 2 * segments, "{actions}");
                for (nth, end) in ends.iter_mut().enumerate() {
                    if nth == 1 {
                        change(&mut flow);
                    }
                    let got: Vec<Got> = std::iter::from_fn(|| end.take()).collect();
                    if gso == GsoKinds::NONE {
                        let got: Vec<_> = got.iter().map(completed).collect();
                        assert_eq!(got, flow.segments(1000), "{actions} {is_ipv6} {tcp}");
                    } else {
                        assert_eq!(got[0].frame, flow.oversized(false), "{actions}");
                        assert_eq!(got[0].header, flow.header(false), "{actions}");
                    }
                }
            }
        }
    }
}

/// A controller gets the beginning of an oversized frame with a whole
/// checksum, and the port behind it the frame as it was.
#[test]
fn controllers_do_not_spoil_oversized_frames() {
    let rule = "priority=1,actions=controller(max_len=200),output:2";
    let rule = text::parse_flow(rule, FlowCommand::Add, &NoNames).expect("a flow");
    let rule = ringway_flow::rule::Change::Flow(FlowCommand::Add, Box::new(rule.value));
    let mut rig = Rig::new(vec![rule], &[1, 2]);
    let ring = Ring {
        mergeable: true,
        buffer: 4096,
        count: 20,
        partial: true,
        gso: GsoKinds::ALL,
    };
    let mut end = ring.end();
    rig.connect(2, Arc::clone(&end.ring));
    let flow = Flow::new(true, true, 1000, vec![3; 30_000]);
    rig.burst_with(1, &[flow.oversized(false)], &[flow.header(false)]);
    let told = rig.packet_ins.take().expect("a packet for controllers");
    assert_eq!(told.1, flow.oversized(true)[..200]);
    let got = end.take().expect("the frame");
    assert_eq!(got.frame, flow.oversized(false));
    assert_eq!(got.header, flow.header(false));
}

/// Frames of a burst keep their order, whole and cut, and the one that is too
/// long is told apart.
#[test]
fn a_burst_keeps_its_order() {
    let mut from = RingEnd::new(64, SENDER, 400_000);
    let mut flow = Flow::new(false, true, 1000, Vec::new());
    let mut expected = Vec::new();
    for nth in 0..32u8 {
        flow.payload = vec![nth; 1 + usize::from(nth) * 700];
        if nth % 3 == 0 {
            flow.payload.truncate(1400);
            from.send(VnetHeader::default(), &flow.oversized(true), &[]);
            expected.push(flow.oversized(true));
        } else {
            from.send(flow.header(false), &flow.oversized(false), &[5000]);
            expected.extend(flow.segments(1000));
        }
    }
    let ring = Ring {
        mergeable: true,
        buffer: 1536,
        count: 1024,
        partial: false,
        gso: GsoKinds::NONE,
    };
    let mut to = ring.end();
    let (_, counts, own) = pass(&from, &to, 1200 + 14);
    let got: Vec<_> = std::iter::from_fn(|| to.take().map(|got| got.frame)).collect();
    let too_long = expected.iter().filter(|frame| frame.len() > 1214).count();
    assert_eq!(
        own.dropped.nonzero(),
        [(DropReason::ExceedsMtu, too_long as u64)]
    );
    assert_eq!(counts[0], 32);
    expected.retain(|frame| frame.len() <= 1214);
    for (nth, (got, expected)) in got.iter().zip(&expected).enumerate() {
        assert_eq!(got, expected, "frame {nth}");
    }
    assert_eq!(got.len(), expected.len());
}
