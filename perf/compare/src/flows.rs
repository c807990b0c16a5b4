//! `compare flows`: switches with the same rules and traffic, alternating.

use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::PathBuf;
use std::time::{Duration, Instant};

use clap::{Args, ValueEnum};

use crate::error::Error;
use crate::generators::GeneratorKind;
use crate::process::memory;
use crate::results::{Addition, Case, Results};
use crate::run::{Limits, Method, Series, directory};
use crate::scenario::{Rules, Scenario, exact};
use crate::switches::{self, Adding, Job, OvsForwarding, SwitchKind};

/// A part of the suite.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Test {
    /// Rate against the number of concurrent flows.
    Rate,
    /// Rate against the number of masks.
    Masks,
    /// New flows per second.
    SetUp,
    /// Established flows beside crafted headers.
    Attack,
    /// Time and memory of adding rules.
    Add,
}

/// What to compare.
#[derive(Clone, Debug, Args)]
pub struct Plan {
    /// Switches, in the order of each alternation: ringway, ovs.
    #[arg(long, value_enum, value_delimiter = ',', default_value = "ringway,ovs")]
    pub switch: Vec<SwitchKind>,
    /// Parts of the suite.
    #[arg(
        long,
        value_enum,
        value_delimiter = ',',
        default_value = "rate,masks,set-up,attack,add"
    )]
    pub test: Vec<Test>,
    /// Rules while the number of flows varies.
    #[arg(
        long,
        value_enum,
        value_delimiter = ',',
        default_value = "exact,wildcard"
    )]
    pub rules: Vec<Rules>,
    /// Concurrent flows, both directions together (1: one in each).
    #[arg(
        long,
        value_delimiter = ',',
        default_value = "1,1000,10000,100000,1000000"
    )]
    pub flows: Vec<u32>,
    /// Masks of each direction.
    #[arg(long, value_delimiter = ',', default_value = "1,10,100",
          value_parser = clap::value_parser!(u8).range(1..=250))]
    pub masks: Vec<u8>,
    /// New flows to set up, both directions together.
    #[arg(long, value_delimiter = ',', default_value = "500000")]
    pub set_up: Vec<u32>,
    /// The attacker's frames per second; 0 is the rate without.
    #[arg(long, value_delimiter = ',', default_value = "0,10000,100000")]
    pub attack: Vec<u32>,
    /// Flows beside the attacker, both directions together: few enough for an
    /// exact-match cache, and too many.
    #[arg(long, value_delimiter = ',', default_value = "10000,200000")]
    pub established: Vec<u32>,
    /// Rules to add.
    #[arg(long, default_value_t = 100_000)]
    pub add: u32,
    /// Frame size in bytes on the ring, without FCS.
    #[arg(long, default_value_t = 64)]
    pub size: u16,
    /// Room for megaflows in every switch.
    #[arg(long, default_value_t = 1 << 21)]
    pub flow_limit: u32,
    /// Longest time for giving a switch its rules, in seconds.
    #[arg(long, default_value_t = 60)]
    pub load_limit: u64,
    /// Longest time for setting all flows up before measuring, in seconds.
    /// What was reached is told.
    #[arg(long, default_value_t = 30.0)]
    pub warmup_limit: f64,
    #[command(flatten)]
    pub method: Method,
}

impl Plan {
    fn cases(&self) -> Vec<Case> {
        let scenarios = self.test.iter().flat_map(|test| match test {
            Test::Rate => self.rates(),
            Test::Masks => self
                .masks
                .iter()
                .map(|&masks| Scenario::Masks { masks })
                .collect(),
            Test::SetUp => self
                .set_up
                .iter()
                .map(|&flows| Scenario::SetUp { flows })
                .collect(),
            Test::Attack => self.attacks(),
            Test::Add => Vec::new(),
        });
        scenarios
            .map(|scenario| Case {
                generator: GeneratorKind::Pktgen,
                size: self.size.into(),
                mrg_rxbuf: true,
                packed: false,
                scenario: Some(scenario),
                tso: None,
            })
            .collect()
    }

    fn attacks(&self) -> Vec<Scenario> {
        let pairs = self
            .established
            .iter()
            .flat_map(|&flows| self.attack.iter().map(move |&rate| (rate, flows)));
        pairs
            .map(|(rate, flows)| Scenario::Attack { rate, flows })
            .collect()
    }

    fn rates(&self) -> Vec<Scenario> {
        let pairs = self
            .rules
            .iter()
            .flat_map(|&rules| self.flows.iter().map(move |&flows| (rules, flows)));
        pairs
            .map(|(rules, flows)| Scenario::Rate { rules, flows })
            .collect()
    }
}

/// Runs the plan and writes the file after every run; returns its path too.
pub fn run(plan: &Plan) -> Result<(Results, PathBuf), Error> {
    if plan.switch.contains(&SwitchKind::Testpmd) {
        return Err(Error::NoRules);
    }
    let series = Series {
        method: &plan.method,
        switches: &plan.switch,
        cases: plan.cases(),
        ovs_forwarding: OvsForwarding::Flows,
        limits: Limits {
            flows: plan.flow_limit,
            load: Duration::from_secs(plan.load_limit),
            warmup: plan.warmup_limit,
        },
    };
    let (mut results, path) = series.results();
    for round in 1..=plan.method.rounds {
        series.round(round, &mut results, &path)?;
        if plan.test.contains(&Test::Add) {
            for (switch, adding) in ways(&plan.switch) {
                let addition = add(plan, round, switch, adding)?;
                eprintln!(
                    "round {round} {} {}: {} rules in {:.2} s",
                    switch.word(),
                    adding.word(),
                    addition.rules,
                    addition.seconds
                );
                results.additions.push(addition);
                results.write(&path)?;
            }
        }
    }
    Ok((results, path))
}

/// Every way in which each switch can be given a file of rules.
fn ways(switches: &[SwitchKind]) -> Vec<(SwitchKind, Adding)> {
    let ways = switches.iter().flat_map(|&switch| match switch {
        SwitchKind::Ringway => vec![(switch, Adding::Bundle)],
        _ => vec![(switch, Adding::Bundle), (switch, Adding::Single)],
    });
    ways.collect()
}

/// Adds rules to a switch that has none.
fn add(plan: &Plan, round: u32, kind: SwitchKind, adding: Adding) -> Result<Addition, Error> {
    let _lock = plan.method.lock()?;
    let dir = directory()?;
    let rules = dir.path().join("rules");
    let fail = |source| Error::File {
        path: rules.clone(),
        source,
    };
    let mut file = BufWriter::new(File::create(&rules).map_err(fail)?);
    exact(&mut file, 0, 1, plan.add)
        .and_then(|()| file.flush())
        .map_err(fail)?;
    let job = Job::Rules {
        flow_limit: plan.flow_limit,
    };
    let mut switch = switches::start(kind, &plan.method.setup(dir.path(), job, 2))?;
    let before = memory(switch.pid());
    let start = Instant::now();
    switch.add_flows(&rules, adding, Duration::from_secs(plan.load_limit))?;
    let seconds = start.elapsed().as_secs_f64();
    let after = memory(switch.pid());
    Ok(Addition {
        round,
        switch: kind,
        adding,
        rules: plan.add,
        seconds,
        grown: before.zip(after).map(|(before, after)| after.since(before)),
    })
}
