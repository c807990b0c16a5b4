//! One guest: its session, its two rings, and what it sends.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use hdrhistogram::Histogram;
use ringway_frontend::ring::DESC_WRITE;
use ringway_frontend::ring::fast::Slots;
use ringway_frontend::{
    Backing, Descriptor, FastRing, Guest, GuestMemory, RegionSpec, Session, SessionConfig, features,
};

use crate::craft::Headers;
use crate::frame::{IP_CHECKSUM, PAYLOAD, TCP_CHECKSUM, TCP_PAYLOAD, Template};
use crate::options::{Options, Switch};
use crate::oversized::{self, HEADER, Merger};
use crate::reassemble::{Frame, Reassembly};
use crate::stamp::{self, Stamp};
use crate::verify::Verifier;

/// The descriptor starts here in a slot, so that the frame behind the header
/// starts on a cache line (as with DPDK's and Linux' buffers).
const OFFSET: usize = 64 - HEADER;
/// How long to wait for the switch to listen.
const CONNECT: Duration = Duration::from_secs(10);

/// How much of a frame is written each time it is sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Touch {
    /// Nothing: all flows fit into the ring's buffers, written beforehand.
    Nothing,
    /// The bytes that make the flow.
    Flow,
    /// Flow, if there are more than buffers, and time stamp.
    Time,
    /// Everything: flow, sequence number, CRC.
    All,
}

/// One port of the switch, seen from its guest.
pub struct Port {
    /// Keeps the connection (and with it the rings) alive.
    _session: Session,
    receive: FastRing,
    transmit: FastRing,
    index: usize,
    touch: Touch,
    batch: u16,
    /// One per frame length that occurs.
    templates: Vec<Template>,
    /// Index into `templates` by slot.
    template_of: Vec<u8>,
    flows: u64,
    next_flow: u64,
    /// Whether a frame's flow is another each time its buffer is sent.
    vary: bool,
    sequences: Vec<u32>,
    scratch: Vec<u8>,
    /// With `--tso`: what arrives.
    oversized: Option<Oversized>,
    /// What it has seen so far; see [`Counts`].
    pub counts: Counts,
    /// Checks what arrives here, with `--verify`.
    pub verifier: Option<Verifier>,
    /// Ticks from the sending port to here, with `--latency`.
    pub latency: Option<Histogram<u64>>,
    /// What was negotiated.
    pub facts: Facts,
}

/// Oversized frames that arrive, whole or in segments.
struct Oversized {
    merger: Merger,
    /// Bytes of TCP payload in a frame, and in all that arrived.
    payload: u64,
    arrived: u64,
    reassembly: Reassembly,
}

/// Counters of a port, from its guest's side.
#[derive(Clone, Copy, Debug, Default)]
pub struct Counts {
    /// Frames made available on the transmitq.
    pub sent: u64,
    /// Frames that arrived on the receiveq.
    pub received: u64,
    /// The pieces in which they did: themselves, or segments of oversized ones.
    pub pieces: u64,
    /// Bytes that arrived, without virtio headers.
    pub received_bytes: u64,
    /// Rounds in which frames arrived.
    pub receive_batches: u64,
    /// Kicks the switch asked for.
    pub kicks: u64,
    /// Buffers the switch returned out of order.
    pub out_of_order: u64,
}

/// What the session settled on.
#[derive(Clone, Copy, Debug)]
pub struct Facts {
    /// Negotiated virtio features.
    pub features: u64,
    /// Whether guest memory is on hugepages.
    pub hugepages: bool,
}

