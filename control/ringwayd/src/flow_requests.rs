//! The longer requests about flows: files that come in pieces, traces, packets
//! for controllers.

use std::sync::Arc;
use std::time::{Duration, Instant};

use ringway_proto::v1 as pb;
use tokio::sync::broadcast::{self, error::RecvError};
use tokio::sync::mpsc;
use tonic::{Status, Streaming};

use crate::control::{Asked, ChangeError, Control, Modified, Side};
use crate::flow_report;
use crate::flow_text;
use crate::packet_ins::Event;
use crate::packet_out;
use crate::service::datapath_status;
use crate::stop::Stopping;
use crate::switch::Switch;

/// Most bytes of a request, over all its pieces.
const MAX_REQUEST: usize = 256 << 20;
/// Longest between two pieces.
const PIECE_WITHIN: Duration = Duration::from_secs(60);
/// How long `TraceNext` waits if that is not said.
const DEFAULT_TRACE_WAIT: Duration = Duration::from_secs(10);
/// Longest that it waits.
const MAX_TRACE_WAIT: Duration = Duration::from_secs(3600);
/// How long the names of ports are taken for known while packets are told.
const NAMES_AGE: Duration = Duration::from_millis(200);
/// How long it waits before it looks whether the daemon stops.
const TRACE_STEP: Duration = Duration::from_millis(500);

/// The pieces of a request that is sent in several, bounded in sum and in time.
struct Pieces<T> {
    stream: Streaming<T>,
    bytes: usize,
}

impl<T: prost::Message> Pieces<T> {
    fn new(stream: Streaming<T>) -> Self {
        Self { stream, bytes: 0 }
    }

    async fn next(&mut self) -> Result<Option<T>, Status> {
        let next = tokio::time::timeout(PIECE_WITHIN, self.stream.message()).await;
        let piece = next.map_err(|_| {
            let seconds = PIECE_WITHIN.as_secs();
            Status::deadline_exceeded(format!("the next piece did not come within {seconds} s"))
        })??;
        self.bytes += piece.as_ref().map_or(0, prost::Message::encoded_len);
        if self.bytes > MAX_REQUEST {
            let why = format!("the request is longer than {MAX_REQUEST} bytes; send it in parts");
            return Err(Status::resource_exhausted(why));
        }
        Ok(piece)
    }
}

/// Takes the bridge's name from the first message and refuses another later.
fn name_bridge(known: &mut String, named: String, first: bool) -> Result<(), Status> {
    match first {
        true => *known = named,
        false if named.is_empty() || named == *known => {}
        false => {
            let why = format!("one request is about one bridge: {known}, and then {named}");
            return Err(Status::invalid_argument(why));
        }
    }
    Ok(())
}

/// The bridge and the changes of a `ModifyFlows`.
pub async fn modify(pieces: Streaming<pb::ModifyFlowsRequest>) -> Result<(String, Asked), Status> {
    let mut pieces = Pieces::new(pieces);
    let (mut bridge, mut changes, mut file) = (String::new(), Vec::new(), String::new());
    let mut kind = None;
    while let Some(mut piece) = pieces.next().await? {
        let first = kind.is_none();
        name_bridge(&mut bridge, std::mem::take(&mut piece.bridge), first)?;
        if first {
            let known = pb::FlowFileKind::try_from(piece.file_kind).map_err(|_| {
                let number = piece.file_kind;
                Status::invalid_argument(format!("flow file kind number {number} is not known"))
            })?;
            kind = Some(known);
        }
        changes.append(&mut piece.changes);
        file.push_str(&piece.file);
    }
    let asked = match kind.unwrap_or_default() {
        pb::FlowFileKind::Unspecified if file.is_empty() => Asked::Changes(changes),
        pb::FlowFileKind::Unspecified => {
            return Err(Status::invalid_argument("the file's kind is not said"));
        }
        _ if !changes.is_empty() => {
            let why = "a request has either changes or a file, not both";
            return Err(Status::invalid_argument(why));
        }
        kind => Asked::File(kind, file),
    };
    Ok((bridge, asked))
}

/// The bridge and the file of a `ReplaceFlows`.
pub async fn replace(
    pieces: Streaming<pb::ReplaceFlowsRequest>,
) -> Result<(String, String), Status> {
    let mut pieces = Pieces::new(pieces);
    let (mut bridge, mut file, mut first) = (String::new(), String::new(), true);
    while let Some(piece) = pieces.next().await? {
        name_bridge(&mut bridge, piece.bridge, first)?;
        file.push_str(&piece.file);
        first = false;
    }
    Ok((bridge, file))
}

