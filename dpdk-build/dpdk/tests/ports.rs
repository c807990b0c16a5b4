//! Ports on virtual devices: null, pcap and ring, without privileges.

use std::fs;
use std::path::Path;
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread;

use dpdk::{
    AttachError, BURST, ConfigureError, Eal, MbufBurst, Mempool, MtuError, Port, PortConfig,
    RunningPort, RxQueue, TxQueue,
};

/// A device name of its own for every test: they share one EAL.
fn device(driver: &str) -> String {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    format!("{driver}{}", NEXT.fetch_add(1, Ordering::Relaxed))
}

fn pool(eal: &Eal) -> Mempool {
    Mempool::create(eal, "test", 1024, 2048, 0).unwrap()
}

fn start(eal: &Eal, devargs: &str, pool: &Mempool) -> (RunningPort, RxQueue, TxQueue) {
    let port = Port::attach(eal, devargs).unwrap();
    let config = PortConfig::new(pool.clone());
    let (port, mut rx, mut tx) = port.configure(&config).unwrap().start().unwrap();
    assert_eq!((rx.len(), tx.len()), (1, 1));
    (port, rx.remove(0), tx.remove(0))
}

/// A classic pcap file with microsecond time stamps that do not matter.
fn write_pcap(path: &Path, frames: &[Vec<u8>]) {
    let mut file = Vec::new();
    for word in [0xa1b2_c3d4u32, 0x0004_0002, 0, 0, 65535, 1] {
        file.extend(word.to_le_bytes());
    }
    for (number, frame) in frames.iter().enumerate() {
        let len = frame.len() as u32;
        for word in [1_700_000_000, number as u32, len, len] {
            file.extend(word.to_le_bytes());
        }
        file.extend(frame);
    }
    fs::write(path, file).unwrap();
}

/// The frames in a classic little-endian pcap file.
fn read_pcap(path: &Path) -> Vec<Vec<u8>> {
    let file = fs::read(path).unwrap();
    let word = |at: usize| u32::from_le_bytes(file[at..at + 4].try_into().unwrap()) as usize;
    let mut frames = Vec::new();
    let mut at = 24;
    while at < file.len() {
        let (stored, sent) = (word(at + 8), word(at + 12));
        assert_eq!(stored, sent, "a frame was cut");
        frames.push(file[at + 16..at + 16 + stored].to_vec());
        at += 16 + stored;
    }
    frames
}

/// Frames of all sizes, with contents that tell them apart.
fn frames() -> Vec<Vec<u8>> {
    [60, 61, 64, 128, 1000, 1514, 2048, 2049, 4000, 9014]
        .iter()
        .cycle()
        .take(100)
        .enumerate()
        .map(|(number, &len)| (0..len).map(|i| (i * 31 + number * 17) as u8).collect())
        .collect()
}

#[test]
fn a_capture_goes_in_and_comes_out_byte_for_byte() {
    let eal = Eal::for_tests();
    let pool = pool(&eal);
    let folder = tempfile::tempdir().unwrap();
    let (input, output) = (
        folder.path().join("in.pcap"),
        folder.path().join("out.pcap"),
    );
    let frames = frames();
    write_pcap(&input, &frames);
    let devargs = format!(
        "{},rx_pcap={},tx_pcap={}",
        device("net_pcap"),
        input.display(),
        output.display()
    );
    let (port, mut rx, mut tx) = start(&eal, &devargs, &pool);
    assert_eq!(port.info().driver, "net_pcap");
    let bytes: u64 = frames.iter().map(|frame| frame.len() as u64).sum();

    let mut burst = MbufBurst::new();
    let mut received = Vec::new();
    while rx.rx_burst(&mut burst) > 0 {
        for packet in burst.iter() {
            let frame: Vec<u8> = packet.segments().flatten().copied().collect();
            assert_eq!(frame.len(), packet.packet_len());
            assert_eq!(packet.segments().count(), packet.segment_count());
            received.push(frame);
        }
        let count = burst.len();
        assert_eq!(tx.tx_burst(&mut burst), count);
        assert!(burst.is_empty());
    }
    assert_eq!(received, frames);

    let stats = port.stats().unwrap();
    assert_eq!((stats.rx_packets, stats.tx_packets), (100, 100));
    assert_eq!((stats.rx_bytes, stats.tx_bytes), (bytes, bytes));
    assert_eq!(
        (stats.rx_missed, stats.rx_errors, stats.tx_errors),
        (0, 0, 0)
    );
    drop((port, rx, tx));
    assert_eq!(read_pcap(&output), frames);
    assert_eq!(pool.available(), pool.count());
}

