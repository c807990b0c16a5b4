//! Replacing a file so that at any instant, and after a power cut, the old or
//! the new content is there in whole.

use std::fs::{File, OpenOptions, rename};
use std::io::{self, BufWriter, Write};
use std::path::{Path, PathBuf};

/// The steps, in order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// Make an empty file beside the old one.
    Create,
    /// Write the first half of the content.
    WriteHalf,
    /// Write the rest.
    WriteRest,
    /// Make the new file's content durable.
    SyncFile,
    /// Put the new file in the old one's place.
    Rename,
    /// Make the new name durable.
    SyncDir,
}

impl Step {
    /// All steps, in order.
    pub const ALL: [Step; 6] = [
        Step::Create,
        Step::WriteHalf,
        Step::WriteRest,
        Step::SyncFile,
        Step::Rename,
        Step::SyncDir,
    ];
}

/// The directory of a file.
pub fn directory(path: &Path) -> &Path {
    match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    }
}

/// Where the new content is prepared. The name is fixed: what a killed writer
/// left is overwritten by the next one (a lock keeps a second writer away).
fn draft_path(path: &Path) -> PathBuf {
    let mut name = std::ffi::OsString::from(".");
    name.push(path.file_name().unwrap_or_default());
    name.push(".new");
    directory(path).join(name)
}

/// Replaces `path` by `content`. `before` is called ahead of each step and may
/// fail in its place: tests kill the writer there.
pub fn replace(
    path: &Path,
    content: &[u8],
    before: &mut dyn FnMut(Step) -> io::Result<()>,
) -> io::Result<()> {
    let draft = draft_path(path);
    let (head, tail) = content.split_at(content.len() / 2);

    before(Step::Create)?;
    let mut file = OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .open(&draft)?;
    before(Step::WriteHalf)?;
    file.write_all(head)?;
    before(Step::WriteRest)?;
    file.write_all(tail)?;
    before(Step::SyncFile)?;
    file.sync_all()?;
    before(Step::Rename)?;
    rename(&draft, path)?;
    before(Step::SyncDir)?;
    File::open(directory(path))?.sync_all()
}

/// New content for a file, written piece by piece; the old content stays until
/// [`Draft::put_in_place`].
#[derive(Debug)]
pub struct Draft {
    path: PathBuf,
    file: BufWriter<File>,
}

impl Draft {
    /// Makes an empty draft beside `path`.
    pub fn create(path: &Path) -> io::Result<Self> {
        let mut options = OpenOptions::new();
        let options = options.read(true).write(true).create(true).truncate(true);
        Ok(Self {
            path: path.to_owned(),
            file: BufWriter::with_capacity(1 << 20, options.open(draft_path(path))?),
        })
    }

    /// Puts the content in the place of the old, durably. Returns the file.
    pub fn put_in_place(self) -> io::Result<File> {
        let file = self.file.into_inner().map_err(|error| error.into_error())?;
        file.sync_all()?;
        rename(draft_path(&self.path), &self.path)?;
        File::open(directory(&self.path))?.sync_all()?;
        Ok(file)
    }
}

impl Write for Draft {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.file.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.flush()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;
    use std::process::Command;

    const OLD: &[u8] = b"the old content, in whole";
    const NEW: &[u8] = b"the new content, which is longer than the old one";

    #[test]
    fn an_error_at_any_step_leaves_the_old_or_the_new_file_whole() {
        for failing in Step::ALL {
            let dir = tempfile::tempdir().unwrap();
            let path = dir.path().join("state.toml");
            fs::write(&path, OLD).unwrap();
            let error = replace(&path, NEW, &mut |step| match step == failing {
                true => Err(io::Error::other("disk on fire")),
                false => Ok(()),
            });
            assert!(error.is_err(), "{failing:?}");
            let expected = if failing == Step::SyncDir { NEW } else { OLD };
            assert_eq!(fs::read(&path).unwrap(), expected, "{failing:?}");

            replace(&path, NEW, &mut |_| Ok(())).unwrap();
            assert_eq!(fs::read(&path).unwrap(), NEW, "{failing:?}");
        }
    }

    const KILL_AT: &str = "RINGWAYD_TEST_KILL_AT";
    const KILL_FILE: &str = "RINGWAYD_TEST_KILL_FILE";

    /// Runs this same test in a child that aborts ahead of one step.
    #[test]
    fn a_writer_killed_at_any_step_leaves_the_old_or_the_new_file_whole() {
        if let (Ok(at), Ok(file)) = (std::env::var(KILL_AT), std::env::var(KILL_FILE)) {
            let _ = replace(Path::new(&file), NEW, &mut |step| {
                if format!("{step:?}") == at {
                    std::process::abort();
                }
                Ok(())
            });
            return;
        }
        for killed_at in Step::ALL {
            let dir = tempfile::tempdir().unwrap();
            let path = dir.path().join("state.toml");
            fs::write(&path, OLD).unwrap();
            let status = Command::new(std::env::current_exe().unwrap())
                .args(["--exact", "--nocapture"])
                .arg("atomic::tests::a_writer_killed_at_any_step_leaves_the_old_or_the_new_file_whole")
                .env(KILL_AT, format!("{killed_at:?}"))
                .env(KILL_FILE, &path)
                .output()
                .unwrap()
                .status;
            assert_eq!(
                status.code(),
                None,
                "{killed_at:?}: the child was not killed"
            );
            let expected = if killed_at == Step::SyncDir { NEW } else { OLD };
            assert_eq!(fs::read(&path).unwrap(), expected, "{killed_at:?}");
        }
    }
}