impl Port {
    /// Connects port `index` to the switch at `path` and lays its rings out;
    /// it sends to port `to` and receives what port `source` sends.
    pub fn open(
        options: &Options,
        path: &Path,
        index: usize,
        to: usize,
        source: usize,
    ) -> Result<Self, ringway_frontend::Error> {
        let layout = Layout::of(options);
        let (guest, hugepages) = bring_up(options, path, &layout)?;
        let mut rings = guest.rings.into_iter();
        let (receiveq, transmitq) = match (rings.next(), rings.next()) {
            (Some(receiveq), Some(transmitq)) => (receiveq, transmitq),
            _ => unreachable!("one queue pair was brought up"),
        };
        let receive_slots = Slots {
            gpa: guest.free_gpa,
            ..layout.receive
        };
        let transmit_slots = Slots {
            gpa: guest.free_gpa + receive_slots.bytes().next_multiple_of(4096),
            ..layout.transmit
        };
        let receive = FastRing::new(receiveq, receive_slots, |_, addr| Descriptor {
            addr,
            len: (receive_slots.stride - receive_slots.offset) as u32,
            flags: DESC_WRITE,
            next: 0,
        })?;
        let memory = guest.memory;
        let transmit = FastRing::new(transmitq, transmit_slots, |slot, addr| {
            let len = options.frame_len(slot);
            match options.tso {
                true => oversized::describe(&memory, addr, len, options.page as usize),
                false => Descriptor {
                    addr,
                    len: (HEADER + len) as u32,
                    flags: 0,
                    next: 0,
                },
            }
        })?;
        let mut port = Self {
            _session: guest.session,
            receive,
            transmit,
            index,
            touch: touch(options),
            batch: options.batch(),
            templates: Vec::new(),
            template_of: Vec::new(),
            flows: options.flow_count(),
            next_flow: 0,
            vary: vary(options),
            sequences: Vec::new(),
            scratch: Vec::new(),
            oversized: options.tso.then(|| Oversized {
                merger: Merger::default(),
                payload: (options.size as usize - TCP_PAYLOAD) as u64,
                arrived: 0,
                reassembly: Reassembly::new(options.size as usize, !options.cut),
            }),
            counts: Counts::default(),
            verifier: None,
            latency: None,
            facts: Facts {
                features: guest.features,
                hugepages,
            },
        };
        if options.verify {
            port.sequences = vec![0; options.flows as usize];
            port.verifier = Some(Verifier::new(source, options.flows));
        }
        if options.latency {
            // Up to some minutes in ticks, three significant digits.
            port.latency = Histogram::new_with_bounds(1, 1 << 40, 3).ok();
        }
        port.write_frames(options, to);
        port.receive.publish(options.ring_size);
        port.receive.kick_if_wanted();
        Ok(port)
    }

    /// Writes a whole frame into every transmit buffer.
    fn write_frames(&mut self, options: &Options, to: usize) {
        let mut lens: Vec<usize> = Vec::new();
        for slot in 0..self.transmit.slots() {
            let len = options.frame_len(slot);
            let known = lens.iter().position(|&other| other == len);
            let template = known.unwrap_or_else(|| {
                lens.push(len);
                self.templates.push(match options.tso {
                    true => Template::tcp(self.index, to, len),
                    false => Template::new(self.index, to, len),
                });
                lens.len() - 1
            });
            self.template_of.push(template as u8);
            let frame = self.templates[template].frame((u64::from(slot) % self.flows) as u32);
            self.write_frame(slot, &frame);
        }
    }

    /// Writes virtio-net header and frame into a transmit buffer.
    fn write_frame(&mut self, slot: u16, frame: &[u8]) {
        if self.oversized.is_none() {
            self.transmit.write_slot(slot, 0, &[0; HEADER]);
            self.transmit.write_slot(slot, HEADER, frame);
            return;
        }
        let header = oversized::vnet_header();
        for (offset, bytes) in oversized::place(&header, frame) {
            self.transmit.write_slot(slot, offset, bytes);
        }
    }

