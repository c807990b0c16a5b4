//! Every odd way to lay out a frame in descriptors, in both directions: what
//! one scripted guest sends the other gets byte for byte, or a drop reason
//! says why not, and the switch's balance holds.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use ringway_frontend::net::{Buffers, receiveq, transmitq};
use ringway_frontend::ring::USED_NO_NOTIFY;
use ringway_frontend::{
    Backing, Gpa, Guest, GuestMemory, NetDriver, RegionSpec, SessionConfig, features,
};
use ringway_tests::daemon::{Daemon, DaemonOptions};
use ringway_tests::machine::{self, Exclusive};
use ringway_tests::scripted::{self, LIMIT, frame};
use ringway_tests::wait;

/// What receive buffers are filled with before the switch writes to them.
const UNTOUCHED: u8 = 0xee;
/// Header flag: the checksum is partial.
const NEEDS_CSUM: u8 = 1;

/// One of the two guests, with a heap from which every buffer comes.
struct Station {
    port: &'static str,
    guest: Guest,
    /// Where the next buffer goes.
    next: Gpa,
}

/// How a chain is given to the switch.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Way {
    Direct,
    /// Through a table this many bytes off a 16-byte boundary.
    Indirect(u64),
}

/// A receive chain in the ring.
struct Posted {
    head: u16,
    buffers: Vec<(Gpa, usize)>,
}

impl Station {
    fn header_len(&self) -> usize {
        match self.guest.features & (features::VERSION_1 | features::MRG_RXBUF) {
            0 => 10,
            _ => 12,
        }
    }

    /// Room for `len` bytes, at an odd address and next to nothing else.
    fn room(&mut self, len: usize) -> Gpa {
        let mut gpa = self.next | 1;
        if !self.guest.memory.contains(gpa, len + 16) {
            gpa = self.guest.free_gpa | 1;
        }
        self.next = gpa + len as u64 + 2;
        gpa
    }

    fn add(&mut self, queue: usize, buffers: &[(Gpa, usize)], way: Way) -> u16 {
        let write = queue == receiveq(0);
        let list: Vec<_> = buffers
            .iter()
            .map(|&(gpa, len)| (gpa, len as u32, write))
            .collect();
        match way {
            Way::Direct => self.guest.rings[queue].add_chain(&list).unwrap(),
            Way::Indirect(off) => {
                let table = self.room(16 * list.len() + 32).next_multiple_of(16) + off;
                self.guest.rings[queue].add_indirect(table, &list).unwrap()
            }
        }
    }

    /// Sends header and frame cut into pieces of these lengths.
    fn send(&mut self, bytes: &[u8], pieces: &[usize], way: Way) {
        assert_eq!(pieces.iter().sum::<usize>(), bytes.len(), "{pieces:?}");
        let mut rest = bytes;
        let mut buffers = Vec::new();
        for &len in pieces {
            let (piece, behind) = rest.split_at(len);
            let gpa = self.room(len);
            self.guest.memory.write_bytes(gpa, piece);
            buffers.push((gpa, len));
            rest = behind;
        }
        self.add(transmitq(0), &buffers, way);
        self.guest.rings[transmitq(0)].kick_if_wanted();
    }

    /// Gives the switch one receive chain of buffers of these lengths.
    fn post(&mut self, lengths: &[usize], way: Way) -> Posted {
        let mut buffers = Vec::new();
        for &len in lengths {
            let gpa = self.room(len);
            self.guest.memory.write_bytes(gpa, &vec![UNTOUCHED; len]);
            buffers.push((gpa, len));
        }
        let head = self.add(receiveq(0), &buffers, way);
        self.guest.rings[receiveq(0)].kick_if_wanted();
        Posted { head, buffers }
    }

    /// What the switch wrote into the next chain, which must be this one.
    fn take(&mut self, posted: &Posted) -> Vec<u8> {
        let used = within(|| self.guest.rings[receiveq(0)].poll_used())
            .unwrap_or_else(|| panic!("{}: a chain was not used", self.port));
        assert_eq!(used.id, u32::from(posted.head), "chains out of order");
        let mut all = Vec::new();
        for &(gpa, len) in &posted.buffers {
            all.extend(self.guest.memory.read_bytes(gpa, len));
        }
        let (written, rest) = all.split_at(used.len as usize);
        assert!(
            rest.iter().all(|byte| *byte == UNTOUCHED),
            "{}: {} bytes were reported, more were written: {rest:02x?}",
            self.port,
            used.len
        );
        written.to_vec()
    }

    /// Waits until the switch is done with the next chain of the transmitq.
    fn sent(&mut self) {
        let used = within(|| self.guest.rings[transmitq(0)].poll_used());
        let used = used.unwrap_or_else(|| panic!("{}: a frame stays in the ring", self.port));
        assert_eq!(used.len, 0, "nothing is written into a transmitq");
    }
}

fn within<T>(mut probe: impl FnMut() -> Option<T>) -> Option<T> {
    let begin = Instant::now();
    loop {
        match probe() {
            None if begin.elapsed() < LIMIT => std::thread::yield_now(),
            answer => return answer,
        }
    }
}

/// Two guests on a bridge, and what the switch's counters must say.
struct Bench {
    stations: [Station; 2],
    sent: u64,
    delivered: u64,
    dropped: BTreeMap<(String, String), u64>,
    number: u32,
    daemon: Daemon,
    _alone: Exclusive,
}

const PORTS: [&str; 2] = ["a", "b"];

impl Bench {
    fn new() -> Self {
        Self::with(&config(256), &config(256))
    }

