//! Tables and columns of Open vSwitch's database (ovs-vswitchd.conf.db(5)), and
//! what ringway does with each.

use super::datum::{Base, Kind, Type};

/// A column.
#[derive(Clone, Copy, Debug)]
pub struct Column {
    /// Its name.
    pub name: &'static str,
    /// What it holds.
    pub ty: Type,
    /// What happens to what is written.
    pub write: Write,
}

/// What happens to what is written into a column.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Write {
    /// ringway does as it says.
    Done,
    /// It is remembered and read back, without a further effect.
    Noted,
    /// Open vSwitch refuses it, too.
    Never,
    /// It is what the datapath tells.
    Told,
    /// It follows from what other commands do; the text names them.
    Follows(&'static str),
    /// ringway has nothing that would do it; the text names what it has not.
    Lacks(&'static str),
}

/// A table.
#[derive(Debug)]
pub struct Table {
    /// Its name.
    pub name: &'static str,
    /// Its columns, by name.
    pub columns: &'static [Column],
}

const TEXT: Type = Type {
    key: Kind::Text.any(),
    value: None,
    least: 1,
    most: 1,
};
const TEXT_OR_NONE: Type = up_to(1, Kind::Text.any());
const TEXTS: Type = up_to(usize::MAX, Kind::Text.any());
const NUMBER: Type = Type {
    key: Kind::Integer.any(),
    ..TEXT
};
const NUMBER_OR_NONE: Type = up_to(1, Kind::Integer.any());
const NUMBERS: Type = up_to(usize::MAX, Kind::Integer.any());
const BOOLEAN: Type = Type {
    key: Kind::Boolean.any(),
    ..TEXT
};
const BOOLEAN_OR_NONE: Type = up_to(1, Kind::Boolean.any());
const ROW_OR_NONE: Type = up_to(1, Kind::Uuid.any());
const ROWS: Type = up_to(usize::MAX, Kind::Uuid.any());
const MAP: Type = map(Kind::Text, Kind::Text);
const COUNTS: Type = map(Kind::Text, Kind::Integer);
const UP_OR_DOWN: Type = up_to(1, one_of(&["down", "up"]));
const VLAN: Base = within(0, 4095);
const VLANS: Type = up_to(4096, VLAN);
const NOT_NEGATIVE: Type = Type {
    key: within(0, i64::MAX),
    ..TEXT
};

const fn up_to(most: usize, key: Base) -> Type {
    Type {
        key,
        value: None,
        least: 0,
        most,
    }
}

const fn map(key: Kind, value: Kind) -> Type {
    Type {
        key: key.any(),
        value: Some(value),
        least: 0,
        most: usize::MAX,
    }
}

const fn one_of(allowed: &'static [&'static str]) -> Base {
    Base {
        allowed,
        ..Kind::Text.any()
    }
}

const fn within(min: i64, max: i64) -> Base {
    Base {
        min,
        max,
        ..Kind::Integer.any()
    }
}

const fn column(name: &'static str, ty: Type, write: Write) -> Column {
    Column { name, ty, write }
}

use Write::{Done, Follows, Lacks, Never, Noted, Told};

const BONDS: Write = Lacks("bonds");
const CFM: Write = Lacks("connectivity fault management");
const SPANNING_TREES: Write = Lacks("spanning trees");

/// Open_vSwitch: the whole switch.
pub const SWITCH: &Table = &Table {
    name: "Open_vSwitch",
    columns: &[
        column("bridges", ROWS, Follows("add-br and del-br")),
        column("cur_cfg", NUMBER, Told),
        column("datapath_types", TEXTS, Told),
        column(
            "datapaths",
            map(Kind::Text, Kind::Uuid),
            Lacks("conntrack zones"),
        ),
        column("db_version", TEXT_OR_NONE, Told),
        column("dpdk_initialized", BOOLEAN, Told),
        column("dpdk_version", TEXT_OR_NONE, Told),
        column("external_ids", MAP, Done),
        column("iface_types", TEXTS, Told),
        column("manager_options", ROWS, Lacks("OVSDB managers")),
        column("next_cfg", NUMBER, Told),
        column("other_config", MAP, Done),
        column("ovs_version", TEXT_OR_NONE, Told),
        column("ssl", ROW_OR_NONE, Lacks("OVSDB over SSL")),
        column("statistics", MAP, Told),
        column("system_type", TEXT_OR_NONE, Told),
        column("system_version", TEXT_OR_NONE, Told),
    ],
};

