//! The ringway command line: one verb, one request to ringwayd, one answer as
//! text for people or JSON for programs.

pub mod answers;
pub mod cli;
pub mod client;
mod flow_verbs;
pub mod options;
pub mod ovs;
mod verbs;

use std::io::{self, Write};

use clap::CommandFactory;
use serde_json::json;

use cli::{Cli, Verb};
use client::{Client, Error};

/// Exit code when all went well.
pub const EXIT_OK: u8 = 0;
/// Exit code when the daemon refused, could not be reached, or kept a wish that
/// it could not fulfil yet.
pub const EXIT_FAILED: u8 = 1;
/// Exit code when the command line has no meaning.
pub const EXIT_USAGE: u8 = 2;
/// Exit code of `show` while desired and actual state differ.
pub const EXIT_DIFFERS: u8 = 3;
/// Exit code of `diff-flows` if there are differences, as ovs-ofctl has it.
pub const EXIT_FLOWS_DIFFER: u8 = 2;

/// Does what the command line says. Results go to `out`, complaints to `err`.
/// Returns the exit code.
pub async fn run(cli: &Cli, out: &mut dyn Write, err: &mut dyn Write) -> u8 {
    run_on(cli, false, out, err).await
}

/// As [`run`], where `out` may be a `terminal`: there ports are shown by name.
pub async fn run_on(cli: &Cli, terminal: bool, out: &mut dyn Write, err: &mut dyn Write) -> u8 {
    let outcome = match &cli.verb {
        Verb::Completions { shell } => completions(*shell, out),
        verb => with_daemon(cli, verb, terminal, out, err).await,
    };
    match outcome {
        Ok(code) => code,
        // The reader of a pipe went away: nobody is left to tell.
        Err(Error::Output(error)) if error.kind() == io::ErrorKind::BrokenPipe => EXIT_OK,
        Err(error) => {
            let text = match cli.json {
                true => json!({"error": {
                    "code": error.code(),
                    "message": error.to_string(),
                    "kept": error.kept(),
                    "line": error.line(),
                    "at": error.at(),
                }})
                .to_string(),
                false => format!("ringway: {error}"),
            };
            let _ = writeln!(err, "{text}");
            error.exit_code()
        }
    }
}

fn completions(shell: clap_complete::Shell, out: &mut dyn Write) -> Result<u8, Error> {
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut Cli::command(), "ringway", &mut script);
    out.write_all(&script)?;
    out.flush()?;
    Ok(EXIT_OK)
}

async fn with_daemon(
    cli: &Cli,
    verb: &Verb,
    terminal: bool,
    out: &mut dyn Write,
    err: &mut dyn Write,
) -> Result<u8, Error> {
    // What can be refused without the daemon is refused without it.
    let request = verbs::Request::from_verb(verb, terminal)?;
    let mut client = match cli.tls_target()? {
        None => Client::connect_for(&cli.socket, request.patience()).await?,
        Some(target) => Client::connect_tls(&target, request.patience()).await?,
    };
    let mut printer = verbs::Printer {
        json: cli.json,
        name: "ringway",
        out,
        err,
    };
    verbs::perform(request, &mut client, &mut printer).await
}