    /// On split rings, on packed ones, and from one to the other.
    fn each(ring_size: u16, test: impl Fn(&mut Self)) {
        let (split, packed) = (config(ring_size), packed(config(ring_size)));
        for (a, b) in [(&split, &split), (&packed, &packed), (&split, &packed)] {
            test(&mut Self::with(a, b));
        }
    }

    fn with(a: &SessionConfig, b: &SessionConfig) -> Self {
        Self::with_memory(a, b, || {
            GuestMemory::single(16 << 20, Backing::Shared).unwrap()
        })
    }

    fn with_memory(a: &SessionConfig, b: &SessionConfig, memory: impl Fn() -> GuestMemory) -> Self {
        let (daemon, alone) = daemon(DaemonOptions::default());
        let stations = [(PORTS[0], a), (PORTS[1], b)].map(|(port, config)| {
            let session = scripted::connect(&daemon, port).unwrap();
            let guest = session
                .bring_up_with(config, Arc::new(memory()), 0x1000)
                .unwrap();
            daemon.wait_state(port, "forwarding").unwrap();
            Station {
                port,
                next: guest.free_gpa,
                guest,
            }
        });
        Self {
            stations,
            sent: 0,
            delivered: 0,
            dropped: BTreeMap::new(),
            number: 0,
            daemon,
            _alone: alone,
        }
    }

    /// The next frame from station `from`: no two are alike.
    fn frame(&mut self, from: usize, len: usize) -> Vec<u8> {
        self.number += 1;
        frame(2 - from as u8, 1 + from as u8, len, self.number)
    }

    /// Header and frame as station `from` puts them in its ring.
    fn packet(&self, from: usize, frame: &[u8]) -> Vec<u8> {
        let mut packet = vec![0; self.stations[from].header_len()];
        packet.extend(frame);
        packet
    }

    fn send(&mut self, from: usize, packet: &[u8], pieces: &[usize], way: Way) {
        self.sent += 1;
        self.stations[from].send(packet, pieces, way);
        self.stations[from].sent();
    }

    /// Takes a frame that lies in these chains, all of them and in order.
    fn receive(&mut self, to: usize, chains: &[Posted], frame: &[u8]) -> Vec<u8> {
        self.delivered += 1;
        let station = &mut self.stations[to];
        let mut got = Vec::new();
        for (index, chain) in chains.iter().enumerate() {
            let part = station.take(chain);
            let room: usize = chain.buffers.iter().map(|(_, len)| len).sum();
            if index + 1 < chains.len() {
                assert_eq!(part.len(), room, "chain {index} is not full");
            }
            got.extend(part);
        }
        assert!(got.len() >= station.header_len(), "{} bytes", got.len());
        let (header, body) = got.split_at(station.header_len());
        if let [.., low, high] = header
            && header.len() == 12
        {
            let num_buffers = u16::from_le_bytes([*low, *high]);
            assert_eq!(usize::from(num_buffers), chains.len());
        }
        assert!(
            body == frame,
            "sent {} bytes {frame:02x?}\ngot {} bytes {body:02x?}",
            frame.len(),
            body.len()
        );
        header.to_vec()
    }

    /// One frame of `len` bytes one way: sent in `pieces` (of header and
    /// frame together), received in `chains`.
    fn pass(&mut self, from: usize, len: usize, tx: (&[usize], Way), rx: (&[&[usize]], Way)) {
        let frame = self.frame(from, len);
        let packet = self.packet(from, &frame);
        let posted: Vec<_> =
            rx.0.iter()
                .map(|lengths| self.stations[1 - from].post(lengths, rx.1))
                .collect();
        self.send(from, &packet, tx.0, tx.1);
        let header = self.receive(1 - from, &posted, &frame);
        assert!(header[..10].iter().all(|byte| *byte == 0), "{header:02x?}");
    }

    /// Sent as `pieces`, received in one large buffer; both ways.
    fn sends(&mut self, len: usize, pieces: &[usize], way: Way) {
        for from in [0, 1] {
            self.pass(from, len, (pieces, way), (&[&[len + 64]], Way::Direct));
        }
    }

    /// Sent as one buffer, received in `chains`; both ways.
    fn receives(&mut self, len: usize, chains: &[&[usize]], way: Way) {
        for from in [0, 1] {
            let whole = self.stations[from].header_len() + len;
            self.pass(from, len, (&[whole], Way::Direct), (chains, way));
        }
    }

    /// Sends a packet that the switch must drop at `port` for this reason.
    fn drops(
        &mut self,
        from: usize,
        packet: &[u8],
        pieces: &[usize],
        (port, reason): (usize, &str),
    ) {
        self.send(from, packet, pieces, Way::Direct);
        *self
            .dropped
            .entry((PORTS[port].to_owned(), reason.to_owned()))
            .or_default() += 1;
    }

    /// What went in came out or was dropped for the reasons expected, and no
    /// buffer was used beyond those.
    fn check(&self) {
        let balance = scripted::even_balance(&self.daemon).unwrap();
        assert_eq!(balance.received, self.sent, "{balance:?}");
        assert_eq!(balance.transmitted, self.delivered, "{balance:?}");
        assert_eq!(balance.replicated, 0, "{balance:?}");
        let mut dropped = BTreeMap::new();
        for drop in self.daemon.drops().unwrap() {
            *dropped.entry((drop.port, drop.reason)).or_insert(0) += drop.packets;
        }
        dropped.retain(|_, packets| *packets > 0);
        assert_eq!(dropped, self.dropped);
        for station in &self.stations {
            for ring in &station.guest.rings {
                assert!(!ring.has_used(), "{}", station.port);
            }
        }
        self.daemon.wait_forwarding(&PORTS).unwrap();
    }
}

