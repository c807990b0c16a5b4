//! The alternating runs: for every round and case, one run of each switch
//! right after the other.

use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::{Args, ValueEnum};

use crate::error::Error;
use crate::generators::{self, GeneratorKind, Traffic};
use crate::machine::{Machine, first_line};
use crate::pingpong::{self, Distance};
use crate::process;
use crate::results::{Case, Failure, Results, Run, Settings};
use crate::switches::{self, Adding, Job, OvsForwarding, SwitchKind, SwitchSetup};
use crate::tso::{self, Tso};

/// Frame sizes that are measured unless others are asked for.
const SIZES: [u32; 3] = [64, 256, 1518];
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
    /// Frame sizes in bytes on the ring, without FCS [default: 64,256,1518;
    /// none if --tso is given].
    #[arg(long, value_delimiter = ',', value_parser = clap::value_parser!(u32).range(64..=9216))]
    pub size: Vec<u32>,
    /// Oversized TCP frames, with pktgen [default: all three; none if --size
    /// is given].
    #[arg(long, value_enum, value_delimiter = ',')]
    pub tso: Vec<Tso>,
    /// Mergeable receive buffers.
    #[arg(long, value_enum, value_delimiter = ',', default_value = "on")]
    pub mrg_rxbuf: Vec<Merge>,
    /// Layout of the guests' rings.
    #[arg(long, value_enum, value_delimiter = ',', default_value = "split")]
    pub ring: Vec<Layout>,
    /// How Open vSwitch forwards.
    #[arg(long, value_enum, default_value_t = OvsForwarding::Flows)]
    pub ovs_forwarding: OvsForwarding,
    #[command(flatten)]
    pub method: Method,
}

/// How to measure, whatever is measured.
#[derive(Clone, Debug, Args)]
pub struct Method {
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

/// Layout of rings.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Layout {
    /// VirtIO 1.2, 2.7.
    Split,
    /// VirtIO 1.2, 2.8.
    Packed,
}

impl Plan {
    fn cases(&self) -> Vec<Case> {
        let neither = self.size.is_empty() && self.tso.is_empty();
        let (sizes, tsos) = match neither {
            true => (&SIZES[..], &Tso::ALL[..]),
            false => (&self.size[..], &self.tso[..]),
        };
        let mut cases = Vec::new();
        for &generator in &self.generator {
            for &size in sizes {
                for &ring in &self.ring {
                    cases.extend(self.mrg_rxbuf.iter().map(|&merge| Case {
                        generator,
                        size,
                        mrg_rxbuf: merge == Merge::On,
                        packed: ring == Layout::Packed,
                        scenario: None,
                        tso: None,
                    }));
                }
            }
        }
        if self.generator.contains(&GeneratorKind::Pktgen) {
            cases.extend(tsos.iter().map(|&tso| tso::case(tso)));
        }
        cases
    }
}

impl Method {
    /// Directory of the programs.
    pub fn binaries(&self) -> PathBuf {
        let own = std::env::current_exe();
        let beside = own.ok().and_then(|exe| exe.parent().map(Path::to_owned));
        let given = self.binaries.clone().or(beside);
        given.unwrap_or_else(|| "target/release".into())
    }

    /// The lock, held until it is dropped.
    pub fn lock(&self) -> Result<Option<impl Drop + use<>>, Error> {
        self.lock.as_deref().map(process::lock).transpose()
    }

    /// What to start a switch with.
    pub fn setup(&self, dir: &Path, job: Job, ports: usize) -> SwitchSetup {
        SwitchSetup {
            dir: dir.to_owned(),
            core: self.switch_core,
            other_core: self.generator_core,
            binaries: self.binaries(),
            job,
            ports,
            tso: false,
        }
    }

    /// A file of results without any, and where it goes.
    pub fn results(&self, suffix: &str) -> (Results, PathBuf) {
        let results = Results {
            date: first_line("date", &["-u", "+%Y-%m-%dT%H:%M:%SZ"]),
            revision: first_line("git", &["rev-parse", "HEAD"]),
            dirty: first_line("git", &["status", "--porcelain", "-uno"]) != "unknown",
            machine: Machine::this(),
            settings: Settings {
                rounds: self.rounds,
                seconds: self.seconds,
                warmup: self.warmup,
                ring_size: self.ring_size,
                switch_core: self.switch_core,
                generator_core: self.generator_core,
                ovs_forwarding: OvsForwarding::Normal,
                flow_limit: None,
            },
            runs: Vec::new(),
            failures: Vec::new(),
            additions: Vec::new(),
            host: Vec::new(),
            host_failures: Vec::new(),
            restart: Vec::new(),
        };
        let path = self.out.clone().unwrap_or_else(|| {
            let date = results.date.replace(':', "");
            let revision = results.revision.get(..8).unwrap_or("none");
            PathBuf::from(format!("perf/results/{date}-{revision}{suffix}.json"))
        });
        (results, path)
    }
}

/// A directory for one run, removed when dropped. Its path is short: a
/// socket's may have 107 bytes.
pub fn directory() -> Result<tempfile::TempDir, Error> {
    tempfile::Builder::new()
        .prefix("rwcmp")
        .tempdir()
        .map_err(|source| Error::File {
            path: std::env::temp_dir(),
            source,
        })
}

/// Cases to measure on switches, alternating.
pub struct Series<'a> {
    /// How.
    pub method: &'a Method,
    /// Switches, in the order of each alternation.
    pub switches: &'a [SwitchKind],
    /// What.
    pub cases: Vec<Case>,
    /// How Open vSwitch forwards without a scenario's rules.
    pub ovs_forwarding: OvsForwarding,
    /// Limits of cases with a scenario.
    pub limits: Limits,
}

