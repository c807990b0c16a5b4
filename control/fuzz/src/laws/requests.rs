//! Any requests, as bytes on the wire: each is answered, with a status that says
//! whose mistake it is, and none that the daemon broke.

use prost::Message;
use ringway_proto::v1 as pb;
use tonic::{Code, Request, Status};

use super::world::world;
use crate::daemon::Daemon;

/// Most requests of an input.
const MOST: usize = 12;

/// A list of: which request, two bytes of length, the message.
pub fn law(data: &[u8]) {
    let world = world();
    world.begin();
    let mut rest = data;
    for _ in 0..MOST {
        let [which, low, high, tail @ ..] = rest else {
            break;
        };
        let length = usize::from(u16::from_le_bytes([*low, *high])).min(tail.len());
        let (message, next) = tail.split_at(length);
        rest = next;
        if let Some(Err(status)) = world.runtime.block_on(ask(&world.daemon, *which, message)) {
            let broke = matches!(status.code(), Code::Unknown | Code::Internal);
            assert!(!broke, "request {which}: {status}");
        }
    }
    world.end();
}

/// What is answered; `None` if the bytes are no message.
async fn ask(daemon: &Daemon, which: u8, bytes: &[u8]) -> Option<Result<(), Status>> {
    let mut rpc = daemon.rpc.clone();
    macro_rules! one {
        ($call:ident, $message:ty) => {
            rpc.$call(<$message>::decode(bytes).ok()?).await.map(drop)
        };
    }
    macro_rules! stream {
        ($call:ident, $message:ty) => {{
            let message = <$message>::decode(bytes).ok()?;
            rpc.$call(tokio_stream::iter([message])).await.map(drop)
        }};
    }
    macro_rules! answers {
        ($call:ident, $message:ty) => {{
            match rpc.$call(<$message>::decode(bytes).ok()?).await {
                Ok(stream) => {
                    let mut stream = stream.into_inner();
                    loop {
                        match stream.message().await {
                            Ok(Some(_)) => {}
                            Ok(None) => break Ok(()),
                            Err(status) => break Err(status),
                        }
                    }
                }
                Err(status) => Err(status),
            }
        }};
    }
    Some(match which {
        0 => one!(add_bridge, pb::AddBridgeRequest),
        1 => one!(del_bridge, pb::DelBridgeRequest),
        2 => one!(list_bridges, pb::ListBridgesRequest),
        3 => one!(add_port, pb::AddPortRequest),
        4 => one!(del_port, pb::DelPortRequest),
        5 => one!(list_ports, pb::ListPortsRequest),
        6 => one!(port_to_bridge, pb::PortToBridgeRequest),
        7 => one!(show, pb::ShowRequest),
        // Ends with its reader.
        8 => one!(watch, pb::WatchRequest),
        9 => one!(fdb_show, pb::FdbShowRequest),
        10 => one!(fdb_flush, pb::FdbFlushRequest),
        11 => one!(datapath_show, pb::DatapathShowRequest),
        12 => one!(dump_ports, pb::DumpPortsRequest),
        13 => one!(pmd_show, pb::PmdShowRequest),
        14 => one!(pmd_stats, pb::PmdStatsRequest),
        15 => one!(drops, pb::DropsRequest),
        16 => one!(apply, pb::ApplyRequest),
        17 => one!(get_switch, pb::GetSwitchRequest),
        18 => stream!(modify_flows, pb::ModifyFlowsRequest),
        19 => stream!(replace_flows, pb::ReplaceFlowsRequest),
        20 => {
            let message = pb::DiffFlowsRequest::decode(bytes).ok()?;
            rpc.diff_flows(Request::new(tokio_stream::iter([message])))
                .await
                .map(drop)
        }
        21 => answers!(dump_flows, pb::DumpFlowsRequest),
        22 => one!(dump_tables, pb::DumpTablesRequest),
        23 => answers!(dump_groups, pb::DumpGroupsRequest),
        24 => answers!(dump_meters, pb::DumpMetersRequest),
        25 => answers!(dump_megaflows, pb::DumpMegaflowsRequest),
        26 => one!(flush_megaflows, pb::FlushMegaflowsRequest),
        27 => one!(trace, pb::TraceRequest),
        28 => {
            let mut request = pb::TraceNextRequest::decode(bytes).ok()?;
            request.timeout_ms = Some(0);
            rpc.trace_next(request).await.map(drop)
        }
        29 => one!(packet_out, pb::PacketOutRequest),
        30 => one!(packet_ins, pb::PacketInsRequest),
        31 => one!(version, pb::VersionRequest),
        _ => return None,
    })
}
