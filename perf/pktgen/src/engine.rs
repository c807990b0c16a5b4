//! Learn, warm up, measure, drain.

use std::path::PathBuf;

use crate::attack::{Attack, Crafted};
use crate::options::{Nonsense, Options};
use crate::port::{Counts, Port};
use crate::report::{Direction, Generator, Latency, Report, Tso, Warmup};
use crate::tsc;

/// Why a run has no figures.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The ports given do not make directions.
    #[error("{0} port given; traffic goes between ports, so give --port twice or more")]
    TooFewPorts(usize),
    /// The options do not go together.
    #[error(transparent)]
    Options(#[from] Nonsense),
    /// A port could not be brought up.
    #[error("port {path}: {source}")]
    Port {
        /// Socket of the port.
        path: PathBuf,
        /// What the frontend says.
        source: ringway_frontend::Error,
    },
    /// The core asked for cannot be had.
    #[error("cannot run on core {0}; `nproc --all` tells how many there are")]
    Core(usize),
    /// The switch does not forward.
    #[error(
        "nothing reached port {port} within {seconds} s: does the switch forward between the ports \
         (flows, or a learning bridge), and are both ports up there?"
    )]
    NoPath {
        /// Port that received nothing.
        port: usize,
        /// How long was waited, in seconds.
        seconds: f64,
    },
    /// The switch stopped forwarding.
    #[error(
        "the switch stopped: nothing arrived anywhere for {seconds} s ({received} frames before)"
    )]
    Stopped {
        /// How long nothing arrived, in seconds.
        seconds: f64,
        /// Frames received until then.
        received: u64,
    },
}

/// The switch must forward a learning frame within this time.
const LEARN_SECONDS: f64 = 15.0;
/// After this time without a frame, a direction's frames under way are lost.
const STALL_SECONDS: f64 = 0.02;
/// The same while what arrives is verified: a virtual machine's CPUs stand still for
/// longer at times, and frames given up too early are followed by more than the rings
/// have room for.
const STALL_SECONDS_VERIFYING: f64 = 0.5;
/// This many frames may be inside the switch whenever one looks.
const INSIDE: u64 = 64;
/// After this time without a frame anywhere, the switch has stopped.
const DEAD_SECONDS: f64 = 3.0;
/// After this time without a frame, traffic has drained.
const DRAIN_SECONDS: f64 = 0.2;

/// How often the flows sent are counted while warming up.
const PASS_SECONDS: f64 = 0.001;

/// Runs the traffic that `options` describe.
pub fn run(options: &Options) -> Result<Report, Error> {
    let mut engine = Engine::open(options)?;
    engine.learn()?;
    engine.start();
    let warmup = engine.warm_up()?;
    let before = engine.snapshot();
    engine.clear_latency();
    engine.say("measuring");
    engine.traffic(options.seconds)?;
    let after = engine.snapshot();
    engine.say("measured");
    let latency = engine.take_latency();
    engine.drain();
    Ok(engine.report(warmup, &before, &after, latency))
}

/// State of the traffic from one port to its peer.
#[derive(Clone, Copy, Default)]
struct Flight {
    /// Frames given up for lost, so that a closed loop goes on.
    written_off: u64,
    /// Times that all frames under way were.
    stalls: u64,
    /// Frames taken by the switch and not yet arrived, when last looked.
    inside: u64,
    /// Tick of the last arrival.
    last_arrival: u64,
    /// Tick from which an open loop's schedule counts.
    schedule_from: u64,
    /// Frames that the schedule has had since, sent or skipped.
    scheduled: u64,
    /// Frames that could not be sent when they were due.
    skipped: u64,
}

impl Flight {
    /// Takes a look: so many frames were taken by the switch and have not
    /// arrived, ever. A frame is inside for much less than the time from one
    /// look to the next, so the lesser of two looks is lost, but for some batches.
    fn write_off_lost(&mut self, missing: u64) {
        let inside = missing.saturating_sub(self.written_off);
        let lost = inside.min(self.inside).saturating_sub(INSIDE);
        self.written_off += lost;
        self.inside = inside - lost;
    }
}

#[derive(Clone)]
struct Snapshot {
    tick: u64,
    counts: Vec<Counts>,
    crafted: Option<Crafted>,
    busy: u64,
    idle: u64,
    rounds: u64,
    idle_rounds: u64,
}

struct Engine<'a> {
    options: &'a Options,
    ports: Vec<Port>,
    attack: Option<Attack>,
    flights: Vec<Flight>,
    /// Port whose frames arrive at port `i`.
    source: Vec<usize>,
    hertz: f64,
    window: Option<u64>,
    /// Frames per tick and direction, in an open loop.
    rate: Option<f64>,
    sending: bool,
    /// Tick at which to look for stalls next.
    next_check: u64,
    busy: u64,
    idle: u64,
    rounds: u64,
    idle_rounds: u64,
}

