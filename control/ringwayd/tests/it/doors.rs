//! The ways in: who is let in, and how much each may ask for.

use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair};
use ringway::client::{Client, TlsTarget};
use ringway_proto::v1 as pb;
use ringwayd::doors::{DoorError, Doors, TlsDoor, TlsFiles};
use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tonic::Code;

use crate::daemon::Daemon;

const PATIENCE: Duration = Duration::from_secs(20);

/// Someone who signs certificates.
struct Authority(CertifiedIssuer<'static, KeyPair>);

impl Authority {
    fn new(name: &str) -> Self {
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.distinguished_name.push(DnType::CommonName, name);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let key = KeyPair::generate().unwrap();
        Self(CertifiedIssuer::self_signed(params, key).unwrap())
    }

    fn pem(&self) -> String {
        self.0.pem()
    }

    /// A certificate for a name, and its key.
    fn signs(&self, name: &str) -> (String, String) {
        let key = KeyPair::generate().unwrap();
        let params = CertificateParams::new(vec![name.to_owned()]).unwrap();
        let cert = params.signed_by(&key, &self.0).unwrap();
        (cert.pem(), key.serialize_pem())
    }
}

/// A daemon with a TLS door, and the files of who may come in.
struct Guarded {
    daemon: Daemon,
    dir: TempDir,
    address: SocketAddr,
}

fn file(dir: &TempDir, name: &str, content: &str) -> PathBuf {
    let path = dir.path().join(name);
    std::fs::write(&path, content).unwrap();
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600)).unwrap();
    path
}

/// The server's files, of an authority that signs both sides.
fn server_files(dir: &TempDir, authority: &Authority) -> TlsFiles {
    let (cert, key) = authority.signs("localhost");
    TlsFiles {
        cert: file(dir, "server.pem", &cert),
        key: file(dir, "server.key", &key),
        client_ca: file(dir, "ca.pem", &authority.pem()),
    }
}

async fn guarded(authority: &Authority) -> Guarded {
    let dir = tempfile::tempdir().unwrap();
    let files = server_files(&dir, authority);
    let tls = TlsDoor::open("127.0.0.1:0".parse().unwrap(), &files).unwrap();
    let address = tls.address().unwrap();
    let daemon = Daemon::start_with_doors(&dir, |unix| Doors {
        unix,
        tls: Some(tls),
    })
    .await;
    Guarded {
        daemon,
        dir,
        address,
    }
}

impl Guarded {
    /// A client with this certificate, which trusts `ca`.
    fn target(&self, name: &str, (cert, key): &(String, String), ca: &Authority) -> TlsTarget {
        TlsTarget {
            url: format!("https://{}", self.address),
            ca: file(&self.dir, &format!("{name}-ca.pem"), &ca.pem()),
            cert: file(&self.dir, &format!("{name}.pem"), cert),
            key: file(&self.dir, &format!("{name}.key"), key),
            name: Some("localhost".into()),
        }
    }
}

/// What comes of a client that connects and asks for something.
async fn asks(target: &TlsTarget) -> Result<(), String> {
    let client = Client::connect_tls(target, PATIENCE).await;
    let mut client = client.map_err(|error| error.to_string())?;
    // With TLS 1.3 a client hears only then that its certificate was refused.
    let answer = client.rpc.version(pb::VersionRequest {}).await;
    answer.map(drop).map_err(|status| status.to_string())
}