fn daemon(options: DaemonOptions) -> (Daemon, Exclusive) {
    let alone = machine::exclusive().unwrap();
    let daemon = Daemon::start_with(options).unwrap();
    daemon.ok(&["add-br", "br0"]).unwrap();
    for port in PORTS {
        daemon
            .add_vhost_port("br0", port, &["mode=server"])
            .unwrap();
    }
    (daemon, alone)
}

fn config(ring_size: u16) -> SessionConfig {
    SessionConfig {
        ring_size,
        ..SessionConfig::default()
    }
}

/// The same with packed rings.
fn packed(mut config: SessionConfig) -> SessionConfig {
    config.features |= features::RING_PACKED;
    config.required |= features::RING_PACKED;
    config
}

/// Without `bits`.
fn lacking(bits: u64) -> SessionConfig {
    let mut config = config(256);
    config.features &= !bits;
    config.required = 0;
    config
}

/// A station's driver, for many plain frames.
fn driver(daemon: &Daemon, port: &str, config: &SessionConfig, buffer: u32) -> NetDriver {
    let session = scripted::connect(daemon, port).unwrap();
    let guest = session.bring_up(config).unwrap();
    daemon.wait_state(port, "forwarding").unwrap();
    let buffers = Buffers {
        receive: buffer,
        transmit: buffer,
        fill: true,
    };
    NetDriver::with_buffers(guest, buffers).unwrap()
}

/// `count` frames one way, `window` at a time, each checked.
fn stream(from: &mut NetDriver, to: &mut NetDriver, count: u32, window: u32, mac: (u8, u8)) {
    let mut received = 0;
    for sent in (0..count).step_by(window as usize) {
        let end = (sent + window).min(count);
        for number in sent..end {
            assert!(from.send(0, &frame(mac.0, mac.1, 60, number)), "ring full");
        }
        while received < end {
            let got = to.recv_within(0, LIMIT);
            assert_eq!(got, Some(frame(mac.0, mac.1, 60, received)));
            received += 1;
        }
        assert!(from.flush(0, LIMIT), "descriptors do not come back");
    }
}

// Dequeue: from the guest to the switch.

#[test]
fn the_header_may_be_anywhere_in_the_first_descriptors() {
    Bench::each(256, |bench| {
        for len in [60, 117, 1514] {
            bench.sends(len, &[12 + len], Way::Direct);
            bench.sends(len, &[12, len], Way::Direct);
            bench.sends(len, &[5, 7, len], Way::Direct);
            bench.sends(len, &[5, 7 + len], Way::Direct);
            bench.sends(len, &[13, len - 1], Way::Direct);
            let mut bytewise = vec![1; 12];
            bytewise.push(len);
            bench.sends(len, &bytewise, Way::Direct);
        }
        bench.check();
    });
}

#[test]
fn descriptors_may_have_one_byte_each() {
    Bench::each(256, |bench| {
        bench.sends(64, &[1; 76], Way::Direct);
        bench.sends(64, &[1; 76], Way::Indirect(0));
        bench.sends(200, &[1; 212], Way::Direct);
        bench.check();
    });
}

#[test]
fn a_frame_may_be_cut_at_every_odd_place() {
    Bench::each(256, |bench| {
        let len = 301;
        for cut in (1..12 + len).step_by(2) {
            bench.sends(len, &[cut, 12 + len - cut], Way::Direct);
        }
        for cut in (13..12 + len - 3).step_by(6) {
            bench.sends(len, &[12, cut - 12, 3, 12 + len - cut - 3], Way::Direct);
        }
        bench.check();
    });
}

#[test]
fn empty_descriptors_are_passed_over() {
    Bench::each(256, |bench| {
        let len = 333;
        bench.sends(len, &[0, 12 + len], Way::Direct);
        bench.sends(len, &[12 + len, 0], Way::Direct);
        bench.sends(len, &[0, 0, 12, 0, 100, 0, 0, len - 100, 0], Way::Direct);
        bench.sends(len, &[0, 6, 0, 6, 0, len, 0], Way::Indirect(0));
        bench.receives(len, &[&[0, 12 + len]], Way::Direct);
        bench.receives(len, &[&[12, 0, 0, 100, 0, len - 100, 0]], Way::Direct);
        bench.receives(len, &[&[0, 5, 0, 7, 0, len]], Way::Indirect(0));
        bench.check();
    });
}

#[test]
fn indirect_tables_may_be_short_long_and_anywhere() {
    Bench::each(512, |bench| {
        for off in [0, 1, 8, 15] {
            let way = Way::Indirect(off);
            bench.sends(64, &[76], way);
            bench.sends(64, &[12, 64], way);
            let mut sixteen = vec![4; 15];
            sixteen.push(1526 - 60);
            bench.sends(1514, &sixteen, way);
            let mut many = vec![5; 299];
            many.push(1526 - 5 * 299);
            bench.sends(1514, &many, way);
            bench.receives(64, &[&[76]], way);
            bench.receives(64, &[&[12, 64]], way);
            bench.receives(1514, &[&sixteen], way);
            bench.receives(1514, &[&many], way);
        }
        bench.check();
    });
}