impl<'a> Engine<'a> {
    fn open(options: &'a Options) -> Result<Self, Error> {
        let count = options.ports.len();
        if count < 2 {
            return Err(Error::TooFewPorts(count));
        }
        options.check()?;
        if let Some(core) = options.core
            && !core_affinity::set_for_current(core_affinity::CoreId { id: core })
        {
            return Err(Error::Core(core));
        }
        let mut source = vec![0; count];
        for from in 0..count {
            source[options.peer(from)] = from;
        }
        let mut ports = Vec::new();
        for (index, path) in options.ports.iter().enumerate() {
            let port = Port::open(options, path, index, options.peer(index), source[index]);
            ports.push(port.map_err(|source| Error::Port {
                path: path.clone(),
                source,
            })?);
        }
        let hertz = tsc::hertz();
        let attack = match (&options.attacker, options.attack_rate) {
            (Some(path), Some(rate)) => {
                let attack = Attack::open(options, path, count, rate / hertz);
                Some(attack.map_err(|source| Error::Port {
                    path: path.clone(),
                    source,
                })?)
            }
            _ => None,
        };
        Ok(Self {
            options,
            ports,
            attack,
            flights: vec![Flight::default(); count],
            source,
            hertz,
            window: options.window(),
            rate: options.rate.map(|per_second| per_second / hertz),
            sending: true,
            next_check: 0,
            busy: 0,
            idle: 0,
            rounds: 0,
            idle_rounds: 0,
        })
    }

    fn ticks(&self, seconds: f64) -> u64 {
        (seconds * self.hertz) as u64
    }

    /// Sends a frame from every port until every port has received one; then
    /// throws away what is still under way.
    fn learn(&mut self) -> Result<(), Error> {
        let start = tsc::now();
        let mut reached = vec![false; self.ports.len()];
        let mut next_send = start;
        while let Some(port) = reached.iter().position(|&reached| !reached) {
            let now = tsc::now();
            if now - start > self.ticks(LEARN_SECONDS) {
                return Err(Error::NoPath {
                    port,
                    seconds: LEARN_SECONDS,
                });
            }
            if now >= next_send {
                self.ports.iter_mut().for_each(Port::send_learning);
                next_send = now + self.ticks(0.01);
            }
            for (port, reached) in self.ports.iter_mut().zip(&mut reached) {
                *reached |= port.discard() > 0;
            }
        }
        // Once more in both directions, now that all addresses are learned.
        self.ports.iter_mut().for_each(Port::send_learning);
        let mut quiet_since = tsc::now();
        while tsc::now() - quiet_since < self.ticks(0.03) {
            for port in &mut self.ports {
                if port.discard() > 0 {
                    quiet_since = tsc::now();
                }
            }
        }
        Ok(())
    }

    fn start(&mut self) {
        let now = tsc::now();
        for flight in &mut self.flights {
            flight.last_arrival = now;
            flight.schedule_from = now;
        }
        self.next_check = now + self.ticks(STALL_SECONDS / 2.0);
    }

    /// Traffic for as long as `--warmup` and until every flow has been sent
    /// `--warmup-passes` times, if that is within `--warmup-limit`.
    fn warm_up(&mut self) -> Result<Warmup, Error> {
        let start = tsc::now();
        let seconds = |engine: &Self| (tsc::now() - start) as f64 / engine.hertz;
        let limit = self.options.warmup_limit;
        let mut first_pass = None;
        let wanted = f64::from(self.options.warmup_passes);
        while self.passes() < wanted && seconds(self) < limit {
            self.traffic(PASS_SECONDS)?;
            if first_pass.is_none() && self.passes() >= 1.0 {
                first_pass = Some(seconds(self));
            }
        }
        self.traffic((self.options.warmup - seconds(self)).max(0.0))?;
        Ok(Warmup {
            seconds: seconds(self),
            passes: self.passes(),
            first_pass,
        })
    }

    /// How often every port has sent each of its flows.
    fn passes(&self) -> f64 {
        let senders = (0..self.ports.len()).filter(|&port| self.options.sends(port));
        let sent = senders.map(|port| self.ports[port].counts.sent).min();
        sent.unwrap_or(0) as f64 / self.options.flow_count() as f64
    }

    /// Traffic for `seconds`.
    fn traffic(&mut self, seconds: f64) -> Result<(), Error> {
        let mut now = tsc::now();
        let end = now + self.ticks(seconds);
        while now < end {
            let worked = self.round(now);
            let then = tsc::now();
            self.account(worked, then - now);
            now = then;
            if now > self.next_check {
                self.check_stalls(now)?;
                self.next_check = now + self.ticks(STALL_SECONDS / 2.0);
            }
        }
        Ok(())
    }