    /// Takes what has arrived, at most a batch, and gives the buffers back;
    /// the number of frames.
    #[inline]
    pub fn poll_receive(&mut self, now: impl FnOnce() -> u64) -> u16 {
        if self.oversized.is_some() {
            return self.poll_oversized();
        }
        let count = self.receive.used().min(self.batch);
        if count == 0 {
            return 0;
        }
        if self.verifier.is_some() || self.latency.is_some() {
            self.inspect(count, now());
        }
        let taken = self.receive.take(count);
        self.counts.received += u64::from(count);
        self.counts.pieces += u64::from(count);
        let headers = u64::from(count) * HEADER as u64;
        self.counts.received_bytes += taken.bytes.saturating_sub(headers);
        self.counts.receive_batches += 1;
        self.counts.out_of_order += u64::from(taken.out_of_order);
        self.receive.publish(count);
        self.counts.kicks += u64::from(self.receive.kick_if_wanted());
        count
    }

    /// The same for oversized frames: takes all buffers there are; their number.
    fn poll_oversized(&mut self) -> u16 {
        let count = self.receive.used();
        let Some(oversized) = &mut self.oversized else {
            return 0;
        };
        if count == 0 {
            return 0;
        }
        for position in 0..count {
            let (id, len) = self.receive.peek(position);
            let slot = id as u16;
            if self.verifier.is_some() {
                let start = self.scratch.len();
                self.scratch.resize(start + len as usize, 0);
                let bytes = &mut self.scratch[start..];
                self.receive.read_slot(slot, 0, bytes);
            }
            let announced = || oversized::announced(&self.receive, slot);
            let piece = oversized.merger.buffer(len, announced);
            let Some(len) = piece else { continue };
            self.counts.pieces += 1;
            self.counts.received_bytes += len as u64;
            oversized.arrived += len.saturating_sub(TCP_PAYLOAD) as u64;
            if let Some(verifier) = &mut self.verifier {
                match oversized.reassembly.arrived(&self.scratch) {
                    Frame::More => {}
                    Frame::Whole(frame) => verifier.arrived(stamp::open(frame, TCP_PAYLOAD)),
                    Frame::Wrong => verifier.arrived(None),
                }
                self.scratch.clear();
            }
        }
        let received = oversized.arrived / oversized.payload;
        self.counts.receive_batches += u64::from(received > self.counts.received);
        self.counts.received = received;
        let taken = self.receive.take(count);
        self.counts.out_of_order += u64::from(taken.out_of_order);
        self.receive.publish(count);
        self.counts.kicks += u64::from(self.receive.kick_if_wanted());
        count
    }

    fn inspect(&mut self, count: u16, now: u64) {
        for position in 0..count {
            let (id, len) = self.receive.peek(position);
            let (slot, len) = (id as u16, (len as usize).saturating_sub(HEADER));
            let stamp = if let Some(verifier) = &mut self.verifier {
                self.scratch.resize(len, 0);
                self.receive.read_slot(slot, HEADER, &mut self.scratch);
                let stamp = stamp::open(&self.scratch, PAYLOAD);
                verifier.arrived(stamp);
                stamp
            } else {
                let mut bytes = [0; stamp::LEN];
                self.receive.read_slot(slot, HEADER + PAYLOAD, &mut bytes);
                Stamp::from_bytes(&bytes)
            };
            if let (Some(histogram), Some(stamp)) = (&mut self.latency, stamp) {
                histogram.saturating_record(now.saturating_sub(stamp.sent_at));
            }
        }
    }

    /// Free transmit buffers; looks at the ring only if fewer than `wanted`
    /// are known to be free.
    #[inline]
    pub fn sendable(&mut self, wanted: u16) -> u16 {
        if self.transmit.free() < wanted {
            let used = self.transmit.used();
            self.transmit.take_unread(used);
        }
        self.transmit.free()
    }

    /// Frames sent that the switch has taken.
    pub fn taken(&mut self) -> u64 {
        let used = self.transmit.used();
        self.transmit.take_unread(used);
        // Frames sent to be learned are not counted, and may be there yet.
        let there = u64::from(self.transmit.in_backend());
        self.counts.sent.saturating_sub(there)
    }

