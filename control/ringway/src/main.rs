//! The ringway command line.

use std::io::{IsTerminal, Write, stderr, stdout};
use std::process::ExitCode;

use clap::Parser;
use ringway::cli::{Cli, words};

fn main() -> ExitCode {
    let cli = Cli::parse_from(words(std::env::args_os()));
    let terminal = stdout().is_terminal();
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build();
    match runtime {
        Ok(runtime) => {
            let code = runtime.block_on(ringway::run_on(
                &cli,
                terminal,
                &mut stdout(),
                &mut stderr(),
            ));
            ExitCode::from(code)
        }
        Err(error) => {
            let _ = writeln!(stderr(), "ringway: the runtime could not start: {error}");
            ExitCode::FAILURE
        }
    }
}
