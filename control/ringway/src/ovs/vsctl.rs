//! `ovs-vsctl`: several commands on rows as one transaction.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use ringway_proto::v1 as pb;

use super::getopt::{self, Flag, LOGGING, TLS, flag, refuse_tls, with};
use super::records::{Database, World};
use super::syntax::{self, Action, Command, Output, Session, Stop};
use super::table::{Data, Format, Style};
use super::transaction;
use super::{Io, refuse, version};
use crate::EXIT_OK;
use crate::client::{Client, Error, TIMEOUT};

/// Exit code when `--timeout` has passed: as a shell tells Open vSwitch's end by
/// SIGALRM.
pub const EXIT_TIMEOUT: u8 = 142;

/// How often is asked what is waited for.
const INTERVAL: Duration = Duration::from_millis(100);

const FLAGS: &[Flag] = &[
    with("db"),
    flag("no-syslog"),
    flag("no-wait"),
    flag("dry-run"),
    flag("oneline"),
    with("timeout").or('t'),
    flag("retry"),
    flag("help").or('h'),
    flag("commands"),
    flag("options"),
    flag("leader-only"),
    flag("no-leader-only"),
    flag("shuffle-remotes"),
    flag("no-shuffle-remotes"),
    flag("version").or('V'),
    with("format").or('f'),
    with("data").or('d'),
    flag("no-headings"),
    flag("pretty"),
    flag("bare"),
    with("max-column-width"),
];

/// What the global options say.
#[derive(Debug, Default)]
struct Settings {
    socket: PathBuf,
    rundir: PathBuf,
    no_wait: bool,
    dry_run: bool,
    oneline: bool,
    retry: bool,
    timeout: Option<Duration>,
    style: Style,
}

/// What the options make of a call.
enum Parsed {
    /// Commands are to be run.
    Run(Settings, Vec<Command>),
    /// A text is to be printed.
    Print(String),
}

fn parse(words: &[String], socket: &Path, rundir: &Path) -> Result<Parsed, String> {
    let mut flags: Vec<Flag> = FLAGS.iter().chain(LOGGING).chain(TLS).copied().collect();
    let own = syntax::flags();
    flags.extend(&own);
    let (given, rest) = getopt::parse(words, &flags, false)?;
    let mut settings = Settings {
        socket: socket.to_owned(),
        rundir: rundir.to_owned(),
        ..Default::default()
    };
    let mut of_command = BTreeMap::new();
    for (name, value) in given {
        let value_text = value.clone().unwrap_or_default();
        match name {
            "db" => set_db(&mut settings, &value_text)?,
            "no-wait" => settings.no_wait = true,
            "dry-run" => settings.dry_run = true,
            "oneline" => settings.oneline = true,
            "retry" => settings.retry = true,
            "timeout" => {
                let seconds = value_text
                    .parse::<u32>()
                    .ok()
                    .filter(|seconds| *seconds > 0);
                let seconds = seconds
                    .ok_or_else(|| format!("value {value_text} on -t or --timeout is invalid"))?;
                settings.timeout = Some(Duration::from_secs(seconds.into()));
            }
            "help" => return Ok(Parsed::Print(help())),
            "version" => {
                return Ok(Parsed::Print(version("ovs-vsctl") + "DB Schema 8.3.1\n"));
            }
            "commands" | "options" => {
                return Err(format!(
                    "--{name} is not supported: ovs-vsctl --help lists commands and options"
                ));
            }
            "format" => settings.style.set_format(&value_text)?,
            "data" => settings.style.set_data(&value_text)?,
            "no-headings" => settings.style.no_headings = true,
            "pretty" => settings.style.pretty = true,
            "bare" => {
                settings.style.format = Format::List;
                settings.style.data = Data::Bare;
                settings.style.no_headings = true;
            }
            "max-column-width" => {
                let width = value_text.parse();
                settings.style.widest =
                    width.map_err(|_| format!("invalid max-column-width: {value_text}"))?;
            }
            _ if own.iter().any(|flag| flag.long == name) => {
                let option = format!("--{name}");
                if of_command.insert(option, value).is_some() {
                    return Err(format!("'{name}' option specified multiple times"));
                }
            }
            _ => refuse_tls(name)?,
        }
    }
    Ok(Parsed::Run(settings, commands(&rest, of_command)?))
}

