//! The switch as the rows that ovs-vsctl(8) works on: read from ringwayd,
//! changed in memory, and compared in the end (`transaction.rs`).

use std::collections::BTreeMap;
use std::path::PathBuf;

use ringway_proto::v1 as pb;
use uuid::Uuid;

use super::datum::{Datum, parse_uuid};
use super::schema::{BRIDGE, Column, INTERFACE, PORT, SWITCH, Table, Write};

/// What ringwayd said of the switch.
#[derive(Clone, Debug, Default)]
pub struct World {
    /// Bridges and ports.
    pub shown: pb::ShowResponse,
    /// The switch's own settings.
    pub switch: pb::SwitchSpec,
    /// The ports' counters.
    pub counters: pb::DumpPortsResponse,
    /// Versions.
    pub version: pb::VersionResponse,
    /// Open vSwitch's directory for sockets.
    pub rundir: PathBuf,
}

/// A row.
#[derive(Clone, Debug)]
pub struct Row {
    /// Its table.
    pub table: &'static Table,
    /// Its identity, which follows from the table and the name.
    pub uuid: Uuid,
    values: BTreeMap<&'static str, Datum>,
}

/// A bridge's row and ports.
#[derive(Clone, Debug)]
pub struct Bridge {
    /// Its row in Bridge.
    pub row: Row,
    /// How ringwayd has it; none for a new one.
    pub was: Option<pb::BridgeSpec>,
    /// Its ports.
    pub ports: Vec<Port>,
}

/// A port's rows.
#[derive(Clone, Debug)]
pub struct Port {
    /// Its row in Port.
    pub row: Row,
    /// Its row in Interface; a port has one.
    pub interface: Row,
    /// How ringwayd has it; none for a new one.
    pub was: Option<pb::PortSpec>,
}

/// All rows.
#[derive(Clone, Debug)]
pub struct Database {
    /// The row of Open_vSwitch.
    pub switch: Row,
    /// Open vSwitch's directory for sockets.
    pub rundir: PathBuf,
    /// The bridges, by name as far as ringwayd has them.
    pub bridges: Vec<Bridge>,
}

/// What identities of rows follow from.
const NAMESPACE: Uuid = Uuid::from_u128(0x5c1a_70d4_9b0e_4d7c_a5f3_7269_6e67_7761);

impl Row {
    /// A row of this name in which nothing was set.
    pub fn new(table: &'static Table, name: &str) -> Row {
        let identity = format!("{}/{name}", table.name);
        let mut row = Row {
            table,
            uuid: Uuid::new_v5(&NAMESPACE, identity.as_bytes()),
            values: BTreeMap::new(),
        };
        if table.name != SWITCH.name {
            row.put("name", Datum::text(name));
        }
        row
    }

    /// What a column holds.
    pub fn get(&self, column: &Column) -> Datum {
        let value = self.values.get(column.name).cloned();
        value.unwrap_or_else(|| column.ty.default_datum())
    }

    /// What the column of this name holds.
    pub fn value(&self, name: &str) -> Datum {
        let column = self.table.columns.iter().find(|column| column.name == name);
        column.map_or(Datum::default(), |column| self.get(column))
    }

    /// Its name.
    pub fn name(&self) -> String {
        self.value("name").as_text().to_owned()
    }

    /// What the column of this name holds, as ovs-vsctl shows it; none if it is
    /// as if nobody had set it.
    pub fn shown(&self, name: &str) -> Option<String> {
        let column = self
            .table
            .columns
            .iter()
            .find(|column| column.name == name)?;
        let value = self.get(column);
        (value != column.ty.default_datum()).then(|| value.shown(&column.ty))
    }

    /// Puts a value into a column, whatever it is.
    pub fn put(&mut self, name: &'static str, value: Datum) {
        self.values.insert(name, value);
    }

    /// Whether a column differs from the same row as it was.
    pub fn differs(&self, was: &Row, names: &[&str]) -> bool {
        names.iter().any(|name| self.value(name) != was.value(name))
    }

    /// Writes a column as a user does; refuses what ringway has not.
    pub fn write(&mut self, column: &Column, value: Datum) -> Result<(), String> {
        let (table, name) = (self.table.name, column.name);
        if column.write == Write::Never {
            return Err(format!(
                "cannot modify read-only column {name} in table {table}"
            ));
        }
        if self.get(column) == value {
            return Ok(());
        }
        match column.write {
            Write::Done if table == BRIDGE.name && name == "datapath_type" => {
                let text = value.as_text();
                if !matches!(text, "" | "netdev") {
                    return Err(format!(
                        "cannot set datapath_type of a bridge to {text}: ringway has only netdev, \
                         the datapath in user space"
                    ));
                }
                return Ok(());
            }
            Write::Done | Write::Noted | Write::Never => {}
            Write::Told => {
                return Err(format!(
                    "cannot modify column {name} in table {table}: ringway's datapath tells it"
                ));
            }
            Write::Follows(commands) => {
                return Err(format!(
                    "cannot modify column {name} in table {table}: in ringway it follows from \
                     {commands}"
                ));
            }
            Write::Lacks(what) => {
                return Err(format!(
                    "column {name} in table {table} is not supported: ringway has no {what}"
                ));
            }
        }
        self.put(name, value);
        Ok(())
    }
}

