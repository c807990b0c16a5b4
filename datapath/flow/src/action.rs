//! Actions, buckets, groups, meters: what rules say is to be done.

use crate::field::{Field, Subfield};

/// An action of a rule, a bucket or a packet-out.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Action {
    /// `output:N`; `N` may be [`crate::key::PORT_LOCAL`]. A packet never goes
    /// back to its ingress port this way.
    Output(u16),
    /// `output:reg0[0..15]`
    OutputField(Subfield),
    /// `in_port`: back to where it came from.
    InPort,
    /// `normal`: as a learning switch does.
    Normal,
    /// `flood`: every port of the bridge but the ingress port.
    Flood,
    /// `all`: the same; ringway's ports know no no-flood flag.
    All,
    /// `controller(…)`
    Controller(Controller),
    /// `push_vlan:0x8100`
    PushVlan(u16),
    /// `pop_vlan`, `strip_vlan`: the outer tag, if there is one.
    PopVlan,
    /// `mod_vlan_vid:N`: adds a tag if there is none.
    ModVlanVid(u16),
    /// `mod_vlan_pcp:N`: adds a tag with VLAN 0 if there is none.
    ModVlanPcp(u8),
    /// `mod_dl_src`, `mod_dl_dst`, `mod_nw_src`, `mod_nw_dst`, `mod_nw_tos`,
    /// `mod_nw_ecn`, `mod_nw_ttl`, `mod_tp_src`, `mod_tp_dst`: writes the field
    /// if the packet has it. `mod_tp_*` are of `TcpSrc`/`TcpDst` and write UDP's too.
    Mod(Field, u128),
    /// `set_field:VALUE[/MASK]->FIELD`; also `load` of a whole field or a part.
    SetField {
        /// Where to.
        field: Field,
        /// The value, in its place in the field.
        value: u128,
        /// Which bits of the field.
        mask: u128,
        /// It was written as `load:VALUE->FIELD[..]` and is printed so.
        load: bool,
    },
    /// `move:FROM->TO`; both have the same width.
    Move {
        /// From.
        from: Subfield,
        /// To.
        to: Subfield,
    },
    /// `dec_ttl`, `dec_ttl(id1,id2)`: a packet whose TTL is 0 or 1 goes to the
    /// controllers with these ids (none: id 0) and nowhere else.
    DecTtl(Vec<u16>),
    /// `resubmit(PORT,TABLE)`: looks up once more, as if come in on `port`.
    Resubmit {
        /// `None`: the port stays.
        port: Option<u16>,
        /// `None`: the table in which this rule is.
        table: Option<u8>,
    },
    /// `group:ID`
    Group(u32),
    /// `note:01.02`: does nothing.
    Note(Vec<u8>),
    /// `exit`: ends the pipeline for this packet.
    Exit,
    // Instructions: at most one of each, in this order of execution.
    /// `meter:ID`
    Meter(u32),
    /// `clear_actions`
    ClearActions,
    /// `write_actions(…)`: into the action set.
    WriteActions(Vec<Action>),
    /// `write_metadata:VALUE[/MASK]`
    WriteMetadata {
        /// The value.
        value: u64,
        /// Which bits.
        mask: u64,
    },
    /// `goto_table:N`; `N` is above the rule's table.
    GotoTable(u8),
}

/// Why a packet goes to controllers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Default)]
#[repr(u8)]
pub enum Reason {
    /// `no_match`
    NoMatch = 0,
    /// `action`
    #[default]
    Action = 1,
    /// `invalid_ttl`
    InvalidTtl = 2,
}

/// `controller(reason=…,max_len=…,id=…)`
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Controller {
    /// Why.
    pub reason: Reason,
    /// How many bytes at most.
    pub max_len: u16,
    /// Which controllers.
    pub id: u16,
}

impl Default for Controller {
    fn default() -> Self {
        Self {
            reason: Reason::Action,
            max_len: u16::MAX,
            id: 0,
        }
    }
}

/// How a group chooses buckets.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum GroupType {
    /// Every bucket, each with a copy.
    All,
    /// One bucket, by a hash of the packet's flow and the weights.
    Select,
    /// The one bucket.
    Indirect,
    /// The first live bucket.
    FastFailover,
}

/// A bucket of a group.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Bucket {
    /// `bucket_id`
    pub id: u32,
    /// Share of a select group; 0: never chosen.
    pub weight: u16,
    /// Live while this port can take frames.
    pub watch_port: Option<u16>,
    /// Live while this group has a live bucket.
    pub watch_group: Option<u32>,
    /// What is done.
    pub actions: Vec<Action>,
}

/// A group as it is asked for.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct GroupSpec {
    /// `group_id`
    pub id: u32,
    /// `type=`
    pub kind: GroupType,
    /// `selection_method=hash,fields(…)`: what is hashed. Empty: MAC and IP
    /// addresses, protocol, ports and VLAN, so that both directions of a
    /// conversation have the same hash.
    pub hash_fields: Vec<Field>,
    /// Buckets, in order.
    pub buckets: Vec<Bucket>,
}

/// A meter as it is asked for: packets beyond the rate are dropped.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct MeterSpec {
    /// `meter=`
    pub id: u32,
    /// Count packets (`pktps`) instead of kilobits (`kbps`).
    pub packets: bool,
    /// Packets or kilobits per second.
    pub rate: u32,
    /// Packets or kilobits that may come at once; 0: as much as one second's rate.
    pub burst: u32,
    /// The text said `stats`; kept so that it is printed again.
    pub stats: bool,
    /// The text said `burst`.
    pub has_burst: bool,
}
