//! The driver's side against the device's, without a kernel.

use ringway_vhost::{Burst, DeviceFault, VnetHeader};
use std::sync::Arc;

use super::*;

fn pair() -> Pair {
    Pair::new(&Arc::<DeviceFault>::default()).expect("a pair")
}

/// Writes a frame into the `nth` next buffers, `grown` bytes early, as the kernel does.
fn read_in(ring: &TransmitRing, nth: usize, frame: &[u8], grown: usize) -> Received {
    let Buffers { small, large } = ring.buffers(nth);
    let (first, rest) = frame.split_at(frame.len().min(SMALL_BYTES + grown));
    // SAFETY: the buffers have room for as much, and nobody else uses them.
    unsafe {
        let start = small.sub(grown);
        start.write_bytes(0, 12);
        std::ptr::copy_nonoverlapping(first.as_ptr(), start.add(12), first.len());
        std::ptr::copy_nonoverlapping(rest.as_ptr(), large, rest.len());
    }
    Received {
        len: frame.len() - grown,
        grown,
    }
}

fn frame(rng: &mut fastrand::Rng) -> Vec<u8> {
    let len = match rng.u8(..4) {
        0 => rng.usize(18..=100),
        1 => rng.usize(2000..=2100),
        2 => rng.usize(18..=9000),
        _ => rng.usize(60_000..=65_553),
    };
    (0..len).map(|_| rng.u8(..)).collect()
}

#[test]
fn what_is_committed_is_dequeued_and_what_is_not_is_used_again() {
    let mut rng = fastrand::Rng::with_seed(7);
    let Pair {
        mut transmit,
        device,
        ..
    } = pair();
    let ring = device.dequeue.expect("runs");
    let mut burst = Burst::default();
    let mut expected = std::collections::VecDeque::new();
    let mut starved = 0;
    for _ in 0..3000 {
        let room = transmit.room();
        starved += u32::from(room == 0);
        let count = rng.usize(..=room.min(BATCH));
        let frames: Vec<Option<Received>> = (0..count)
            .map(|nth| {
                let frame = frame(&mut rng);
                let grown = if rng.bool() { 4 } else { 0 };
                let read = read_in(&transmit, nth, &frame, grown);
                rng.bool().then(|| {
                    expected.push_back(frame);
                    read
                })
            })
            .collect();
        transmit.commit(&frames);
        // Seldom enough that the ring fills now and then.
        for _ in 0..rng.u8(..4) / 3 {
            let taken = ring.dequeue(&mut burst, |packets| {
                for index in 0..packets.len() {
                    let mut bytes = vec![0; packets.frame_len(index)];
                    assert!(packets.copy_frame(index, &mut bytes));
                    assert!(Some(bytes) == expected.pop_front());
                }
            });
            assert_eq!((taken.fault, taken.too_long, taken.too_short), (None, 0, 0));
        }
    }
    assert!(starved > 0, "the ring was never full");
    while ring
        .dequeue(&mut burst, |packets| drop(expected.drain(..packets.len())))
        .packets
        > 0
    {}
    assert!(expected.is_empty());
    assert_eq!(transmit.room(), 64, "no buffer is lost");
}

#[test]
fn what_is_enqueued_comes_whole_and_its_buffers_go_round() {
    let mut rng = fastrand::Rng::with_seed(8);
    let Pair {
        mut receive,
        device,
        ..
    } = pair();
    let ring = device.enqueue.expect("runs");
    let mut burst = Burst::default();
    let mut expected = std::collections::VecDeque::new();
    let (mut full, mut came) = (0, 0);
    for _ in 0..3000 {
        let frame = frame(&mut rng);
        burst.lend_slices(
            1,
            |_| std::iter::once(&frame[..]),
            |packets| {
                packets.set_vnet_header(0, VnetHeader::default());
                let outcome = ring.enqueue(packets, &[0]);
                full += outcome.ring_full;
                assert_eq!(outcome.delivered + outcome.ring_full, 1);
                if outcome.delivered == 1 {
                    expected.push_back(frame.clone());
                }
            },
        );
        if rng.u8(..60) > 0 {
            continue;
        }
        let mut buffers = 0;
        let mut parts = Vec::new();
        while let Some(count) = receive.next(&mut parts) {
            assert_eq!(parts.len(), usize::from(count));
            let bytes: Vec<u8> = parts
                .iter()
                // SAFETY: buffers that are ours until they are given back.
                .flat_map(|part| unsafe {
                    std::slice::from_raw_parts(part.iov_base.cast::<u8>(), part.iov_len)
                })
                .copied()
                .collect();
            assert!(Some(&bytes[12..]) == expected.pop_front().as_deref());
            parts.clear();
            buffers += count;
            came += 1;
        }
        receive.give_back(buffers);
        assert!(expected.is_empty());
    }
    assert!(full > 0 && came > 100, "{full} {came}");
}

#[test]
fn both_sides_are_told_when_they_wait() {
    let Pair {
        mut transmit,
        mut receive,
        device,
        call,
    } = pair();
    let (dequeue, enqueue) = (device.dequeue.expect("runs"), device.enqueue.expect("runs"));
    let mut burst = Burst::default();
    let mut calls = [0; 8];
    let mut called = || nix::unistd::read(&call, &mut calls).is_ok();
    let give = |burst: &mut Burst| {
        let frame = [0; 60];
        burst.lend_slices(
            1,
            |_| std::iter::once(&frame[..]),
            |packets| {
                enqueue.enqueue(packets, &[0]);
            },
        );
    };
    assert!(!receive.want_call());
    give(&mut burst);
    assert!(called(), "the driver waits");
    assert!(receive.want_call(), "there is one already");
    give(&mut burst);
    let mut parts = Vec::new();
    while receive.next(&mut parts).is_some() {}
    receive.give_back(2);
    called();
    give(&mut burst);
    assert!(!called(), "the driver works");

    assert!(!dequeue.want_kicks(true));
    let frame = [1; 60];
    let committed = read_in(&transmit, 0, &frame, 0);
    transmit.commit(&[Some(committed)]);
    assert!(transmit.kick(), "the core waits");
    let committed = read_in(&transmit, 0, &frame, 0);
    transmit.commit(&[Some(committed)]);
    assert!(!transmit.kick(), "it was told");
    assert!(dequeue.want_kicks(true), "there is something");
    assert!(!transmit.want_call());
    dequeue.dequeue(&mut burst, |_| {});
    assert!(called(), "buffers have come back");
}