/// Bridge.
pub const BRIDGE: &Table = &Table {
    name: "Bridge",
    columns: &[
        column("auto_attach", ROW_OR_NONE, Lacks("auto-attach")),
        column("controller", ROWS, Lacks("OpenFlow controllers")),
        column("datapath_id", TEXT_OR_NONE, Told),
        // Only netdev is taken; see Records::write.
        column("datapath_type", TEXT, Done),
        column("datapath_version", TEXT, Told),
        column("external_ids", MAP, Done),
        column(
            "fail_mode",
            up_to(1, one_of(&["secure", "standalone"])),
            Done,
        ),
        column("flood_vlans", VLANS, Lacks("flooded VLANs")),
        column(
            "flow_tables",
            Type {
                key: within(0, 254),
                ..map(Kind::Integer, Kind::Uuid)
            },
            Lacks("settings of flow tables"),
        ),
        column("ipfix", ROW_OR_NONE, Lacks("IPFIX")),
        column(
            "mcast_snooping_enable",
            BOOLEAN,
            Lacks("multicast snooping"),
        ),
        column(
            "mirrors",
            ROWS,
            Lacks("mirrors (a flow with two outputs does it)"),
        ),
        column("name", TEXT, Never),
        column("netflow", ROW_OR_NONE, Lacks("NetFlow")),
        column("other_config", MAP, Done),
        column("ports", ROWS, Follows("add-port and del-port")),
        column(
            "protocols",
            up_to(
                usize::MAX,
                one_of(&[
                    "OpenFlow10",
                    "OpenFlow11",
                    "OpenFlow12",
                    "OpenFlow13",
                    "OpenFlow14",
                    "OpenFlow15",
                ]),
            ),
            Noted,
        ),
        column("rstp_enable", BOOLEAN, SPANNING_TREES),
        column("rstp_status", MAP, Told),
        column("sflow", ROW_OR_NONE, Lacks("sFlow")),
        column("status", MAP, Told),
        column("stp_enable", BOOLEAN, SPANNING_TREES),
    ],
};

/// Port.
pub const PORT: &Table = &Table {
    name: "Port",
    columns: &[
        column("bond_active_slave", TEXT_OR_NONE, BONDS),
        column("bond_downdelay", NUMBER, BONDS),
        column("bond_fake_iface", BOOLEAN, BONDS),
        column(
            "bond_mode",
            up_to(1, one_of(&["active-backup", "balance-slb", "balance-tcp"])),
            BONDS,
        ),
        column("bond_updelay", NUMBER, BONDS),
        column("cvlans", VLANS, Done),
        column("external_ids", MAP, Done),
        column("fake_bridge", BOOLEAN, Lacks("fake bridges")),
        column(
            "interfaces",
            Type { least: 1, ..ROWS },
            Follows("add-port and del-port"),
        ),
        column(
            "lacp",
            up_to(1, one_of(&["active", "off", "passive"])),
            Lacks("LACP"),
        ),
        column(
            "mac",
            TEXT_OR_NONE,
            Lacks("addresses of ports (Interface has one)"),
        ),
        column("name", TEXT, Never),
        column("other_config", MAP, Done),
        column("protected", BOOLEAN, Lacks("protected ports (flows do it)")),
        column(
            "qos",
            ROW_OR_NONE,
            Lacks("QoS (a meter does it: add-meter)"),
        ),
        column("rstp_statistics", COUNTS, Told),
        column("rstp_status", MAP, Told),
        column("statistics", COUNTS, Told),
        column("status", MAP, Told),
        column("tag", up_to(1, VLAN), Done),
        column("trunks", VLANS, Done),
        column(
            "vlan_mode",
            up_to(
                1,
                one_of(&[
                    "access",
                    "dot1q-tunnel",
                    "native-tagged",
                    "native-untagged",
                    "trunk",
                ]),
            ),
            Done,
        ),
    ],
};

