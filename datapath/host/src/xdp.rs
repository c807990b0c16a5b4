//! What an interface's driver can do with XDP, by the kernel's `netdev` family of
//! generic netlink (Documentation/netlink/specs/netdev.yaml; since 6.3).

use netlink_packet_core::{
    DecodeError, DefaultNla, Emitable, Nla, NlasIterator, ParseableParametrized, parse_u64,
};
use netlink_packet_core::{NLM_F_ACK, Parseable};
use netlink_packet_generic::ctrl::nlas::GenlCtrlAttrs;
use netlink_packet_generic::ctrl::{GenlCtrl, GenlCtrlCmd};
use netlink_packet_generic::{GenlFamily, GenlHeader, GenlMessage};
use netlink_sys::protocols::NETLINK_GENERIC;

use crate::HostError;
use crate::link::name_of;
use crate::netlink::{self, Failure};

const FAMILY: &str = "netdev";
const CMD_DEV_GET: u8 = 1;
const A_DEV_IFINDEX: u16 = 1;
const A_DEV_XDP_FEATURES: u16 = 3;
/// NETDEV_XDP_ACT_XSK_ZEROCOPY.
const ZERO_COPY: u64 = 8;

/// CAP_SYS_ADMIN, as a bit of a capability set.
const SYS_ADMIN: u64 = 1 << 21;

/// The calling thread may use AF_XDP by way of DPDK's driver: its library asks the
/// kernel for programs by number, which takes CAP_SYS_ADMIN.
pub fn permitted() -> bool {
    let status = std::fs::read_to_string("/proc/thread-self/status").unwrap_or_default();
    let effective = status.lines().find_map(|line| line.strip_prefix("CapEff:"));
    let effective = effective.and_then(|set| u64::from_str_radix(set.trim(), 16).ok());
    effective.is_some_and(|set| set & SYS_ADMIN != 0)
}

/// The driver moves frames between its queues and AF_XDP sockets without copying
/// them. False where the kernel is too old to tell.
///
/// # Errors
///
/// As the kernel refuses to tell; no such interface.
pub fn zero_copy(index: u32) -> Result<bool, HostError> {
    features(index)
        .map(|features| features & ZERO_COPY != 0)
        .map_err(|failure| failure.about("ask for the XDP features of", &name_of(index), None))
}

/// The bits of `enum netdev_xdp_act`; none if there is no such family.
fn features(index: u32) -> Result<u64, Failure> {
    let Some(family) = family()? else {
        return Ok(0);
    };
    let mut message = GenlMessage::from_payload(Device {
        attributes: vec![DefaultNla::new(A_DEV_IFINDEX, index.to_ne_bytes().to_vec())],
    });
    message.set_resolved_family_id(family);
    let answers = netlink::ask(NETLINK_GENERIC, message, NLM_F_ACK)?;
    Ok(answers
        .iter()
        .flat_map(|answer| &answer.payload.attributes)
        .find(|attribute| attribute.kind() == A_DEV_XDP_FEATURES)
        .and_then(|attribute| {
            let mut bytes = vec![0; attribute.value_len()];
            attribute.emit_value(&mut bytes);
            parse_u64(&bytes).ok()
        })
        .unwrap_or_default())
}

/// The number that the kernel gave the family.
fn family() -> Result<Option<u16>, Failure> {
    let request = GenlMessage::from_payload(GenlCtrl {
        cmd: GenlCtrlCmd::GetFamily,
        nlas: vec![GenlCtrlAttrs::FamilyName(FAMILY.to_owned())],
    });
    match netlink::ask(NETLINK_GENERIC, request, NLM_F_ACK) {
        Err(failure) if failure.errno() == Some(libc::ENOENT) => Ok(None),
        answers => Ok(answers?
            .iter()
            .flat_map(|answer| &answer.payload.nlas)
            .find_map(|attribute| match attribute {
                GenlCtrlAttrs::FamilyId(id) => Some(*id),
                _ => None,
            })),
    }
}

/// A message of the family about one device.
#[derive(Debug, Clone)]
struct Device {
    attributes: Vec<DefaultNla>,
}

impl GenlFamily for Device {
    fn family_name() -> &'static str {
        FAMILY
    }

    fn command(&self) -> u8 {
        CMD_DEV_GET
    }

    fn version(&self) -> u8 {
        1
    }
}

impl Emitable for Device {
    fn buffer_len(&self) -> usize {
        self.attributes.as_slice().buffer_len()
    }

    fn emit(&self, buffer: &mut [u8]) {
        self.attributes.as_slice().emit(buffer);
    }
}

impl ParseableParametrized<[u8], GenlHeader> for Device {
    fn parse_with_param(buffer: &[u8], _: GenlHeader) -> Result<Self, DecodeError> {
        let attributes = NlasIterator::new(buffer)
            .map(|attribute| attribute.and_then(|attribute| DefaultNla::parse(&attribute)))
            .collect::<Result<_, _>>()?;
        Ok(Self { attributes })
    }
}