#[test]
fn packets_of_ours_reach_a_capture() {
    let eal = Eal::for_tests();
    let pool = pool(&eal);
    let folder = tempfile::tempdir().unwrap();
    let (input, output) = (
        folder.path().join("in.pcap"),
        folder.path().join("out.pcap"),
    );
    write_pcap(&input, &[]);
    let devargs = format!(
        "{},rx_pcap={},tx_pcap={}",
        device("net_pcap"),
        input.display(),
        output.display()
    );
    let (port, mut rx, mut tx) = start(&eal, &devargs, &pool);
    let mut burst = MbufBurst::new();
    assert_eq!(rx.rx_burst(&mut burst), 0, "an empty capture");

    let frames = frames();
    for chunk in frames.chunks(BURST) {
        assert_eq!(pool.alloc_burst(&mut burst, chunk.len()), chunk.len());
        for (i, frame) in chunk.iter().enumerate() {
            for (piece_number, piece) in frame.chunks(pool.data_room()).enumerate() {
                assert!(piece_number == 0 || burst.extend_chain(i, &pool));
                burst.append(i, piece.len()).unwrap().copy_from_slice(piece);
            }
        }
        assert_eq!(tx.tx_burst(&mut burst), chunk.len());
    }
    drop((port, rx, tx));
    assert_eq!(read_pcap(&output), frames);
}

#[test]
fn a_null_port_gives_and_swallows() {
    let eal = Eal::for_tests();
    let pool = pool(&eal);
    let devargs = format!("{},size=128", device("net_null"));
    let (port, mut rx, mut tx) = start(&eal, &devargs, &pool);
    let mut burst = MbufBurst::new();
    for _ in 0..100 {
        assert_eq!(rx.rx_burst(&mut burst), BURST);
        assert_eq!(burst.packet(31).packet_len(), 128);
        assert_eq!(rx.rx_burst(&mut burst), 0, "a full burst has no room");
        assert_eq!(tx.tx_burst(&mut burst), BURST);
    }
    assert_eq!(pool.available(), pool.count());
    let stats = port.stats().unwrap();
    assert_eq!((stats.rx_packets, stats.tx_packets), (3200, 3200));
    assert_eq!(port.mtu().unwrap(), 1500);
    assert!(port.link().unwrap().up);
    assert_ne!(port.mac().unwrap(), [0; 6]);
    assert_eq!((rx.port(), rx.id().0), (port.id(), 0));
}

#[test]
fn what_a_full_port_leaves_stays_in_order() {
    let eal = Eal::for_tests();
    let pool = Mempool::create(&eal, "many", 4096, 256, 0).unwrap();
    let name = device("net_ring");
    let (port, mut rx, mut tx) = start(&eal, &name, &pool);
    assert_eq!(port.info().driver, "net_ring");
    let mut burst = MbufBurst::new();
    let mut sent = 0u32;
    // The ring is full when packets are left over.
    while burst.is_empty() {
        assert_eq!(pool.alloc_burst(&mut burst, BURST), BURST);
        for i in 0..BURST {
            let number = sent + i as u32;
            let bytes = burst.append(i, 4).unwrap();
            bytes.copy_from_slice(&number.to_be_bytes());
        }
        sent += tx.tx_burst(&mut burst) as u32;
        assert!(sent < 4096, "the ring never fills");
    }
    let number = |burst: &MbufBurst, i: usize| {
        let bytes = burst.packet(i).segments().next().unwrap();
        u32::from_be_bytes(bytes.try_into().unwrap())
    };
    assert_eq!(number(&burst, 0), sent);
    assert_eq!(
        number(&burst, burst.len() - 1),
        sent + burst.len() as u32 - 1
    );
    assert_eq!(tx.tx_burst(&mut burst), 0, "still full");

    let mut got = MbufBurst::new();
    let mut received = 0;
    loop {
        rx.rx_burst(&mut got);
        if got.is_empty() {
            break;
        }
        for i in 0..got.len() {
            assert_eq!(number(&got, i), received);
            received += 1;
        }
        got.clear();
        tx.tx_burst(&mut burst);
    }
    assert_eq!(received % BURST as u32, 0);
    assert!(burst.is_empty() && received > sent);
    assert_eq!(pool.available(), pool.count());
}

#[test]
fn packets_left_in_a_ring_go_back_to_their_pool() {
    let eal = Eal::for_tests();
    let pool = pool(&eal);
    let (port, rx, mut tx) = start(&eal, &device("net_ring"), &pool);
    let mut burst = MbufBurst::new();
    pool.alloc_burst(&mut burst, 20);
    assert_eq!(tx.tx_burst(&mut burst), 20);
    assert_eq!(pool.in_use(), 20);
    drop((port, rx, tx));
    assert_eq!(pool.in_use(), 0);
}

