//! The flow journal: every change of flows, groups and meters, one a line, in
//! Open vSwitch's syntax, with ports by number.
//!
//! ```text
//! version 1
//! bridge br0
//! flow add table=0,priority=0,actions=NORMAL
//! commit 1764064111.123
//! ```
//!
//! A transaction is `bridge`, its lines, and `commit` with the time (seconds
//! since 1970). It holds once its `commit` line is on the disk; what follows the
//! last one was never answered and is cut off when the file is opened. `forget`
//! empties the bridge. [`Journal::rewrite`] puts the live content in the place
//! of the history.

mod scan;

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::fs::{File, OpenOptions};
use std::io::{self, BufReader, ErrorKind, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use ringway_flow::rule::Change;

use self::scan::{Record, scan};
use crate::atomic::Draft;
use crate::flow_text;

const HEADER: &str = "\
# Flows, groups and meters of ringwayd's bridges, in Open vSwitch's syntax.
# Lines are added at each change; edit this file only while ringwayd is stopped.
version 1
";

/// Why the journal cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum JournalError {
    /// A line that was committed has no meaning.
    #[error(
        "{path}, line {line}: {why}\nringwayd does not start with a damaged flow journal and \
         leaves it as it is: repair that line, or move the file away to start without flows"
    )]
    Damaged {
        /// The journal.
        path: PathBuf,
        /// Line from 1.
        line: usize,
        /// What is wrong there.
        why: String,
    },
    /// The file is there but cannot be read.
    #[error("flow journal {path} cannot be read: {error}")]
    Read {
        /// The journal.
        path: PathBuf,
        /// What the system said.
        error: io::Error,
    },
    /// The file could not be written.
    #[error("flow journal {path} cannot be written: {error}; the flows are as they were")]
    Write {
        /// The journal.
        path: PathBuf,
        /// What the system said.
        error: io::Error,
    },
}

/// A line of a transaction.
#[derive(Debug, PartialEq, Eq)]
pub enum Line {
    /// The bridge's flows, groups and meters begin anew.
    Forget,
    /// A change of them.
    Change(Change),
}

/// The journal, held by this daemon alone (the state file's lock says so).
#[derive(Debug)]
pub struct Journal {
    path: PathBuf,
    /// Open once there is a file.
    file: Option<File>,
    /// Bytes up to the last commit.
    length: u64,
    /// Lines up to the last commit.
    lines: usize,
    /// Bridges that have a transaction since they were forgotten last.
    bridges: BTreeSet<String>,
    /// Why it must be rewritten before anything is added.
    unsound: Option<String>,
}

/// Where the journal of a state file is.
pub fn path_beside(state: &Path) -> PathBuf {
    let mut name = state.as_os_str().to_owned();
    name.push(".flows");
    name.into()
}

