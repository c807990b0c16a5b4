//! A writer that is killed at random points of 1,000 writes: what it had said to
//! be stored is there, in whole, and nothing else but the write it was at.

use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use ringwayd::journal::Journal;
use ringwayd::model::{Bridge, Desired};
use ringwayd::state::StateFile;

const FOLDER: &str = "RINGWAYD_TEST_WRITER";
const WRITES: u32 = 1000;

/// The number that a desired state stands for: bridges, many enough for several
/// pages, all say it.
fn desired(number: u32) -> Desired {
    let bridges = 0..50 + number % 50;
    Desired {
        bridges: bridges
            .map(|index| {
                let mut bridge = Bridge::new(format!("br{index}"));
                bridge.spec.fdb_limit = 1 + number;
                bridge.no_internal = true;
                bridge
            })
            .collect(),
        ..Desired::default()
    }
}

fn number_of(stored: &Desired) -> u32 {
    let number = stored.bridges[0].spec.fdb_limit - 1;
    assert_eq!(*stored, desired(number), "a mixture of two states");
    number
}

fn line(number: u32) -> String {
    format!("flow add cookie={number:#x},priority=7,udp,actions=drop\n")
}

/// The child: writes on from what is there, and says what is stored.
fn write_for_ever(folder: &Path) {
    let (file, stored) = StateFile::open(&folder.join("state.toml")).unwrap();
    let mut journal = Journal::open(file.path()).unwrap();
    let mut number = match stored.bridges.is_empty() {
        true => 0,
        false => number_of(&stored) + 1,
    };
    let mut out = std::io::stdout();
    loop {
        file.save(&desired(number)).unwrap();
        writeln!(out, "state {number}").unwrap();
        journal.append("br0", &line(number), 1).unwrap();
        writeln!(out, "flows {number}").unwrap();
        number += 1;
    }
}

#[test]
fn killed_at_random_points_of_1000_writes() {
    if let Ok(folder) = std::env::var(FOLDER) {
        write_for_ever(Path::new(&folder));
    }
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("state.toml");
    // xorshift: the delays are as random as the disk's own time.
    let mut random = 0x9e37_79b9_u64;
    let (mut written, mut kills) = (0, 0);
    while written < WRITES {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args([
                "--exact",
                "killed_writer::killed_at_random_points_of_1000_writes",
            ])
            .arg("--nocapture")
            .env(FOLDER, folder.path())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let out = child.stdout.take().unwrap();
        let reader = std::thread::spawn(move || {
            let lines = BufReader::new(out).lines().map_while(Result::ok);
            lines.fold((None, None), |told, line| {
                match line
                    .rsplit_once(' ')
                    .map(|(what, n)| (what.to_owned(), n.parse::<u32>()))
                {
                    Some((what, Ok(n))) if what.ends_with("state") => (Some(n), told.1),
                    Some((what, Ok(n))) if what.ends_with("flows") => (told.0, Some(n)),
                    _ => told,
                }
            })
        });
        random ^= random << 13;
        random ^= random >> 7;
        random ^= random << 17;
        std::thread::sleep(Duration::from_micros(20_000 + random % 180_000));
        child.kill().unwrap();
        child.wait().unwrap();
        kills += 1;
        let (state, flows) = reader.join().unwrap();

        let (_file, stored) = StateFile::open(&path).unwrap();
        let journal = Journal::open(&path).unwrap();
        let Some(state) = state else { continue };
        let number = number_of(&stored);
        assert!(
            number == state || number == state + 1,
            "{number}, told {state}"
        );
        written = number;
        // What was told is in the journal; at the most one transaction more.
        let text = std::fs::read_to_string(journal.path()).unwrap_or_default();
        let whole = text.matches("\ncommit ").count() as u32;
        assert_eq!(
            text.matches("flow add").count() as u32,
            whole,
            "half a transaction"
        );
        if let Some(flows) = flows {
            assert!(
                text.contains(&line(flows)),
                "flows {flows} were told to be stored"
            );
            assert!(!text.contains(&line(flows + 2)));
        }
    }
    println!("{written} states written by {kills} writers that were killed");
    assert!(kills > 3);
}