/// How much a case with a scenario may take.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Room for this many megaflows.
    pub flows: u32,
    /// Longest time for giving a switch its rules.
    pub load: Duration,
    /// Longest time for setting all flows up, in seconds.
    pub warmup: f64,
}

/// Runs the plan and writes the file after every run; returns its path too.
pub fn run(plan: &Plan) -> Result<(Results, PathBuf), Error> {
    let series = Series {
        method: &plan.method,
        switches: &plan.switch,
        cases: plan.cases(),
        ovs_forwarding: plan.ovs_forwarding,
        limits: Limits {
            flows: 0,
            load: Duration::ZERO,
            warmup: 0.0,
        },
    };
    let (mut results, path) = series.results();
    for round in 1..=plan.method.rounds {
        series.round(round, &mut results, &path)?;
    }
    Ok((results, path))
}

impl Series<'_> {
    /// A file of results without any, and where it goes.
    pub fn results(&self) -> (Results, PathBuf) {
        let limit = Some(self.limits.flows).filter(|&flows| flows > 0);
        let suffix = if limit.is_some() { "-flows" } else { "" };
        let (mut results, path) = self.method.results(suffix);
        results.settings.ovs_forwarding = self.ovs_forwarding;
        results.settings.flow_limit = limit;
        (results, path)
    }

    /// One round over all cases: in each, every switch right after the other.
    pub fn round(&self, round: u32, results: &mut Results, path: &Path) -> Result<(), Error> {
        let measured = |case: Case, switch: &SwitchKind| {
            let skipped = case.tso.and_then(|tso| tso.skipped(*switch));
            skipped.is_none()
        };
        let runs = |case: &Case| {
            let switches = self.switches.iter();
            switches.filter(|switch| measured(*case, switch)).count()
        };
        let total = self.method.rounds as usize * self.cases.iter().map(runs).sum::<usize>();
        for &case in &self.cases {
            for &switch in self.switches.iter().filter(|switch| measured(case, switch)) {
                match self.one_run(round, switch, case) {
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
                results.write(path)?;
            }
        }
        Ok(())
    }

    /// One run, tried again if others took too much of a core.
    fn one_run(&self, round: u32, switch: SwitchKind, case: Case) -> Result<Run, Error> {
        let mut run = self.attempt(round, switch, case)?;
        for _ in 0..RETRIES {
            if !run.disturbed() {
                break;
            }
            run = self.attempt(round, switch, case)?;
        }
        Ok(run)
    }

    fn attempt(&self, round: u32, kind: SwitchKind, case: Case) -> Result<Run, Error> {
        let method = self.method;
        let _lock = method.lock()?;
        let (ours, theirs) = (method.generator_core, method.switch_core);
        let ping = || pingpong::measure(ours, theirs).ok_or(Error::Cores(ours, theirs));
        let dir = directory()?;
        let (job, ports) = match case.scenario {
            Some(scenario) => {
                let flow_limit = self.limits.flows;
                (Job::Rules { flow_limit }, scenario.ports())
            }
            None => (Job::Forward(self.ovs_forwarding), 2),
        };
        let setup = SwitchSetup {
            tso: case.tso.is_some(),
            ..method.setup(dir.path(), job, ports)
        };
        let traffic = Traffic {
            size: case.size,
            mrg_rxbuf: case.mrg_rxbuf,
            packed: case.packed,
            ring_size: method.ring_size,
            warmup: case
                .scenario
                .map_or(method.warmup, |s| s.warmup(method.warmup)),
            seconds: method.seconds,
            core: method.generator_core,
            dir: dir.path().join("generator"),
            binaries: method.binaries(),
            flows: case.scenario.map(|s| s.traffic(self.limits.warmup)),
            tso: case.tso,
        };
        let file_error = |path: &Path| {
            let path = path.to_owned();
            |source| Error::File { path, source }
        };
        std::fs::create_dir(&traffic.dir).map_err(file_error(&traffic.dir))?;
        let mut switch = switches::start(kind, &setup)?;
        if let Some(scenario) = case.scenario {
            let rules = dir.path().join("rules");
            scenario.write_rules(&rules).map_err(file_error(&rules))?;
            switch.add_flows(&rules, Adding::Bundle, self.limits.load)?;
        }
        let pingpong_before = ping()?;
        let outcome = generators::run(case.generator, switch.as_mut(), &traffic)?;
        drop(switch);
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
            flows: outcome.flows,
            oversized: outcome.oversized,
        })
    }
}

fn progress(run: &Run, number: usize, total: usize) -> String {
    let cycles = run.cycles_per_packet.unwrap_or(f64::NAN);
    let rate = match run.oversized {
        Some(oversized) => format!("{:.1} Gbit/s", oversized.gbps),
        None => format!("{:.2} Mpps", run.mpps),
    };
    let flows = run.flows.map_or(String::new(), |flows| {
        format!(
            ", {} megaflows, {:.0} missed/s, first pass {:.3} s",
            flows.lookups.flows,
            flows.missed_per_second(),
            flows.first_pass.unwrap_or(f64::NAN)
        )
    });
    format!(
        "{number}/{total} round {} {}, {} {}: {rate}, {cycles:.0} cycles/packet{flows}, \
         ping-pong {:.0}/{:.0} ns{}",
        run.round,
        run.case.generator.word(),
        crate::table::name(&run.case),
        run.switch.word(),
        run.pingpong_before,
        run.pingpong_after,
        if run.disturbed() { ", DISTURBED" } else { "" }
    )
}
