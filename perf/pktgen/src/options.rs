//! What to send, how, and for how long.

use std::path::PathBuf;

use clap::builder::ArgPredicate;
use clap::{Parser, ValueEnum};

use crate::craft::Field;
use crate::oversized::{HEADER, LONGEST, LONGEST_SEGMENT, segments};

/// Longest frame that is not oversized on purpose.
const LONGEST_PLAIN: u32 = 9216;

/// Drives the vhost-user server sockets of any switch as two (or more) guests.
///
/// Ports pair up: 0 with 1, 2 with 3, … (an odd number of ports sends round
/// in a ring). The switch must forward between them, by flows or by learning.
#[derive(Clone, Debug, Parser)]
#[command(name = "pktgen", version)]
pub struct Options {
    /// vhost-user socket of a port on which the switch listens; give two or more.
    #[arg(long = "port", required = true, value_name = "PATH")]
    pub ports: Vec<PathBuf>,
    /// Listen at the sockets of --port for a switch that connects
    /// (Open vSwitch's dpdkvhostuserclient, ringway's mode=client).
    #[arg(long)]
    pub listen: bool,
    /// Frame size in bytes on the ring, without FCS (as testpmd's --txpkts);
    /// 65,226 with --tso: 45 segments of 1,514 bytes.
    #[arg(
        long,
        default_value_t = 64,
        default_value_if("tso", ArgPredicate::IsPresent, "65226"),
        value_parser = clap::value_parser!(u32).range(64..=LONGEST as i64)
    )]
    pub size: u32,
    /// Oversized TCP frames, as guests with TSO send them: partial checksum,
    /// to be cut into segments of 1,448 bytes of payload by whoever does not
    /// take them whole. Every guest takes them.
    #[arg(long, conflicts_with_all = ["imix", "latency", "attacker"])]
    pub tso: bool,
    /// Guests take no oversized frames (no GUEST_TSO4): the switch has to cut.
    #[arg(long, requires = "tso")]
    pub cut: bool,
    /// Bytes of a page of an oversized frame's payload, which has a descriptor
    /// each: 4096 as with sendfile, 32768 as with write on Linux.
    #[arg(long, value_name = "BYTES", requires = "tso", default_value_t = 32_768,
          value_parser = clap::value_parser!(u32).range(4096..=65_536))]
    pub page: u32,
    /// Bytes of each mergeable receive buffer, with --tso: Linux' driver
    /// begins with 1536 and goes up to 4096 as longer frames come.
    #[arg(long, value_name = "BYTES", requires = "tso", default_value_t = 1536,
          value_parser = clap::value_parser!(u32).range(128..=65_536))]
    pub receive_buffer: u32,
    /// Frames of 64, 594 and 1518 bytes as 7 : 4 : 1 instead of one size.
    #[arg(long, conflicts_with = "size")]
    pub imix: bool,
    /// Flows per direction (IP addresses and ports vary), in turn.
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..))]
    pub flows: u32,
    /// Every frame is a flow of its own, until 2^32 have been sent.
    #[arg(long, conflicts_with_all = ["flows", "verify"])]
    pub new_flows: bool,
    /// Write the flow into every frame, also if all flows fit into the ring's
    /// buffers: what the generator does to a frame is then the same for any
    /// number of flows.
    #[arg(long)]
    pub rewrite: bool,
    /// Open loop: frames per second and direction.
    #[arg(long, value_name = "PPS", conflicts_with = "in_flight")]
    pub rate: Option<f64>,
    /// Closed loop (the default): frames under way per direction; unless
    /// given as many as the receive ring has room for.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    pub in_flight: Option<u32>,
    /// Only even ports send.
    #[arg(long)]
    pub one_way: bool,
    /// All ports send (the default).
    #[arg(long, conflicts_with = "one_way")]
    pub bidirectional: bool,
    /// Seconds to measure.
    #[arg(long, default_value_t = 2.0)]
    pub seconds: f64,
    /// Seconds of traffic before measuring.
    #[arg(long, default_value_t = 0.5)]
    pub warmup: f64,
    /// Warm up until every flow has been sent this often, too.
    #[arg(long, value_name = "N", default_value_t = 0)]
    pub warmup_passes: u32,
    /// Give up warming up after this time, and measure all the same.
    #[arg(long, value_name = "SECONDS", default_value_t = 60.0)]
    pub warmup_limit: f64,
    /// vhost-user socket of a port that sends crafted headers beside the
    /// others' traffic; nobody waits for them to arrive.
    #[arg(long, value_name = "PATH", requires = "attack_rate")]
    pub attacker: Option<PathBuf>,
    /// The attacker's frames per second.
    #[arg(long, value_name = "PPS", requires = "attacker")]
    pub attack_rate: Option<f64>,
    /// Fields that the attacker varies.
    #[arg(
        long,
        value_enum,
        value_delimiter = ',',
        requires = "attacker",
        default_value = "nw_src,tp_src,tp_dst"
    )]
    pub vary: Vec<Field>,
    /// Number every frame per flow and check order and content at the other end.
    #[arg(long)]
    pub verify: bool,
    /// Stamp every frame with the time and collect a latency histogram.
    #[arg(long)]
    pub latency: bool,
    /// Offer mergeable receive buffers.
    #[arg(long, value_enum, default_value_t = Switch::On)]
    pub mrg_rxbuf: Switch,
    /// Packed rings instead of split ones.
    #[arg(long)]
    pub packed: bool,
    /// Descriptors per ring, a power of two.
    #[arg(long, default_value_t = 1024, value_parser = ring_size)]
    pub ring_size: u16,
    /// Frames per publish, at most.
    #[arg(long, default_value_t = 32, value_parser = clap::value_parser!(u16).range(1..=1024))]
    pub batch: u16,
    /// Spin-loop hints after a round in which nothing was to do, so that the
    /// switch keeps its cache lines.
    #[arg(long, default_value_t = 20)]
    pub idle_pause: u32,
    /// Core to run on.
    #[arg(long, value_parser = core)]
    pub core: Option<usize>,
    /// Print the report as JSON.
    #[arg(long)]
    pub json: bool,
    /// Say `measuring` and `measured` on standard error when that begins and
    /// ends, for programs that read the switch's counters meanwhile.
    #[arg(long)]
    pub progress: bool,
}

