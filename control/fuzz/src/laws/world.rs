//! A daemon that serves one input after another.

use std::path::Path;
use std::sync::{Mutex, MutexGuard, OnceLock, PoisonError};

use ringway_proto::v1 as pb;
use ringwayd::state::StateFile;
use tempfile::TempDir;
use tokio::runtime::Runtime;

use crate::daemon::Daemon;

pub struct World {
    pub runtime: Runtime,
    pub daemon: Daemon,
    _dir: TempDir,
}

/// The daemon, for one input at a time.
pub fn world() -> MutexGuard<'static, World> {
    static WORLD: OnceLock<Mutex<World>> = OnceLock::new();
    let world = WORLD.get_or_init(|| {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()
            .expect("a runtime");
        let dir = in_memory();
        let daemon = runtime.block_on(Daemon::start(&dir));
        Mutex::new(World {
            runtime,
            daemon,
            _dir: dir,
        })
    });
    world.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A folder where syncing costs nothing.
pub fn in_memory() -> TempDir {
    let parent = Path::new("/dev/shm");
    let parent = if parent.is_dir() {
        parent
    } else {
        Path::new("/tmp")
    };
    tempfile::Builder::new()
        .prefix("rw")
        .tempdir_in(parent)
        .expect("a folder")
}

impl World {
    /// A bridge with a port of each kind that needs nothing of the host.
    pub fn begin(&self) {
        let ports = [
            "add-br br0 --no-internal",
            "add-br br1",
            "add-port br0 vm1 type=vhost-user",
            "add-port br0 p0 type=dpdk devargs=net_null0",
        ];
        for line in ports {
            let printed = self.runtime.block_on(self.daemon.ringway(line));
            assert_eq!(printed.code, 0, "{printed:?}");
        }
    }

    /// Whatever was asked for, the daemon still answers, and the next one could
    /// start with what this one has stored. Then all is deleted.
    pub fn end(&self) {
        let dir = in_memory();
        let path = dir.path().join("state.toml");
        let stored = self.daemon.state_file();
        std::fs::write(&path, &stored).expect("written");
        let (file, desired) = match StateFile::open(&path) {
            Ok(opened) => opened,
            Err(error) => panic!("what was stored is refused: {error}\n{stored}"),
        };
        file.save(&desired).expect("saved");
        assert_eq!(std::fs::read_to_string(&path).expect("read"), stored);
        let flows = dir.path().join("state.toml.flows");
        let _ = std::fs::copy(self.daemon.dir.join("state.toml.flows"), &flows);
        if let Err(error) = ringwayd::journal::Journal::open(&path) {
            panic!("what was stored is refused: {error}");
        }
        self.runtime.block_on(async {
            let mut rpc = self.daemon.rpc.clone();
            let bridges = rpc
                .list_bridges(pb::ListBridgesRequest {})
                .await
                .expect("an answer");
            for name in bridges.into_inner().names {
                let request = pb::DelBridgeRequest {
                    name,
                    ..pb::DelBridgeRequest::default()
                };
                rpc.del_bridge(request).await.expect("deleted");
            }
        });
    }
}
