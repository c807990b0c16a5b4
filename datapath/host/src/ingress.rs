//! Taking what an interface receives away from the host's own stack.
//!
//! An interface that is a bridge's port belongs to the bridge: if the host's stack
//! saw its frames as well, it would answer ARP and ping for an address left on it,
//! forward, and so speak on the wire beside the switch. Packet sockets, through
//! which we read the interface (and tcpdump looks at it), get each frame before
//! the ingress filters of traffic control. So a filter that drops all is what
//! keeps the stack out: the same as
//!
//! ```text
//! tc qdisc add dev NAME clsact
//! tc filter add dev NAME ingress prio 1 protocol all bpf direct-action skip_hw bytecode '1,6 0 0 2'
//! ```
//!
//! The program is one instruction of classic BPF, `ret #2`: the verdict is
//! TC_ACT_SHOT. It is part of the netlink message, so that neither bpf(2) nor its
//! privileges are needed. It stays out of the hardware (`skip_hw`), where it
//! would drop frames before we see them.
//!
//! The filter is known as ours by its handle, which also tells whether the qdisc
//! under it was made by us; so a new ringwayd finds, keeps and removes what an
//! earlier one did. It is put before all others if the first priority is free,
//! else as near to the front as there is room: an administrator's filters that come before it
//! have their way.

use netlink_packet_core::{DefaultNla, NLM_F_CREATE, NLM_F_EXCL};
use netlink_packet_route::RouteNetlinkMessage;
use netlink_packet_route::tc::{
    TcAttribute, TcBpfFlags, TcFilterBpfOption, TcHandle, TcMessage, TcOption, TcU32OptionFlags,
};

use crate::HostError;
use crate::link::name_of;
use crate::netlink::{self, Failure};

/// "rw" and 1: our filter on a qdisc that was there before.
const ON_THEIRS: u32 = 0x7277_0001;
/// "rw" and 2: our filter on a qdisc that we made.
const ON_OURS: u32 = 0x7277_0002;
const TCA_BPF_OPS_LEN: u16 = 4;
const TCA_BPF_OPS: u16 = 5;
/// One `struct sock_filter`: BPF_RET | BPF_K, no jumps, TC_ACT_SHOT.
const RETURN: u16 = 0x06;
const TC_ACT_SHOT: u32 = 2;

/// The two places of a clsact qdisc that filters hang at.
const INGRESS: TcHandle = TcHandle {
    major: u16::MAX,
    minor: TcHandle::MIN_INGRESS,
};
const EGRESS: TcHandle = TcHandle {
    major: u16::MAX,
    minor: TcHandle::MIN_EGRESS,
};

/// Drops, for the host's stack, all that the interface receives from now on.
/// Packet sockets still see it. Done twice is done once.
///
/// # Errors
///
/// The kernel's, such as a missing cls_bpf; no such interface.
pub fn take(index: u32) -> Result<(), HostError> {
    try_take(index).map_err(|failure| {
        let remedy = match failure.errno() {
            Some(libc::ENOENT | libc::EOPNOTSUPP) => Some(
                "the kernel lacks the clsact qdisc or the bpf filter: `modprobe sch_ingress cls_bpf`, or a kernel with CONFIG_NET_SCH_INGRESS and CONFIG_NET_CLS_BPF"
                    .to_owned(),
            ),
            _ => None,
        };
        failure.about("take what is received by", &name_of(index), remedy)
    })
}

/// Undoes [`take`]. That nothing was taken, or that the interface is gone, is
/// no error.
///
/// # Errors
///
/// The kernel's.
pub fn give_back(index: u32) -> Result<(), HostError> {
    match try_give_back(index) {
        Err(failure) if failure.errno() != Some(libc::ENODEV) => {
            Err(failure.about("give back what is received by", &name_of(index), None))
        }
        _ => Ok(()),
    }
}

/// Whether what the interface receives is taken, by this process or an earlier
/// one. Nothing is of an interface that is gone.
///
/// # Errors
///
/// The kernel's.
pub fn taken(index: u32) -> Result<bool, HostError> {
    filters(index, INGRESS)
        .map(|filters| filters.iter().any(Filter::ours))
        .map_err(|failure| failure.about("list the filters of", &name_of(index), None))
}

fn try_take(index: u32) -> Result<(), Failure> {
    let made = !has_qdisc(index)?;
    if made {
        // The ingress and the clsact qdisc have the same place.
        let message = qdisc(index);
        netlink::route(
            RouteNetlinkMessage::NewQueueDiscipline(message),
            NLM_F_CREATE | NLM_F_EXCL,
        )?;
    }
    let existing = filters(index, INGRESS)?;
    if existing.iter().any(Filter::ours) {
        return Ok(());
    }
    let priority = (1..=u16::MAX)
        .find(|priority| existing.iter().all(|filter| filter.priority != *priority))
        .unwrap_or(u16::MAX);
    let mut message = filter(index, if made { ON_OURS } else { ON_THEIRS }, priority);
    message
        .attributes
        .push(TcAttribute::Options(program().map(TcOption::Bpf).to_vec()));
    let added = netlink::route(
        RouteNetlinkMessage::NewTrafficFilter(message),
        NLM_F_CREATE | NLM_F_EXCL,
    );
    if added.is_err() && made {
        let _ = netlink::route(RouteNetlinkMessage::DelQueueDiscipline(qdisc(index)), 0);
    }
    added.map(drop)
}

