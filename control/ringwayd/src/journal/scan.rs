//! Reading a journal: a line at a time, a transaction at a time.

use std::io::{self, BufRead};
use std::path::Path;

use super::{JournalError, Line};
use crate::flow_text;

/// A line from 1, and what is wrong there.
type Damage = (usize, String);

/// What a line of the journal says.
pub(super) enum Record<'a> {
    Bridge(&'a str),
    Line(usize, Line),
    Commit(u64),
}

/// How far the committed part goes.
pub(super) struct Scanned {
    pub length: u64,
    pub lines: usize,
}

/// Why a journal cannot be read.
pub(super) enum ScanError {
    Io(io::Error),
    Damaged(usize, String),
}

impl ScanError {
    pub fn at(self, path: &Path) -> JournalError {
        let path = path.to_owned();
        match self {
            ScanError::Io(error) => JournalError::Read { path, error },
            ScanError::Damaged(line, why) => JournalError::Damaged { path, line, why },
        }
    }
}

/// Reads a journal. `each` gets what was committed, a transaction at a time.
pub(super) fn scan(
    mut content: impl BufRead,
    each: &mut dyn FnMut(Record<'_>) -> Result<(), Damage>,
) -> Result<Scanned, ScanError> {
    let mut committed = Scanned {
        length: 0,
        lines: 0,
    };
    let (mut at, mut number) = (0u64, 0usize);
    let mut open = Open::default();
    let mut versioned = false;
    // A transaction with bytes that never reached the disk, if it is the last.
    let mut torn: Option<(usize, String)> = None;
    let mut raw = Vec::new();
    loop {
        raw.clear();
        let read = content.read_until(b'\n', &mut raw).map_err(ScanError::Io)?;
        if read == 0 || raw.last() != Some(&b'\n') {
            return Ok(committed);
        }
        at += read as u64;
        number += 1;
        let outcome = match std::str::from_utf8(&raw) {
            Ok(text) => open.line(number, text.trim(), &mut versioned),
            Err(_) => Err("not UTF-8 text".to_owned()),
        };
        let outcome = match outcome {
            Ok(outcome) => outcome,
            Err(why) => {
                open.bad.get_or_insert((number, why));
                open.has_nul |= raw.contains(&0);
                continue;
            }
        };
        if let Some((line, why)) = torn.take_if(|_| !matches!(outcome, Outcome::Nothing)) {
            return Err(ScanError::Damaged(line, why));
        }
        match outcome {
            Outcome::Nothing => {}
            Outcome::Version => {
                committed.length = at;
                committed.lines = number;
            }
            Outcome::Commit(unix_ms) => {
                let Open {
                    bridge,
                    lines,
                    bad,
                    has_nul,
                } = std::mem::take(&mut open);
                match bad {
                    Some((line, why)) if !has_nul => return Err(ScanError::Damaged(line, why)),
                    Some(bad) => torn = Some(bad),
                    None => {
                        let records = std::iter::once(Record::Bridge(&bridge))
                            .chain(lines.into_iter().map(|(n, line)| Record::Line(n, line)))
                            .chain([Record::Commit(unix_ms)]);
                        for record in records {
                            each(record).map_err(|(line, why)| ScanError::Damaged(line, why))?;
                        }
                        committed.length = at;
                        committed.lines = number;
                    }
                }
            }
        }
    }
}

enum Outcome {
    Nothing,
    Version,
    Commit(u64),
}

/// The transaction that is being read.
#[derive(Default)]
struct Open {
    bridge: String,
    lines: Vec<(usize, Line)>,
    bad: Option<(usize, String)>,
    has_nul: bool,
}

impl Open {
    fn line(&mut self, number: usize, text: &str, versioned: &mut bool) -> Result<Outcome, String> {
        if text.is_empty() || text.starts_with('#') {
            return Ok(Outcome::Nothing);
        }
        let (word, rest) = text.split_once(' ').unwrap_or((text, ""));
        if !*versioned {
            *versioned = true;
            return match (word, rest) {
                ("version", "1") => Ok(Outcome::Version),
                _ => Err(format!(
                    "{text:?} is not known here; this ringwayd begins its journal with version 1"
                )),
            };
        }
        match word {
            "commit" if self.bridge.is_empty() && self.bad.is_none() => {
                Err("a commit without a bridge".into())
            }
            "commit" => Ok(Outcome::Commit(unix_time(rest)?)),
            "bridge" if self.bridge.is_empty() && !rest.is_empty() => {
                self.bridge = rest.to_owned();
                Ok(Outcome::Nothing)
            }
            "bridge" => Err("a bridge within a transaction, or without a name".into()),
            _ if self.bridge.is_empty() => Err("a line before its bridge".into()),
            "forget" if rest.is_empty() => {
                self.lines.push((number, Line::Forget));
                Ok(Outcome::Nothing)
            }
            _ => {
                let change = flow_text::parse_journal_line(text)?;
                self.lines.push((number, Line::Change(change)));
                Ok(Outcome::Nothing)
            }
        }
    }
}

/// Seconds with three decimals, as milliseconds.
fn unix_time(text: &str) -> Result<u64, String> {
    let bad = || format!("{text:?} is no time: seconds since 1970 with three decimals");
    let (seconds, ms) = text.split_once('.').ok_or_else(bad)?;
    let digits = |text: &str| text.bytes().all(|byte| byte.is_ascii_digit());
    if !digits(seconds) || !digits(ms) || ms.len() != 3 {
        return Err(bad());
    }
    let whole = seconds.parse::<u64>().map_err(|_| bad())?;
    let part = ms.parse::<u64>().map_err(|_| bad())?;
    whole
        .checked_mul(1000)
        .map(|whole| whole + part)
        .ok_or_else(bad)
}
