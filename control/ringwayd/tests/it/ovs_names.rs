//! `ringway` by the names of Open vSwitch's commands, against a daemon; and
//! beside Open vSwitch's own ovs-vsctl on a database of its own, where both must
//! print the same. The cases are also the table of what is there
//! (`control/OVS-NAMES.md`).

mod cases;
mod oracle;

use ringway::ovs::{self, Call, Tool, appctl, dpctl, ofctl, syntax};
use ringway_datapath::status::PortState;
use tempfile::{TempDir, tempdir};

use crate::daemon::{Daemon, Printed};
use crate::fake::Fault;
use cases::{CASES, Case, Expect};
use oracle::Oracle;

/// Words of a line; what stands in single quotes is one.
fn words(line: &str) -> Vec<String> {
    let (mut words, mut quoted) = (Vec::new(), false);
    for part in line.split('\'') {
        match quoted {
            true => words.push(part.to_owned()),
            false => words.extend(part.split_whitespace().map(str::to_owned)),
        }
        quoted = !quoted;
    }
    words
}

/// Runs one of the commands against the daemon.
async fn ours(daemon: &Daemon, tool: Tool, line: &str) -> Printed {
    let call = Call {
        tool,
        socket: daemon.socket(),
        rundir: daemon.dir.join("ovs"),
        words: words(line),
    };
    let (mut out, mut err) = (Vec::new(), Vec::new());
    let code = ovs::run(&call, false, &mut out, &mut err).await;
    let text = |bytes| String::from_utf8(bytes).unwrap();
    Printed {
        code,
        out: text(out),
        err: text(err),
    }
}

async fn vsctl(daemon: &Daemon, line: &str) -> Printed {
    ours(daemon, Tool::Vsctl, line).await
}

/// As [`vsctl`], of a line that succeeds in silence but for its output.
async fn ok(daemon: &Daemon, line: &str) -> String {
    let printed = vsctl(daemon, line).await;
    assert_eq!((printed.code, printed.err.as_str()), (0, ""), "{line}");
    printed.out
}

/// What both switches begin with.
const SETUP: &[&str] = &[
    "add-br br0 -- set bridge br0 datapath_type=netdev",
    "add-br br1 -- set bridge br1 datapath_type=netdev",
    "add-port br0 vm1 -- set Interface vm1 type=dpdkvhostuser",
    "add-port br0 vm2 tag=7 -- set Interface vm2 type=dpdkvhostuserclient \
     options:vhost-server-path=/tmp/vm2.sock",
    "add-port br1 p0 -- set Interface p0 type=dpdk options:dpdk-devargs=net_null0 options:n_rxq=2",
];

async fn start(dir: &TempDir) -> Daemon {
    let daemon = Daemon::start(dir).await;
    for line in SETUP {
        assert_eq!(ok(&daemon, line).await, "", "{line}");
    }
    daemon
}

/// The text with the identities of rows alike.
fn without_uuids(text: &str) -> String {
    let (mut out, mut rest) = (String::new(), text);
    while let Some(c) = rest.chars().next() {
        let is_uuid = rest.get(..36).is_some_and(|word| {
            let dashes = word.bytes().enumerate().filter(|(_, byte)| *byte == b'-');
            dashes.map(|(at, _)| at).eq([8, 13, 18, 23])
                && word
                    .bytes()
                    .all(|byte| byte.is_ascii_hexdigit() || byte == b'-')
        });
        let length = if is_uuid { 36 } else { c.len_utf8() };
        out += if is_uuid { "UUID" } else { &rest[..length] };
        rest = &rest[length..];
    }
    out
}

fn sorted_lines(text: &str) -> String {
    let mut lines: Vec<_> = text.lines().map(str::to_owned).collect();
    lines.sort_unstable();
    lines.join("\n")
}

/// What must be alike in both answers.
fn comparable(printed: &Printed, expect: &Expect) -> (u8, String, String) {
    let out = without_uuids(&printed.out);
    let out = match expect {
        Expect::SameLines => sorted_lines(&out),
        _ => out,
    };
    (printed.code, out, without_uuids(&printed.err))
}