impl Port {
    /// A port in which nothing was set.
    pub fn new(name: &str) -> Port {
        Port {
            row: Row::new(PORT, name),
            interface: Row::new(INTERFACE, name),
            was: None,
        }
    }

    /// Its name.
    pub fn name(&self) -> String {
        self.row.name()
    }
}

impl Bridge {
    /// A bridge in which nothing was set, with its own interface.
    pub fn new(name: &str) -> Bridge {
        let mut local = Port::new(name);
        local.interface.put("type", Datum::text("internal"));
        let mut row = Row::new(BRIDGE, name);
        row.put("datapath_type", Datum::text("netdev"));
        Bridge {
            row,
            was: None,
            ports: vec![local],
        }
    }

    /// Its name.
    pub fn name(&self) -> String {
        self.row.name()
    }
}

impl Database {
    /// What ringwayd said, as rows: what is desired, with what is known of it.
    pub fn load(world: &World) -> Database {
        let desired = world.shown.bridges.iter();
        let bridges = desired.filter_map(|bridge| {
            let spec = bridge.desired.as_ref()?;
            Some(super::convert::bridge(world, bridge, spec))
        });
        Database {
            switch: super::convert::switch(world),
            rundir: world.rundir.clone(),
            bridges: bridges.collect(),
        }
    }

    /// All ports with their bridges.
    pub fn ports(&self) -> impl Iterator<Item = (&Bridge, &Port)> {
        let bridges = self.bridges.iter();
        bridges.flat_map(|bridge| bridge.ports.iter().map(move |port| (bridge, port)))
    }

    /// The bridge of this name.
    pub fn bridge(&self, name: &str) -> Option<&Bridge> {
        self.bridges.iter().find(|bridge| bridge.name() == name)
    }

    /// The port of this name, and its bridge; a bridge's own interface is none.
    pub fn port(&self, name: &str) -> Option<(&Bridge, &Port)> {
        let mut ports = self.ports();
        ports.find(|(bridge, port)| port.name() == name && bridge.name() != name)
    }

    /// A table's rows, with those that they refer to.
    pub fn rows(&self, table: &Table) -> Vec<Row> {
        let bridges = self.bridges.iter();
        if table.name == SWITCH.name {
            let mut row = self.switch.clone();
            row.put(
                "bridges",
                Datum::uuids(bridges.map(|bridge| bridge.row.uuid)),
            );
            vec![row]
        } else if table.name == BRIDGE.name {
            let row = |bridge: &Bridge| {
                let ports = bridge.ports.iter().map(|port| port.row.uuid);
                let mut row = bridge.row.clone();
                row.put("ports", Datum::uuids(ports));
                row
            };
            bridges.map(row).collect()
        } else if table.name == PORT.name {
            let row = |(_, port): (&Bridge, &Port)| {
                let mut row = port.row.clone();
                row.put(
                    "interfaces",
                    Datum::uuids([port.interface.uuid].into_iter()),
                );
                row
            };
            self.ports().map(row).collect()
        } else if table.name == INTERFACE.name {
            self.ports()
                .map(|(_, port)| port.interface.clone())
                .collect()
        } else {
            vec![]
        }
    }

    /// A table's row, to be changed.
    pub fn row_mut(&mut self, table: &Table, uuid: Uuid) -> Option<&mut Row> {
        let bridges = self.bridges.iter_mut();
        let all = bridges.flat_map(|bridge| {
            let ports = bridge.ports.iter_mut();
            let ports = ports.flat_map(|port| [&mut port.row, &mut port.interface]);
            std::iter::once(&mut bridge.row).chain(ports)
        });
        let mut all = std::iter::once(&mut self.switch).chain(all);
        all.find(|row| row.table.name == table.name && row.uuid == uuid)
    }

    /// The row that a word names: its identity or the begin of it, its name, or
    /// `.` for the only one.
    pub fn find(&self, table: &Table, word: &str) -> Result<Option<Row>, String> {
        let rows = self.rows(table);
        if let Some(uuid) = parse_uuid(word)
            && let Some(row) = rows.iter().find(|row| row.uuid == uuid)
        {
            return Ok(Some(row.clone()));
        }
        if let (".", [row]) = (word, rows.as_slice()) {
            return Ok(Some(row.clone()));
        }
        let named = |row: &&Row| row.table.name != SWITCH.name && row.name() == word;
        if let Some(row) = rows.iter().find(named) {
            return Ok(Some(row.clone()));
        }
        let digits = word.bytes().filter(u8::is_ascii_hexdigit).count();
        let begins = |row: &&Row| row.uuid.to_string().starts_with(&word.to_ascii_lowercase());
        let found: Vec<_> = rows.iter().filter(begins).collect();
        match found.as_slice() {
            [first, second, ..] if digits >= 4 => Err(format!(
                "{} contains 2 or more rows whose UUIDs begin with {word}: at least {} and {}",
                table.name, first.uuid, second.uuid
            )),
            [row] if digits >= 4 => Ok(Some((*row).clone())),
            _ => Ok(None),
        }
    }

    /// As [`Database::find`], of a row that must be there.
    pub fn expect(&self, table: &Table, word: &str) -> Result<Row, String> {
        let row = self.find(table, word)?;
        row.ok_or_else(|| format!("no row \"{word}\" in table {}", table.name))
    }
}