#[test]
fn the_last_one_out_detaches_and_the_name_is_free_again() {
    let eal = Eal::for_tests();
    let pool = pool(&eal);
    for driver in ["net_null", "net_ring"] {
        let name = device(driver);
        for _ in 0..50 {
            let (port, rx, mut tx) = start(&eal, &name, &pool);
            let error = Port::attach(&eal, &name).unwrap_err();
            assert!(
                matches!(&error, AttachError::AlreadyAttached { device, .. } if *device == name),
                "{error}"
            );
            drop((port, rx));
            // A queue keeps the port running.
            let mut burst = MbufBurst::new();
            pool.alloc_burst(&mut burst, 1);
            burst.append(0, 60).unwrap().fill(0);
            assert_eq!(tx.tx_burst(&mut burst), 1);
        }
    }
    assert_eq!(pool.available(), pool.count());
}

#[test]
fn ports_are_attached_and_used_on_several_threads_at_once() {
    let eal = Eal::for_tests();
    let threads: Vec<_> = (0..4)
        .map(|_| {
            let eal = eal.clone();
            thread::spawn(move || {
                let pool = Mempool::create(&eal, "thread", 256, 512, 0).unwrap();
                for _ in 0..10 {
                    let (_port, mut rx, mut tx) = start(&eal, &device("net_null"), &pool);
                    let mut burst = MbufBurst::new();
                    rx.rx_burst(&mut burst);
                    assert_eq!(tx.tx_burst(&mut burst), BURST);
                }
                assert_eq!(pool.available(), pool.count());
            })
        })
        .collect();
    for thread in threads {
        thread.join().unwrap();
    }
}

/// The message of a failed attach, which must name the devargs.
fn refusal(eal: &Eal, devargs: &str) -> String {
    let said = Port::attach(eal, devargs).unwrap_err().to_string();
    assert!(said.contains(devargs), "{said}");
    said
}

#[test]
fn attach_errors_say_what_and_what_to_do() {
    let eal = Eal::for_tests();
    let said = refusal(&eal, "net_foo0,x=y");
    assert!(
        said.contains("net_pcap") && said.contains("net_af_packet"),
        "{said}"
    );
    let said = refusal(&eal, "0000:01:00.0");
    assert!(said.contains("without PCI"), "{said}");
    assert!(matches!(
        Port::attach(&eal, "").unwrap_err(),
        AttachError::Malformed { .. }
    ));

    let name = device("net_pcap");
    let said = refusal(&eal, &format!("{name},rx_pcap=/nonexistent/in.pcap"));
    assert!(
        said.contains("DPDK says") && said.contains("/nonexistent/in.pcap"),
        "{said}"
    );
    assert!(said.contains("Does the file of rx_pcap exist"), "{said}");
    let said = refusal(&eal, &format!("{name},no_such_key=1"));
    assert!(said.contains("was refused"), "{said}");
    let said = refusal(
        &eal,
        &format!("{},iface=no-such-if0", device("net_af_packet")),
    );
    assert!(said.contains("ip link"), "{said}");
}

#[test]
fn a_failed_attach_leaves_nothing_behind() {
    let eal = Eal::for_tests();
    let pool = pool(&eal);
    let folder = tempfile::tempdir().unwrap();
    let name = device("net_pcap");
    let input = folder.path().join("in.pcap");
    let devargs = format!(
        "{name},rx_pcap={},tx_pcap={}",
        input.display(),
        folder.path().join("out.pcap").display()
    );
    // More often than DPDK has ports (32).
    for _ in 0..100 {
        refusal(&eal, &devargs);
    }
    write_pcap(&input, &[vec![1; 60]]);
    let (_port, mut rx, _tx) = start(&eal, &devargs, &pool);
    assert_eq!(rx.rx_burst(&mut MbufBurst::new()), 1);
}

#[test]
fn a_failed_configuration_detaches() {
    let eal = Eal::for_tests();
    let pool = pool(&eal);
    let name = device("net_null");
    let configure = |change: fn(&mut PortConfig)| {
        let port = Port::attach(&eal, &name).unwrap();
        let mut config = PortConfig::new(pool.clone());
        change(&mut config);
        port.configure(&config).unwrap_err()
    };
    let error = configure(|config| config.rx_queues = 5000);
    assert!(
        matches!(
            error,
            ConfigureError::Queues {
                direction: "receive",
                asked: 5000,
                ..
            }
        ),
        "{error}"
    );
    let error = configure(|config| config.tx_queues = 0);
    let said = error.to_string();
    assert!(
        said.contains(&name) && said.contains("0 transmit queues"),
        "{said}"
    );
    let error = configure(|config| config.mtu = Some(1));
    assert!(
        matches!(error, ConfigureError::Mtu { mtu: 1, .. }),
        "{error}"
    );
    start(&eal, &name, &pool);
}