#[tokio::test(flavor = "multi_thread")]
async fn every_command_does_what_the_table_says() {
    let dir = tempdir().unwrap();
    let daemon = start(&dir).await;
    let Some(oracle) = Oracle::start() else {
        println!("skipped: ovsdb-server is not installed (dpdk-build/setup.sh installs it)");
        return;
    };
    for line in SETUP {
        assert_eq!(oracle.vsctl(&words(line)).code, 0, "{line}");
    }
    let version = ok(&daemon, "get open . ovs_version").await;
    let version = format!("ovs_version={}", version.trim_end());
    oracle.vsctl(&["set".into(), "open".into(), ".".into(), version]);

    let mut wrong = Vec::new();
    for case in CASES {
        for line in case.lines {
            let printed = ours(&daemon, case.tool, line).await;
            let complaint = match case.expect {
                Expect::Same | Expect::SameLines => {
                    let theirs = comparable(&oracle.vsctl(&words(line)), &case.expect);
                    let found = comparable(&printed, &case.expect);
                    (found != theirs).then(|| format!("{found:?}\ninstead of {theirs:?}"))
                }
                Expect::Prints(telling) => {
                    let fits = printed.code == 0 && printed.out.contains(telling);
                    (!fits).then(|| format!("{printed:?}\ndoes not print {telling:?}"))
                }
                Expect::Refused(telling) => {
                    let code = if case.tool == Tool::Appctl { 2 } else { 1 };
                    let fits = printed.code == code
                        && printed.out.is_empty()
                        && printed.err.contains(telling)
                        && printed.err.contains("not supported");
                    (!fits).then(|| format!("{printed:?}\ndoes not refuse with {telling:?}"))
                }
            };
            wrong.extend(complaint.map(|text| format!("{} {line}: {text}", case.tool.name())));
        }
    }
    assert!(
        wrong.is_empty(),
        "{} cases:\n{}",
        wrong.len(),
        wrong.join("\n\n")
    );
    daemon.stop().await;
}

/// A command's own name in a case: the first word that is no option.
fn name_of(case: &Case) -> &'static str {
    let mut words = case.command.split_whitespace();
    words
        .find(|word| !word.starts_with(['-', '[']))
        .unwrap_or_default()
}

#[test]
fn the_table_has_every_command() {
    let of_vsctl = syntax::COMMANDS.iter().map(|syntax| match syntax.action {
        syntax::Action::Run(_) => (syntax.name, None),
        syntax::Action::Refuse(what) => (syntax.name, Some(what)),
    });
    let all = (of_vsctl.map(|(name, refused)| (Tool::Vsctl, name, refused)))
        .chain(ofctl::commands().map(|(name, refused)| (Tool::Ofctl, name, refused)))
        .chain(dpctl::commands().map(|(name, refused)| (Tool::Dpctl, name, refused)))
        .chain(appctl::commands().map(|(name, refused)| (Tool::Appctl, name, refused)));
    for (tool, name, refused) in all {
        let cases = CASES
            .iter()
            .filter(|case| case.tool == tool && name_of(case) == name);
        let expected: Vec<_> = cases.map(|case| &case.expect).collect();
        assert!(!expected.is_empty(), "{} {name} has no case", tool.name());
        if refused.is_some() {
            let is_refused = |expect: &&Expect| matches!(expect, Expect::Refused(_));
            assert!(expected.iter().all(is_refused), "{} {name}", tool.name());
        }
    }
}

/// The table of names as a document.
fn document() -> String {
    let mut out = String::from(cases::HEAD);
    for tool in Tool::ALL {
        let name = tool.name();
        out += &format!("\n## {name}\n\n| command | in ringway | note |\n|---|---|---|\n");
        for case in CASES.iter().filter(|case| case.tool == tool) {
            let told = match case.expect {
                Expect::Same | Expect::SameLines => "as Open vSwitch, compared",
                Expect::Prints(_) => "yes",
                Expect::Refused(_) => "refused by name",
            };
            let command = case.command.replace('|', "\\|");
            out += &format!("| `{command}` | {told} | {} |\n", case.note);
        }
    }
    out
}

