//! Cutting against the naive way, and headers that make no sense.

use proptest::collection::vec;
use proptest::prelude::*;

use super::naive::Flow;
use super::*;
use crate::packet::{
    Burst, CUT_START, HEAD_BYTES, Packets, VNET_F_DATA_VALID, VNET_F_NEEDS_CSUM, VnetHeader,
};

fn flow() -> impl Strategy<Value = Flow> {
    let tag = prop_oneof![Just(0x8100_0005u32), Just(0x88a8_1006)];
    let payload = prop_oneof![
        9 => vec(any::<u8>(), 1..6000),
        1 => vec(any::<u8>(), 60_000..65_000),
    ];
    let shape = (
        vec(tag, 0..3),
        any::<bool>(),
        any::<bool>(),
        0usize..3,
        0usize..6,
    );
    let numbers = (any::<u8>(), any::<u32>(), any::<u16>(), 8u16..4000);
    (shape, numbers, payload).prop_filter_map(
        "headers longer than a head",
        |((tags, is_ipv6, tcp, options, tcp_options), numbers, payload)| {
            let (flags, sequence, id, gso_size) = numbers;
            // Fragments are cut at a multiple of eight; more than 4,096 are refused.
            let least = payload.len().div_ceil(4000).next_multiple_of(8);
            let gso_size = gso_size.max(least as u16);
            let flow = Flow {
                tags,
                options,
                tcp_options,
                flags,
                sequence,
                id,
                ..Flow::new(is_ipv6, tcp, gso_size, payload)
            };
            (flow.headers() <= HEAD_BYTES).then_some(flow)
        },
    )
}

