//! One request to the kernel by netlink, and its answers.
//!
//! A socket for each request: it belongs to the network namespace of the thread
//! that asks, nothing of an earlier request can be left in it, and what is asked
//! here is asked a few times a second at most.

use std::io;

use netlink_packet_core::{
    NLM_F_ACK, NLM_F_DUMP, NLM_F_DUMP_INTR, NLM_F_REQUEST, NetlinkBuffer, NetlinkDeserializable,
    NetlinkHeader, NetlinkMessage, NetlinkPayload, NetlinkSerializable, NlasIterator, parse_string,
};
use netlink_packet_route::RouteNetlinkMessage;
use netlink_sys::{Socket, SocketAddr, protocols};

use crate::HostError;

/// A list that changes while the kernel writes it is asked for again, so often.
const DUMP_ATTEMPTS: usize = 16;
/// The kernel's own words in an answer (NLMSGERR_ATTR_MSG).
const WORDS: u16 = 1;
/// They follow the error number and the head of the request.
const REQUEST_HEAD: usize = 16;

/// Why a request was not granted.
#[derive(Debug)]
pub enum Failure {
    /// The kernel said no, in some cases with words of its own.
    Refused(io::Error, Option<String>),
    /// The socket failed, or the answer could not be read.
    Broken(io::Error),
}

impl From<io::Error> for Failure {
    fn from(error: io::Error) -> Self {
        Self::Broken(error)
    }
}

impl Failure {
    /// The kernel's error number, if it was the kernel that said no.
    pub fn errno(&self) -> Option<i32> {
        match self {
            Self::Refused(error, _) => error.raw_os_error(),
            Self::Broken(_) => None,
        }
    }

    /// The error of a request that was about one interface.
    pub fn about(self, what: &str, interface: &str, remedy: Option<String>) -> HostError {
        match self {
            Self::Refused(source, words) => {
                HostError::refused(what, interface, source, words, remedy)
            }
            Self::Broken(source) => HostError::Netlink {
                what: format!("{what} {interface}"),
                source,
            },
        }
    }
}

/// Asks rtnetlink for one thing, or tells it to do one.
///
/// # Errors
///
/// As [`Failure`] says.
pub fn route(
    message: RouteNetlinkMessage,
    flags: u16,
) -> Result<Vec<RouteNetlinkMessage>, Failure> {
    ask(protocols::NETLINK_ROUTE, message, NLM_F_ACK | flags)
}

/// Asks rtnetlink for a list.
///
/// # Errors
///
/// As [`Failure`] says.
pub fn list(message: &RouteNetlinkMessage) -> Result<Vec<RouteNetlinkMessage>, Failure> {
    let mut last = Failure::Broken(io::ErrorKind::Interrupted.into());
    for _ in 0..DUMP_ATTEMPTS {
        match ask(protocols::NETLINK_ROUTE, message.clone(), NLM_F_DUMP) {
            Err(Failure::Broken(error)) if error.kind() == io::ErrorKind::Interrupted => {
                last = Failure::Broken(error);
            }
            done => return done,
        }
    }
    Err(last)
}

/// Sends one request and collects the answers up to its end.
///
/// # Errors
///
/// As [`Failure`] says.
pub fn ask<I>(protocol: isize, message: I, flags: u16) -> Result<Vec<I>, Failure>
where
    I: NetlinkSerializable + NetlinkDeserializable,
{
    let mut socket = Socket::new(protocol)?;
    socket.bind_auto()?;
    socket.connect(&SocketAddr::new(0, 0))?;
    // Both only make errors and lists better to read; kernels before 4.20 lack them.
    let _ = socket.set_ext_ack(true);
    let _ = socket.set_cap_ack(true);
    let _ = socket.set_netlink_get_strict_chk(true);

    let mut header = NetlinkHeader::default();
    header.flags = NLM_F_REQUEST | flags;
    header.sequence_number = 1;
    let mut request = NetlinkMessage::new(header, NetlinkPayload::InnerMessage(message));
    request.finalize();
    let mut bytes = vec![0; request.buffer_len()];
    request.serialize(&mut bytes);
    socket.send(&bytes, 0)?;

    let mut answers = Vec::new();
    let mut changed = false;
    loop {
        let datagram = match socket.recv_from_full() {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            received => received?.0,
        };
        if collect(&datagram, &mut answers, &mut changed)? {
            break;
        }
    }
    if changed {
        return Err(Failure::Broken(io::Error::new(
            io::ErrorKind::Interrupted,
            "the list changed each time while it was read",
        )));
    }
    Ok(answers)
}

/// Takes a datagram's messages; true after the last one.
fn collect<I>(datagram: &[u8], answers: &mut Vec<I>, changed: &mut bool) -> Result<bool, Failure>
where
    I: NetlinkDeserializable,
{
    let mut rest = datagram;
    while !rest.is_empty() {
        let buffer = NetlinkBuffer::new_checked(rest).map_err(unreadable)?;
        let length = usize::try_from(buffer.length()).unwrap_or(usize::MAX);
        *changed |= buffer.flags() & NLM_F_DUMP_INTR != 0;
        let message = NetlinkMessage::<I>::deserialize(rest).map_err(unreadable)?;
        match message.payload {
            NetlinkPayload::InnerMessage(answer) => answers.push(answer),
            NetlinkPayload::Error(answer) => {
                return match answer.code {
                    None => Ok(true),
                    Some(_) => Err(Failure::Refused(answer.to_io(), words(&answer.header))),
                };
            }
            NetlinkPayload::Done(done) if done.code < 0 => {
                return Err(Failure::Refused(
                    io::Error::from_raw_os_error(-done.code),
                    None,
                ));
            }
            NetlinkPayload::Done(_) => return Ok(true),
            _ => {}
        }
        // Messages begin at multiples of four bytes.
        rest = rest.get(length.next_multiple_of(4)..).unwrap_or_default();
    }
    Ok(false)
}

/// The kernel's own words about a refused request, if it has any.
fn words(answer: &[u8]) -> Option<String> {
    NlasIterator::new(answer.get(REQUEST_HEAD..)?)
        .filter_map(Result::ok)
        .find(|attribute| attribute.kind() == WORDS)
        .and_then(|attribute| parse_string(attribute.value()).ok())
}

fn unreadable(error: impl ToString) -> Failure {
    Failure::Broken(io::Error::new(
        io::ErrorKind::InvalidData,
        error.to_string(),
    ))
}
