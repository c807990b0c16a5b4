//! The commands of ovs-vsctl(8): what they are given, and what does them.

use std::collections::BTreeMap;

use super::getopt::{Argument, Flag};
use super::ports as p;
use super::records::Database;
use super::rows as r;
use super::table::Records;

/// A command of ovs-vsctl.
pub struct Syntax {
    /// Its name.
    pub name: &'static str,
    /// Least number of arguments.
    pub least: usize,
    /// Greatest number of arguments.
    pub most: usize,
    /// Its options; a `=` behind one that has an argument.
    pub options: &'static [&'static str],
    /// What does it.
    pub action: Action,
}

/// What does a command.
pub enum Action {
    /// This function.
    Run(fn(&Command, &mut Session) -> Result<Output, Stop>),
    /// Nothing; the text says what ringway has not.
    Refuse(&'static str),
}

/// A command that was given.
pub struct Command {
    /// Which.
    pub syntax: &'static Syntax,
    /// Its options.
    pub options: BTreeMap<String, Option<String>>,
    /// Its arguments.
    pub args: Vec<String>,
}

/// What the commands of a command line work on.
pub struct Session {
    /// The rows, as the commands so far made them.
    pub db: Database,
    /// Ports that the commands made.
    pub new_ports: Vec<String>,
}

/// What a command prints.
pub enum Output {
    /// A text.
    Text(String),
    /// Records.
    Records(Records),
}

/// Why a command line ends early.
#[derive(Debug)]
pub enum Stop {
    /// Something is wrong.
    Fatal(String),
    /// The answer is an exit code.
    Exit(u8),
    /// What is waited for is not there yet.
    NotYet,
}

impl From<String> for Stop {
    fn from(why: String) -> Self {
        Stop::Fatal(why)
    }
}

/// The end with a sentence.
pub fn fatal<T>(why: impl Into<String>) -> Result<T, Stop> {
    Err(Stop::Fatal(why.into()))
}

impl Command {
    /// Whether an option was given.
    pub fn has(&self, option: &str) -> bool {
        self.options.contains_key(option)
    }

    /// An argument that must be there.
    pub fn arg(&self, at: usize) -> &str {
        self.args.get(at).map_or("", String::as_str)
    }

    /// As it was given, for messages.
    pub fn shown(&self) -> String {
        let options = self.options.keys().map(String::as_str);
        let words = options.chain([self.syntax.name]);
        let words = words.chain(self.args.iter().map(String::as_str));
        words.collect::<Vec<_>>().join(" ")
    }

    /// One of the command lines between `--`, whose first options may have been
    /// read already.
    pub fn parse(
        words: &[String],
        mut options: BTreeMap<String, Option<String>>,
    ) -> Result<Command, String> {
        let count = words
            .iter()
            .take_while(|word| word.starts_with('-'))
            .count();
        let (flags, words) = words.split_at(count);
        for word in flags {
            let (name, value) = match word.split_once('=') {
                Some((name, value)) => (name, Some(value.to_owned())),
                None => (word.as_str(), None),
            };
            if options.insert(name.to_owned(), value).is_some() {
                return Err(format!("'{word}' option specified multiple times"));
            }
        }
        let Some((name, args)) = words.split_first() else {
            return Err("missing command name (use --help for help)".into());
        };
        let syntax = COMMANDS.iter().find(|syntax| syntax.name == name);
        let syntax =
            syntax.ok_or_else(|| format!("unknown command '{name}'; use --help for help"))?;
        for (option, value) in &options {
            syntax.check_option(option, value.is_some())?;
        }
        syntax.check_count(args)?;
        Ok(Command {
            syntax,
            options,
            args: args.to_vec(),
        })
    }

    /// Does it.
    pub fn run(&self, session: &mut Session) -> Result<Output, Stop> {
        match self.syntax.action {
            Action::Run(run) => run(self, session),
            Action::Refuse(what) => fatal(refusal(self.syntax.name, what)),
        }
    }
}

/// The sentence that refuses a command.
pub fn refusal(name: &str, what: &str) -> String {
    format!("{name} is not supported: ringway has no {what}")
}

impl Syntax {
    fn check_option(&self, option: &str, has_value: bool) -> Result<(), String> {
        let name = self.name;
        let known = self.options.iter();
        let known = known.map(|known| (known.trim_end_matches('='), known.ends_with('=')));
        match known.into_iter().find(|(known, _)| *known == option) {
            None => Err(format!("'{name}' command has no '{option}' option")),
            Some((_, true)) if !has_value => Err(format!(
                "missing argument to '{option}' option on '{name}' command"
            )),
            Some((_, false)) if has_value => Err(format!(
                "'{option}' option on '{name}' does not accept an argument"
            )),
            Some(_) => Ok(()),
        }
    }

