//! The files that a daemon finds: damaged ones are refused with the line, and
//! left; what is read of others is what was stored of it.

use ringwayd::journal::Journal;
use ringwayd::state::{StateError, StateFile};

use super::world::in_memory;

/// `j` and a journal of flows, or any other byte and a state file.
pub fn law(data: &[u8]) {
    let Some((kind, content)) = data.split_first() else {
        return;
    };
    let dir = in_memory();
    let path = dir.path().join("state.toml");
    if *kind == b'j' {
        std::fs::write(dir.path().join("state.toml.flows"), content).expect("written");
        let _ = Journal::open(&path).map(drop);
        return;
    }
    std::fs::write(&path, content).expect("written");
    let (file, desired) = match StateFile::open(&path) {
        Ok(opened) => opened,
        Err(StateError::Damaged { line, why, .. }) => {
            let lines = content.iter().filter(|byte| **byte == b'\n').count() + 1;
            assert!((1..=lines).contains(&line), "line {line} of {lines}: {why}");
            assert!(!why.is_empty());
            assert_eq!(std::fs::read(&path).expect("read"), content);
            return;
        }
        Err(error) => panic!("{error}"),
    };
    file.save(&desired).expect("saved");
    let saved = std::fs::read_to_string(&path).expect("read");
    drop(file);
    let (file, again) = match StateFile::open(&path) {
        Ok(opened) => opened,
        Err(error) => panic!("what was saved is refused: {error}\n{saved}"),
    };
    assert_eq!(again, desired, "{saved}");
    file.save(&again).expect("saved");
    assert_eq!(std::fs::read_to_string(&path).expect("read"), saved);
}
