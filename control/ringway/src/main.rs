//! The ringway command line.

use std::io::{IsTerminal, Write, stderr, stdout};
use std::process::ExitCode;

use clap::Parser;
use ringway::cli::{Cli, words};
use ringway::ovs::{self, Call};

fn main() -> ExitCode {
    let given: Vec<_> = std::env::args_os().collect();
    let call = Call::of(&given);
    let cli = match &call {
        Some(_) => None,
        None => Some(Cli::parse_from(words(given.into_iter()))),
    };
    let terminal = stdout().is_terminal();
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build();
    match runtime {
        Ok(runtime) => {
            let (mut out, mut err) = (stdout(), stderr());
            let code = runtime.block_on(async {
                match (&call, &cli) {
                    (Some(call), _) => ovs::run(call, terminal, &mut out, &mut err).await,
                    (None, Some(cli)) => ringway::run_on(cli, terminal, &mut out, &mut err).await,
                    (None, None) => ringway::EXIT_USAGE,
                }
            });
            ExitCode::from(code)
        }
        Err(error) => {
            let _ = writeln!(stderr(), "ringway: the runtime could not start: {error}");
            ExitCode::FAILURE
        }
    }
}
