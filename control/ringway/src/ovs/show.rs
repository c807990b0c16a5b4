//! `ovs-vsctl show`, in Open vSwitch's layout.

use std::fmt::Write;

use super::records::Row;
use super::syntax::{Command, Output, Session, Stop};

/// A row's name, and those of its columns that somebody set.
fn row(out: &mut String, depth: usize, row: &Row, columns: &[&str]) {
    let name = row.shown("name").unwrap_or_default();
    let _ = writeln!(
        out,
        "{:indent$}{} {name}",
        "",
        row.table.name,
        indent = 4 * depth
    );
    lines(out, depth + 1, row, columns);
}

fn lines(out: &mut String, depth: usize, row: &Row, columns: &[&str]) {
    for name in columns {
        if let Some(value) = row.shown(name) {
            let _ = writeln!(out, "{:indent$}{name}: {value}", "", indent = 4 * depth);
        }
    }
}

/// `show`
pub fn show(_: &Command, session: &mut Session) -> Result<Output, Stop> {
    let db = &session.db;
    let mut out = format!("{}\n", db.switch.uuid);
    for bridge in &db.bridges {
        row(&mut out, 1, &bridge.row, &["fail_mode", "datapath_type"]);
        for port in &bridge.ports {
            row(&mut out, 2, &port.row, &["tag", "trunks"]);
            row(&mut out, 3, &port.interface, &["type", "options", "error"]);
        }
    }
    lines(&mut out, 1, &db.switch, &["ovs_version"]);
    Ok(Output::Text(out))
}