    fn check_count(&self, args: &[String]) -> Result<(), String> {
        let Syntax {
            name, least, most, ..
        } = self;
        if args.len() < *least {
            return Err(format!(
                "'{name}' command requires at least {least} arguments"
            ));
        }
        if args.len() <= *most {
            return Ok(());
        }
        let note = match args.iter().any(|arg| arg.starts_with('-')) {
            true => " (note that options must precede command names and follow a \"--\" argument)",
            false => "",
        };
        Err(format!(
            "'{name}' command takes at most {most} arguments{note}"
        ))
    }
}

/// The commands' own options, for those that stand before the first command.
pub fn flags() -> Vec<Flag> {
    let all = COMMANDS.iter().flat_map(|syntax| syntax.options);
    let mut flags: Vec<_> = all
        .map(|option| Flag {
            long: option.trim_start_matches('-').trim_end_matches('='),
            short: None,
            argument: match option.ends_with('=') {
                true => Argument::Needed,
                false => Argument::None,
            },
        })
        .collect();
    flags.sort_by_key(|flag| flag.long);
    flags.dedup_by_key(|flag| flag.long);
    flags
}

const ANY: usize = usize::MAX;

const fn command(
    name: &'static str,
    least: usize,
    most: usize,
    options: &'static [&'static str],
    run: fn(&Command, &mut Session) -> Result<Output, Stop>,
) -> Syntax {
    Syntax {
        name,
        least,
        most,
        options,
        action: Action::Run(run),
    }
}

const fn refused(
    name: &'static str,
    least: usize,
    most: usize,
    options: &'static [&'static str],
    what: &'static str,
) -> Syntax {
    Syntax {
        name,
        least,
        most,
        options,
        action: Action::Refuse(what),
    }
}

const CONTROLLERS: &str = "OpenFlow controllers (flows are added with add-flow)";
const MANAGERS: &str = "OVSDB managers";
const BONDS: &str = "bonds";
const ZONES: &str = "conntrack zones";
const AUTO_ATTACH: &str = "auto-attach";

/// All commands.
pub const COMMANDS: &[Syntax] = &[
    command("init", 0, 0, &[], p::nothing),
    command("show", 0, 0, &[], super::show::show),
    refused(
        "emer-reset",
        0,
        0,
        &[],
        "state that an emergency reset would undo",
    ),
    command("add-br", 1, 3, &["--may-exist"], p::add_br),
    command("del-br", 1, 1, &["--if-exists"], p::del_br),
    command("list-br", 0, 0, &["--real", "--fake"], p::list_br),
    command("br-exists", 1, 1, &[], p::br_exists),
    command("br-to-vlan", 1, 1, &[], p::br_to_vlan),
    command("br-to-parent", 1, 1, &[], p::br_to_parent),
    command("br-set-external-id", 2, 3, &[], p::br_set_external_id),
    command("br-get-external-id", 1, 2, &[], p::br_get_external_id),
    command("list-ports", 1, 1, &[], p::list_ports),
    command("add-port", 2, ANY, &["--may-exist"], p::add_port),
    command(
        "del-port",
        1,
        2,
        &["--if-exists", "--with-iface"],
        p::del_port,
    ),
    command("port-to-br", 1, 1, &[], p::port_to_br),
    refused("add-bond", 4, ANY, &["--may-exist", "--fake-iface"], BONDS),
    refused("add-bond-iface", 2, 2, &["--may-exist"], BONDS),
    refused("del-bond-iface", 1, 2, &["--if-exists"], BONDS),
    command("list-ifaces", 1, 1, &[], p::list_ports),
    command("iface-to-br", 1, 1, &[], p::iface_to_br),
    command("get-controller", 1, 1, &[], p::nothing_of_bridge),
    command("del-controller", 1, 1, &[], p::nothing_of_bridge),
    refused(
        "set-controller",
        1,
        ANY,
        &["--inactivity-probe="],
        CONTROLLERS,
    ),
    command("get-fail-mode", 1, 1, &[], p::get_fail_mode),
    command("del-fail-mode", 1, 1, &[], p::del_fail_mode),
    command("set-fail-mode", 2, 2, &[], p::set_fail_mode),
    command("get-manager", 0, 0, &[], p::nothing),
    command("del-manager", 0, 0, &[], p::nothing),
    refused("set-manager", 1, ANY, &["--inactivity-probe="], MANAGERS),
    command("get-ssl", 0, 0, &[], p::nothing),
    command("del-ssl", 0, 0, &[], p::nothing),
    refused("set-ssl", 3, 3, &["--bootstrap"], "OVSDB over SSL"),
    refused("add-aa-mapping", 3, 3, &[], AUTO_ATTACH),
    refused("del-aa-mapping", 3, 3, &[], AUTO_ATTACH),
    command("get-aa-mapping", 1, 1, &[], p::nothing_of_bridge),
    refused("add-zone-tp", 3, ANY, &["--may-exist"], ZONES),
    refused("del-zone-tp", 2, 2, &["--if-exists"], ZONES),
    refused("list-zone-tp", 1, 1, &[], ZONES),
    refused("list-dp-cap", 1, 1, &[], "list of datapath capabilities"),
    command("comment", 0, ANY, &[], p::nothing),
    command("get", 2, ANY, &["--if-exists", "--id="], r::get),
    command("list", 1, ANY, &["--if-exists", "--columns="], r::list),
    command("find", 1, ANY, &["--columns="], r::find),
    command("set", 3, ANY, &["--if-exists"], r::set),
    command("add", 4, ANY, &["--if-exists"], r::add),
    command("remove", 4, ANY, &["--if-exists"], r::remove),
    command("clear", 3, ANY, &["--if-exists"], r::clear),
    refused(
        "create",
        2,
        ANY,
        &["--id="],
        "rows beside those of bridges and ports (add-br, add-port)",
    ),
    command("destroy", 1, ANY, &["--if-exists", "--all"], r::destroy),
    command("wait-until", 2, ANY, &[], r::wait_until),
];
