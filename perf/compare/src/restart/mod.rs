//! `compare restart`: what guests notice of a switch that is restarted, killed or
//! left for another one, alternating.
//!
//! ```text
//! switch.rs      ringway and Open vSwitch, killed and started again
//! measure.rs     one case of one switch
//! table.rs       Markdown
//! ```

mod measure;
mod switch;
pub mod table;

use std::fmt;
use std::path::PathBuf;

use clap::{Args, ValueEnum};
use ringway_tests::{machine, scripted};
use serde::{Deserialize, Serialize};

use crate::error::Error;
use crate::results::Results;
use crate::run::{Method, directory};
use crate::switches::SwitchKind;

/// What happens to the switch.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Event {
    /// It is killed, and started again at once.
    Kill,
    /// It is told to end, and started again at once.
    Stop,
    /// Another takes over from it (`ringwayd --takeover`).
    Takeover,
    /// It is killed, and its holder starts another (`ringwayd --hold-fds`).
    KillHeld,
    /// A frontend listens, which it did not before.
    Listen,
    /// The guest moves to another switch.
    Move,
}

/// Who listens on the guests' sockets.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Listens {
    /// The guest: `mode=client`, `dpdkvhostuserclient`.
    Guest,
    /// The switch: `mode=server`, `dpdkvhostuser`.
    Switch,
}

/// What is measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct RestartCase {
    /// What happens.
    pub event: Event,
    /// Who listens.
    pub listens: Listens,
    /// Packed rings.
    pub packed: bool,
}

impl RestartCase {
    /// Whether the switch has nothing of the kind.
    fn skipped(self, switch: SwitchKind) -> bool {
        let ours = matches!(self.event, Event::Takeover | Event::KillHeld);
        ours && switch != SwitchKind::Ringway
    }
}

impl fmt::Display for RestartCase {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let event = match self.event {
            Event::Kill => "kill -9, started again",
            Event::Stop => "stopped, started again",
            Event::Takeover => "takeover",
            Event::KillHeld => "kill -9 under a holder",
            Event::Listen => return f.write_str("a frontend begins to listen"),
            Event::Move => {
                let packed = if self.packed { ", packed rings" } else { "" };
                return write!(f, "a guest moves{packed}");
            }
        };
        let listens = match self.listens {
            Listens::Guest => "guests listen",
            Listens::Switch => "the switch listens",
        };
        write!(f, "{event}; {listens}")
    }
}

/// What came of a case.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Figures {
    /// Of numbered frames.
    Outage(Outage),
    /// Milliseconds from `bind` to the connection, each time.
    Connected(Vec<f64>),
    /// Of a guest that moved.
    Moved(Moved),
}

/// What became of numbered frames between two guests, both ways together.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Outage {
    /// Longest time in which none came in some direction, ms; `None`: none came
    /// again within the time that was waited.
    pub ms: Option<f64>,
    /// Lost.
    pub lost: u64,
    /// Came twice, or after later ones.
    pub doubled_or_late: u64,
    /// Came garbled.
    pub torn: u64,
    /// Connections that the frontends had to make anew.
    pub reconnects: u32,
}

/// What was noticed of a guest that moved from one switch to another.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Moved {
    /// How long it ran nowhere, as QEMU says, ms.
    pub downtime_ms: u64,
    /// Longest time between two answers to pings every 20 ms, ms.
    pub longest_ms: f64,
    /// Pings without an answer.
    pub lost: usize,
}

/// One measurement of one switch.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct RestartRun {
    /// Round, from 1.
    pub round: u32,
    /// Switch.
    pub switch: SwitchKind,
    /// What.
    pub case: RestartCase,
    /// Result, or why there is none.
    pub figures: Result<Figures, String>,
}

/// What to compare.
#[derive(Clone, Debug, Args)]
pub struct Plan {
    /// Switches, in the order of each alternation.
    #[arg(long, value_enum, value_delimiter = ',', default_value = "ringway,ovs")]
    pub switch: Vec<SwitchKind>,
    /// What happens to them.
    #[arg(
        long,
        value_enum,
        value_delimiter = ',',
        default_value = "kill,stop,takeover,kill-held,listen,move"
    )]
    pub event: Vec<Event>,
    /// Who listens on the guests' sockets.
    #[arg(
        long,
        value_enum,
        value_delimiter = ',',
        default_value = "guest,switch"
    )]
    pub listens: Vec<Listens>,
    #[command(flatten)]
    pub method: Method,
}

impl Plan {
    fn cases(&self) -> Vec<RestartCase> {
        let mut cases = Vec::new();
        for &event in &self.event {
            let case = |listens, packed| RestartCase {
                event,
                listens,
                packed,
            };
            match event {
                Event::Listen => cases.push(case(Listens::Guest, false)),
                Event::Move => cases.extend([false, true].map(|p| case(Listens::Switch, p))),
                _ => cases.extend(self.listens.iter().map(|&listens| case(listens, false))),
            }
        }
        cases
    }
}

/// Runs the plan and writes the file after every run; returns its path too.
pub fn run(plan: &Plan) -> Result<(Results, PathBuf), Error> {
    if plan.switch.contains(&SwitchKind::Testpmd) {
        return Err(Error::NoRestart);
    }
    let (mut results, path) = plan.method.results("-restart");
    scripted::keep_off_the_switch()?;
    for round in 1..=plan.method.rounds {
        for case in plan.cases() {
            for &switch in &plan.switch {
                if case.skipped(switch) {
                    continue;
                }
                let _lock = plan.method.lock()?;
                let _alone = machine::exclusive()?;
                let dir = directory()?;
                let figures = measure::measure(plan, case, switch, dir.path());
                let figures = figures.map_err(|error| error.to_string());
                let run = RestartRun {
                    round,
                    switch,
                    case,
                    figures,
                };
                eprintln!("{}", table::progress(&run));
                results.restart.push(run);
                results.write(&path)?;
            }
        }
    }
    Ok((results, path))
}