/// An option that is on or off.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Switch {
    /// On.
    On,
    /// Off.
    Off,
}

fn core(text: &str) -> Result<usize, String> {
    // An affinity mask, as libc has it, has 1024 bits.
    match text.parse() {
        Ok(core) if core < 1024 => Ok(core),
        _ => Err("a core's number is wanted".into()),
    }
}

fn ring_size(text: &str) -> Result<u16, String> {
    match text.parse::<u16>() {
        Ok(size) if size.is_power_of_two() && size >= 8 => Ok(size),
        _ => Err("a power of two from 8 to 32768 is wanted".into()),
    }
}

/// Why options do not go together.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Nonsense {
    /// The size needs the other kind of frame.
    #[error("frames of {size} bytes {why}")]
    Size {
        /// Size asked for.
        size: u32,
        /// What is wrong with it.
        why: &'static str,
    },
    /// Oversized frames need buffers that merge.
    #[error("--tso needs --mrg-rxbuf on: no receive buffer has room for a whole frame")]
    Single,
    /// Not even one frame fits.
    #[error(
        "a receive ring of {ring} buffers has no room for a frame, which takes {buffers}; \
         --ring-size or --receive-buffer must be greater"
    )]
    SmallRing {
        /// Buffers of the ring.
        ring: u16,
        /// Buffers that a frame takes.
        buffers: usize,
    },
}

impl Options {
    /// Whether the options go together, beyond what the command line checks.
    pub fn check(&self) -> Result<(), Nonsense> {
        let size = self.size;
        let wrong = |why| Err(Nonsense::Size { size, why });
        if !self.tso {
            return match size > LONGEST_PLAIN {
                true => wrong("are oversized: give --tso, or at most 9216"),
                false => Ok(()),
            };
        }
        if size as usize <= LONGEST_SEGMENT {
            return wrong("need no cutting: with --tso give 1515 or more");
        }
        if self.mrg_rxbuf == Switch::Off {
            return Err(Nonsense::Single);
        }
        let buffers = self.buffers_per_frame();
        match buffers > usize::from(self.ring_size) {
            true => Err(Nonsense::SmallRing {
                ring: self.ring_size,
                buffers,
            }),
            false => Ok(()),
        }
    }

    /// Receive buffers that a frame may take, however it is cut.
    fn buffers_per_frame(&self) -> usize {
        if !self.tso {
            return 1;
        }
        let (size, buffer) = (self.size as usize, self.receive_buffer as usize);
        let cut = segments(size) * (HEADER + LONGEST_SEGMENT).div_ceil(buffer);
        (HEADER + size).div_ceil(buffer).max(cut)
    }

    /// Frames for which the receive ring has room.
    fn room(&self) -> u64 {
        (usize::from(self.ring_size) / self.buffers_per_frame()).max(1) as u64
    }

    /// Frames per publish, at most. Oversized frames go in quarters of what is
    /// under way, so that the switch need not wait for the next ones.
    pub fn batch(&self) -> u16 {
        match self.window() {
            Some(window) if self.tso => self.batch.min((window / 4).max(1) as u16),
            _ => self.batch,
        }
    }

    /// Transmit buffers. Oversized frames have few, as a guest has that uses
    /// the pages of what has arrived again: as many as can be under way.
    pub fn transmit_slots(&self) -> u16 {
        if !self.tso {
            return self.ring_size;
        }
        let wanted = self.window().unwrap_or(0).max(self.room());
        let wanted = wanted.min(self.ring_size.into()) as u16;
        // The ring's size is a power of two, too.
        wanted.next_power_of_two()
    }

    /// The port that receives what port `from` sends.
    pub fn peer(&self, from: usize) -> usize {
        let count = self.ports.len();
        if count.is_multiple_of(2) {
            from ^ 1
        } else {
            (from + 1) % count
        }
    }