/// The sides of a `DiffFlows`.
pub async fn diff(pieces: Streaming<pb::DiffFlowsRequest>) -> Result<(Side, Side), Status> {
    let mut pieces = Pieces::new(pieces);
    let (mut one, mut other) = (String::new(), String::new());
    let (mut one_file, mut other_file) = (String::new(), String::new());
    let mut first = true;
    while let Some(piece) = pieces.next().await? {
        name_bridge(&mut one, piece.first_bridge, first)?;
        name_bridge(&mut other, piece.second_bridge, first)?;
        one_file.push_str(&piece.first_file);
        other_file.push_str(&piece.second_file);
        first = false;
    }
    let side = |bridge: String, file: String| match (bridge.is_empty(), file.is_empty()) {
        (true, _) => Ok(Side::File(file)),
        (false, true) => Ok(Side::Bridge(bridge)),
        (false, false) => {
            let why = format!("a side is either bridge {bridge} or a file, not both");
            Err(Status::invalid_argument(why))
        }
    };
    Ok((side(one, one_file)?, side(other, other_file)?))
}

/// What a change did, as it is answered.
pub fn modified(modified: Modified) -> pb::ModifyFlowsResponse {
    let Modified { changed, warnings } = modified;
    pb::ModifyFlowsResponse {
        added: changed.added,
        modified: changed.modified,
        deleted: changed.deleted,
        warnings,
    }
}

/// `Trace`
pub fn trace<S: Switch>(
    control: &Control<S>,
    request: &pb::TraceRequest,
) -> Result<pb::TraceResponse, Status> {
    let names = control.names_of(&request.bridge)?;
    let packet = flow_text::read_packet(&request.flow, &names).map_err(ChangeError::from)?;
    let frame = Some(request.frame.as_slice()).filter(|frame| !frame.is_empty());
    if let Some(frame) = frame {
        packet_out::check_frame(frame).map_err(Status::invalid_argument)?;
    }
    let switch = control.switch();
    let text = switch.trace(&request.bridge, &packet, frame, request.generate);
    let text = text.map_err(datapath_status)?;
    Ok(pb::TraceResponse { text })
}

/// `TraceNext`: waits in steps, so that the daemon can stop in between and
/// nobody waits for a caller who went away.
pub async fn trace_next<S: Switch>(
    control: Arc<Control<S>>,
    mut stopping: Stopping,
    request: pb::TraceNextRequest,
) -> Result<pb::TraceResponse, Status> {
    let pb::TraceNextRequest {
        port,
        r#match,
        timeout_ms,
    } = request;
    let wait = timeout_ms.map_or(DEFAULT_TRACE_WAIT, |ms| Duration::from_millis(ms.into()));
    if wait > MAX_TRACE_WAIT {
        let most = MAX_TRACE_WAIT.as_millis();
        let why = format!("timeout_ms is at most {most}");
        return Err(Status::invalid_argument(why));
    }
    let names = control.names_of_port(&port)?;
    let matching = flow_text::read_match(&r#match, &names).map_err(ChangeError::from)?;
    let end = Instant::now() + wait;
    loop {
        let step = end
            .saturating_duration_since(Instant::now())
            .min(TRACE_STEP);
        let (asked, from) = (Arc::clone(&control), port.clone());
        let seen = tokio::task::spawn_blocking(move || {
            let next = asked.switch().trace_next(&from, &matching, step);
            next.map_err(datapath_status)
        });
        let seen = tokio::select! {
            () = stopping.wait() => return Err(Status::unavailable("ringwayd is stopping")),
            seen = seen => seen,
        };
        let seen =
            seen.map_err(|error| Status::internal(format!("the request broke off: {error}")))?;
        if let Some(text) = seen? {
            return Ok(pb::TraceResponse { text });
        }
        if Instant::now() >= end {
            let which = match r#match.is_empty() {
                true => "packet".to_owned(),
                false => format!("packet that {} fits", r#match),
            };
            let seconds = wait.as_secs_f64();
            let why = format!("no {which} came from port {port} within {seconds} s");
            return Err(Status::deadline_exceeded(why));
        }
    }
}

/// `PacketIns`: tells packets until the reader goes away or the daemon stops.
pub async fn tell_packet_ins<S: Switch>(
    control: Arc<Control<S>>,
    mut stopping: Stopping,
    request: pb::PacketInsRequest,
    mut events: broadcast::Receiver<Event>,
    sender: mpsc::Sender<Result<pb::PacketInsResponse, Status>>,
) {
    let wanted = |bridge: &str| request.bridge.is_empty() || request.bridge == bridge;
    // Packets may be many, and ports change seldom.
    let mut names = (Instant::now(), control.port_names(None));
    loop {
        let event = tokio::select! {
            () = stopping.wait() => {
                let _ = sender.send(Err(Status::unavailable("ringwayd is stopping"))).await;
                return;
            }
            () = sender.closed() => return,
            event = events.recv() => event,
        };
        let told = match event {
            Ok(Event::Packet(packet)) if wanted(&packet.bridge) => {
                if names.0.elapsed() > NAMES_AGE {
                    names = (Instant::now(), control.port_names(None));
                }
                pb::PacketInsResponse {
                    lost: 0,
                    packet: Some(flow_report::packet_in(&packet, &names.1)),
                }
            }
            Ok(Event::Packet(_)) => continue,
            Ok(Event::Lost(lost)) | Err(RecvError::Lagged(lost)) => {
                pb::PacketInsResponse { lost, packet: None }
            }
            Err(RecvError::Closed) => return,
        };
        if sender.send(Ok(told)).await.is_err() {
            return;
        }
    }
}