fn try_give_back(index: u32) -> Result<(), Failure> {
    if !has_qdisc(index)? {
        return Ok(());
    }
    let mut made = false;
    for ours in filters(index, INGRESS)?.iter().filter(|f| f.ours()) {
        made |= ours.handle == ON_OURS;
        let message = filter(index, ours.handle, ours.priority);
        netlink::route(RouteNetlinkMessage::DelTrafficFilter(message), 0)?;
    }
    if made && filters(index, INGRESS)?.is_empty() && filters(index, EGRESS)?.is_empty() {
        netlink::route(RouteNetlinkMessage::DelQueueDiscipline(qdisc(index)), 0)?;
    }
    Ok(())
}

/// `bytecode '1,6 0 0 2' direct-action skip_hw`.
fn program() -> [TcFilterBpfOption; 4] {
    let mut instruction = Vec::with_capacity(8);
    instruction.extend(RETURN.to_ne_bytes());
    instruction.extend([0, 0]);
    instruction.extend(TC_ACT_SHOT.to_ne_bytes());
    [
        TcFilterBpfOption::Other(DefaultNla::new(
            TCA_BPF_OPS_LEN,
            1_u16.to_ne_bytes().to_vec(),
        )),
        TcFilterBpfOption::Other(DefaultNla::new(TCA_BPF_OPS, instruction)),
        TcFilterBpfOption::Flags(TcBpfFlags::DirectAction),
        TcFilterBpfOption::FlagsGeneric(TcU32OptionFlags::SkipHw),
    ]
}

fn about(index: u32) -> TcMessage {
    TcMessage::with_index(i32::try_from(index).unwrap_or(i32::MAX))
}

fn qdisc(index: u32) -> TcMessage {
    let mut message = about(index);
    message.header.parent = TcHandle::CLSACT;
    message.header.handle = TcHandle {
        major: u16::MAX,
        minor: 0,
    };
    message
        .attributes
        .push(TcAttribute::Kind("clsact".to_owned()));
    message
}

fn filter(index: u32, handle: u32, priority: u16) -> TcMessage {
    let mut message = about(index);
    message.header.parent = INGRESS;
    message.header.handle = handle.into();
    let all = u16::try_from(libc::ETH_P_ALL).unwrap_or_default();
    message.header.info = u32::from(priority) << 16 | u32::from(all.to_be());
    message.attributes.push(TcAttribute::Kind("bpf".to_owned()));
    message
}

fn has_qdisc(index: u32) -> Result<bool, Failure> {
    let answers = netlink::list(&RouteNetlinkMessage::GetQueueDiscipline(about(index)))?;
    Ok(answers.iter().any(|answer| {
        matches!(answer, RouteNetlinkMessage::NewQueueDiscipline(message)
            if i64::from(message.header.index) == i64::from(index)
                && message.header.parent == TcHandle::CLSACT)
    }))
}

struct Filter {
    kind: String,
    handle: u32,
    priority: u16,
}

impl Filter {
    fn ours(&self) -> bool {
        self.kind == "bpf" && matches!(self.handle, ON_THEIRS | ON_OURS)
    }
}

/// The filters at one place of the interface's qdisc. The kernel also lists each
/// priority by itself, with a handle of 0; such entries hold their priority.
fn filters(index: u32, place: TcHandle) -> Result<Vec<Filter>, Failure> {
    let mut request = about(index);
    request.header.parent = place;
    let answers = match netlink::list(&RouteNetlinkMessage::GetTrafficFilter(request)) {
        // There is no qdisc.
        Err(failure) if matches!(failure.errno(), Some(libc::EINVAL | libc::ENOENT)) => {
            return Ok(Vec::new());
        }
        answers => answers?,
    };
    Ok(answers
        .iter()
        .filter_map(|answer| match answer {
            RouteNetlinkMessage::NewTrafficFilter(message) => Some(Filter {
                kind: message
                    .attributes
                    .iter()
                    .find_map(|attribute| match attribute {
                        TcAttribute::Kind(kind) => Some(kind.clone()),
                        _ => None,
                    })
                    .unwrap_or_default(),
                handle: message.header.handle.into(),
                priority: u16::try_from(message.header.info >> 16).unwrap_or(u16::MAX),
            }),
            _ => None,
        })
        .collect())
}