#[test]
fn an_mtu_is_taken_over() {
    let eal = Eal::for_tests();
    let port = Port::attach(&eal, &device("net_null")).unwrap();
    let jumbo = Mempool::create(&eal, "jumbo", 64, 9728, 0).unwrap();
    let mut config = PortConfig::new(jumbo);
    config.mtu = Some(9000);
    let (port, _rx, _tx) = port.configure(&config).unwrap().start().unwrap();
    assert_eq!(port.mtu().unwrap(), 9000);
}

#[test]
fn an_mtu_beyond_one_buffer_needs_a_device_that_chains() {
    let eal = Eal::for_tests();
    let mut config = PortConfig::new(pool(&eal));
    config.mtu = Some(9000);
    let port = Port::attach(&eal, &device("net_null")).unwrap();
    let error = port.configure(&config).unwrap_err();
    assert!(
        matches!(error, ConfigureError::Mtu { max: 2022, .. }),
        "{error}"
    );
    let port = Port::attach(&eal, &device("net_ring")).unwrap();
    assert!(port.info().rx_scatter);
    port.configure(&config).unwrap();
}

#[test]
fn the_mtu_changes_while_the_port_runs() {
    let eal = Eal::for_tests();
    let (port, mut rx, mut tx) = start(&eal, &device("net_null"), &pool(&eal));
    assert_eq!(port.mtu().unwrap(), 1500);
    port.set_mtu(1400).unwrap();
    assert_eq!(port.mtu().unwrap(), 1400);
    for mtu in [10, 9000] {
        let error = port.set_mtu(mtu).unwrap_err();
        assert!(matches!(error, MtuError::OutOfBounds { .. }), "{error}");
        assert!(error.to_string().contains("46 to 2022"), "{error}");
    }
    assert_eq!(port.mtu().unwrap(), 1400);

    port.set_mtu_stopped(1300, &mut [&mut rx], &mut [&mut tx])
        .unwrap();
    assert_eq!(port.mtu().unwrap(), 1300);
    let mut burst = MbufBurst::new();
    assert_eq!(rx.rx_burst(&mut burst), BURST);
    assert_eq!(tx.tx_burst(&mut burst), BURST);
}

#[test]
#[should_panic(expected = "left == right")]
fn no_port_is_stopped_while_a_queue_is_elsewhere() {
    let eal = Eal::for_tests();
    let (port, mut rx, _tx) = start(&eal, &device("net_null"), &pool(&eal));
    let _ = port.set_mtu_stopped(1300, &mut [&mut rx], &mut []);
}

#[test]
fn a_port_tells_what_it_has_got() {
    let eal = Eal::for_tests();
    let port = Port::attach(&eal, &device("net_null")).unwrap();
    assert_eq!(port.info().offloads.max_segs, 1);
    let mut config = PortConfig::new(pool(&eal));
    (config.rx_queues, config.tx_queues) = (2, 3);
    (config.rx_descriptors, config.tx_descriptors) = (256, 512);
    let (port, rx, tx) = port.configure(&config).unwrap().start().unwrap();
    assert_eq!((rx.len(), tx.len()), (2, 3));
    let settings = port.settings();
    assert_eq!((settings.rx_queues, settings.tx_queues), (2, 3));
    assert_eq!(
        (settings.rx_descriptors, settings.tx_descriptors),
        (256, 512)
    );
    assert_eq!(settings.rss.to_string(), "ip tcp udp");
    assert!(!settings.link_events);
    assert!(!port.removed());
    assert!(port.on_event(|| {}) && !port.on_event(|| {}));
}

#[test]
fn one_queue_needs_no_hash() {
    let eal = Eal::for_tests();
    let (port, _rx, _tx) = start(&eal, &device("net_null"), &pool(&eal));
    assert_eq!(port.settings().rss.to_string(), "none");
}

#[test]
fn the_devices_own_counters_have_names() {
    let eal = Eal::for_tests();
    let (port, mut rx, _tx) = start(&eal, &device("net_null"), &pool(&eal));
    rx.rx_burst(&mut MbufBurst::new());
    let counters = port.xstats().unwrap();
    let value = |name: &str| {
        let mut found = counters.iter().filter(|(counter, _)| counter == name);
        let value = found
            .next()
            .unwrap_or_else(|| panic!("{name}: {counters:?}"));
        assert!(found.next().is_none(), "{name} is there twice");
        value.1
    };
    assert_eq!(value("rx_good_packets"), BURST as u64);
    assert_eq!(value("tx_good_packets"), 0);
    assert_eq!(value("rx_missed_errors"), 0);
}
