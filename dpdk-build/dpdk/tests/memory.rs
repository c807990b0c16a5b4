//! Memzones, mempools and bursts, in ordinary memory.
#![allow(unsafe_code)] // UNSAFETY: looks at a memzone's bytes.

use std::thread;

use dpdk::{BURST, Eal, MbufBurst, Mempool, MempoolError, Memzone, MemzoneError};

fn bytes_of(zone: &mut Memzone) -> &mut [u8] {
    // SAFETY: the zone is borrowed alone, and is `len` bytes long.
    unsafe { std::slice::from_raw_parts_mut(zone.as_ptr().as_ptr(), zone.len()) }
}

#[test]
fn a_memzone_is_zeroed_again_after_use() {
    let eal = Eal::for_tests();
    for _ in 0..3 {
        let mut zone = Memzone::reserve(&eal, "table", 3 << 20, 4096).unwrap();
        assert_eq!(zone.len(), 3 << 20);
        assert_eq!(zone.as_ptr().addr().get() % 4096, 0);
        let bytes = bytes_of(&mut zone);
        assert!(bytes.iter().all(|&byte| byte == 0));
        bytes.fill(0xa5);
    }
}

#[test]
fn memzones_that_cannot_be_are_refused() {
    let eal = Eal::for_tests();
    let _first = Memzone::reserve(&eal, "twice", 100, 64).unwrap();
    let reserve =
        |name: &str, bytes, align| Memzone::reserve(&eal, name, bytes, align).unwrap_err();
    assert!(matches!(
        reserve("twice", 100, 64),
        MemzoneError::Exists { name } if name == "twice"
    ));
    assert!(matches!(reserve("", 1, 1), MemzoneError::Name { .. }));
    assert!(matches!(
        reserve(&"x".repeat(32), 1, 1),
        MemzoneError::Name { .. }
    ));
    assert!(matches!(reserve("a\0b", 1, 1), MemzoneError::Name { .. }));
    assert!(matches!(
        reserve("nothing", 0, 64),
        MemzoneError::Shape { .. }
    ));
    assert!(matches!(
        reserve("crooked", 64, 48),
        MemzoneError::Shape { .. }
    ));
    let said = reserve("huge", 1 << 40, 64).to_string();
    assert!(
        said.contains("`huge` of 1099511627776 bytes") && said.contains("256 MiB"),
        "{said}"
    );
    let longest = "x".repeat(31);
    assert_eq!(
        Memzone::reserve(&eal, &longest, 1, 1).unwrap().name(),
        longest
    );
}

#[test]
fn a_mempool_gives_all_it_has_and_takes_all_back() {
    let eal = Eal::for_tests();
    let pool = Mempool::create(&eal, "small", 70, 2048, 0).unwrap();
    assert_eq!((pool.count(), pool.available(), pool.in_use()), (70, 70, 0));
    assert!(pool.memory_bytes() > 70 * 2048);
    assert_eq!(pool.data_room(), 2048);

    let mut bursts: Vec<MbufBurst> = (0..3).map(|_| MbufBurst::new()).collect();
    let got: Vec<usize> = bursts
        .iter_mut()
        .map(|burst| pool.alloc_burst(burst, BURST + 5))
        .collect();
    assert_eq!(got, [32, 32, 6]);
    assert_eq!(pool.available(), 0);
    assert_eq!(pool.alloc_burst(&mut bursts[2], 1), 0);
    assert_eq!(pool.alloc_burst(&mut bursts[0], 1), 0, "a full burst");

    bursts[0].truncate(30);
    assert_eq!((bursts[0].len(), pool.available()), (30, 2));
    bursts[0].truncate(31);
    assert_eq!(bursts[0].len(), 30, "truncate never makes longer");
    bursts[1].clear();
    assert_eq!(pool.available(), 34);
    drop(bursts);
    assert_eq!(pool.available(), 70);
}

