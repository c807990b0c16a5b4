//! The alternating runs: for every round and case, one run of each switch
//! right after the other.

use std::path::{Path, PathBuf};

use clap::{Args, ValueEnum};

use crate::error::Error;
use crate::generators::{self, GeneratorKind, Traffic};
use crate::machine::{Machine, first_line};
use crate::pingpong::{self, Distance};
use crate::process;
use crate::results::{Case, Failure, Results, Run, Settings};
use crate::switches::{self, OvsForwarding, SwitchKind, SwitchSetup};

/// A disturbed run is tried again this often.
const RETRIES: u32 = 2;

/// What to compare.
#[derive(Clone, Debug, Args)]
pub struct Plan {
    /// Switches, in the order of each alternation.
    #[arg(
        long,
        value_enum,
        value_delimiter = ',',
        default_value = "ringway,ovs,testpmd"
    )]
    pub switch: Vec<SwitchKind>,
    /// Generators.
    #[arg(
        long,
        value_enum,
        value_delimiter = ',',
        default_value = "pktgen,testpmd"
    )]
    pub generator: Vec<GeneratorKind>,
    /// Frame sizes in bytes on the ring, without FCS.
    #[arg(long, value_delimiter = ',', default_value = "64,256,1518")]
    pub size: Vec<u16>,
    /// Mergeable receive buffers.
    #[arg(long, value_enum, value_delimiter = ',', default_value = "on")]
    pub mrg_rxbuf: Vec<Merge>,
    /// Rounds; medians want five or more.
    #[arg(long, default_value_t = 5)]
    pub rounds: u32,
    /// Seconds to measure per run.
    #[arg(long, default_value_t = 2.0)]
    pub seconds: f64,
    /// Seconds of traffic before measuring.
    #[arg(long, default_value_t = 0.5)]
    pub warmup: f64,
    /// Descriptors per ring.
    #[arg(long, default_value_t = 1024)]
    pub ring_size: u16,
    /// Core of the switch.
    #[arg(long, default_value_t = 1)]
    pub switch_core: usize,
    /// Core of the generator (and of everything else).
    #[arg(long, default_value_t = 0)]
    pub generator_core: usize,
    /// How Open vSwitch forwards.
    #[arg(long, value_enum, default_value_t = OvsForwarding::Flows)]
    pub ovs_forwarding: OvsForwarding,
    /// Directory of ringwayd, ringway and pktgen [default: that of this program].
    #[arg(long, value_name = "DIR")]
    pub binaries: Option<PathBuf>,
    /// File of results [default: perf/results/DATE-REVISION.json]; a picture
    /// goes beside it, ending in .svg.
    #[arg(long, value_name = "FILE")]
    pub out: Option<PathBuf>,
    /// Lock this file during each run, so that others who do wait.
    #[arg(long, value_name = "FILE")]
    pub lock: Option<PathBuf>,
}

/// Mergeable receive buffers or not.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Merge {
    /// Mergeable.
    On,
    /// One buffer per frame.
    Off,
}

impl Plan {
    fn cases(&self) -> Vec<Case> {
        let mut cases = Vec::new();
        for &generator in &self.generator {
            for &size in &self.size {
                cases.extend(self.mrg_rxbuf.iter().map(|&merge| Case {
                    generator,
                    size,
                    mrg_rxbuf: merge == Merge::On,
                }));
            }
        }
        cases
    }

    fn settings(&self) -> Settings {
        Settings {
            rounds: self.rounds,
            seconds: self.seconds,
            warmup: self.warmup,
            ring_size: self.ring_size,
            switch_core: self.switch_core,
            generator_core: self.generator_core,
            ovs_forwarding: self.ovs_forwarding,
        }
    }

    fn binaries(&self) -> PathBuf {
        let own = std::env::current_exe();
        let beside = own.ok().and_then(|exe| exe.parent().map(Path::to_owned));
        let given = self.binaries.clone().or(beside);
        given.unwrap_or_else(|| "target/release".into())
    }
}

