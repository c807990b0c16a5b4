//! One case of one switch.

use std::fs;
use std::os::fd::AsFd;
use std::os::unix::net::UnixListener;
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use ringway_tests::journey::{Plug, Side, TwoHosts};
use ringway_tests::netns::Namespace;
use ringway_tests::numbered::{self, Numbered};

use super::switch::Restartable;
use super::{Event, Figures, Listens, Moved, Outage, Plan, RestartCase};
use crate::error::Error;
use crate::switches::SwitchKind;

/// Numbered frames that pass before and after.
const FRAMES: u64 = 20_000;
/// Longest that the first frame takes, and the first one afterwards.
const PATIENCE: Duration = Duration::from_secs(30);
/// How often a frontend begins to listen.
const LISTENS: u32 = 8;

pub fn measure(
    plan: &Plan,
    case: RestartCase,
    switch: SwitchKind,
    dir: &Path,
) -> Result<Figures, Error> {
    match case.event {
        Event::Listen => connected(plan, switch, dir).map(Figures::Connected),
        Event::Move => moved(plan, switch, dir, case.packed).map(Figures::Moved),
        _ => outage(plan, case, switch, dir).map(Figures::Outage),
    }
}

fn outage(plan: &Plan, case: RestartCase, switch: SwitchKind, dir: &Path) -> Result<Outage, Error> {
    let held = case.event == Event::KillHeld;
    let mut switch = Restartable::start(plan, switch, dir, None, held)?;
    let sockets = [
        switch.add_guest("vm1", case.listens)?,
        switch.add_guest("vm2", case.listens)?,
    ];
    let listens = match case.listens {
        Listens::Guest => numbered::Listens::Guest,
        Listens::Switch => numbered::Listens::Switch,
    };
    let layout = match case.packed {
        true => numbered::Layout::Packed,
        false => numbered::Layout::Split,
    };
    let mut traffic = Numbered::start_at(sockets, [1, 2], listens, layout)?;
    traffic.go_on_within(FRAMES, PATIENCE)?;
    if held {
        // Longer than what a holder takes for dying at its start.
        thread::sleep(Duration::from_millis(1200));
    }
    switch.suffer(case.event)?;
    let again = traffic.go_on_within(FRAMES, PATIENCE).is_ok();
    let outcome = traffic.end()?;
    let sum = |of: fn(&numbered::Record) -> u64| outcome.ways.iter().map(of).sum();
    Ok(Outage {
        ms: again.then(|| outcome.outage().as_secs_f64() * 1e3),
        lost: outcome.lost(),
        doubled_or_late: sum(|way| way.doubled_or_late),
        torn: sum(|way| way.torn),
        reconnects: outcome.reconnects,
    })
}

/// How long the switch takes to connect to a frontend that begins to listen.
fn connected(plan: &Plan, switch: SwitchKind, dir: &Path) -> Result<Vec<f64>, Error> {
    let switch = Restartable::start(plan, switch, dir, None, false)?;
    let socket = switch.add_guest("vm1", Listens::Guest)?;
    let file = |source| Error::File {
        path: socket.clone(),
        source,
    };
    let mut times = Vec::new();
    for nth in 0..LISTENS {
        // At different places of whatever rhythm it has.
        thread::sleep(Duration::from_millis(1000 + u64::from(nth) * 130));
        let begin = Instant::now();
        let listener = UnixListener::bind(&socket).map_err(file)?;
        let mut ready = [PollFd::new(listener.as_fd(), PollFlags::POLLIN)];
        let patience = PollTimeout::try_from(PATIENCE).unwrap_or(PollTimeout::MAX);
        let came = poll(&mut ready, patience).map_err(|errno| file(errno.into()))?;
        if came == 0 {
            return Err(Error::NoSocket {
                path: socket,
                seconds: PATIENCE.as_secs_f64(),
            });
        }
        times.push(begin.elapsed().as_secs_f64() * 1e3);
        fs::remove_file(&socket).map_err(file)?;
        drop(listener.accept().map_err(file)?);
    }
    Ok(times)
}

fn moved(plan: &Plan, kind: SwitchKind, dir: &Path, packed: bool) -> Result<Moved, Error> {
    let lan = TwoHosts::new()?;
    lan.with_whole_checksums()?;
    let mut switches = Vec::new();
    let mut sides = Vec::new();
    for wire in ["wire0", "wire1"] {
        let namespace = Namespace::new(wire)?;
        lan.wire(&namespace, wire)?;
        let dir = dir.join(wire);
        fs::create_dir(&dir).map_err(|source| Error::File {
            path: dir.clone(),
            source,
        })?;
        let switch = Restartable::start(plan, kind, &dir, Some(namespace.name()), false)?;
        switch.add_system(wire)?;
        let socket = switch.add_guest("vm1", Listens::Switch)?;
        let plug = Plug::Switch(socket);
        sides.push(Side { plug, dir });
        // Ended before its namespace.
        switches.push((switch, namespace));
    }
    let journey = lan.journey(&sides[0], &sides[1], packed, || Ok(()))?;
    let figures = Moved {
        downtime_ms: journey.moved.downtime_ms,
        longest_ms: journey.longest_ms,
        lost: journey.lost,
    };
    journey.here.kill();
    journey.there.kill();
    Ok(figures)
}