#[test]
fn a_buffer_may_straddle_two_regions() {
    const BORDER: Gpa = 8 << 20;
    let memory = || {
        let region = |gpa| RegionSpec {
            gpa,
            size: BORDER,
            backing: Backing::Shared,
        };
        GuestMemory::new(&[region(0), region(BORDER)]).unwrap()
    };
    let mut bench = Bench::with_memory(&config(256), &config(256), memory);
    let len = 501;
    // The border falls into the header, the head and the body.
    for before in [1_usize, 5, 11, 13, 77, 139, 141, 255, 401, 511] {
        for from in [0, 1] {
            let put = |bench: &mut Bench, station: usize| {
                bench.stations[station].next = BORDER - before as u64;
            };
            put(&mut bench, from);
            bench.pass(
                from,
                len,
                (&[12 + len], Way::Direct),
                (&[&[600]], Way::Direct),
            );
            put(&mut bench, 1 - from);
            bench.pass(
                from,
                len,
                (&[12 + len], Way::Direct),
                (&[&[600]], Way::Direct),
            );
            put(&mut bench, from);
            put(&mut bench, 1 - from);
            bench.pass(
                from,
                len,
                (&[12 + len], Way::Direct),
                (&[&[600]], Way::Direct),
            );
        }
    }
    bench.check();
}

#[test]
fn frames_have_a_shortest_and_a_longest_length() {
    const LONGEST: usize = 65_535 + 22;
    let mut bench = Bench::with(&config(2048), &config(2048));
    // 14 bytes are a frame, 13 are not, nor is less than the header.
    for from in [0, 1] {
        bench.pass(from, 14, (&[26], Way::Direct), (&[&[64]], Way::Direct));
        bench.pass(from, 14, (&[12, 14], Way::Direct), (&[&[64]], Way::Direct));
        let at = (from, "frame_too_short");
        let short = bench.frame(from, 13);
        let packet = bench.packet(from, &short);
        bench.drops(from, &packet, &[25], at);
        bench.drops(from, &packet, &[12, 13], at);
        bench.drops(from, &packet[..12], &[12], at);
        bench.drops(from, &packet[..5], &[5], at);
        bench.drops(from, &packet[..5], &[0, 5, 0], at);
        bench.drops(from, &[], &[0], at);
    }
    for len in [9000, 9014, 65_535, LONGEST] {
        let whole = 12 + len;
        bench.sends(len, &[whole], Way::Direct);
        bench.sends(len, &[12, 4096, whole - 4108], Way::Direct);
        let mut pages = vec![4096; whole / 4096];
        pages.push(whole % 4096);
        bench.sends(len, &pages, Way::Direct);
        bench.receives(len, &[&pages], Way::Direct);
        let buffers: Vec<_> = pages.chunks(1).collect();
        bench.receives(len, &buffers, Way::Direct);
    }
    for from in [0, 1] {
        let long = bench.frame(from, LONGEST + 1);
        let packet = bench.packet(from, &long);
        let at = (from, "frame_too_long");
        bench.drops(from, &packet, &[packet.len()], at);
        bench.drops(from, &packet, &[12, packet.len() - 12], at);
        // More parts than a packet may have.
        let scattered = bench.frame(from, 1400);
        let packet = bench.packet(from, &scattered);
        bench.drops(from, &packet, &[1; 1412], (from, "chain_too_long"));
    }
    bench.sends(60, &[72], Way::Direct);
    bench.check();
}

// Enqueue: from the switch to the guest.

#[test]
fn mergeable_buffers_are_filled_one_after_the_other() {
    let mut bench = Bench::new();
    for count in 2..=6 {
        for each in [12, 13, 100, 257] {
            // The last one holds one byte, some, or is full.
            for last in [1, each / 2, each] {
                let total = (count - 1) * each + last;
                if total < 12 + 14 {
                    continue;
                }
                let buffers = vec![each; count];
                let chains: Vec<_> = buffers.chunks(1).collect();
                bench.receives(total - 12, &chains, Way::Direct);
            }
        }
    }
    // Chains of several descriptors, of different lengths, and tables.
    bench.receives(300, &[&[12, 50], &[1, 2, 3], &[400]], Way::Direct);
    bench.receives(300, &[&[7, 5, 50], &[0, 60, 0], &[400]], Way::Indirect(0));
    bench.check();
}

#[test]
fn receive_chains_may_be_of_any_layout() {
    let mut bench = Bench::new();
    for len in [60, 117, 1514] {
        for way in [Way::Direct, Way::Indirect(0), Way::Indirect(3)] {
            bench.receives(len, &[&[12 + len]], way);
            bench.receives(len, &[&[12, 2000]], way);
            bench.receives(len, &[&[5, 7, 2000]], way);
            bench.receives(len, &[&[5, 2007]], way);
            let mut bytewise = vec![1; 12];
            bytewise.push(2000);
            bench.receives(len, &[&bytewise], way);
        }
    }
    bench.receives(64, &[&[1; 76]], Way::Direct);
    bench.receives(64, &[&[1; 76]], Way::Indirect(0));
    let len = 301;
    for cut in (1..12 + len).step_by(2) {
        bench.receives(len, &[&[cut, 12 + len - cut]], Way::Direct);
    }
    bench.check();
}

#[test]
fn without_mergeable_buffers_a_frame_fits_or_is_dropped() {
    let mut bench = Bench::with(&lacking(features::MRG_RXBUF), &lacking(features::MRG_RXBUF));
    for from in [0, 1] {
        let to = 1 - from;
        for layout in [&[12 + 100][..], &[12, 100], &[12, 60, 40], &[50, 62]] {
            bench.pass(from, 100, (&[112], Way::Direct), (&[layout], Way::Direct));
            // One byte more does not fit, however many buffers there are; the
            // chain stays for the next frame that does.
            let posted = [
                bench.stations[to].post(layout, Way::Direct),
                bench.stations[to].post(layout, Way::Direct),
            ];
            let long = bench.frame(from, 101);
            let packet = bench.packet(from, &long);
            bench.drops(from, &packet, &[113], (to, "buffer_too_small"));
            for chain in posted {
                let fits = bench.frame(from, 100);
                let packet = bench.packet(from, &fits);
                bench.send(from, &packet, &[112], Way::Direct);
                bench.receive(to, &[chain], &fits);
            }
        }
    }
    bench.check();
}