/// Interface: a port's device.
pub const INTERFACE: &Table = &Table {
    name: "Interface",
    columns: &[
        column("admin_state", UP_OR_DOWN, Told),
        column("bfd", MAP, Lacks("BFD")),
        column("bfd_status", MAP, Told),
        column("cfm_fault", BOOLEAN_OR_NONE, Told),
        column("cfm_fault_status", TEXTS, Told),
        column("cfm_flap_count", NUMBER_OR_NONE, Told),
        column("cfm_health", up_to(1, within(0, 100)), Told),
        column("cfm_mpid", NUMBER_OR_NONE, CFM),
        column("cfm_remote_mpids", NUMBERS, Told),
        column("cfm_remote_opstate", UP_OR_DOWN, Told),
        column("duplex", up_to(1, one_of(&["full", "half"])), Told),
        column("error", TEXT_OR_NONE, Told),
        column("external_ids", MAP, Done),
        column("ifindex", up_to(1, within(0, u32::MAX as i64)), Told),
        column("ingress_policing_burst", NOT_NEGATIVE, Done),
        column("ingress_policing_kpkts_burst", NOT_NEGATIVE, Done),
        column("ingress_policing_kpkts_rate", NOT_NEGATIVE, Done),
        column("ingress_policing_rate", NOT_NEGATIVE, Done),
        column("lacp_current", BOOLEAN_OR_NONE, Told),
        column("link_resets", NUMBER_OR_NONE, Told),
        column("link_speed", NUMBER_OR_NONE, Told),
        column("link_state", UP_OR_DOWN, Told),
        column("lldp", MAP, Lacks("LLDP")),
        column("mac", TEXT_OR_NONE, Done),
        column("mac_in_use", TEXT_OR_NONE, Told),
        column("mtu", NUMBER_OR_NONE, Told),
        column("mtu_request", up_to(1, within(1, i64::MAX)), Done),
        column("name", TEXT, Never),
        column("ofport", NUMBER_OR_NONE, Told),
        column("ofport_request", up_to(1, within(1, 65279)), Done),
        column("options", MAP, Done),
        column("other_config", MAP, Done),
        column("statistics", COUNTS, Told),
        column("status", MAP, Told),
        column("type", TEXT, Done),
    ],
};

/// A table that has no rows here, for ringway lacks what it is about.
const fn empty(name: &'static str, columns: &'static [Column]) -> Table {
    Table { name, columns }
}

const NAME: &[Column] = &[column("name", TEXT, Never)];
const TARGET: &[Column] = &[column("target", TEXT, Never)];

/// All tables. Those behind the first four are always empty here.
pub const TABLES: &[&Table] = &[
    SWITCH,
    BRIDGE,
    PORT,
    INTERFACE,
    &empty("AutoAttach", &[column("system_name", TEXT, Never)]),
    &empty("CT_Timeout_Policy", &[column("timeouts", COUNTS, Never)]),
    &empty("CT_Zone", &[column("external_ids", MAP, Never)]),
    &empty("Controller", TARGET),
    &empty("Datapath", &[column("datapath_version", TEXT, Never)]),
    &empty("Flow_Sample_Collector_Set", &[column("id", NUMBER, Never)]),
    &empty("Flow_Table", NAME),
    &empty("IPFIX", &[column("targets", TEXTS, Never)]),
    &empty("Manager", TARGET),
    &empty("Mirror", NAME),
    &empty("NetFlow", &[column("targets", TEXTS, Never)]),
    &empty("QoS", &[column("type", TEXT, Never)]),
    &empty("Queue", &[column("external_ids", MAP, Never)]),
    &empty("SSL", &[column("private_key", TEXT, Never)]),
    &empty("sFlow", &[column("targets", TEXTS, Never)]),
];