#[test]
fn mempools_that_cannot_be_are_refused() {
    let eal = Eal::for_tests();
    let create = |count, room, cache| Mempool::create(&eal, "odd", count, room, cache).unwrap_err();
    for error in [
        create(0, 2048, 0),
        create(100, 0, 0),
        create(100, u16::MAX, 0),
        create(100, 2048, 70),
        create(10_000, 2048, 513),
    ] {
        assert!(matches!(error, MempoolError::Shape { .. }), "{error}");
    }
    let said = create(1_000_000, 9000, 0).to_string();
    assert!(
        said.contains("1000000 buffers with 9000 bytes") && said.contains("--memory"),
        "{said}"
    );
}

#[test]
fn a_mempool_outlives_its_packets() {
    let eal = Eal::for_tests();
    let mut burst = MbufBurst::new();
    let pool = Mempool::create(&eal, "gone", 64, 512, 0).unwrap();
    pool.alloc_burst(&mut burst, 4);
    burst.append(3, 5).unwrap().copy_from_slice(b"alive");
    drop(pool);
    // Room for the memory to be used again, if it were free.
    let _other = Mempool::create(&eal, "other", 64, 512, 0).unwrap();
    let bytes: Vec<u8> = burst.packet(3).segments().flatten().copied().collect();
    assert_eq!(bytes, b"alive");
}

#[test]
fn packets_grow_within_a_buffer_and_over_a_chain() {
    let eal = Eal::for_tests();
    let pool = Mempool::create(&eal, "chain", 4, 1000, 0).unwrap();
    let mut burst = MbufBurst::new();
    assert_eq!(pool.alloc_burst(&mut burst, 2), 2);
    assert_eq!(burst.packet(0).packet_len(), 0);
    assert_eq!(burst.tailroom(0), 1000);

    let frame: Vec<u8> = (0..2500u32).map(|i| (i * 7) as u8).collect();
    for (number, piece) in frame.chunks(1000).enumerate() {
        if number > 0 {
            assert!(burst.extend_chain(1, &pool));
        }
        let (front, back) = piece.split_at(10);
        burst.append(1, 10).unwrap().copy_from_slice(front);
        let room = burst.append(1, back.len()).unwrap();
        room.copy_from_slice(back);
    }
    assert_eq!(burst.tailroom(1), 500);
    assert!(burst.append(1, 501).is_none());
    let packet = burst.packet(1);
    assert_eq!((packet.packet_len(), packet.segment_count()), (2500, 3));
    let lengths: Vec<usize> = packet.segments().map(<[u8]>::len).collect();
    assert_eq!(lengths, [1000, 1000, 500]);
    let bytes: Vec<u8> = packet.segments().flatten().copied().collect();
    assert_eq!(bytes, frame);

    assert_eq!(pool.available(), 0);
    assert!(!burst.extend_chain(0, &pool), "the pool is exhausted");
    burst.clear();
    assert_eq!(pool.available(), 4, "a chain comes back whole");
}

#[test]
fn registered_threads_keep_a_cache_and_lose_nothing() {
    let eal = Eal::for_tests();
    let pool = Mempool::create(&eal, "cached", 1024, 256, 128).unwrap();
    for _ in 0..3 {
        let threads: Vec<_> = (0..2)
            .map(|_| {
                let (eal, pool) = (eal.clone(), pool.clone());
                thread::spawn(move || {
                    let _registered = eal.register_thread().unwrap();
                    let mut burst = MbufBurst::new();
                    for _ in 0..1000 {
                        assert_eq!(pool.alloc_burst(&mut burst, BURST), BURST);
                        burst.clear();
                    }
                })
            })
            .collect();
        for thread in threads {
            thread.join().unwrap();
        }
        assert_eq!(pool.available(), 1024);
    }
}

#[test]
#[should_panic(expected = "out of bounds")]
fn a_packet_beyond_the_end_is_not_to_be_had() {
    let eal = Eal::for_tests();
    let pool = Mempool::create(&eal, "short", 8, 256, 0).unwrap();
    let mut burst = MbufBurst::new();
    pool.alloc_burst(&mut burst, 2);
    burst.packet(2);
}