/// The commands between `--`; the first may have options already.
fn commands(
    words: &[String],
    mut options: BTreeMap<String, Option<String>>,
) -> Result<Vec<Command>, String> {
    let mut commands = Vec::new();
    for words in words.split(|word| word == "--") {
        if !words.is_empty() {
            commands.push(Command::parse(words, std::mem::take(&mut options))?);
        } else if !options.is_empty() {
            break;
        }
    }
    match commands.is_empty() {
        true => Err("missing command name (use --help for help)".into()),
        false => Ok(commands),
    }
}

/// `--db`: Open vSwitch's own database means ringwayd where it is anyway, another
/// unix socket is taken for ringwayd's.
fn set_db(settings: &mut Settings, db: &str) -> Result<(), String> {
    let Some(path) = db.strip_prefix("unix:") else {
        return Err(format!(
            "--db={db} is not supported: ringwayd is spoken to over a unix socket, --db=unix:PATH"
        ));
    };
    let path = Path::new(path);
    if path.file_name().is_none_or(|name| name != "db.sock") {
        settings.socket = path.to_owned();
    }
    Ok(())
}

fn help() -> String {
    let mut text = String::from(
        "ovs-vsctl: ringway by the name of Open vSwitch's command\n\
         usage: ovs-vsctl [OPTIONS] COMMAND [ARG...] [-- [OPTIONS] COMMAND [ARG...]]...\n\n\
         Commands (ovs-vsctl(8) describes them; several make one transaction):\n",
    );
    for syntax in syntax::COMMANDS {
        let refused = match syntax.action {
            Action::Run(_) => "",
            Action::Refuse(_) => "   (not supported)",
        };
        text += &format!("  {}{refused}\n", syntax.name);
    }
    text + "\nOptions:\n  \
        --db=unix:PATH              ringwayd's control socket\n  \
        --no-wait                   do not wait until the datapath has taken it over\n  \
        --retry                     keep trying to reach ringwayd\n  \
        -t, --timeout=SECS          wait at most SECS seconds\n  \
        --dry-run                   change nothing\n  \
        --oneline                   one line of output per command\n  \
        -f, --format=FORMAT         list, table, csv, html or json\n  \
        -d, --data=FORMAT           string, bare or json\n  \
        --no-headings --pretty --bare --max-column-width=N\n  \
        -h, --help  -V, --version\n"
}

/// Does what the words say. Returns the exit code.
pub async fn run(
    words: &[String],
    socket: &Path,
    rundir: &Path,
    io: &mut Io<'_>,
) -> Result<u8, Error> {
    let (settings, commands) = match parse(words, socket, rundir) {
        Err(why) => return refuse(why),
        Ok(Parsed::Print(text)) => return io.print(&text),
        Ok(Parsed::Run(settings, commands)) => (settings, commands),
    };
    let transaction = transact(&settings, &commands, io);
    let Some(limit) = settings.timeout else {
        return transaction.await;
    };
    match tokio::time::timeout(limit, transaction).await {
        Ok(outcome) => outcome,
        Err(_) => {
            io.complain(&format!(
                "not done within {} s (--timeout)",
                limit.as_secs()
            ));
            Ok(EXIT_TIMEOUT)
        }
    }
}

async fn connect(settings: &Settings) -> Result<Client, Error> {
    loop {
        match Client::connect_for(&settings.socket, settings.timeout.unwrap_or(TIMEOUT)).await {
            Err(Error::Connect { .. }) if settings.retry => tokio::time::sleep(INTERVAL).await,
            outcome => return outcome,
        }
    }
}

/// Whether counters of ports are looked at.
fn looks_at_counters(commands: &[Command]) -> bool {
    let looking = ["get", "list", "find", "wait-until"];
    commands
        .iter()
        .any(|command| looking.contains(&command.syntax.name))
}

async fn load(client: &mut Client, counters: bool, rundir: &Path) -> Result<World, Error> {
    let rpc = &mut client.rpc;
    Ok(World {
        shown: rpc.show(pb::ShowRequest {}).await?.into_inner(),
        switch: rpc.get_switch(pb::GetSwitchRequest {}).await?.into_inner(),
        version: rpc.version(pb::VersionRequest {}).await?.into_inner(),
        counters: match counters {
            true => rpc
                .dump_ports(pb::DumpPortsRequest::default())
                .await?
                .into_inner(),
            false => pb::DumpPortsResponse::default(),
        },
        rundir: rundir.to_owned(),
    })
}

