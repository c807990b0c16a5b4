//! Frames as both read them.

use ringway_differential::dice::Dice;
use ringway_differential::execute::head_of;
use ringway_differential::oracle::{Oracle, hex};
use ringway_differential::{allowed, domain, frames, printed};
use ringway_flow::extract::extract;
use ringway_flow::key::PacketKey;

const FRAMES: usize = 20_000;

#[test]
fn frames_are_read_alike() {
    let mut oracle = Oracle::start(domain::PORTS).unwrap();
    let mut dice = Dice::new(2);
    let mut allowed = 0;
    for _ in 0..FRAMES {
        let frame = frames::random(&mut dice);
        let port = dice.between(1, 4) as u16;
        let theirs = printed::traced_flow(&oracle.trace(port, &frame).unwrap());
        let (head, len) = head_of(&frame);
        let mut key = PacketKey::default();
        extract(&head, len, frame.len(), 0, port, &mut key);
        let ours = printed::key(&key);
        if theirs != ours && allowed::extracted(&frame, &theirs, &ours).is_some() {
            allowed += 1;
            continue;
        }
        assert_eq!(
            theirs,
            ours,
            "Open vSwitch's, then ringway's, of {}",
            hex(&frame)
        );
    }
    // A rare thing, even among frames made up to be strange.
    assert!(allowed * 100 < FRAMES, "{allowed} of {FRAMES}");
}