    /// Sends the next `count` frames, for which there are free buffers.
    #[inline]
    pub fn send(&mut self, count: u16, now: impl FnOnce() -> u64) {
        if self.touch != Touch::Nothing {
            self.rewrite(count, now());
        }
        self.transmit.publish(count);
        self.counts.sent += u64::from(count);
        self.counts.kicks += u64::from(self.transmit.kick_if_wanted());
    }

    fn rewrite(&mut self, count: u16, now: u64) {
        for position in 0..count {
            let slot = self.transmit.slot_behind(position);
            let template = &self.templates[usize::from(self.template_of[usize::from(slot)])];
            let flow = self.next_flow as u32;
            self.next_flow += 1;
            if self.next_flow == self.flows {
                self.next_flow = 0;
            }
            let mut stamp = Stamp {
                from: self.index as u8,
                flow,
                sequence: 0,
                sent_at: now,
            };
            if self.touch == Touch::All {
                let sequence = &mut self.sequences[flow as usize];
                stamp.sequence = *sequence;
                *sequence = sequence.wrapping_add(1);
                let mut frame = template.frame(flow);
                stamp::seal(&mut frame, template.payload(), stamp);
                self.write_frame(slot, &frame);
                continue;
            }
            if self.vary {
                let bytes = template.flow(flow);
                self.transmit.write_slot(slot, HEADER + IP_CHECKSUM, &bytes);
                if let Some(checksum) = template.partial_checksum(flow) {
                    self.transmit
                        .write_slot(slot, HEADER + TCP_CHECKSUM, &checksum);
                }
            }
            if self.touch == Touch::Time {
                self.transmit
                    .write_slot(slot, HEADER + PAYLOAD, &stamp.to_bytes());
            }
        }
    }

    /// Sends one unnumbered frame, so that a learning switch learns where
    /// this port's MAC address is.
    pub fn send_learning(&mut self) {
        if self.sendable(1) > 0 {
            self.transmit.publish(1);
            self.transmit.kick_if_wanted();
        }
    }

    /// Sends up to `count` frames with these headers, Ethernet to UDP; the
    /// number of frames for which there was a free buffer.
    pub fn send_crafted(&mut self, count: u16, mut headers: impl FnMut() -> Headers) -> u16 {
        let count = count.min(self.sendable(count));
        for position in 0..count {
            let slot = self.transmit.slot_behind(position);
            self.transmit.write_slot(slot, HEADER, &headers());
        }
        if count > 0 {
            self.transmit.publish(count);
            self.counts.sent += u64::from(count);
            self.transmit.kick_if_wanted();
        }
        count
    }

    /// Throws away what has arrived; the number of frames.
    pub fn discard(&mut self) -> u16 {
        let count = self.receive.used();
        if let Some(oversized) = &mut self.oversized {
            // Whether a frame's last buffers are there yet is not known.
            for position in 0..count {
                let (id, len) = self.receive.peek(position);
                let announced = || oversized::announced(&self.receive, id as u16);
                oversized.merger.buffer(len, announced);
            }
        }
        self.receive.take(count);
        if count > 0 {
            self.receive.publish(count);
            self.receive.kick_if_wanted();
        }
        count
    }
}

fn touch(options: &Options) -> Touch {
    if options.verify {
        Touch::All
    } else if options.latency {
        Touch::Time
    } else if vary(options) {
        Touch::Flow
    } else {
        Touch::Nothing
    }
}

/// Whether there are more flows than buffers, or it is to look so.
fn vary(options: &Options) -> bool {
    options.rewrite || options.flow_count() > options.transmit_slots().into()
}

/// An odd number of cache lines, so that buffers spread over all cache sets.
fn slot_stride(frame: usize) -> usize {
    let lines = (OFFSET + HEADER + frame).div_ceil(64);
    64 * (lines | 1)
}

/// Where buffers lie, but for the address at which they begin.
struct Layout {
    receive: Slots,
    transmit: Slots,
}