impl Journal {
    /// Reads the journal beside a state file, checks every line, and cuts off
    /// what was not committed. There need not be a file.
    pub fn open(state: &Path) -> Result<Self, JournalError> {
        let path = path_beside(state);
        let mut journal = Self {
            path: path.clone(),
            file: None,
            length: 0,
            lines: 0,
            bridges: BTreeSet::new(),
            unsound: None,
        };
        let read = |error| JournalError::Read {
            path: path.clone(),
            error,
        };
        let file = match OpenOptions::new().read(true).write(true).open(&path) {
            Ok(file) => file,
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(journal),
            Err(error) => return Err(read(error)),
        };
        let bridges = &mut journal.bridges;
        let mut last = String::new();
        let scanned = scan(BufReader::new(&file), &mut |record| {
            match record {
                Record::Bridge(name) => {
                    bridges.insert(name.to_owned());
                    last = name.to_owned();
                }
                Record::Line(_, Line::Forget) => {
                    bridges.remove(&last);
                }
                Record::Line(..) if !bridges.contains(&last) => {
                    bridges.insert(last.clone());
                }
                _ => {}
            }
            Ok(())
        });
        let scanned = scanned.map_err(|error| error.at(&path))?;
        let bytes = file.metadata().map_err(read)?.len();
        if scanned.length < bytes {
            tracing::warn!(
                "flow journal {}: cutting off {} bytes after line {} that were not committed",
                path.display(),
                bytes - scanned.length,
                scanned.lines
            );
            let cut = file.set_len(scanned.length).and_then(|()| file.sync_all());
            cut.map_err(|error| JournalError::Write {
                path: path.clone(),
                error,
            })?;
        }
        journal.length = scanned.length;
        journal.lines = scanned.lines;
        journal.file = Some(file);
        if scanned.length == 0 {
            journal.unsound = Some("it has no header".into());
        }
        Ok(journal)
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Lines in it.
    pub fn lines(&self) -> usize {
        self.lines
    }

    /// Whether a bridge had flows in it since it was forgotten last.
    pub fn mentions(&self, bridge: &str) -> bool {
        self.bridges.contains(bridge)
    }

    /// Every bridge that it mentions.
    pub fn bridges(&self) -> impl Iterator<Item = &str> {
        self.bridges.iter().map(String::as_str)
    }

    /// Why it must be rewritten before anything is added.
    pub fn unsound(&self) -> Option<&str> {
        self.unsound.as_deref()
    }

    /// What is in it is no longer what the datapath has.
    pub fn set_unsound(&mut self, why: String) {
        tracing::error!("flow journal {}: {why}", self.path.display());
        self.unsound = Some(why);
    }

    /// Stores a transaction durably: lines as [`flow_text::journal_line`] writes
    /// them. If it cannot be stored the journal is as it was.
    pub fn append(&mut self, bridge: &str, lines: &str, unix_ms: u64) -> Result<(), JournalError> {
        let mut text = String::with_capacity(lines.len() + 128);
        transaction(&mut text, bridge, lines, unix_ms);
        if let Some(why) = &self.unsound {
            return Err(self.write_error(io::Error::other(why.clone())));
        }
        if self.file.is_none() {
            self.create().map_err(|error| self.write_error(error))?;
        }
        match self.write(text.as_bytes()) {
            Ok(()) => {
                self.length += text.len() as u64;
                self.lines += text.bytes().filter(|byte| *byte == b'\n').count();
                self.bridges.insert(bridge.to_owned());
                Ok(())
            }
            Err(error) => {
                let cut = self.file.as_ref().map(|file| {
                    file.set_len(self.length)?;
                    file.sync_all()
                });
                if let Some(Err(again)) = cut {
                    self.set_unsound(format!("a change could not be taken back: {again}"));
                }
                Err(self.write_error(error))
            }
        }
    }

    /// Stores that a bridge begins anew. If that cannot be stored, the journal
    /// must be rewritten, without the bridge.
    pub fn forget(&mut self, bridge: &str, unix_ms: u64) {
        if !self.mentions(bridge) {
            return;
        }
        if let Err(error) = self.append(bridge, "forget\n", unix_ms) {
            self.set_unsound(format!("bridge {bridge} cannot be forgotten: {error}"));
        }
        self.bridges.remove(bridge);
    }

    fn write_error(&self, error: io::Error) -> JournalError {
        JournalError::Write {
            path: self.path.clone(),
            error,
        }
    }

    fn create(&mut self) -> io::Result<()> {
        let mut draft = Draft::create(&self.path)?;
        draft.write_all(HEADER.as_bytes())?;
        self.file = Some(draft.put_in_place()?);
        self.length = HEADER.len() as u64;
        self.lines = HEADER.lines().count();
        Ok(())
    }

    fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        let length = self.length;
        let file = self.file.as_mut().ok_or(ErrorKind::NotFound)?;
        file.seek(SeekFrom::Start(length))?;
        file.write_all(bytes)?;
        file.sync_data()
    }

