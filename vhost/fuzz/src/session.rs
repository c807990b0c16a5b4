//! A whole session: messages in any order, of any size, with any descriptors,
//! sent again, cut off at any byte; with a dirty log, or what is none. The port
//! ends the session at worst; no descriptor, mapping or thread stays, and the next
//! frontend is served.

use std::fs::File;
use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::os::unix::fs::FileExt;
use std::os::unix::net::UnixStream;
use std::sync::{Arc, Mutex, OnceLock};

use arbitrary::{Arbitrary, Result, Unstructured};
use ringway_frontend::features;
use ringway_frontend::raw::{NEED_REPLY, RawMessage, VERSION};
use ringway_vhost::{Burst, DeviceRings, LOG_PAGE, RingPublisher};
use vhost::vhost_user::message::FrontendReq;

use super::machine::{
    self, GPA, Port, REGION, USER, answer, open_descriptors, send, some_descriptor, until,
};

/// Most messages of a session.
const MOST: usize = 40;

/// A core that works on whatever it is given, as long as it has it.
#[derive(Default)]
struct Core(Mutex<Box<Burst>>);

impl RingPublisher for Core {
    fn publish(&self, rings: Arc<DeviceRings>) {
        let mut burst = self.0.lock().expect("no panic");
        for from in &rings.pairs {
            let Some(ring) = &from.dequeue else { continue };
            ring.dequeue(&mut burst, |packets| {
                let list: Vec<u8> = (0..packets.len() as u8).collect();
                for to in &rings.pairs {
                    if let Some(ring) = &to.enqueue {
                        ring.enqueue(packets, &list);
                    }
                }
            });
        }
    }

    fn announce(&self, _mac: [u8; 6]) {}
}

struct World {
    port: Port,
    sessions: u64,
    descriptors: usize,
}

fn world() -> &'static Mutex<World> {
    static WORLD: OnceLock<Mutex<World>> = OnceLock::new();
    WORLD.get_or_init(|| {
        let port = Port::new(Arc::new(Core::default()));
        Mutex::new(World {
            port,
            sessions: 0,
            descriptors: 0,
        })
    })
}

/// The bytes are a session; see [`messages`].
pub fn law(data: &[u8]) {
    let Ok((messages, cut)) = messages(&mut Unstructured::new(data)) else {
        return;
    };
    let mut world = world().lock().expect("no panic");
    session(&world.port.connect(), &messages, cut);
    drop(messages);
    world.sessions += 1;
    world.port.wait_free(world.sessions);
    // What the fuzzer opens for itself is open after the first.
    let before = match world.descriptors {
        0 => settled(),
        before => before,
    };
    world.descriptors = before;
    let flat = || open_descriptors() <= before;
    until(flat, || {
        format!("{} descriptors, {before} before", open_descriptors())
    });
    if world.sessions.is_multiple_of(64) {
        world.sessions += 1;
        served(&world.port, world.sessions);
    }
}

/// The number of descriptors once it stays what it is.
fn settled() -> usize {
    let mut last = open_descriptors();
    loop {
        std::thread::sleep(std::time::Duration::from_millis(50));
        match open_descriptors() {
            same if same == last => return same,
            other => last = other,
        }
    }
}

/// An honest frontend is served.
fn served(port: &Port, connections: u64) {
    let mut stream = port.connect();
    let question = RawMessage::new(FrontendReq::GET_FEATURES, Vec::new());
    assert!(send(&stream, &question.to_bytes(), &[]));
    let features = answer(&mut stream).expect("features");
    assert_eq!(features.len(), 8);
    drop(stream);
    port.wait_free(connections);
}

fn session(stream: &UnixStream, messages: &[Message], cut: Option<usize>) {
    // What is answered is read by nobody: at some point the port cannot write.
    let mut left = cut.unwrap_or(usize::MAX);
    for message in messages {
        let bytes = message.message.to_bytes();
        let fds: Vec<RawFd> = message.fds.iter().map(AsRawFd::as_raw_fd).collect();
        let part = &bytes[..bytes.len().min(left)];
        if part.is_empty() || !send(stream, part, &fds) {
            return;
        }
        left -= part.len();
        if part.len() < bytes.len() {
            return;
        }
    }
}

struct Message {
    message: RawMessage,
    fds: Vec<OwnedFd>,
}

/// Mostly a session that gets somewhere, with what is wrong in between.
fn messages(input: &mut Unstructured<'_>) -> Result<(Vec<Message>, Option<usize>)> {
    let mut messages = Vec::new();
    if input.ratio(7, 8)? {
        messages.extend(beginning(input)?);
    }
    while !input.is_empty() && messages.len() < MOST {
        messages.push(message(input)?);
    }
    let cut = match input.ratio(1, 4)? {
        true => {
            let bytes = messages
                .iter()
                .map(|message| message.message.to_bytes().len())
                .sum();
            Some(input.int_in_range(0..=bytes)?)
        }
        false => None,
    };
    Ok((messages, cut))
}