/// How well `given`, perhaps cut short, stands for `name`; 0: not at all.
fn likeness(name: &str, given: &str) -> usize {
    if name == given {
        return usize::MAX;
    }
    let alike = |byte: u8| match byte {
        b'-' => b'_',
        _ => byte.to_ascii_lowercase(),
    };
    let begins = name.len() >= given.len()
        && (name.bytes().zip(given.bytes())).all(|(one, other)| alike(one) == alike(other));
    match begins {
        true if name.len() == given.len() => usize::MAX - 1,
        true => given.len(),
        false => 0,
    }
}

/// The one that `given` stands for best; several if it stands for them equally.
fn best<T: Copy>(all: &[T], name: impl Fn(&T) -> &'static str, given: &str) -> Vec<T> {
    let scores: Vec<_> = all.iter().map(|one| likeness(name(one), given)).collect();
    let top = scores.iter().copied().max().unwrap_or(0);
    let found = all.iter().zip(&scores).filter(|(_, score)| **score == top);
    match top {
        0 => vec![],
        _ => found.map(|(one, _)| *one).collect(),
    }
}

/// The table of a name that may be cut short and in any case.
pub fn table(given: &str) -> Result<&'static Table, String> {
    let found = best(TABLES, |table| table.name, given);
    match found.as_slice() {
        [] => Err(format!("unknown table \"{given}\"")),
        [table] => Ok(table),
        several => {
            let mut names: Vec<_> = several.iter().map(|table| table.name).collect();
            names.sort_unstable();
            let names = names.join(", ");
            Err(format!("\"{given}\" matches multiple table names: {names}"))
        }
    }
}

impl Table {
    /// The column of a name that may be cut short and in any case.
    pub fn column(&self, given: &str) -> Result<&'static Column, String> {
        let columns: Vec<_> = self.columns.iter().collect();
        let found = best(&columns, |column| column.name, given);
        match found.as_slice() {
            [] => Err(format!(
                "{} does not contain a column whose name matches \"{given}\"",
                self.name
            )),
            [column] => Ok(column),
            several => {
                let names: Vec<_> = several.iter().map(|column| column.name).collect();
                Err(format!(
                    "{} contains more than one column whose name matches \"{given}\": {}",
                    self.name,
                    names.join(", ")
                ))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_stand_by_name() {
        for table in TABLES {
            let names: Vec<_> = table.columns.iter().map(|column| column.name).collect();
            assert!(names.is_sorted(), "{}", table.name);
        }
    }

    #[test]
    fn names_may_be_cut_short_and_in_any_case() {
        assert_eq!(table("interface").unwrap().name, "Interface");
        assert_eq!(table("Br").unwrap().name, "Bridge");
        assert_eq!(table("open").unwrap().name, "Open_vSwitch");
        assert_eq!(table("nix").unwrap_err(), "unknown table \"nix\"");
        assert_eq!(
            table("Q").unwrap_err(),
            "\"Q\" matches multiple table names: QoS, Queue"
        );
        assert_eq!(BRIDGE.column("external-ids").unwrap().name, "external_ids");
        assert_eq!(INTERFACE.column("mtu").unwrap().name, "mtu");
        assert_eq!(
            INTERFACE.column("ofp").unwrap_err(),
            "Interface contains more than one column whose name matches \"ofp\": ofport, \
             ofport_request"
        );
        assert!(
            PORT.column("nix")
                .unwrap_err()
                .starts_with("Port does not contain")
        );
    }
}