#[test]
fn the_document_is_up_to_date() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../OVS-NAMES.md");
    let expected = document();
    if std::env::var_os("UPDATE_OVS_NAMES").is_some() {
        std::fs::write(path, &expected).unwrap();
    }
    assert!(
        std::fs::read_to_string(path).unwrap_or_default() == expected,
        "control/OVS-NAMES.md differs from the cases; write it with: UPDATE_OVS_NAMES=1 cargo test \
         -p ringwayd --test it the_document_is_up_to_date"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn show_has_open_vswitchs_layout() {
    let dir = tempdir().unwrap();
    let daemon = start(&dir).await;
    ok(
        &daemon,
        "set port vm1 trunks=1,2 -- set-fail-mode br0 secure",
    )
    .await;
    daemon.fake.set_port("p0", |port| {
        port.state = PortState::Failed {
            why: "no such device".into(),
        };
    });
    let shown = ok(&daemon, "show").await;
    let version = ok(&daemon, "get open . ovs_version").await;
    assert_eq!(
        without_uuids(&shown),
        format!(
            "UUID
    Bridge br0
        fail_mode: secure
        datapath_type: netdev
        Port br0
            Interface br0
                type: internal
        Port vm1
            trunks: [1, 2]
            Interface vm1
                type: dpdkvhostuser
        Port vm2
            tag: 7
            Interface vm2
                type: dpdkvhostuserclient
                options: {{vhost-server-path=\"/tmp/vm2.sock\"}}
    Bridge br1
        datapath_type: netdev
        Port br1
            Interface br1
                type: internal
        Port p0
            Interface p0
                type: dpdk
                options: {{dpdk-devargs=net_null0, n_rxq=\"2\"}}
                error: \"no such device\"
    ovs_version: {version}"
        )
    );
    daemon.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_transaction_is_done_whole_or_not_at_all() {
    let dir = tempdir().unwrap();
    let daemon = start(&dir).await;
    let before = daemon.state_file();
    for line in [
        // The last command is wrong, or what they make of the rows.
        "add-br br2 -- add-port br2 x -- set Interface x type=dpdkvhostuser -- del-port nix",
        "add-br br2 -- add-port br2 x -- set Interface x type=vxlan",
        "del-br br0 -- set Interface p0 options:rx-flow-ctrl=true",
        "add-port br0 x -- set Interface x type=patch",
        "set bridge br0 external_ids:a=b stp_enable=true",
    ] {
        let printed = vsctl(&daemon, line).await;
        assert_eq!(
            (printed.code, printed.out.as_str()),
            (1, ""),
            "{line}: {printed:?}"
        );
        assert_eq!(daemon.state_file(), before, "{line}");
    }
    // A refusal of the daemon's, too.
    let line = "add-port br0 x -- set Interface x type=dpdkvhostuser \
                -- add-port br0 y -- set Interface y type=dpdkvhostuserclient \
                options:vhost-server-path=relative";
    let printed = vsctl(&daemon, line).await;
    assert_eq!(printed.code, 1, "{printed:?}");
    assert!(printed.err.contains("absolute"), "{printed:?}");
    assert_eq!(daemon.state_file(), before);

    let line = "--if-exists del-br br1 -- add-br br1 -- del-port vm1 -- add-port br1 vm1 \
                -- set Interface vm1 type=dpdkvhostuser -- list-ports br1";
    assert_eq!(ok(&daemon, line).await, "vm1\n");
    assert_eq!(
        ok(&daemon, "port-to-br vm1 -- list-ports br0").await,
        "br1\nvm2\n"
    );
    let line = "--dry-run del-br br0 -- list-br";
    assert_eq!(ok(&daemon, line).await, "br1\n");
    assert_eq!(ok(&daemon, "list-br").await, "br0\nbr1\n");
    daemon.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_set_up_now_is_told_and_kept() {
    let dir = tempdir().unwrap();
    let daemon = start(&dir).await;
    daemon.fake.fail("p1", Fault::Unavailable("no such device"));
    let line = "add-port br0 p1 -- set Interface p1 type=dpdk options:dpdk-devargs=net_null1";
    let printed = vsctl(&daemon, line).await;
    assert_eq!(printed.code, 0, "as Open vSwitch ends: {printed:?}");
    let told = "ovs-vsctl: Error detected while setting up 'p1': ";
    assert!(printed.err.starts_with(told), "{printed:?}");
    assert!(printed.err.contains("no such device"), "{printed:?}");
    assert_eq!(ok(&daemon, "get Interface p1 ofport").await, "-1\n");
    assert!(
        ok(&daemon, "get Interface p1 error")
            .await
            .contains("no such device")
    );
    daemon.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn columns_that_scripts_read_are_there() {
    let dir = tempdir().unwrap();
    let daemon = start(&dir).await;
    daemon.fake.set_port("vm1", |port| {
        port.state = PortState::Forwarding;
        port.counters.rx_packets = 9;
    });
    for (record, column, value) in [
        ("vm1", "ofport", "1"),
        ("br0", "ofport", "65534"),
        ("vm1", "link_state", "up"),
        ("vm2", "link_state", "down"),
        ("vm1", "admin_state", "up"),
        ("vm1", "mtu", "1500"),
        ("vm1", "error", "[]"),
        ("vm1", "statistics:rx_packets", "9"),
        ("vm1", "mac_in_use", "\"00:00:00:00:00:00\""),
        ("vm1", "status:state", "forwarding"),
    ] {
        let line = format!("get Interface {record} {column}");
        assert_eq!(ok(&daemon, &line).await, format!("{value}\n"), "{line}");
    }
    assert_eq!(
        ok(&daemon, "get bridge br0 datapath_type").await,
        "netdev\n"
    );
    // Identities follow from names, so they are the same again.
    let line = "get Interface vm1 _uuid";
    let uuid = ok(&daemon, line).await;
    assert_eq!(ok(&daemon, line).await, uuid);
    let line = format!("--columns=name list Interface {}", uuid.trim_end());
    assert_eq!(ok(&daemon, &line).await, "name                : vm1\n");
    let line = "-t 5 wait-until Interface vm1 link_state=up";
    assert_eq!(ok(&daemon, line).await, "");
    let printed = vsctl(&daemon, "-t 1 wait-until Interface vm2 link_state=up").await;
    assert_eq!(printed.code, ovs::vsctl::EXIT_TIMEOUT, "{printed:?}");
    daemon.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn settings_are_kept_over_changes_of_others() {
    let dir = tempdir().unwrap();
    let daemon = start(&dir).await;
    for line in [
        "set Interface vm1 external_ids:iface-id=i1",
        "set Port vm1 external_ids:owner=me other_config:priority-tags=always vlan_mode=trunk",
        "set bridge br0 protocols=OpenFlow13 other_config:mac-aging-time=60",
        "set open . external_ids:system-id=s1",
        "br-set-external-id br0 who me",
    ] {
        assert_eq!(ok(&daemon, line).await, "", "{line}");
    }
    let printed = vsctl(&daemon, "set Interface vm1 mtu_request=9000").await;
    assert_eq!(printed.code, 0);
    assert!(printed.err.contains("has an MTU of 1500"), "{printed:?}");
    daemon.fake.calls();
    vsctl(&daemon, "set Port vm1 tag=9").await;
    assert!(
        !daemon
            .fake
            .calls()
            .iter()
            .any(|call| call.starts_with("add_port")),
        "a tag changes under traffic"
    );
    for (line, value) in [
        (
            "get Interface vm1 external_ids mtu_request",
            "{iface-id=i1}\n9000\n",
        ),
        (
            "get Port vm1 external_ids other_config",
            "{owner=me}\n{priority-tags=always}\n",
        ),
        ("get Port vm1 tag vlan_mode trunks", "9\ntrunk\n[]\n"),
        ("get Interface vm1 type options", "dpdkvhostuser\n{}\n"),
        ("get bridge br0 protocols", "[OpenFlow13]\n"),
        ("get bridge br0 other_config", "{mac-aging-time=\"60\"}\n"),
        ("get open . external_ids:system-id", "s1\n"),
        ("br-get-external-id br0", "who=me\n"),
    ] {
        assert_eq!(ok(&daemon, line).await, value, "{line}");
    }
    let printed = vsctl(&daemon, "set open . other_config:pmd-cpu-mask=6").await;
    assert_eq!(printed.code, 0);
    assert!(
        printed.err.contains("ringwayd --pmd-cores does"),
        "{printed:?}"
    );
    daemon.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_unreachable_daemon_ends_with_1() {
    let dir = tempdir().unwrap();
    for tool in Tool::ALL {
        let call = Call {
            tool,
            socket: dir.path().join("nix.sock"),
            rundir: dir.path().to_owned(),
            words: match tool {
                Tool::Vsctl | Tool::Dpctl => vec!["show".into()],
                Tool::Ofctl => vec!["show".into(), "br0".into()],
                Tool::Appctl => vec!["version".into()],
            },
        };
        let (mut out, mut err) = (Vec::new(), Vec::new());
        assert_eq!(ovs::run(&call, false, &mut out, &mut err).await, 1);
        let err = String::from_utf8(err).unwrap();
        assert!(
            err.starts_with(&format!("{}: there is no ", tool.name())),
            "{err}"
        );
    }
}
