//! ringway, Open vSwitch-DPDK and testpmd on the same core, alternating.
//!
//! ```text
//! run.rs         rounds × cases × switches, one run after the other
//! flows.rs       the same for flows              scenario.rs  rules and traffic
//! host/          the same for the host's side: packets, TCP, adding ports
//! restart/       the same for restarts: outages, connecting, guests that move
//! switches/      start each switch, read its cycles      generators/  drive it
//! pingpong.rs    how far apart the cores are             parse.rs     what programs print
//! results.rs     the JSON file      group.rs, stats.rs   like with like, medians
//! tso.rs         oversized frames: cases and table
//! table.rs, diff.rs, plot.rs        Markdown and SVG (flow_table.rs, flow_plot.rs: of flows)
//! process.rs     children that never outlive us
//! ```

mod diff;
mod error;
mod flow_plot;
mod flow_table;
mod flows;
mod generators;
mod group;
mod host;
mod machine;
mod parse;
mod pingpong;
mod plot;
mod process;
mod restart;
mod results;
mod run;
mod scenario;
mod stats;
mod switches;
mod table;
mod tso;

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Parser, Subcommand};

use error::Error;
use results::Results;

/// Compares ringway with Open vSwitch-DPDK and testpmd on the same core.
#[derive(Debug, Parser)]
#[command(name = "compare", version)]
struct Cli {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, Subcommand)]
enum Verb {
    /// Measure, write the results and a picture, print the table.
    Run(run::Plan),
    /// Measure flows: rate against flows and masks, set-up, attack, adding rules.
    Flows(flows::Plan),
    /// Measure the host's side: system and internal ports, TCP, adding ports.
    Host(host::Plan),
    /// Measure what guests notice of restarts: outages, connecting, moving to another switch.
    Restart(restart::Plan),
    /// Print the table of a file of results.
    Table {
        /// File of results.
        file: PathBuf,
    },
    /// Draw the picture of a file of results.
    Plot {
        /// File of results.
        file: PathBuf,
        /// Picture [default: the file with .svg].
        out: Option<PathBuf>,
    },
    /// Print what changed from one file of results to another.
    Diff {
        /// File of results before.
        a: PathBuf,
        /// File of results after.
        b: PathBuf,
    },
    /// Print the cache-line ping-pong between two cores, in nanoseconds there and back.
    Pingpong {
        /// One core.
        #[arg(default_value_t = 0)]
        a: usize,
        /// The other.
        #[arg(default_value_t = 1)]
        b: usize,
    },
}

fn main() -> ExitCode {
    match perform(Cli::parse().verb) {
        Ok(code) => code,
        Err(error) => {
            eprintln!("compare: {error}");
            ExitCode::FAILURE
        }
    }
}

fn perform(verb: Verb) -> Result<ExitCode, Error> {
    match verb {
        Verb::Run(plan) => return present(run::run(&plan)?),
        Verb::Flows(plan) => return present(flows::run(&plan)?),
        Verb::Host(plan) => return present(host::run(&plan)?),
        Verb::Restart(plan) => return present(restart::run(&plan)?),
        Verb::Table { file } => print!("{}", table::markdown(&Results::read(&file)?)),
        Verb::Plot { file, out } => {
            let picture = out.unwrap_or_else(|| file.with_extension("svg"));
            plot::svg(&Results::read(&file)?, &picture)?;
        }
        Verb::Diff { a, b } => {
            print!(
                "{}",
                diff::markdown(&Results::read(&a)?, &Results::read(&b)?)
            );
        }
        Verb::Pingpong { a, b } => match pingpong::measure(a, b) {
            Some(nanos) => println!("{nanos:.1}"),
            None => return Err(Error::Cores(a, b)),
        },
    }
    Ok(ExitCode::SUCCESS)
}

/// Prints the table and draws the picture of what was measured.
fn present((results, path): (Results, PathBuf)) -> Result<ExitCode, Error> {
    print!("{}", table::markdown(&results));
    eprintln!("results: {}", path.display());
    if plot::can_be_drawn(&results) {
        let picture = path.with_extension("svg");
        plot::svg(&results, &picture)?;
        eprintln!("picture: {}", picture.display());
    }
    Ok(
        if results.failures.is_empty()
            && results.host_failures.is_empty()
            && results.restart.iter().all(|run| run.figures.is_ok())
        {
            ExitCode::SUCCESS
        } else {
            ExitCode::FAILURE
        },
    )
}
