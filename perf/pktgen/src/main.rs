//! The command line of pktgen.

use std::process::ExitCode;

use clap::Parser;
use pktgen::Options;

fn main() -> ExitCode {
    let options = Options::parse();
    let report = match pktgen::run(&options) {
        Ok(report) => report,
        Err(error) => {
            eprintln!("pktgen: {error}");
            return ExitCode::FAILURE;
        }
    };
    if options.json {
        match serde_json::to_string_pretty(&report) {
            Ok(text) => println!("{text}"),
            Err(error) => {
                eprintln!("pktgen: {error}");
                return ExitCode::FAILURE;
            }
        }
    } else {
        print!("{report}");
    }
    if report.is_clean() {
        ExitCode::SUCCESS
    } else {
        eprintln!("pktgen: verification found faults");
        ExitCode::from(2)
    }
}