#[test]
fn too_few_mergeable_buffers_are_left_alone() {
    let mut bench = Bench::new();
    for from in [0, 1] {
        let to = 1 - from;
        let nothing = bench.frame(from, 60);
        let packet = bench.packet(from, &nothing);
        bench.drops(from, &packet, &[72], (to, "ring_full"));

        let posted = [0, 1].map(|_| bench.stations[to].post(&[100], Way::Direct));
        let long = bench.frame(from, 300);
        let packet = bench.packet(from, &long);
        bench.drops(from, &packet, &[312], (to, "ring_full"));
        let fits = bench.frame(from, 188);
        let packet = bench.packet(from, &fits);
        bench.send(from, &packet, &[200], Way::Direct);
        bench.receive(to, &posted, &fits);
    }
    bench.check();
}

#[test]
fn legacy_guests_have_a_header_of_ten_bytes() {
    const LEGACY: u64 = features::VERSION_1 | features::MRG_RXBUF;
    // Old with old, and with new on the other side.
    for other in [lacking(LEGACY), config(256)] {
        let mut bench = Bench::with(&lacking(LEGACY), &other);
        assert_eq!(bench.stations[0].header_len(), 10);
        for from in [0, 1] {
            let header = bench.stations[from].header_len();
            let to = bench.stations[1 - from].header_len();
            for len in [14, 60, 117, 118, 119, 1514] {
                for pieces in [&[header, len][..], &[header + len], &[3, header + len - 3]] {
                    for chain in [&[to, 1600][..], &[2048], &[to + len], &[4, 5, 2000]] {
                        bench.pass(from, len, (pieces, Way::Direct), (&[chain], Way::Direct));
                    }
                }
            }
        }
        let short = bench.frame(0, 13);
        let packet = bench.packet(0, &short);
        bench.drops(0, &packet, &[10, 13], (0, "frame_too_short"));
        bench.check();
    }
}

#[test]
fn legacy_guests_with_mergeable_buffers_have_twelve() {
    let mut bench = Bench::with(&lacking(features::VERSION_1), &lacking(features::VERSION_1));
    assert_eq!(bench.stations[0].header_len(), 12);
    for len in [60, 1514] {
        bench.sends(len, &[12, len], Way::Direct);
        bench.receives(len, &[&[12, 2000]], Way::Direct);
    }
    bench.receives(300, &[&[100], &[100], &[112]], Way::Direct);
    bench.check();
}

// Indices and sizes.

#[test]
fn rings_may_have_any_size() {
    for ring_size in [2, 256, 1024, 32768] {
        let (daemon, _alone) = daemon(DaemonOptions::default());
        let config = SessionConfig {
            ring_size,
            memory_size: 16 << 20,
            ..SessionConfig::default()
        };
        let mut a = driver(&daemon, "a", &config, 128);
        let mut b = driver(&daemon, "b", &config, 128);
        // Twice round the largest ring; a window of whole small rings.
        let count = (2 * u32::from(ring_size) + 10).max(1000);
        let window = u32::from(ring_size).min(512);
        stream(&mut a, &mut b, count, window, (2, 1));
        stream(&mut b, &mut a, count, window, (1, 2));
        let balance = scripted::even_balance(&daemon).unwrap();
        assert_eq!(balance.transmitted, 2 * u64::from(count), "{balance:?}");
        assert_eq!(balance.dropped, 0, "{balance:?}");
        for guest in [&mut a.guest, &mut b.guest] {
            let bases = guest.stop().unwrap();
            assert_eq!(bases, [count % 0x10000; 2], "ring {ring_size}");
        }
    }
}

#[test]
fn indices_wrap_from_65535_to_0() {
    let (daemon, _alone) = daemon(DaemonOptions::default());
    let config = SessionConfig {
        base: 65_530,
        ..SessionConfig::default()
    };
    let mut a = driver(&daemon, "a", &config, 2048);
    let mut b = driver(&daemon, "b", &config, 2048);
    for window in [1, 3, 32] {
        stream(&mut a, &mut b, 3 * window, window, (2, 1));
        stream(&mut b, &mut a, 3 * window, window, (1, 2));
    }
    let sent = 3 * (1 + 3 + 32);
    for guest in [&mut a.guest, &mut b.guest] {
        assert_eq!(guest.stop().unwrap(), [(65_530 + sent) % 0x10000; 2]);
    }
    let balance = scripted::even_balance(&daemon).unwrap();
    assert_eq!(balance.transmitted, 2 * u64::from(sent), "{balance:?}");
    assert_eq!(balance.dropped, 0, "{balance:?}");
}

#[test]
fn a_ring_goes_on_where_its_used_index_says() {
    let (daemon, _alone) = daemon(DaemonOptions::default());
    let mut a = driver(&daemon, "a", &config(256), 2048);
    let mut b = driver(&daemon, "b", &config(256), 2048);
    stream(&mut a, &mut b, 100, 10, (2, 1));
    // The frontend forgets how far the rings have come, as one does whose
    // backend was killed: the used index in memory knows.
    let bases = a.guest.stop().unwrap();
    assert_eq!(bases, [0, 100]);
    for queue in [receiveq(0), transmitq(0)] {
        let guest = &mut a.guest;
        guest
            .session
            .start_ring(queue, &guest.rings[queue], 0)
            .unwrap();
        guest.session.set_vring_enable(queue, true).unwrap();
    }
    daemon.wait_state("a", "forwarding").unwrap();
    stream(&mut a, &mut b, 100, 10, (2, 1));
    stream(&mut b, &mut a, 100, 10, (1, 2));
    assert_eq!(a.guest.stop().unwrap(), [100, 200]);
}

