//! One guest: its session, its two rings, and what it sends.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use hdrhistogram::Histogram;
use ringway_frontend::ring::fast::Slots;
use ringway_frontend::{
    Backing, FastRing, Guest, GuestMemory, RegionSpec, Session, SessionConfig, features,
};

use crate::craft::Headers;
use crate::frame::{IP_CHECKSUM, PAYLOAD, Template};
use crate::options::{Options, Switch};
use crate::stamp::{self, Stamp};
use crate::verify::Verifier;

/// Length of `virtio_net_hdr` with VERSION_1, in bytes.
const HEADER: usize = 12;
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
    /// What it has seen so far; see [`Counts`].
    pub counts: Counts,
    /// Checks what arrives here, with `--verify`.
    pub verifier: Option<Verifier>,
    /// Ticks from the sending port to here, with `--latency`.
    pub latency: Option<Histogram<u64>>,
    /// What was negotiated.
    pub facts: Facts,
}

/// Counters of a port, from its guest's side.
#[derive(Clone, Copy, Debug, Default)]
pub struct Counts {
    /// Frames made available on the transmitq.
    pub sent: u64,
    /// Frames that arrived on the receiveq.
    pub received: u64,
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
        let stride = slot_stride(options.max_frame_len());
        let area = (stride * usize::from(options.ring_size)) as u64;
        let (guest, hugepages) = bring_up(options, path, area)?;
        let mut slots = Slots {
            gpa: guest.free_gpa,
            stride,
            offset: OFFSET,
        };
        let mut rings = guest.rings.into_iter();
        let (receiveq, transmitq) = match (rings.next(), rings.next()) {
            (Some(receiveq), Some(transmitq)) => (receiveq, transmitq),
            _ => unreachable!("one queue pair was brought up"),
        };
        let room = (stride - OFFSET) as u32;
        let receive = FastRing::new(receiveq, slots, true, |_| room)?;
        slots.gpa += area.next_multiple_of(4096);
        let transmit = FastRing::new(transmitq, slots, false, |slot| {
            (HEADER + options.frame_len(slot)) as u32
        })?;
        let mut port = Self {
            _session: guest.session,
            receive,
            transmit,
            index,
            touch: touch(options),
            batch: options.batch,
            templates: Vec::new(),
            template_of: Vec::new(),
            flows: options.flow_count(),
            next_flow: 0,
            vary: vary(options),
            sequences: Vec::new(),
            scratch: Vec::new(),
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
        for slot in 0..options.ring_size {
            let len = options.frame_len(slot);
            let known = lens.iter().position(|&other| other == len);
            let template = known.unwrap_or_else(|| {
                lens.push(len);
                self.templates.push(Template::new(self.index, to, len));
                lens.len() - 1
            });
            self.template_of.push(template as u8);
            let frame = self.templates[template].frame((u64::from(slot) % self.flows) as u32);
            self.transmit.write_slot(slot, 0, &[0; HEADER]);
            self.transmit.write_slot(slot, HEADER, &frame);
        }
    }

    /// Takes what has arrived, at most a batch, and gives the buffers back;
    /// the number of frames.
    #[inline]
    pub fn poll_receive(&mut self, now: impl FnOnce() -> u64) -> u16 {
        let count = self.receive.used().min(self.batch);
        if count == 0 {
            return 0;
        }
        if self.verifier.is_some() || self.latency.is_some() {
            self.inspect(count, now());
        }
        let taken = self.receive.take(count);
        self.counts.received += u64::from(count);
        let headers = u64::from(count) * HEADER as u64;
        self.counts.received_bytes += taken.bytes.saturating_sub(headers);
        self.counts.receive_batches += 1;
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
                let stamp = stamp::open(&self.scratch);
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
        let size = self.transmit.size();
        if size - self.transmit.in_backend() < wanted {
            let used = self.transmit.used();
            self.transmit.take_unread(used);
        }
        size - self.transmit.in_backend()
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
            let slot = (self.transmit.next_slot() + position) & (self.transmit.size() - 1);
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
                stamp::seal(&mut frame, stamp);
                self.transmit.write_slot(slot, HEADER, &frame);
                continue;
            }
            if self.vary {
                let bytes = template.flow(flow);
                self.transmit.write_slot(slot, HEADER + IP_CHECKSUM, &bytes);
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
            let slot = (self.transmit.next_slot() + position) & (self.transmit.size() - 1);
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
    options.rewrite || options.flow_count() > options.ring_size.into()
}

/// An odd number of cache lines, so that buffers spread over all cache sets.
fn slot_stride(frame: usize) -> usize {
    let lines = (OFFSET + HEADER + frame).div_ceil(64);
    64 * (lines | 1)
}

fn bring_up(
    options: &Options,
    path: &Path,
    area: u64,
) -> Result<(Guest, bool), ringway_frontend::Error> {
    let mut config = SessionConfig {
        features: features::VERSION_1 | features::ANY_LAYOUT,
        ring_size: options.ring_size,
        ..SessionConfig::default()
    };
    if options.mrg_rxbuf == Switch::On {
        config.features |= features::MRG_RXBUF;
    }
    if options.packed {
        config.features |= features::RING_PACKED;
        config.required |= features::RING_PACKED;
    }
    // Rings of 16 + 2 + 8 bytes per descriptor and direction, then two areas.
    let rings = 0x1000 + 64 * u64::from(options.ring_size) + 0x4000;
    let size = (rings + 2 * (area + 4096)).next_multiple_of(2 << 20);
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
    let session = Session::connect_within(path, CONNECT)?;
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
}
