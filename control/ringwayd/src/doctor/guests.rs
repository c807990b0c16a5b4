//! Guests: their memory and their sockets.

use std::path::Path;

use super::facts::SocketFile;
use super::{Facts, Found};

/// A guest whose memory ringway cannot see.
pub fn memory_not_shared(facts: &Facts) -> Vec<Found> {
    let ports = facts.shown.bridges.iter().flat_map(|bridge| &bridge.ports);
    let unshared = ports.filter(|port| {
        // Every state that unshared memory leads to names this; a guest that only
        // boots, and so has not shared its memory yet, is no fault.
        let actual = port.actual.as_ref();
        actual.is_some_and(|status| status.reason.contains("share=on"))
    });
    unshared
        .map(|port| {
            let why = "its packets never reach ringway. In libvirt's XML: <memoryBacking><source \
                       type='memfd'/><access mode='shared'/></memoryBacking>";
            Found::error(format!("port {}", port.name), &port.reason, why)
        })
        .collect()
}

/// May this user, in no other group, do what `bits` (of rwx) stand for?
fn may(user: (u32, u32), owner: (u32, u32), mode: u32, bits: u32) -> bool {
    let (uid, gid) = user;
    let class = match owner {
        (own, _) if own == uid => 6,
        (_, group) if group == gid => 3,
        _ => 0,
    };
    uid == 0 || mode >> class & bits == bits
}

/// What of the way to a socket the user may not go: a folder that it may not
/// enter, or the socket that it may not write.
fn barrier(socket: &SocketFile, user: (u32, u32)) -> Option<&Path> {
    let way = socket.way.iter();
    let barred = way.filter(|(path, uid, gid, mode)| {
        let needed = if *path == socket.path { 0o2 } else { 0o1 };
        !may(user, (*uid, *gid), *mode, needed)
    });
    barred.map(|(path, ..)| path.as_path()).next_back()
}

/// A socket that the account of the guests cannot connect to.
pub fn socket_permissions(facts: &Facts) -> Vec<Found> {
    let Some((name, uid, gid)) = &facts.qemu_user else {
        return Vec::new();
    };
    let closed = facts.sockets.iter().filter_map(|(port, socket)| {
        let barrier = barrier(socket, (*uid, *gid))?;
        let path = socket.path.display();
        let what = format!("user {name} may not connect to {path}");
        let why = format!(
            "guests that run as {name} get no network; {} is closed to it",
            barrier.display()
        );
        let remedy = match barrier == socket.path {
            true => format!("ringway set-port {port} owner={name} permissions=0660"),
            false => format!("chmod o+x {}", barrier.display()),
        };
        Some(Found::warning(format!("port {port}"), what, why).mended_by(vec![remedy]))
    });
    closed.collect()
}