/// Runs the commands on the rows. None: what is waited for is not there yet.
fn run_all(
    commands: &[Command],
    session: &mut Session,
) -> Result<Option<Vec<Output>>, Result<u8, Error>> {
    let mut outputs = Vec::new();
    for command in commands {
        match command.run(session) {
            Ok(output) => outputs.push(output),
            Err(Stop::NotYet) => return Ok(None),
            Err(Stop::Exit(code)) => return Err(Ok(code)),
            Err(Stop::Fatal(why)) => return Err(refuse(why)),
        }
    }
    Ok(Some(outputs))
}

async fn transact(settings: &Settings, commands: &[Command], io: &mut Io<'_>) -> Result<u8, Error> {
    for command in commands {
        if let Action::Refuse(what) = command.syntax.action {
            return refuse(syntax::refusal(command.syntax.name, what));
        }
    }
    let mut client = connect(settings).await?;
    let counters = looks_at_counters(commands);
    let (before, session, outputs) = loop {
        let world = load(&mut client, counters, &settings.rundir).await?;
        let before = Database::load(&world);
        let mut session = Session {
            db: before.clone(),
            new_ports: vec![],
        };
        match run_all(commands, &mut session) {
            Err(end) => return end,
            Ok(Some(outputs)) => break (before, session, outputs),
            Ok(None) => tokio::time::sleep(INTERVAL).await,
        }
    };
    let changes = match transaction::changes(&before, &session.db) {
        Ok(changes) => changes,
        Err(why) => return refuse(why),
    };
    let (is_empty, mut kept) = (changes.is_empty(), None);
    if !is_empty && !settings.dry_run {
        transaction::make_vhost_dir(&changes, &session.db);
        let changes = changes.into_iter();
        let request = pb::ApplyRequest {
            changes: changes
                .map(|change| pb::DesiredChange {
                    change: Some(change),
                })
                .collect(),
            no_wait: settings.no_wait,
        };
        match client.rpc.apply(request).await.map_err(Error::from) {
            Ok(answer) => {
                for warning in answer.into_inner().warnings {
                    io.complain(&warning);
                }
            }
            Err(error) if error.kept() => kept = Some(error),
            Err(error) => return Err(error),
        }
        for sentence in transaction::unheeded(&before, &session.db) {
            io.complain(&sentence);
        }
    }
    print(settings, outputs, io)?;
    match kept {
        None => Ok(EXIT_OK),
        Some(error) => tell_kept(&session.new_ports, &error, &mut client, io).await,
    }
}

fn print(settings: &Settings, outputs: Vec<Output>, io: &mut Io<'_>) -> Result<u8, Error> {
    let mut style = settings.style;
    let mut printed = String::new();
    for output in outputs {
        printed += &match output {
            Output::Records(records) => style.text(&records),
            Output::Text(text) if settings.oneline => {
                let text = text.strip_suffix('\n').unwrap_or(&text);
                text.replace('\\', "\\\\").replace('\n', "\\n") + "\n"
            }
            Output::Text(text) => text,
        };
    }
    io.print(&printed)
}

/// What was asked for is desired now, but not all of it is there. That is told,
/// of new ports as Open vSwitch does, which ends well in that case.
async fn tell_kept(
    new_ports: &[String],
    error: &Error,
    client: &mut Client,
    io: &mut Io<'_>,
) -> Result<u8, Error> {
    let shown = client.rpc.show(pb::ShowRequest {}).await?.into_inner();
    let ports = shown.bridges.iter().flat_map(|bridge| &bridge.ports);
    let failed = ports.filter(|port| port.differs && new_ports.contains(&port.name));
    let mut told = false;
    for port in failed {
        told = true;
        let why = match port.reason.trim_end_matches('.') {
            "" => String::new(),
            reason => format!(": {reason}"),
        };
        io.complain(&format!(
            "Error detected while setting up '{}'{why}.  ringwayd goes on trying; see \"ringway \
             show\" for details.",
            port.name
        ));
    }
    if !told {
        io.complain(&error.to_string());
    }
    Ok(EXIT_OK)
}
