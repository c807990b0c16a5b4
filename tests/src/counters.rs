//! What the switch counted, read from `ringway --json`.

use serde_json::Value;

use crate::error::{Error, Result};

/// A port's counters as the switch sees them: `rx` came from the guest, `tx`
/// went to it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Port {
    /// Its name.
    pub name: String,
    /// Packets from the guest.
    pub rx_packets: u64,
    /// Their bytes.
    pub rx_bytes: u64,
    /// Packets from the guest that were dropped here, for any reason.
    pub rx_dropped: u64,
    /// Packets to the guest.
    pub tx_packets: u64,
    /// Their bytes.
    pub tx_bytes: u64,
    /// Packets for the guest that were dropped, for any reason.
    pub tx_dropped: u64,
    /// Packets from the guest by queue.
    pub rx_packets_by_queue: Vec<u64>,
    /// Packets to the guest by queue.
    pub tx_packets_by_queue: Vec<u64>,
}

/// The balance of one poll-mode core or of all together.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Balance {
    /// Packets taken from rings and NIC queues.
    pub received: u64,
    /// Copies beyond the first.
    pub replicated: u64,
    /// Packets delivered.
    pub transmitted: u64,
    /// Packets dropped.
    pub dropped: u64,
}

impl Balance {
    /// in + replicated = out + drops.
    pub fn holds(&self) -> bool {
        self.received + self.replicated == self.transmitted + self.dropped
    }
}

/// One poll-mode core's counters.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Pmd {
    /// Its CPU.
    pub core: u64,
    /// TSC cycles in polls that brought packets.
    pub busy_cycles: u64,
    /// TSC cycles in polls that brought nothing.
    pub idle_cycles: u64,
    /// Packets.
    pub balance: Balance,
}

/// Packets dropped for one reason at one port.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Drop {
    /// The port.
    pub port: String,
    /// The reason's name.
    pub reason: String,
    /// How many.
    pub packets: u64,
}

/// From `dump-ports`.
pub fn ports(json: &Value) -> Result<Vec<Port>> {
    list(json, "ports")?.iter().map(port).collect()
}

fn port(json: &Value) -> Result<Port> {
    let total = &json["counters"];
    Ok(Port {
        name: text(json, "name")?,
        rx_packets: number(total, "rx_packets")?,
        rx_bytes: number(total, "rx_bytes")?,
        rx_dropped: number(total, "rx_dropped")? + number(total, "rx_errors")?,
        tx_packets: number(total, "tx_packets")?,
        tx_bytes: number(total, "tx_bytes")?,
        tx_dropped: number(total, "tx_dropped")? + number(total, "tx_errors")?,
        rx_packets_by_queue: by_queue(json, "rx_packets")?,
        tx_packets_by_queue: by_queue(json, "tx_packets")?,
    })
}

fn by_queue(port: &Value, field: &str) -> Result<Vec<u64>> {
    list(port, "queues")?
        .iter()
        .map(|queue| number(&queue["counters"], field))
        .collect()
}

/// From `pmd stats`.
pub fn pmds(json: &Value) -> Result<Vec<Pmd>> {
    list(json, "pmds")?
        .iter()
        .map(|pmd| {
            let packets = &pmd["packets"];
            Ok(Pmd {
                core: number(pmd, "core")?,
                busy_cycles: number(pmd, "busy_cycles")?,
                idle_cycles: number(pmd, "idle_cycles")?,
                balance: Balance {
                    received: number(packets, "received")?,
                    replicated: number(packets, "replicated")?,
                    transmitted: number(packets, "transmitted")?,
                    dropped: number(packets, "dropped")?,
                },
            })
        })
        .collect()
}

/// From `drops`.
pub fn drops(json: &Value) -> Result<Vec<Drop>> {
    list(json, "drops")?
        .iter()
        .map(|drop| {
            Ok(Drop {
                port: text(drop, "port")?,
                reason: text(drop, "reason")?,
                packets: number(drop, "packets")?,
            })
        })
        .collect()
}

/// A list under `field`.
pub fn list<'a>(json: &'a Value, field: &str) -> Result<&'a Vec<Value>> {
    json[field]
        .as_array()
        .ok_or_else(|| Error::Unexpected(format!("no list `{field}` in {json}")))
}

/// A text under `field`.
pub fn text(json: &Value, field: &str) -> Result<String> {
    json[field]
        .as_str()
        .map(str::to_owned)
        .ok_or_else(|| Error::Unexpected(format!("no text `{field}` in {json}")))
}

/// A number under `field`.
pub fn number(json: &Value, field: &str) -> Result<u64> {
    json[field]
        .as_u64()
        .ok_or_else(|| Error::Unexpected(format!("no number `{field}` in {json}")))
}