/// The same for packed rings, which have no such index; frames of several
/// descriptors among them.
#[test]
fn a_packed_ring_goes_on_where_its_flags_say() {
    let config = packed(config(256));
    let mut bench = Bench::with(&config, &config);
    for round in 0..9 {
        for count in 1..60_usize {
            let mut pieces = vec![12; count % 4];
            pieces.push(12 + 300 - 12 * pieces.len());
            let chain: &[usize] = if count % 3 == 0 { &[100, 400] } else { &[400] };
            bench.pass(
                count % 2,
                300,
                (&pieces, Way::Direct),
                (&[chain], Way::Direct),
            );
        }
        for station in &mut bench.stations {
            let guest = &mut station.guest;
            guest.stop().unwrap();
            for queue in [receiveq(0), transmitq(0)] {
                // The frontend knows where the rings once began.
                let ring = &guest.rings[queue];
                guest.session.start_ring(queue, ring, 0x8000).unwrap();
                guest.session.set_vring_enable(queue, true).unwrap();
            }
            bench.daemon.wait_state(station.port, "forwarding").unwrap();
        }
        println!("round {round}");
    }
    bench.check();
}

// Kicks and calls.

/// Whether the only poll-mode core sleeps, and how often it has so far.
fn sleeping(daemon: &Daemon) -> (bool, u64) {
    let shown = daemon.json(&["pmd", "show"]).unwrap();
    let stats = daemon.json(&["pmd", "stats"]).unwrap();
    let sleeps = stats["pmds"][0]["sleeps"].as_u64().unwrap();
    (shown["pmds"][0]["state"] == "asleep", sleeps)
}

fn wait_asleep(daemon: &Daemon) -> u64 {
    wait::until("the core to sleep", LIMIT, || match sleeping(daemon) {
        (true, sleeps) => Ok(sleeps),
        awake => Err(awake),
    })
    .unwrap()
}

#[test]
fn a_sleeping_core_asks_for_a_kick_and_wakes_on_it() {
    for bits in [0, features::EVENT_IDX] {
        let (daemon, _alone) = daemon(DaemonOptions::default());
        let config = lacking(features::EVENT_IDX ^ bits);
        let mut a = driver(&daemon, "a", &config, 2048);
        let mut b = driver(&daemon, "b", &config, 2048);
        for number in 0..20 {
            let sleeps = wait_asleep(&daemon);
            let ring = a.guest.rings[transmitq(0)].split();
            match bits {
                0 => assert_eq!(ring.used_flags() & USED_NO_NOTIFY, 0),
                _ => assert_eq!(ring.avail_event(), ring.next_avail()),
            }
            // A frame without a kick wakes nobody …
            let gpa = a.guest.free_gpa + (8 << 20);
            let sent = frame(2, 1, 60, number);
            a.guest.memory.write_bytes(gpa, &[0; 12]);
            a.guest.memory.write_bytes(gpa + 12, &sent);
            let ring = &mut a.guest.rings[transmitq(0)];
            ring.add_chain(&[(gpa, 72, false)]).unwrap();
            assert_eq!(sleeping(&daemon), (true, sleeps), "it woke by itself");
            assert!(!a.guest.rings[transmitq(0)].has_used());
            // … and the ring asks for it.
            assert!(a.guest.rings[transmitq(0)].kick_if_wanted());
            assert_eq!(b.recv_within(0, LIMIT), Some(sent));
            assert!(a.flush(0, LIMIT));
        }
    }
}

#[test]
fn no_wakeup_is_lost_between_polling_and_sleeping() {
    for bits in [0, features::EVENT_IDX] {
        let options = DaemonOptions {
            // The core sleeps whenever there is nothing to do for a moment.
            arguments: vec!["--sleep-after".into(), "1".into()],
            ..DaemonOptions::default()
        };
        let (daemon, _alone) = daemon(options);
        let config = lacking(features::EVENT_IDX ^ bits);
        let mut a = driver(&daemon, "a", &config, 2048);
        let mut b = driver(&daemon, "b", &config, 2048);
        for round in 0_u64..2000 {
            let spin = Duration::from_nanos(round % 97 * 300);
            let begin = Instant::now();
            while begin.elapsed() < spin {}
            stream(&mut a, &mut b, 1, 1, (2, 1));
            stream(&mut b, &mut a, 1, 1, (1, 2));
        }
        let (_, sleeps) = sleeping(&daemon);
        assert!(sleeps > 100, "the core slept {sleeps} times only");
    }
}