impl Layout {
    fn of(options: &Options) -> Self {
        let plain = Slots {
            gpa: 0,
            stride: slot_stride(options.max_frame_len()),
            offset: OFFSET,
            count: options.ring_size,
        };
        if !options.tso {
            return Self {
                receive: plain,
                transmit: plain,
            };
        }
        Self {
            // Side by side, as Linux takes them out of a page.
            receive: Slots {
                stride: options.receive_buffer as usize,
                offset: 0,
                ..plain
            },
            transmit: oversized::transmit_slots(
                0,
                options.max_frame_len(),
                options.transmit_slots(),
            ),
        }
    }

    /// Bytes that all buffers take.
    fn bytes(&self) -> u64 {
        [self.receive, self.transmit]
            .map(|slots| slots.bytes().next_multiple_of(4096))
            .iter()
            .sum()
    }
}

/// Features wanted, and those without which nothing goes.
fn wanted_features(options: &Options) -> (u64, u64) {
    let mut wanted = features::VERSION_1 | features::ANY_LAYOUT;
    let mut required = features::VERSION_1;
    if options.mrg_rxbuf == Switch::On {
        wanted |= features::MRG_RXBUF;
    }
    if options.packed {
        required |= features::RING_PACKED;
    }
    if options.tso {
        required |= features::MRG_RXBUF
            | features::INDIRECT_DESC
            | features::CSUM
            | features::GUEST_CSUM
            | features::HOST_TSO4;
        if !options.cut {
            required |= features::GUEST_TSO4;
        }
    }
    (wanted | required, required)
}

fn bring_up(
    options: &Options,
    path: &Path,
    layout: &Layout,
) -> Result<(Guest, bool), ringway_frontend::Error> {
    let (wanted, required) = wanted_features(options);
    let config = SessionConfig {
        features: wanted,
        required,
        ring_size: options.ring_size,
        ..SessionConfig::default()
    };
    // Rings of 16 + 2 + 8 bytes per descriptor and direction, then the buffers.
    let rings = 0x1000 + 64 * u64::from(options.ring_size) + 0x4000;
    let size = (rings + layout.bytes()).next_multiple_of(2 << 20);
    let region = |backing| {
        GuestMemory::new(&[RegionSpec {
            gpa: 0,
            size,
            backing,
        }])
    };
    let (memory, hugepages) = match region(Backing::SharedHuge) {
        Ok(memory) => (memory, true),
        Err(_) => (region(Backing::Shared)?, false),
    };
    let session = match options.listen {
        true => Session::listen(path)?.accept(CONNECT)?,
        false => Session::connect_within(path, CONNECT)?,
    };
    let guest = session.bring_up_with(&config, Arc::new(memory), 0x1000)?;
    Ok((guest, hugepages))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slots_hold_the_frame_and_are_an_odd_number_of_lines() {
        for frame in [64, 256, 594, 1518, 9216] {
            let stride = slot_stride(frame);
            assert!(stride >= OFFSET + HEADER + frame);
            assert_eq!(stride % 128, 64);
        }
    }

    #[test]
    fn a_guest_that_has_frames_cut_takes_partial_checksums_but_no_oversized_frames() {
        let features = |args: &[&str]| {
            let all = [&["pktgen", "--port", "a", "--port", "b"], args].concat();
            wanted_features(&clap::Parser::try_parse_from(all).unwrap())
        };
        let (whole, required) = features(&["--tso"]);
        assert_eq!(required & features::GUEST_TSO4, features::GUEST_TSO4);
        let (cut, _) = features(&["--tso", "--cut"]);
        assert_eq!(whole & !cut, features::GUEST_TSO4);
        let (plain, required) = features(&["--mrg-rxbuf", "off"]);
        assert_eq!(plain & (features::CSUM | features::MRG_RXBUF), 0);
        assert_eq!(required, features::VERSION_1);
    }
}
