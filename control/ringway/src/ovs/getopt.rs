//! Options as getopt_long(3) reads them, for all of Open vSwitch's commands.

/// An option.
#[derive(Clone, Copy, Debug)]
pub struct Flag {
    /// Its long name.
    pub long: &'static str,
    /// Its letter, if it has one.
    pub short: Option<char>,
    /// Whether it has an argument.
    pub argument: Argument,
}

/// Whether an option has an argument.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Argument {
    /// It has none.
    None,
    /// It must have one.
    Needed,
    /// It may have one, behind a `=`.
    Optional,
}

/// An option without an argument.
pub const fn flag(long: &'static str) -> Flag {
    Flag {
        long,
        short: None,
        argument: Argument::None,
    }
}

/// An option with an argument.
pub const fn with(long: &'static str) -> Flag {
    Flag {
        argument: Argument::Needed,
        ..flag(long)
    }
}

/// An option with an argument that may be left out.
pub const fn perhaps_with(long: &'static str) -> Flag {
    Flag {
        argument: Argument::Optional,
        ..flag(long)
    }
}

impl Flag {
    /// The same with a letter.
    pub const fn or(self, short: char) -> Flag {
        Flag {
            short: Some(short),
            ..self
        }
    }
}

/// Options of logging, which all commands take; ringway's have no log.
pub const LOGGING: &[Flag] = &[
    perhaps_with("verbose").or('v'),
    perhaps_with("log-file"),
    with("syslog-method"),
    with("syslog-target"),
];

/// Options of TLS, which are refused by name: ringwayd is on a unix socket.
pub const TLS: &[Flag] = &[
    with("private-key").or('p'),
    with("certificate").or('c'),
    with("ca-cert").or('C'),
    with("bootstrap-ca-cert"),
    with("peer-ca-cert"),
    with("ssl-protocols"),
    with("ssl-ciphers"),
];

/// Refuses an option of TLS.
pub fn refuse_tls(long: &str) -> Result<(), String> {
    match TLS.iter().any(|flag| flag.long == long) {
        true => Err(format!(
            "--{long} is not supported: ringwayd is spoken to over a unix socket"
        )),
        false => Ok(()),
    }
}

/// An option that was given.
pub type Given = (&'static str, Option<String>);

/// The options and the other words of a command line. `mixed`: options may also
/// stand behind other words, up to a `--`. The sentence is getopt_long's.
pub fn parse(
    words: &[String],
    flags: &[Flag],
    mixed: bool,
) -> Result<(Vec<Given>, Vec<String>), String> {
    let (mut given, mut others) = (Vec::new(), Vec::new());
    let mut words = words.iter();
    while let Some(word) = words.next() {
        match word.strip_prefix("--") {
            Some("") => break,
            Some(long) => given.push(long_option(long, flags, &mut words)?),
            None if word.len() > 1 && word.starts_with('-') => {
                short_options(&word[1..], flags, &mut words, &mut given)?;
            }
            None => {
                others.push(word.clone());
                if !mixed {
                    break;
                }
            }
        }
    }
    others.extend(words.cloned());
    Ok((given, others))
}

fn long_option<'a>(
    word: &str,
    flags: &[Flag],
    words: &mut impl Iterator<Item = &'a String>,
) -> Result<Given, String> {
    let (name, value) = match word.split_once('=') {
        Some((name, value)) => (name, Some(value.to_owned())),
        None => (word, None),
    };
    let exact = flags.iter().filter(|flag| flag.long == name);
    let mut found: Vec<_> = exact.collect();
    if found.is_empty() {
        found = flags
            .iter()
            .filter(|flag| flag.long.starts_with(name))
            .collect();
    }
    let flag = match found.as_slice() {
        [] => return Err(format!("unrecognized option '--{name}'")),
        [flag] => flag,
        several => {
            let several = several.iter().map(|flag| format!(" '--{}'", flag.long));
            let several: String = several.collect();
            return Err(format!(
                "option '--{name}' is ambiguous; possibilities:{several}"
            ));
        }
    };
    let value = match (flag.argument, value) {
        (Argument::None, Some(_)) => {
            return Err(format!(
                "option '--{}' doesn't allow an argument",
                flag.long
            ));
        }
        (Argument::Needed, None) => match words.next() {
            Some(next) => Some(next.clone()),
            None => return Err(format!("option '--{}' requires an argument", flag.long)),
        },
        (_, value) => value,
    };
    Ok((flag.long, value))
}

fn short_options<'a>(
    letters: &str,
    flags: &[Flag],
    words: &mut impl Iterator<Item = &'a String>,
    given: &mut Vec<Given>,
) -> Result<(), String> {
    let mut rest = letters;
    while let Some(letter) = rest.chars().next() {
        rest = &rest[letter.len_utf8()..];
        let flag = flags.iter().find(|flag| flag.short == Some(letter));
        let flag = flag.ok_or_else(|| format!("invalid option -- '{letter}'"))?;
        let attached = Some(rest)
            .filter(|rest| !rest.is_empty())
            .map(str::to_owned);
        let value = match flag.argument {
            Argument::None => None,
            Argument::Optional => attached,
            Argument::Needed => match attached.or_else(|| words.next().cloned()) {
                Some(value) => Some(value),
                None => return Err(format!("option requires an argument -- '{letter}'")),
            },
        };
        given.push((flag.long, value));
        if flag.argument != Argument::None {
            break;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    const FLAGS: &[Flag] = &[
        with("timeout").or('t'),
        flag("no-wait"),
        flag("no-syslog"),
        perhaps_with("verbose").or('v'),
    ];

    fn read(line: &str, mixed: bool) -> Result<(Vec<Given>, Vec<String>), String> {
        let words: Vec<_> = line.split_whitespace().map(str::to_owned).collect();
        parse(&words, FLAGS, mixed)
    }

    #[test]
    fn options_may_be_cut_short_joined_and_mixed() {
        let (given, others) = read("--time=5 -t6 -t 7 -vwarn -v --no-w add -t 8", false).unwrap();
        let some = |text: &str| Some(text.to_owned());
        let expected = [
            ("timeout", some("5")),
            ("timeout", some("6")),
            ("timeout", some("7")),
            ("verbose", some("warn")),
            ("verbose", None),
            ("no-wait", None),
        ];
        assert_eq!(given, expected);
        assert_eq!(others, ["add", "-t", "8"]);
        let (given, others) = read("dump --no-wait br0 -- -t", true).unwrap();
        assert_eq!(given, [("no-wait", None)]);
        assert_eq!(others, ["dump", "br0", "-t"]);
    }

    #[test]
    fn what_is_no_option_is_refused_in_getopts_words() {
        for (line, why) in [
            ("--nope", "unrecognized option '--nope'"),
            (
                "--no",
                "option '--no' is ambiguous; possibilities: '--no-wait' '--no-syslog'",
            ),
            ("--timeout", "option '--timeout' requires an argument"),
            (
                "--no-wait=1",
                "option '--no-wait' doesn't allow an argument",
            ),
            ("-x", "invalid option -- 'x'"),
            ("-t", "option requires an argument -- 't'"),
        ] {
            assert_eq!(read(line, false).unwrap_err(), why, "{line}");
        }
    }
}