    fn account(&mut self, worked: bool, ticks: u64) {
        self.rounds += 1;
        if worked {
            self.busy += ticks;
        } else {
            self.idle += ticks;
            self.idle_rounds += 1;
        }
    }

    /// Every port once: receive, then send. False if there was nothing to do.
    #[inline]
    fn round(&mut self, now: u64) -> bool {
        let mut worked = false;
        for index in 0..self.ports.len() {
            if self.ports[index].poll_receive(tsc::now) > 0 {
                self.flights[self.source[index]].last_arrival = now;
                worked = true;
            }
            if self.sending && self.options.sends(index) {
                let count = self.due(index, now);
                if count > 0 {
                    self.ports[index].send(count, tsc::now);
                    worked = true;
                }
            }
        }
        if let Some(attack) = &mut self.attack
            && self.sending
        {
            attack.round(now, self.options.batch());
        }
        if !worked {
            for _ in 0..self.options.idle_pause {
                std::hint::spin_loop();
            }
        }
        worked
    }

    /// How many frames port `index` may send now.
    #[inline]
    fn due(&mut self, index: usize, now: u64) -> u16 {
        let batch = self.options.batch();
        if let Some(window) = self.window {
            let room = window.saturating_sub(self.under_way(index));
            // Whole batches: a trickle would bounce the ring's cache lines
            // for every frame.
            let whole = u64::from(batch).min(window);
            if room < whole {
                return 0;
            }
            let free = self.ports[index].sendable(whole as u16);
            return if u64::from(free) < whole {
                0
            } else {
                whole as u16
            };
        }
        let Some(rate) = self.rate else { return 0 };
        let flight = &mut self.flights[index];
        let due = ((now - flight.schedule_from) as f64 * rate) as u64;
        let late = due.saturating_sub(flight.scheduled);
        // What is late by more than a ring is not made up for.
        let excess = late.saturating_sub(self.options.ring_size.into());
        flight.skipped += excess;
        flight.scheduled += excess;
        let wanted = (late - excess).min(batch.into()) as u16;
        if wanted == 0 {
            return 0;
        }
        let count = wanted.min(self.ports[index].sendable(wanted));
        self.flights[index].scheduled += u64::from(count);
        count
    }

    /// Frames sent by port `index` that have neither arrived nor been given up.
    fn under_way(&self, index: usize) -> u64 {
        let arrived = self.ports[self.options.peer(index)].counts.received;
        let sent = self.ports[index].counts.sent;
        sent.saturating_sub(arrived + self.flights[index].written_off)
    }

    fn check_stalls(&mut self, now: u64) -> Result<(), Error> {
        let hertz = self.hertz;
        let quiet = |flight: &Flight| now.saturating_sub(flight.last_arrival) as f64 / hertz;
        let newest = self.flights.iter().map(quiet).fold(f64::MAX, f64::min);
        if newest > DEAD_SECONDS {
            return Err(Error::Stopped {
                seconds: DEAD_SECONDS,
                received: self.ports.iter().map(|port| port.counts.received).sum(),
            });
        }
        let patience = match self.options.verify {
            true => STALL_SECONDS_VERIFYING,
            false => STALL_SECONDS,
        };
        for index in 0..self.ports.len() {
            self.write_off_lost(index);
            let under_way = self.under_way(index);
            let stalled = quiet(&self.flights[index]) > patience;
            if self.options.sends(index) && under_way > 0 && stalled {
                self.flights[index].written_off += under_way;
                self.flights[index].stalls += 1;
            }
        }
        Ok(())
    }

    /// Gives up frames that the switch took some time ago, so that a closed
    /// loop keeps its width though some are lost while others arrive.
    fn write_off_lost(&mut self, index: usize) {
        let arrived = self.ports[self.options.peer(index)].counts.received;
        let taken = self.ports[index].taken();
        self.flights[index].write_off_lost(taken.saturating_sub(arrived));
    }

    /// Receives until nothing comes any more.
    fn drain(&mut self) {
        self.sending = false;
        let mut quiet_since = tsc::now();
        let mut now = quiet_since;
        while now - quiet_since < self.ticks(DRAIN_SECONDS) {
            if self.round(now) {
                quiet_since = now;
            }
            now = tsc::now();
        }
    }

    fn say(&self, what: &str) {
        if self.options.progress {
            eprintln!("{what}");
        }
    }

    fn clear_latency(&mut self) {
        for port in &mut self.ports {
            if let Some(histogram) = &mut port.latency {
                histogram.reset();
            }
        }
    }