    /// Reads the lines of one bridge, each with its number and the time of its
    /// commit in milliseconds since 1970.
    pub fn read(
        &self,
        bridge: &str,
        each: &mut dyn FnMut(usize, Line, u64) -> Result<(), String>,
    ) -> Result<(), JournalError> {
        let file = match File::open(&self.path) {
            Ok(file) => file,
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(()),
            Err(error) => {
                let path = self.path.clone();
                return Err(JournalError::Read { path, error });
            }
        };
        let mut pending = Vec::new();
        let mut ours = false;
        let content = BufReader::new(io::Read::take(file, self.length));
        let scanned = scan(content, &mut |record| {
            match record {
                Record::Bridge(name) => ours = name == bridge,
                Record::Line(number, line) if ours => pending.push((number, line)),
                Record::Line(..) => {}
                Record::Commit(unix_ms) => {
                    for (number, line) in pending.drain(..) {
                        each(number, line, unix_ms).map_err(|why| (number, why))?;
                    }
                }
            }
            Ok(())
        });
        scanned.map(drop).map_err(|error| error.at(&self.path))
    }

    /// Puts new content, made by `fill`, in the place of the old, durably, or
    /// leaves the old.
    pub fn rewrite(
        &mut self,
        fill: &mut dyn FnMut(&mut Rewrite<'_>) -> Result<(), JournalError>,
    ) -> Result<(), JournalError> {
        let to_error = |error| JournalError::Write {
            path: self.path.clone(),
            error,
        };
        let mut draft = Draft::create(&self.path).map_err(to_error)?;
        draft.write_all(HEADER.as_bytes()).map_err(to_error)?;
        let mut rewrite = Rewrite {
            old: self,
            draft: &mut draft,
            length: HEADER.len() as u64,
            lines: HEADER.lines().count(),
            bridges: BTreeSet::new(),
        };
        fill(&mut rewrite)?;
        let Rewrite {
            length,
            lines,
            bridges,
            ..
        } = rewrite;
        let file = draft.put_in_place().map_err(to_error)?;
        self.file = Some(file);
        self.length = length;
        self.lines = lines;
        self.bridges = bridges;
        self.unsound = None;
        Ok(())
    }
}

/// New content of the journal on its way.
pub struct Rewrite<'a> {
    old: &'a Journal,
    draft: &'a mut Draft,
    length: u64,
    lines: usize,
    bridges: BTreeSet<String>,
}

impl Rewrite<'_> {
    /// Adds a transaction.
    pub fn add(&mut self, bridge: &str, lines: &str, unix_ms: u64) -> Result<(), JournalError> {
        let mut text = String::with_capacity(lines.len() + 128);
        transaction(&mut text, bridge, lines, unix_ms);
        let written = self.draft.write_all(text.as_bytes());
        written.map_err(|error| self.old.write_error(error))?;
        self.length += text.len() as u64;
        self.lines += text.bytes().filter(|byte| *byte == b'\n').count();
        self.bridges.insert(bridge.to_owned());
        Ok(())
    }

    /// Adds all that the old content has of a bridge.
    pub fn keep(&mut self, bridge: &str) -> Result<(), JournalError> {
        let old = self.old;
        let mut held: Option<(u64, String)> = None;
        let mut failed = None;
        old.read(bridge, &mut |_, line, unix_ms| {
            if held.as_ref().is_some_and(|(at, _)| *at != unix_ms)
                && let Some((at, lines)) = held.take()
                && let Err(error) = self.add(bridge, &lines, at)
            {
                failed = Some(error);
                return Err("the new journal cannot be written".into());
            }
            let (_, lines) = held.get_or_insert((unix_ms, String::new()));
            match line {
                Line::Forget => lines.push_str("forget\n"),
                Line::Change(change) => lines.push_str(&flow_text::journal_line(&change)),
            }
            Ok(())
        })
        .map_err(|error| failed.take().unwrap_or(error))?;
        let (at, lines) = held.unwrap_or_default();
        self.add(bridge, &lines, at)
    }
}

fn transaction(text: &mut String, bridge: &str, lines: &str, unix_ms: u64) {
    let (seconds, ms) = (unix_ms / 1000, unix_ms % 1000);
    let _ = write!(text, "bridge {bridge}\n{lines}commit {seconds}.{ms:03}\n");
}