fn plain(message: RawMessage) -> Message {
    let fds = Vec::new();
    Message { message, fds }
}

/// What an honest frontend begins with.
fn beginning(input: &mut Unstructured<'_>) -> Result<Vec<Message>> {
    let mut acked = features::PROTOCOL_FEATURES | features::VERSION_1;
    let some: u8 = input.arbitrary()?;
    let may = [
        features::EVENT_IDX,
        features::INDIRECT_DESC,
        features::MRG_RXBUF,
        features::RING_PACKED,
        features::IN_ORDER,
        features::LOG_ALL,
        features::MQ,
        features::CSUM | features::HOST_TSO4,
    ];
    for (bit, feature) in may.into_iter().enumerate() {
        if some >> bit & 1 == 1 {
            acked |= feature;
        }
    }
    // What the port offers, with the log; REPLY_ACK only; more than there is.
    let offered = ringway_vhost::features::offered_protocol().bits();
    let protocol = match input.int_in_range(0..=15_u8)? {
        0 => input.arbitrary()?,
        1..=3 => 1 << 3,
        _ => offered,
    };
    let logs = acked & features::LOG_ALL != 0 && protocol == offered;
    let regions = [(GPA, REGION, USER, 0)];
    let mut messages = vec![
        plain(RawMessage::new(FrontendReq::GET_FEATURES, Vec::new())),
        plain(RawMessage::with_u64(FrontendReq::SET_FEATURES, acked)),
        plain(RawMessage::new(
            FrontendReq::GET_PROTOCOL_FEATURES,
            Vec::new(),
        )),
        plain(RawMessage::with_u64(
            FrontendReq::SET_PROTOCOL_FEATURES,
            protocol,
        )),
        Message {
            message: RawMessage::mem_table(1, &regions),
            fds: vec![guest_memory(input)?.into()],
        },
    ];
    if logs {
        messages.push(set_log_base(input)?);
    }
    for index in 0..2 {
        let at = USER + 0x1000 * u64::from(index);
        messages.push(plain(RawMessage::vring_state(
            FrontendReq::SET_VRING_NUM,
            index,
            16,
        )));
        messages.push(plain(RawMessage::vring_addr(
            index,
            logs.into(),
            at,
            at + 0x400,
            at + 0x800,
            at + 0x400 - USER + GPA,
        )));
        messages.push(Message {
            message: RawMessage::with_u64(FrontendReq::SET_VRING_KICK, index.into()),
            fds: vec![some_descriptor(0)],
        });
        messages.push(plain(RawMessage::vring_state(
            FrontendReq::SET_VRING_ENABLE,
            index,
            1,
        )));
    }
    let upto = input.int_in_range(0..=messages.len())?;
    messages.truncate(upto);
    Ok(messages)
}

/// Memory in which both of the beginning's rings have something to do, whichever
/// layout they get: a split ring takes a packed one's flags for the next
/// descriptor, which is not asked for.
fn guest_memory(input: &mut Unstructured<'_>) -> Result<File> {
    let memory = machine::memory(REGION);
    for (ring, write) in [(0, 2_u16), (0x1000, 0)] {
        let mut descriptors = Vec::new();
        for at in 0..input.int_in_range(0..=16_u64)? {
            descriptors.extend((GPA + 0x4000 + 0x400 * at + 0x4000 * (ring >> 12)).to_le_bytes());
            descriptors.extend(u32::from(input.arbitrary::<u16>()? % 0x600).to_le_bytes());
            descriptors.extend(write.to_le_bytes());
            descriptors.extend((1 << 7 | write).to_le_bytes());
        }
        let available = [0, descriptors.len() as u16 / 16].into_iter().chain(0..16);
        let available: Vec<u8> = available.flat_map(u16::to_le_bytes).collect();
        memory.write_all_at(&descriptors, ring).expect("memory");
        memory
            .write_all_at(&available, ring + 0x800)
            .expect("memory");
    }
    Ok(memory)
}