    fn take_latency(&self) -> Vec<Option<Latency>> {
        let nanos = 1e9 / self.hertz;
        let by_port = self.ports.iter().map(|port| port.latency.as_ref());
        by_port
            .map(|histogram| histogram.map(|h| Latency::from_ticks(h, nanos)))
            .collect()
    }

    fn snapshot(&self) -> Snapshot {
        Snapshot {
            tick: tsc::now(),
            counts: self.ports.iter().map(|port| port.counts).collect(),
            crafted: self.attack.as_ref().map(Attack::crafted),
            busy: self.busy,
            idle: self.idle,
            rounds: self.rounds,
            idle_rounds: self.idle_rounds,
        }
    }

    fn report(
        &self,
        warmup: Warmup,
        before: &Snapshot,
        after: &Snapshot,
        latency: Vec<Option<Latency>>,
    ) -> Report {
        let seconds = (after.tick - before.tick) as f64 / self.hertz;
        let mut directions = Vec::new();
        for from in (0..self.ports.len()).filter(|&port| self.options.sends(port)) {
            let to = self.options.peer(from);
            let delta = |field: fn(&Counts) -> u64, port: usize| {
                field(&after.counts[port]) - field(&before.counts[port])
            };
            let received = delta(|counts| counts.received, to);
            let bytes = delta(|counts| counts.received_bytes, to);
            let total_sent = self.ports[from].counts.sent;
            let total_received = self.ports[to].counts.received;
            directions.push(Direction {
                from,
                to,
                sent: delta(|counts| counts.sent, from),
                received,
                mpps: received as f64 / seconds / 1e6,
                gbps: bytes as f64 * 8.0 / seconds / 1e9,
                total_sent,
                total_received,
                lost: total_sent.saturating_sub(total_received),
                skipped: self.flights[from].skipped,
                stalls: self.flights[from].stalls,
                out_of_order: self.ports[to].counts.out_of_order,
                verdict: self.ports[to]
                    .verifier
                    .as_ref()
                    .map(|verifier| verifier.verdict(total_sent)),
                latency: latency[to].clone(),
            });
        }
        let received: u64 = directions.iter().map(|d| d.received).sum();
        let pieces: u64 = (0..self.ports.len())
            .map(|p| after.counts[p].pieces - before.counts[p].pieces)
            .sum();
        let batches: u64 = (0..self.ports.len())
            .map(|p| after.counts[p].receive_batches - before.counts[p].receive_batches)
            .sum();
        let (busy, idle) = (after.busy - before.busy, after.idle - before.idle);
        let per = |part: u64, whole: u64| part as f64 / whole.max(1) as f64;
        Report {
            frame: if self.options.imix {
                "imix".into()
            } else {
                self.options.size.to_string()
            },
            flows: self.options.flow_count(),
            ring_size: self.options.ring_size,
            in_flight: self.window,
            rate: self.options.rate,
            features: format!("{:#x}", self.ports[0].facts.features),
            mrg_rxbuf: self.ports[0].facts.features & ringway_frontend::features::MRG_RXBUF != 0,
            hugepages: self.ports.iter().all(|port| port.facts.hugepages),
            tso: self.options.tso.then(|| Tso {
                page: self.options.page,
                receive_buffer: self.options.receive_buffer,
                cut: self.options.cut,
                pieces_per_frame: per(pieces, received),
            }),
            warmup,
            seconds,
            tsc_hertz: self.hertz,
            total_mpps: directions.iter().map(|d| d.mpps).sum(),
            total_gbps: directions.iter().map(|d| d.gbps).sum(),
            generator: Generator {
                core: self.options.core,
                busy_fraction: per(busy, busy + idle),
                busy_cycles_per_frame: per(busy, received),
                frames_per_receive: per(received, batches),
                rounds: after.rounds - before.rounds,
                idle_rounds: after.idle_rounds - before.idle_rounds,
                kicks: (0..self.ports.len())
                    .map(|p| after.counts[p].kicks - before.counts[p].kicks)
                    .sum(),
            },
            directions,
            crafted: after
                .crafted
                .zip(before.crafted)
                .map(|(after, before)| after.since(&before)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_missing_at_two_looks_are_lost() {
        let mut flight = Flight::default();
        flight.write_off_lost(500);
        assert_eq!(flight.written_off, 0, "they may still arrive");
        flight.write_off_lost(700);
        assert_eq!(flight.written_off, 500 - INSIDE);
        // None more: what is missing is what was given up, and a batch.
        flight.write_off_lost(500);
        flight.write_off_lost(500);
        assert_eq!(flight.written_off, 500 - INSIDE);
    }

    #[test]
    fn frames_inside_the_switch_are_not_lost() {
        let mut flight = Flight::default();
        for missing in [INSIDE, 900, 10, 800, INSIDE] {
            flight.write_off_lost(missing);
        }
        assert_eq!(flight.written_off, 0);
    }
}
