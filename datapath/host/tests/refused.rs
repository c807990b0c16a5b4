//! Ports that cannot be: nothing is made, and nothing is changed.

mod namespace;

use namespace::{in_namespace, sh};
use ringway_host::port::{HostPort, HostPortConfig, HostPortKind};
use ringway_host::{ingress, link, tap};

fn refusal(name: &str, kind: HostPortKind, mtu: u16) -> String {
    let config = HostPortConfig {
        name: name.to_owned(),
        kind,
        mtu: Some(mtu),
        cpus: Vec::new(),
    };
    HostPort::start(config).unwrap_err().to_string()
}

const INTERNAL: HostPortKind = HostPortKind::Internal {
    queues: 1,
    mac: None,
};
const TAP: HostPortKind = HostPortKind::Tap { owner: None };

#[test]
fn an_mtu_that_cannot_be_leaves_nothing_behind() {
    in_namespace("an_mtu_that_cannot_be_leaves_nothing_behind", || {
        for (kind, mtu) in [(INTERNAL, 65_522), (TAP, 65_522), (INTERNAL, 67), (TAP, 67)] {
            let error = refusal("t0", kind, mtu);
            assert!(error.contains("t0 takes 68 to 65521"), "{error}");
            assert_eq!(link::find("t0").unwrap(), None);
        }
        // The limits are the kernel's own.
        tap::make_persistent("t0", None).unwrap();
        let made = link::find("t0").unwrap().unwrap();
        assert_eq!(
            (made.min_mtu, made.max_mtu),
            (*tap::MTU.start(), *tap::MTU.end())
        );

        sh("ip link add v0 type veth peer name v1; ip link set v0 mtu 1400");
        let error = refusal("v0", HostPortKind::System { queues: 1 }, 60);
        assert!(error.contains("v0 takes 68 to 65535"), "{error}");
        let v0 = link::find("v0").unwrap().unwrap();
        assert_eq!(v0.mtu, 1400);
        assert!(!ingress::taken(v0.index).unwrap());
    });
}

#[test]
fn what_is_no_port_is_left_as_it_was() {
    in_namespace("what_is_no_port_is_left_as_it_was", || {
        let before = link::find("lo").unwrap();
        let error = refusal("lo", HostPortKind::System { queues: 1 }, 1500);
        assert!(error.contains("the host's own traffic"), "{error}");
        sh("ip link add v0 type veth peer name v1");
        let veth = link::find("v0").unwrap();
        let error = refusal("v0", INTERNAL, 1400);
        assert!(error.contains("no tap device"), "{error}");
        let error = refusal("v2", HostPortKind::System { queues: 1 }, 1400);
        assert!(error.contains("there is no interface v2"), "{error}");
        assert_eq!(link::find("lo").unwrap(), before);
        assert_eq!(link::find("v0").unwrap(), veth);
    });
}