#[test]
fn a_polling_core_wants_no_kicks() {
    let options = DaemonOptions {
        arguments: vec!["--sleep-after".into(), "off".into()],
        ..DaemonOptions::default()
    };
    let (daemon, _alone) = daemon(options);
    for bits in [0, features::EVENT_IDX] {
        let config = lacking(features::EVENT_IDX ^ bits);
        let mut a = driver(&daemon, "a", &config, 2048);
        let mut b = driver(&daemon, "b", &config, 2048);
        let mut kicks = 0;
        for number in 0..1000 {
            let sent = frame(2, 1, 60, number);
            let gpa = a.guest.free_gpa + (8 << 20);
            a.guest.memory.write_bytes(gpa, &[0; 12]);
            a.guest.memory.write_bytes(gpa + 12, &sent);
            let ring = &mut a.guest.rings[transmitq(0)];
            ring.add_chain(&[(gpa, 72, false)]).unwrap();
            kicks += u32::from(ring.kick_if_wanted());
            assert_eq!(b.recv_within(0, LIMIT), Some(sent));
            assert!(a.flush(0, LIMIT));
        }
        match bits {
            0 => assert_eq!(kicks, 0),
            // avail_event stays where it is and is passed once in 65,536.
            _ => assert!(kicks <= 1, "{kicks} kicks wanted"),
        }
        drop((a, b));
        for port in PORTS {
            daemon.wait_state(port, "waiting-for-socket").unwrap();
        }
    }
}

#[test]
fn packed_rings_are_kicked_and_called_as_well() {
    for bits in [0, features::EVENT_IDX] {
        let options = DaemonOptions {
            arguments: vec!["--sleep-after".into(), "1".into()],
            ..DaemonOptions::default()
        };
        let (daemon, _alone) = daemon(options);
        let config = packed(lacking(features::EVENT_IDX ^ bits));
        let mut a = driver(&daemon, "a", &config, 2048);
        let mut b = driver(&daemon, "b", &config, 2048);
        for number in 0..300 {
            let ring = &b.guest.rings[receiveq(0)];
            ring.want_calls(number % 2 == 0);
            ring.take_calls();
            let sent = frame(2, 1, 60, number);
            assert!(a.send(0, &sent));
            if number % 2 == 0 {
                assert!(b.guest.wait_call(receiveq(0), LIMIT), "no call");
            }
            assert_eq!(b.recv_within(0, LIMIT), Some(sent));
            assert!(a.flush(0, LIMIT));
        }
        let (_, sleeps) = sleeping(&daemon);
        assert!(sleeps > 20, "the core slept {sleeps} times only");
    }
}

/// A frame the other way, after which all decisions about calls for earlier
/// frames have been made: the one core handles one burst at a time.
fn barrier(bench: &mut Bench, from: usize) {
    for _ in 0..2 {
        bench.pass(from, 60, (&[72], Way::Direct), (&[&[100]], Way::Direct));
    }
}

#[test]
fn calls_come_exactly_when_used_event_says() {
    for base in [0, 65_530] {
        let config = SessionConfig {
            base,
            ..config(256)
        };
        let mut bench = Bench::with(&config, &config);
        // Receiving: b wants a call at the fifth frame from now, no sooner.
        let posted: Vec<_> = (0..12)
            .map(|_| bench.stations[1].post(&[100], Way::Direct))
            .collect();
        let mut posted = posted.into_iter();
        bench.stations[1].guest.rings[receiveq(0)]
            .split()
            .set_used_event(base.wrapping_add(4));
        let mut calls = Vec::new();
        for _ in 0..12 {
            let sent = bench.frame(0, 60);
            let packet = bench.packet(0, &sent);
            bench.send(0, &packet, &[72], Way::Direct);
            let chain = posted.next().unwrap();
            bench.receive(1, &[chain], &sent);
            // The frame's descriptor came back: b was called before that.
            calls.push(bench.stations[1].guest.rings[receiveq(0)].take_calls());
        }
        assert_eq!(calls, [0, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0], "base {base}");

        // Transmitting: a wants a call at its fourth frame from now.
        let ring = &mut bench.stations[0].guest.rings[transmitq(0)];
        ring.take_calls();
        let next = ring.split().next_avail();
        ring.split().set_used_event(next.wrapping_add(3));
        let mut calls = Vec::new();
        for _ in 0..8 {
            bench.pass(0, 60, (&[72], Way::Direct), (&[&[100]], Way::Direct));
            barrier(&mut bench, 1);
            calls.push(bench.stations[0].guest.rings[transmitq(0)].take_calls());
        }
        assert_eq!(calls, [0, 0, 0, 1, 0, 0, 0, 0], "base {base}");
        bench.check();
    }
}

#[test]
fn one_call_covers_a_burst() {
    let mut bench = Bench::new();
    let posted: Vec<_> = (0..8)
        .map(|_| bench.stations[1].post(&[100], Way::Direct))
        .collect();
    let next = bench.stations[1].guest.rings[receiveq(0)]
        .split()
        .used_idx();
    bench.stations[1].guest.rings[receiveq(0)]
        .split()
        .set_used_event(next.wrapping_add(3));
    // Eight frames that become visible at once.
    let frames: Vec<_> = (0..8).map(|_| bench.frame(0, 60)).collect();
    let packets: Vec<_> = frames.iter().map(|f| bench.packet(0, f)).collect();
    let a = &mut bench.stations[0];
    let buffers: Vec<_> = packets
        .iter()
        .map(|packet| {
            let gpa = a.room(72);
            a.guest.memory.write_bytes(gpa, packet);
            gpa
        })
        .collect();
    let ring = a.guest.rings[transmitq(0)].split();
    for (index, gpa) in (0_u16..).zip(buffers) {
        let desc = ringway_frontend::Descriptor {
            addr: gpa,
            len: 72,
            flags: 0,
            next: 0,
        };
        ring.write_desc(index, desc);
        ring.write_avail_entry(index, index);
    }
    ring.set_avail_idx(8);
    ring.kick();
    let done = within(|| (ring.used_idx() == 8).then_some(()));
    assert!(done.is_some(), "the burst was not taken");
    bench.sent += 8;
    for (chain, sent) in posted.into_iter().zip(&frames) {
        bench.receive(1, &[chain], sent);
    }
    let calls = bench.stations[1].guest.rings[receiveq(0)].take_calls();
    assert_eq!(calls, 1);
    let balance = scripted::even_balance(&bench.daemon).unwrap();
    assert_eq!((balance.received, balance.transmitted), (8, 8));
}