/// Runs the plan and writes the file after every run; returns its path too.
pub fn run(plan: &Plan) -> Result<(Results, PathBuf), Error> {
    let mut results = Results {
        date: first_line("date", &["-u", "+%Y-%m-%dT%H:%M:%SZ"]),
        revision: first_line("git", &["rev-parse", "HEAD"]),
        dirty: first_line("git", &["status", "--porcelain", "-uno"]) != "unknown",
        machine: Machine::this(),
        settings: plan.settings(),
        runs: Vec::new(),
        failures: Vec::new(),
    };
    let path = plan.out.clone().unwrap_or_else(|| {
        let date = results.date.replace(':', "");
        let revision = results.revision.get(..8).unwrap_or("none");
        PathBuf::from(format!("perf/results/{date}-{revision}.json"))
    });
    let cases = plan.cases();
    let total = plan.rounds as usize * cases.len() * plan.switch.len();
    for round in 1..=plan.rounds {
        for &case in &cases {
            for &switch in &plan.switch {
                match one_run(plan, round, switch, case) {
                    Ok(run) => {
                        eprintln!("{}", progress(&run, results.runs.len() + 1, total));
                        results.runs.push(run);
                    }
                    Err(error @ Error::Cores(..)) => return Err(error),
                    Err(error) => {
                        eprintln!("{}: {error}", switch.word());
                        results.failures.push(Failure {
                            round,
                            switch,
                            case,
                            error: error.to_string(),
                        });
                    }
                }
                results.write(&path)?;
            }
        }
    }
    Ok((results, path))
}

/// One run, tried again if others took too much of a core.
fn one_run(plan: &Plan, round: u32, switch: SwitchKind, case: Case) -> Result<Run, Error> {
    let mut run = attempt(plan, round, switch, case)?;
    for _ in 0..RETRIES {
        if !run.disturbed() {
            break;
        }
        run = attempt(plan, round, switch, case)?;
    }
    Ok(run)
}

fn attempt(plan: &Plan, round: u32, kind: SwitchKind, case: Case) -> Result<Run, Error> {
    let _lock = plan.lock.as_deref().map(process::lock).transpose()?;
    let (ours, theirs) = (plan.generator_core, plan.switch_core);
    let ping = || pingpong::measure(ours, theirs).ok_or(Error::Cores(ours, theirs));
    // A short path: a socket's may have 107 bytes.
    let dir = tempfile::Builder::new()
        .prefix("rwcmp")
        .tempdir()
        .map_err(|source| Error::File {
            path: std::env::temp_dir(),
            source,
        })?;
    let setup = SwitchSetup {
        dir: dir.path().to_owned(),
        core: plan.switch_core,
        other_core: plan.generator_core,
        binaries: plan.binaries(),
        ovs_forwarding: plan.ovs_forwarding,
    };
    let traffic = Traffic {
        size: case.size,
        mrg_rxbuf: case.mrg_rxbuf,
        ring_size: plan.ring_size,
        warmup: plan.warmup,
        seconds: plan.seconds,
        core: plan.generator_core,
        dir: dir.path().join("generator"),
        binaries: plan.binaries(),
    };
    std::fs::create_dir(&traffic.dir).map_err(|source| Error::File {
        path: traffic.dir.clone(),
        source,
    })?;
    let pingpong_before = ping()?;
    let outcome = {
        let mut switch = switches::start(kind, &setup)?;
        generators::run(case.generator, switch.as_mut(), &traffic)?
    };
    let pingpong_after = ping()?;
    Ok(Run {
        round,
        switch: kind,
        case,
        mpps: outcome.mpps,
        cycles_per_packet: outcome.cycles.per_packet(),
        switch_busy: outcome.cycles.busy_fraction(),
        generator_busy: outcome.generator_busy,
        generator_cycles: outcome.generator_cycles,
        lost: outcome.lost,
        pingpong_before,
        pingpong_after,
        distance: Distance::of(pingpong_before, pingpong_after),
        switch_waited: outcome.switch_waited,
        generator_waited: outcome.generator_waited,
    })
}

fn progress(run: &Run, number: usize, total: usize) -> String {
    let cycles = run.cycles_per_packet.unwrap_or(f64::NAN);
    format!(
        "{number}/{total} round {} {}, {} {}: {:.2} Mpps, {cycles:.0} cycles/packet, \
         ping-pong {:.0}/{:.0} ns{}",
        run.round,
        run.case.generator.word(),
        crate::table::name(&run.case),
        run.switch.word(),
        run.mpps,
        run.pingpong_before,
        run.pingpong_after,
        if run.disturbed() { ", DISTURBED" } else { "" }
    )
}