    /// Whether `port` sends.
    pub fn sends(&self, port: usize) -> bool {
        !self.one_way || port.is_multiple_of(2)
    }

    /// Flows per direction.
    pub fn flow_count(&self) -> u64 {
        if self.new_flows {
            1 << 32
        } else {
            self.flows.into()
        }
    }

    /// Length in bytes of the frame that lives in transmit slot `slot`.
    pub fn frame_len(&self, slot: u16) -> usize {
        // 7 : 4 : 1, spread out.
        const IMIX: [usize; 12] = [64, 594, 64, 64, 594, 64, 1518, 64, 594, 64, 64, 594];
        if self.imix {
            IMIX[usize::from(slot) % IMIX.len()]
        } else {
            self.size as usize
        }
    }

    /// The longest frame in bytes.
    pub fn max_frame_len(&self) -> usize {
        if self.imix { 1518 } else { self.size as usize }
    }

    /// Frames under way per direction, or `None` in an open loop.
    pub fn window(&self) -> Option<u64> {
        match self.rate {
            Some(_) => None,
            None => Some(self.in_flight.map_or(self.room(), u64::from)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn options(args: &[&str]) -> Options {
        Options::try_parse_from([&["pktgen", "--port", "a", "--port", "b"], args].concat()).unwrap()
    }

    #[test]
    fn ports_pair_up_or_go_round() {
        let two = options(&[]);
        assert_eq!((two.peer(0), two.peer(1)), (1, 0));
        let three = options(&["--port", "c"]);
        assert_eq!((three.peer(0), three.peer(1), three.peer(2)), (1, 2, 0));
    }

    #[test]
    fn imix_is_seven_to_four_to_one() {
        let imix = options(&["--imix"]);
        let mut lens: Vec<usize> = (0..12).map(|slot| imix.frame_len(slot)).collect();
        lens.sort_unstable();
        assert_eq!(lens[..7], [64; 7]);
        assert_eq!(lens[7..11], [594; 4]);
        assert_eq!(lens[11], 1518);
    }

    #[test]
    fn a_rate_opens_the_loop() {
        assert_eq!(options(&[]).window(), Some(1024));
        assert_eq!(options(&["--in-flight", "64"]).window(), Some(64));
        assert_eq!(options(&["--rate", "1e6"]).window(), None);
    }

    #[test]
    fn new_flows_are_as_many_as_there_are_numbers() {
        assert_eq!(options(&["--flows", "1000000"]).flow_count(), 1_000_000);
        assert_eq!(options(&["--new-flows"]).flow_count(), 4_294_967_296);
    }

    #[test]
    fn an_attacker_has_a_rate_and_fields() {
        let attack = options(&[
            "--attacker",
            "c",
            "--attack-rate",
            "1e4",
            "--vary",
            "nw_dst",
        ]);
        assert_eq!(attack.attack_rate, Some(1e4));
        assert_eq!(attack.vary, [Field::NwDst]);
    }

    #[test]
    fn oversized_frames_are_as_many_as_the_receive_ring_has_room_for() {
        let tso = options(&["--tso"]);
        assert_eq!((tso.size, tso.check()), (65_226, Ok(())));
        // 43 buffers whole, 45 in segments.
        assert_eq!((tso.window(), tso.batch()), (Some(22), 5));
        assert_eq!(tso.transmit_slots(), 32);
        let pages = options(&["--tso", "--receive-buffer", "4096"]);
        assert_eq!(pages.window(), Some(22), "a segment takes a buffer");
        let small = options(&["--tso", "--receive-buffer", "1024"]);
        assert_eq!(small.window(), Some(11), "or two");
        let few = options(&["--tso", "--in-flight", "1"]);
        assert_eq!((few.window(), few.batch()), (Some(1), 1));
        assert_eq!(options(&["--tso", "--size", "65549"]).size, 65_549);
    }

    #[test]
    fn sizes_that_do_not_go_with_the_kind_of_frame_are_refused() {
        assert_eq!(options(&["--size", "9216"]).check(), Ok(()));
        for args in [&["--size", "9217"][..], &["--tso", "--size", "1514"]] {
            let refused = options(args).check();
            assert!(matches!(refused, Err(Nonsense::Size { .. })), "{args:?}");
        }
        let single = options(&["--tso", "--mrg-rxbuf", "off"]);
        assert_eq!(single.check(), Err(Nonsense::Single));
        let small = Nonsense::SmallRing {
            ring: 32,
            buffers: 45,
        };
        assert_eq!(options(&["--tso", "--ring-size", "32"]).check(), Err(small));
    }

    #[test]
    fn nonsense_is_refused() {
        for args in [
            ["--ring-size", "1000"],
            ["--size", "60"],
            ["--flows", "0"],
            ["--attacker", "c"],
            ["--attack-rate", "5"],
            ["--tso", "--imix"],
            ["--tso", "--latency"],
            ["--size", "65550"],
        ] {
            let all = [&["pktgen", "--port", "a"], &args[..]].concat();
            assert!(Options::try_parse_from(all).is_err(), "{args:?}");
        }
    }
}