#[tokio::test(flavor = "multi_thread")]
async fn over_tcp_only_a_signed_certificate_opens() {
    let (ours, theirs) = (Authority::new("ours"), Authority::new("theirs"));
    let guarded = guarded(&ours).await;
    let right = guarded.target("right", &ours.signs("client"), &ours);
    asks(&right).await.unwrap();

    // The command line, by options.
    let line = format!(
        "--connect {} --tls-ca {} --tls-cert {} --tls-key {} --tls-name localhost version",
        right.url,
        right.ca.display(),
        right.cert.display(),
        right.key.display()
    );
    guarded.daemon.ok(&line).await;

    // A certificate of somebody else's, and one that nobody else signed.
    let strange = guarded.target("strange", &theirs.signs("client"), &ours);
    asks(&strange).await.unwrap_err();
    // A server that the client has no reason to believe.
    let distrusting = guarded.target("distrusting", &ours.signs("client"), &theirs);
    let why = asks(&distrusting).await.unwrap_err();
    assert!(
        why.contains("UnknownIssuer") && why.contains("--tls-ca"),
        "{why}"
    );
    // The right certificate, for another name.
    let elsewhere = TlsTarget {
        name: Some("elsewhere".into()),
        ..right.clone()
    };
    asks(&elsewhere).await.unwrap_err();

    // No certificate at all.
    let tls = tonic::transport::ClientTlsConfig::new()
        .ca_certificate(tonic::transport::Certificate::from_pem(ours.pem()))
        .domain_name("localhost");
    let endpoint = tonic::transport::Endpoint::from_shared(right.url.clone()).unwrap();
    let channel = endpoint.tls_config(tls).unwrap().connect().await;
    if let Ok(channel) = channel {
        let mut rpc = pb::ringway_client::RingwayClient::new(channel);
        rpc.version(pb::VersionRequest {}).await.unwrap_err();
    }

    // No TLS at all: nothing is answered but an alert, and the door closes.
    let mut plain = tokio::net::TcpStream::connect(guarded.address)
        .await
        .unwrap();
    plain
        .write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n")
        .await
        .unwrap();
    let mut answer = Vec::new();
    let read = plain.read_to_end(&mut answer);
    let read = tokio::time::timeout(PATIENCE, read)
        .await
        .expect("the door closes");
    assert!(read.is_err() || answer.len() < 16, "{answer:?}");

    // None of which kept the right one out.
    asks(&right).await.unwrap();
    guarded.daemon.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stranger_who_says_nothing_keeps_nobody_out() {
    let ours = Authority::new("ours");
    let guarded = guarded(&ours).await;
    let mut silent = Vec::new();
    // More than the door has places: each is let go when its time for a
    // handshake is over.
    for _ in 0..ringwayd::doors::MOST_CONNECTIONS + 20 {
        silent.push(
            tokio::net::TcpStream::connect(guarded.address)
                .await
                .unwrap(),
        );
    }
    // The socket is another door.
    guarded.daemon.ok("version").await;
    let right = guarded.target("right", &ours.signs("client"), &ours);
    let begin = Instant::now();
    loop {
        match asks(&right).await {
            Ok(()) => break,
            Err(why) => assert!(begin.elapsed() < Duration::from_secs(40), "{why}"),
        }
    }
    guarded.daemon.stop().await;
}

#[tokio::test]
async fn a_door_without_sound_certificates_does_not_open() {
    let dir = tempfile::tempdir().unwrap();
    let good = server_files(&dir, &Authority::new("ours"));
    let open = |files: &TlsFiles| {
        let door = TlsDoor::open("127.0.0.1:0".parse().unwrap(), files);
        door.err().map(|error| error.to_string())
    };
    assert_eq!(open(&good), None);
    let missing = TlsFiles {
        client_ca: dir.path().join("nothing.pem"),
        ..good.clone()
    };
    let why = open(&missing).unwrap();
    assert!(
        why.contains("--tls-client-ca") && why.contains("nothing.pem"),
        "{why}"
    );
    // Without anybody who signs, everybody or nobody would come in.
    let nobody = TlsFiles {
        client_ca: file(&dir, "empty.pem", ""),
        ..good.clone()
    };
    assert!(open(&nobody).is_some());
    let (_, other_key) = Authority::new("theirs").signs("localhost");
    let mixed = TlsFiles {
        key: file(&dir, "other.key", &other_key),
        ..good.clone()
    };
    assert!(open(&mixed).is_some());
    std::fs::set_permissions(&good.key, std::fs::Permissions::from_mode(0o644)).unwrap();
    let door = TlsDoor::open("127.0.0.1:0".parse().unwrap(), &good);
    assert!(matches!(door, Err(DoorError::OpenKey { .. })));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_message_beyond_the_limit_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let daemon = Daemon::start(&dir).await;
    // A client without a limit of its own.
    let mut rpc = daemon.rpc.clone().max_encoding_message_size(usize::MAX);
    let request = pb::DelPortRequest {
        name: "x".repeat(ringway_proto::MAX_MESSAGE + 1),
        ..pb::DelPortRequest::default()
    };
    let status = rpc.del_port(request).await.unwrap_err();
    assert_eq!(status.code(), Code::OutOfRange, "{status}");
    daemon.ok("version").await;
    daemon.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_thousand_idle_streams_do_not_hurt() {
    let dir = tempfile::tempdir().unwrap();
    let daemon = Daemon::start(&dir).await;
    daemon.ok("add-br br0 --no-internal").await;
    let mut streams = Vec::new();
    // Over several connections: each has its own limit.
    for _ in 0..10 {
        let mut rpc = Client::connect(&daemon.socket()).await.unwrap().rpc;
        for _ in 0..100 {
            let stream = rpc.watch(pb::WatchRequest {}).await.unwrap().into_inner();
            streams.push(stream);
        }
    }
    let shows = daemon.fake.state().asked;
    tokio::time::sleep(Duration::from_secs(2)).await;
    // Looked at once for all of them, five times a second.
    let looks = daemon.fake.state().asked - shows;
    assert!(
        (1..100).contains(&looks),
        "{looks} looks for 1000 watchers in 2 s"
    );

    // Others are answered, and watchers who read hear of it.
    daemon.ok("add-br br1 --no-internal").await;
    for mut stream in streams {
        let mut names = Vec::new();
        while !names.contains(&"br1".to_owned()) {
            let shown = tokio::time::timeout(PATIENCE, stream.message()).await;
            let shown = shown.expect("an answer").unwrap().unwrap();
            names = shown
                .bridges
                .into_iter()
                .map(|bridge| bridge.name)
                .collect();
        }
    }
    daemon.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn waiting_traces_are_bounded_and_keep_nobody_from_working() {
    let dir = tempfile::tempdir().unwrap();
    let daemon = Daemon::start(&dir).await;
    daemon.ok("add-br br0 --no-internal").await;
    daemon
        .ok("add-port br0 p0 type=dpdk devargs=net_null0")
        .await;
    let mut waiting = tokio::task::JoinSet::new();
    for _ in 0..40 {
        let mut rpc = daemon.rpc.clone();
        waiting.spawn(async move {
            let request = pb::TraceNextRequest {
                port: "p0".into(),
                timeout_ms: Some(1_500),
                ..pb::TraceNextRequest::default()
            };
            rpc.trace_next(request)
                .await
                .map(drop)
                .map_err(|status| status.code())
        });
    }
    daemon.ok("add-br br1 --no-internal").await;
    let outcomes = waiting.join_all().await;
    let refused = |outcome: &&Result<(), Code>| **outcome == Err(Code::ResourceExhausted);
    assert_eq!(outcomes.iter().filter(refused).count(), 40 - 16);
    daemon.stop().await;
}