#[test]
fn no_interrupt_means_no_call() {
    let config = lacking(features::EVENT_IDX);
    let mut bench = Bench::with(&config, &config);
    for station in &bench.stations {
        for ring in &station.guest.rings {
            ring.want_calls(false);
        }
    }
    // Calls may have come when the rings were started.
    barrier(&mut bench, 0);
    barrier(&mut bench, 1);
    let take = |bench: &Bench| -> Vec<u64> {
        let rings = bench.stations.iter().flat_map(|s| &s.guest.rings);
        rings.map(|ring| ring.take_calls()).collect()
    };
    take(&bench);
    for from in [0, 1] {
        for _ in 0..20 {
            bench.pass(from, 60, (&[72], Way::Direct), (&[&[100]], Way::Direct));
        }
    }
    barrier(&mut bench, 0);
    barrier(&mut bench, 1);
    assert_eq!(take(&bench), [0; 4]);
    // Wanted again on b's receiveq alone.
    bench.stations[1].guest.rings[receiveq(0)].want_calls(true);
    for _ in 0..3 {
        bench.pass(0, 60, (&[72], Way::Direct), (&[&[100]], Way::Direct));
    }
    barrier(&mut bench, 1);
    assert_eq!(take(&bench), [0, 0, 3, 0]);
    bench.check();
}

// Offloads.

/// A frame whose bytes from 34 on want a checksum at 34 + 6, as UDP does.
fn with_partial_checksum(frame: &mut [u8]) -> [u8; 12] {
    frame[40..42].copy_from_slice(&[0x12, 0x34]);
    partial(34, 6)
}

fn partial(start: u16, offset: u16) -> [u8; 12] {
    let mut header = [0; 12];
    header[0] = NEEDS_CSUM;
    header[6..8].copy_from_slice(&start.to_le_bytes());
    header[8..10].copy_from_slice(&offset.to_le_bytes());
    header
}

/// RFC 1071, in the plainest way.
fn internet_checksum(bytes: &[u8]) -> u16 {
    let mut sum: u32 = 0;
    for pair in bytes.chunks(2) {
        sum += u32::from(pair[0]) << 8 | u32::from(*pair.get(1).unwrap_or(&0));
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !(sum as u16)
}

#[test]
fn partial_checksums_pass_or_are_completed() {
    let with = |bits: u64| SessionConfig {
        features: SessionConfig::default().features | bits,
        required: bits,
        ..config(256)
    };
    let both = features::CSUM | features::GUEST_CSUM;
    for (receiver, passes) in [(with(both), true), (with(features::CSUM), false)] {
        let mut bench = Bench::with(&with(both), &receiver);
        for len in [60, 61, 129, 130, 600, 1513, 1514] {
            for pieces in [&[12 + len][..], &[12, len], &[12, 41, len - 41]] {
                let mut sent = bench.frame(0, len);
                let header = with_partial_checksum(&mut sent);
                let packet = [&header[..], &sent].concat();
                let posted = bench.stations[1].post(&[2048], Way::Direct);
                bench.send(0, &packet, pieces, Way::Direct);
                let mut expected = sent.clone();
                if !passes {
                    let sum = internet_checksum(&sent[34..]);
                    let sum = if sum == 0 { 0xffff } else { sum };
                    expected[40..42].copy_from_slice(&sum.to_be_bytes());
                }
                let got = bench.receive(1, &[posted], &expected);
                let wanted = if passes { header } else { [0; 12] };
                assert_eq!(got[..10], wanted[..10], "frame of {len} bytes");
            }
        }
        // "Verified" is a claim of the sender: the receiver does not get it.
        let sent = bench.frame(0, 60);
        let packet = [&[2_u8; 1][..], &[0; 11], &sent].concat();
        let posted = bench.stations[1].post(&[2048], Way::Direct);
        bench.send(0, &packet, &[72], Way::Direct);
        let got = bench.receive(1, &[posted], &sent);
        assert_eq!(got[0], 0);
        bench.check();
    }
}

#[test]
fn offloads_that_make_no_sense_are_dropped() {
    let with = SessionConfig {
        features: SessionConfig::default().features | features::CSUM,
        required: features::CSUM,
        ..config(256)
    };
    let mut bench = Bench::with(&with, &config(256));
    let mut segmentation = [0; 12];
    segmentation[1] = 1;
    let mut unknown = [0; 12];
    unknown[1] = 0x7f;
    let bad = [
        partial(0, 0),
        partial(13, 6),
        partial(59, 0),
        partial(60, 0),
        partial(34, 25),
        partial(34, 0xffff),
        partial(0xffff, 0),
        partial(0xffff, 0xffff),
        segmentation,
        unknown,
    ];
    for header in bad {
        let sent = bench.frame(0, 60);
        let packet = [&header[..], &sent].concat();
        bench.drops(0, &packet, &[72], (0, "bad_offload"));
        bench.drops(0, &packet, &[12, 60], (0, "bad_offload"));
    }
    // The other guest has not negotiated partial checksums at all.
    let mut sent = bench.frame(1, 60);
    let header = with_partial_checksum(&mut sent);
    let packet = [&header[..], &sent].concat();
    bench.drops(1, &packet, &[72], (1, "bad_offload"));
    bench.sends(60, &[72], Way::Direct);
    bench.check();
}