/// A region more or less, of four that may be there.
fn memory_slot(input: &mut Unstructured<'_>) -> Result<Message> {
    let place = REGION * input.int_in_range(0..=3)?;
    let mut region = [0, GPA + place, REGION, USER + place, 0];
    if input.ratio(1, 4)? {
        region[input.int_in_range(1..=4_usize)?] = number(input)?;
    }
    let adds = input.ratio(2, 3)?;
    let request = match adds {
        true => FrontendReq::ADD_MEM_REG,
        false => FrontendReq::REM_MEM_REG,
    };
    let mut fds = Vec::new();
    if adds {
        fds.push(match input.ratio(1, 8)? {
            true => some_descriptor(input.arbitrary()?),
            false => machine::memory(REGION).into(),
        });
    }
    let message = RawMessage::new(request, region.map(u64::to_le_bytes).concat());
    Ok(Message { message, fds })
}

/// A dirty log: mostly one for all of the guest's memory, which cannot shrink.
fn set_log_base(input: &mut Unstructured<'_>) -> Result<Message> {
    let needed = (GPA + REGION) / LOG_PAGE / 8;
    let (bytes, offset, file) = match input.int_in_range(0..=7_u8)? {
        0 => (number(input)?, number(input)?, needed),
        1 => (needed, number(input)?, 2 * needed),
        2 => (needed - 1, 0, needed),
        3 => (needed, 0, needed - 1),
        _ => (needed, 0, needed),
    };
    let body = [bytes, offset].map(u64::to_le_bytes).concat();
    let log = match input.ratio(1, 8)? {
        true => some_descriptor(input.arbitrary()?),
        false => machine::log(file).into(),
    };
    Ok(Message {
        message: RawMessage::new(FrontendReq::SET_LOG_BASE, body),
        fds: vec![log],
    })
}

/// A number at an edge, or any.
fn number(input: &mut Unstructured<'_>) -> Result<u64> {
    Ok(match input.int_in_range(0..=9_u8)? {
        0 => 0,
        1 => 1,
        2 => GPA,
        3 => USER,
        4 => REGION,
        5 => USER + u64::from(u16::arbitrary(input)?),
        6 => u64::MAX - u64::from(u8::arbitrary(input)?),
        7 => 0x1_0000,
        8 => u64::from(u8::arbitrary(input)?),
        _ => input.arbitrary()?,
    })
}

fn message(input: &mut Unstructured<'_>) -> Result<Message> {
    if input.ratio(1, 16)? {
        return set_log_base(input);
    }
    let index = u32::from(u8::arbitrary(input)?) % 6;
    let request = input.int_in_range(0..=45_u32)?;
    let mut message = match input.int_in_range(0..=7_u8)? {
        0 => {
            let count = input.int_in_range(0..=9)?;
            let mut regions = Vec::new();
            for _ in 0..count {
                regions.push((
                    number(input)?,
                    number(input)?,
                    number(input)?,
                    number(input)?,
                ));
            }
            RawMessage::mem_table(number(input)? as u32 % 12, &regions)
        }
        1 => RawMessage::vring_addr(
            index,
            input.arbitrary::<u8>()?.into(),
            number(input)?,
            number(input)?,
            number(input)?,
            number(input)?,
        ),
        2 => RawMessage::numbered(
            request,
            [index, number(input)? as u32]
                .map(u32::to_le_bytes)
                .concat(),
        ),
        3 => RawMessage::numbered(request, Vec::new()),
        // A region, a log, in-flight memory: words of 8 bytes.
        4 | 5 => {
            let words = input.int_in_range(0..=6)?;
            let mut body = Vec::new();
            for _ in 0..words {
                body.extend(number(input)?.to_le_bytes());
            }
            RawMessage::numbered(request, body)
        }
        6 if index >= 4 => return memory_slot(input),
        6 if index == 3 => {
            let message = RawMessage::with_u64(FrontendReq::SET_VRING_CALL, request.into());
            let fds = vec![some_descriptor(input.ratio(1, 8)?.into())];
            return Ok(Message { message, fds });
        }
        6 => RawMessage::with_u64(FrontendReq::SET_VRING_KICK, number(input)?),
        _ => {
            let length = input.int_in_range(0..=80_usize)?;
            let length = length.min(input.len());
            let body = input.bytes(length)?.to_vec();
            RawMessage::numbered(input.arbitrary()?, body)
        }
    };
    message.flags = match input.int_in_range(0..=7_u8)? {
        0 => input.arbitrary()?,
        1 | 2 => VERSION | NEED_REPLY,
        _ => VERSION,
    };
    if input.ratio(1, 16)? {
        message.claimed_size = Some(number(input)? as u32);
    }
    let count = match input.int_in_range(0..=9_u8)? {
        0..=5 => 0,
        6..=7 => 1,
        8 => 2,
        _ => input.int_in_range(0..=10)?,
    };
    let mut fds = Vec::new();
    for _ in 0..count {
        fds.push(some_descriptor(input.arbitrary()?));
    }
    Ok(Message { message, fds })
}