/// Lends the frame in parts that end at `cuts`.
fn lend(
    frame: &[u8],
    cuts: &[usize],
    header: VnetHeader,
    use_packets: impl FnOnce(&mut Packets<'_>),
) {
    let mut cuts: Vec<_> = cuts.iter().map(|cut| *cut % frame.len()).collect();
    cuts.extend([0, frame.len()]);
    cuts.sort_unstable();
    let parts: Vec<_> = cuts.windows(2).map(|cut| &frame[cut[0]..cut[1]]).collect();
    let refused = Burst::default().lend_slices(
        1,
        |_| parts.iter().copied(),
        |packets| {
            packets.set_vnet_header(0, header);
            use_packets(packets);
        },
    );
    assert_eq!(refused, 0);
}

fn frame_of(packets: &Packets<'_>, index: usize) -> Vec<u8> {
    let mut frame = vec![0; packets.frame_len(index)];
    assert!(packets.copy_frame(index, &mut frame));
    frame
}

/// All that `taker` gets; partial checksums are completed, after a look.
fn taken(packets: &mut Packets<'_>, taker: &Taker) -> Option<Vec<Vec<u8>>> {
    let mut out = Vec::new();
    match packets.offer(0, taker) {
        Offer::Whole => out.push(frame_of(packets, 0)),
        Offer::TooLong => return None,
        Offer::Cut(mut cut) => {
            let mut count = cut.count();
            loop {
                assert_eq!(cut.left(), count);
                match packets.next_cut(&mut cut) {
                    Next::Packet(index) => {
                        assert!(index >= CUT_START);
                        if packets.vnet_header(index).gso_type == 0 {
                            assert!(taker.partial || !packets.has_partial_checksum(index));
                            packets.complete_checksum(index);
                        }
                        out.push(frame_of(packets, index));
                        count -= 1;
                    }
                    Next::Full => packets.clear_cuts(),
                    Next::Done => break,
                }
            }
            assert_eq!(count, 0);
        }
    }
    Some(out)
}

fn number_of_fragments(frames: &[Vec<u8>], flow: &Flow) -> u32 {
    let at = flow.l4() + 4;
    match flow.is_ipv6 {
        true => u32::from_be_bytes(*frames[0][at..].first_chunk().expect("a fragment header")),
        false => 0,
    }
}

const NOTHING: Taker = Taker {
    partial: false,
    gso: GsoKinds::NONE,
    max_frame: u32::MAX,
};
const EVERYTHING: Taker = Taker {
    partial: true,
    gso: GsoKinds::ALL,
    max_frame: u32::MAX,
};

proptest! {
    #![proptest_config(ProptestConfig { cases: 600, ..ProptestConfig::default() })]

    #[test]
    fn segments_are_those_of_the_naive_way(
        flow in flow(), cuts in vec(any::<usize>(), 0..60), partial in any::<bool>(),
        mtu in prop_oneof![2 => Just(None), 1 => (150u32..9000).prop_map(Some)],
    ) {
        let (frame, header) = (flow.oversized(false), flow.header(false));
        let taker = Taker { partial, max_frame: mtu.map_or(u32::MAX, |mtu| mtu + 14), ..NOTHING };
        let room = mtu.map_or(usize::MAX, |mtu| {
            mtu as usize - (flow.headers() - 14 - 4 * flow.tags.len())
        });
        let size = usize::from(flow.gso_size);
        let mut got = None;
        lend(&frame, &cuts, header, |packets| {
            got = taken(packets, &taker);
            // The frame itself is as it was, for the next taker.
            assert_eq!(frame_of(packets, 0), frame);
            assert_eq!(packets.vnet_header(0), header);
        });
        if !flow.tcp && size.min(flow.payload.len()) > room {
            prop_assert_eq!(got, None);
        } else {
            prop_assert_eq!(got, Some(flow.segments(size.min(room))));
        }
    }

    #[test]
    fn fragments_are_those_of_the_naive_way(
        mut flow in flow(), cuts in vec(any::<usize>(), 0..60),
        mtu in prop_oneof![Just(None), (150u32..9000).prop_map(Some)],
    ) {
        flow.tcp = false;
        if flow.is_ipv6 {
            flow.options = 0;
        }
        let (frame, header) = (flow.oversized(false), flow.header(true));
        let taker = Taker { max_frame: mtu.map_or(u32::MAX, |mtu| mtu + 14), ..NOTHING };
        let room = mtu.map_or(usize::MAX, |mtu| {
            let more = if flow.is_ipv6 { 8 } else { 0 };
            mtu as usize - (flow.l4() - 14 - 4 * flow.tags.len()) - more
        });
        let mut got = None;
        lend(&frame, &cuts, header, |packets| got = taken(packets, &taker));
        let size = usize::from(flow.gso_size).min(room) & !7;
        let got = got.expect("fragments fit any MTU");
        let id = number_of_fragments(&got, &flow);
        prop_assert_eq!(got, flow.fragments(size, id));
    }

    /// Who takes all gets the frame uncut, for an MTU with smaller segments.
    #[test]
    fn whole_frames_are_resized(
        flow in flow(), cuts in vec(any::<usize>(), 0..60), mtu in 150u32..9000,
        fragments in any::<bool>(),
    ) {
        let (frame, header) = (flow.oversized(false), flow.header(fragments));
        lend(&frame, &cuts, header, |packets| {
            assert!(matches!(packets.offer(0, &EVERYTHING), Offer::Whole));
            let taker = Taker { max_frame: mtu + 14, ..EVERYTHING };
            let Offer::Cut(mut cut) = packets.offer(0, &taker) else {
                return;
            };
            assert!(packets.frame_len(0) > taker.max_frame as usize);
            let Next::Packet(index) = packets.next_cut(&mut cut) else {
                panic!("no packet");
            };
            assert_eq!(packets.next_cut(&mut cut), Next::Done);
            assert_eq!(frame_of(packets, index), frame);
            let resized = packets.vnet_header(index);
            assert_eq!(VnetHeader { gso_size: header.gso_size, ..resized }, header);
            let headers = if header.gso_type == GSO_UFO {
                flow.l4() + if flow.is_ipv6 { 8 } else { 0 }
            } else {
                flow.headers()
            };
            let longest = headers + usize::from(resized.gso_size) - 4 * flow.tags.len();
            let missing = taker.max_frame as usize - longest;
            assert!(missing < if header.gso_type == GSO_UFO { 8 } else { 1 });
        });
    }

    #[test]
    fn a_right_header_is_accepted_and_its_length_is_ours(
        flow in flow(), fragments in any::<bool>(), hdr_len in any::<u16>(),
    ) {
        let frame = flow.oversized(false);
        let header = flow.header(fragments);
        let told = VnetHeader { hdr_len, ..header };
        let head = &frame[..frame.len().min(HEAD_BYTES)];
        let is_ufo6 = header.gso_type == GSO_UFO && flow.is_ipv6;
        let accepted = accept(told, head, frame.len(), GsoKinds::ALL);
        if is_ufo6 && flow.options > 0 {
            prop_assert_eq!(accepted, None);
        } else {
            prop_assert_eq!(accepted, Some((header, None)));
            // A whole checksum that the sender vouches for becomes a partial one.
            let whole = flow.oversized(true);
            let told = VnetHeader { flags: VNET_F_DATA_VALID, csum_start: 0, ..told };
            let head = &whole[..head.len()];
            let field = usize::from(header.csum_start + header.csum_offset);
            let pseudo = u16::from_be_bytes([frame[field], frame[field + 1]]);
            let accepted = accept(told, head, frame.len(), GsoKinds::ALL);
            let routed = flow.is_ipv6 && flow.options > 0;
            prop_assert_eq!(accepted, (!routed).then_some((header, Some(pseudo))));
        }
        prop_assert_eq!(accept(told, head, frame.len(), GsoKinds::NONE), None);
        prop_assert_eq!(accept(told, head, frame.len() + 1, GsoKinds::ALL), None);
        prop_assert_eq!(accept(told, head, frame.len() - 1, GsoKinds::ALL), None);
    }

    /// Anything at all, and right headers with one wrong byte: no panic, and
    /// what is accepted can be cut into its payload.
    #[test]
    fn no_header_is_too_odd(
        flow in flow(), fragments in any::<bool>(), flags in 0u8..4, gso_type in any::<u8>(),
        numbers in prop::array::uniform4(any::<u16>()), which in 0u8..8,
        garbled in vec((0usize..HEAD_BYTES, any::<u8>()), 0..4), cuts in vec(any::<usize>(), 0..4),
    ) {
        let mut frame = flow.oversized(false);
        for (at, byte) in garbled {
            if let Some(place) = frame.get_mut(at) {
                *place = byte;
            }
        }
        let right = flow.header(fragments);
        let [hdr_len, gso_size, csum_start, csum_offset] = numbers;
        let told = match which {
            0 => VnetHeader { flags, gso_type, hdr_len, gso_size, csum_start, csum_offset },
            1 => VnetHeader { flags, ..right },
            2 => VnetHeader { gso_type, ..right },
            3 => VnetHeader { gso_size, ..right },
            4 => VnetHeader { csum_start, ..right },
            5 => VnetHeader { csum_offset, ..right },
            6 => VnetHeader { gso_size: gso_size % 9, ..right },
            _ => right,
        };
        let head = &frame[..frame.len().min(HEAD_BYTES)];
        let Some((header, _)) = accept(told, head, frame.len(), GsoKinds::ALL) else {
            return Ok(());
        };
        prop_assert!(header.flags == VNET_F_NEEDS_CSUM && header.gso_size > 0);
        let headers = usize::from(header.hdr_len);
        prop_assert!(headers <= head.len() && headers < frame.len());
        lend(&frame, &cuts, header, |packets| {
            let frames = taken(packets, &NOTHING).expect("no limit");
            let mut payload = Vec::new();
            let is_ufo = header.gso_type == GSO_UFO;
            for (nth, cut) in frames.iter().enumerate() {
                let headers = match (is_ufo, nth) {
                    (false, _) => headers,
                    (true, 0) => headers + cut.len().saturating_sub(frame.len()).min(8),
                    (true, _) => usize::from(header.csum_start),
                };
                payload.extend_from_slice(&cut[headers..]);
            }
            if !is_ufo {
                assert_eq!(payload, frame[headers..]);
            }
        });
    }
}

#[test]
fn headers_that_a_nic_can_deal_with_are_told() {
    for (is_ipv6, tcp, tags) in [(false, true, 0), (true, true, 1), (false, false, 2)] {
        let mut flow = Flow::new(is_ipv6, tcp, 500, vec![1; 2000]);
        flow.tags = vec![0x8100_0001; tags];
        let header = flow.header(false);
        let l3 = 14 + 4 * tags;
        let right = Headers {
            l3,
            l4: flow.l4(),
            payload: flow.headers(),
            is_ipv6,
            is_tcp: tcp,
            gso_size: 500,
        };
        lend(&flow.oversized(false), &[], header, |packets| {
            assert_eq!(packets.partial_headers(0), Some(right));
            for (start, offset) in [(1, 0), (0, 2)] {
                let header = VnetHeader {
                    csum_start: header.csum_start + start,
                    csum_offset: header.csum_offset + offset,
                    ..header
                };
                packets.set_vnet_header(0, header);
                assert_eq!(packets.partial_headers(0), None);
            }
            packets.set_vnet_header(0, VnetHeader::default());
            assert_eq!(packets.partial_headers(0), None);
        });
    }
}

#[test]
fn limits_are_for_frames_without_their_tags() {
    let tagged = |tags: usize, len: usize| {
        let mut frame = vec![2; 12];
        frame.extend([0x81, 0, 0, 5].repeat(tags));
        frame.extend([0x88, 0xb5]);
        frame.resize(len, 0);
        frame
    };
    let taker = Taker {
        max_frame: 1514,
        ..EVERYTHING
    };
    for tags in 0..3 {
        let longest = 1514 + 4 * tags;
        let header = VnetHeader::default();
        lend(&tagged(tags, longest), &[], header, |packets| {
            assert!(matches!(packets.offer(0, &taker), Offer::Whole));
        });
        lend(&tagged(tags, longest + 1), &[], header, |packets| {
            assert!(matches!(packets.offer(0, &taker), Offer::TooLong));
            assert!(matches!(packets.offer(0, &NOTHING), Offer::Whole));
        });
    }
}

#[test]
fn a_guest_cannot_ask_for_endless_work() {
    let flow = Flow::new(false, true, 1, vec![7; 65_000]);
    let frame = flow.oversized(false);
    let accepted = |gso_size| {
        let header = VnetHeader {
            gso_size,
            ..flow.header(false)
        };
        accept(header, &frame[..HEAD_BYTES], frame.len(), GsoKinds::ALL).is_some()
    };
    assert!(!accepted(0));
    assert!(!accepted(1));
    assert!(!accepted(15));
    assert!(accepted(16));
}

#[test]
fn the_sum_of_kinds_is_asked_for() {
    let all = [
        (GSO_TCP4, false, GsoKinds::TCP4),
        (GSO_TCP6 | GSO_ECN, true, GsoKinds::TCP6 | GsoKinds::ECN),
        (GSO_USO, false, GsoKinds::USO4),
        (GSO_USO, true, GsoKinds::USO6),
        (GSO_UFO, true, GsoKinds::UFO),
    ];
    for (gso_type, is_ipv6, needed) in all {
        assert_eq!(headers::kinds(gso_type, is_ipv6), Some(needed));
    }
    for gso_type in [0, 2, 6, GSO_ECN, GSO_UFO | GSO_ECN, GSO_USO | GSO_ECN, 0x7f] {
        assert_eq!(headers::kinds(gso_type, false), None);
    }
}
