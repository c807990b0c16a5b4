//! Command lines of Open vSwitch's commands: each ends, with an exit code of
//! theirs, and with a complaint if that is not 0.

use std::ffi::OsString;
use std::time::Duration;

use ringway::ovs::{Call, run};

use super::world::world;

/// Lines of words between blanks; a byte 1 is a blank within a word.
pub fn law(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else {
        return;
    };
    let world = world();
    world.begin();
    for line in text.lines().take(6) {
        let words: Vec<String> = line
            .split(' ')
            .map(|word| word.replace('\u{1}', " "))
            .collect();
        if words.iter().any(|word| leads_out(word)) {
            continue;
        }
        let mut given: Vec<OsString> = vec!["ringway".into(), "--socket".into()];
        given.push(world.daemon.socket().into());
        given.extend(words.iter().map(OsString::from));
        let Some(call) = Call::of(&given) else {
            continue;
        };
        let (mut out, mut err) = (Vec::new(), Vec::new());
        let done = world.runtime.block_on(async {
            // What waits for something waits in vain.
            let run = run(&call, false, &mut out, &mut err);
            tokio::time::timeout(Duration::from_secs(2), run).await
        });
        let Ok(code) = done else {
            continue;
        };
        assert!(code <= 3 || code == TIMED_OUT, "{line}: {code}");
        let complaint = String::from_utf8_lossy(&err);
        // br-exists and diff-flows answer by their exit code.
        let answered = code == 0 || code == 2;
        assert!(
            answered || !complaint.is_empty(),
            "{line}: {code}, and no word"
        );
        assert!(!complaint.contains("broke off"), "{line}: {complaint}");
    }
    world.end();
}

/// Exit code of `--timeout`, as of Open vSwitch.
const TIMED_OUT: u8 = 142;

/// Words that make the command read files or its own input, or wait.
fn leads_out(word: &str) -> bool {
    let waits = [
        "wait-until",
        "monitor",
        "snoop",
        "--retry",
        "--next",
        "--db",
    ];
    word == "-" || word.contains('/') || waits.iter().any(|wait| word.starts_with(wait))
}
