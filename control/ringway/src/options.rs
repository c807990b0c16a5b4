//! `add-port`'s `key=value` options.

use ringway_proto::spelling::{self, Spelling};
use ringway_proto::v1::{self as pb, PortKind, port_spec};

/// The options, as `add-port --help` tells them.
pub const HELP: &str = "\
Options of every type:
  number=N              number by which flows know the port, 1 to 1023, also
                        ofport_request=N [default: the lowest that is free]

Options of type=vhost-user, a guest's virtio-net device:
  path=PATH             unix socket [default: /run/ringway/NAME.sock]
  mode=server|client    who listens: ringwayd (server, the default) or QEMU (client)
  queues=N              queue pairs, 1 to 128 [default: 1]
  owner=USER[:GROUP]    owner of the socket file (mode=server), names or ids
  permissions=0660      permissions of the socket file (mode=server)

Options of type=dpdk, a NIC or virtual device of DPDK:
  devargs=ARGS          PCI address or virtual device with its arguments; all that
                        follows devargs= belongs to it, commas and = too
  n_rxq=N               receive queues [default: 1]";

const VHOST_USER_KEYS: &[&str] = &["path", "mode", "queues", "owner", "permissions"];
const DPDK_KEYS: &[&str] = &["devargs", "n_rxq"];

/// A port from its name and options; the sentence says which option is wrong
/// and what is allowed.
pub fn parse(bridge: &str, name: &str, options: &[String]) -> Result<pb::PortSpec, String> {
    let mut pairs: Vec<(&str, &str)> = Vec::new();
    for option in options {
        let Some((key, value)) = option.split_once('=') else {
            return Err(format!("option {option:?} is not of the form key=value"));
        };
        if pairs.iter().any(|(known, _)| *known == key) {
            return Err(format!("option {key}= is given twice"));
        }
        pairs.push((key, value));
    }
    let Some(at) = pairs.iter().position(|(key, _)| *key == "type") else {
        return Err("option type= is missing: type=vhost-user or type=dpdk".into());
    };
    let (_, type_name) = pairs.remove(at);
    let asked = |(key, _): &(&str, &str)| matches!(*key, "number" | "ofport_request");
    let port_number = match pairs.iter().position(asked) {
        Some(at) => {
            let (key, value) = pairs.remove(at);
            Some(number(key, value)?)
        }
        None => None,
    };
    if let Some((key, _)) = pairs.iter().find(|pair| asked(pair)) {
        return Err(format!("option {key}= asks for a number once more"));
    }
    let kind = match spelling::port_kind(type_name)? {
        PortKind::Dpdk => port_spec::Kind::Dpdk(dpdk(&pairs)?),
        PortKind::VhostUser => port_spec::Kind::VhostUser(vhost_user(&pairs)?),
        _ => return Err(format!("type={type_name} is not supported yet")),
    };
    Ok(pb::PortSpec {
        name: name.to_owned(),
        bridge: bridge.to_owned(),
        kind: Some(kind),
        number: port_number,
        ..Default::default()
    })
}

fn vhost_user(pairs: &[(&str, &str)]) -> Result<pb::VhostUserSpec, String> {
    let mut spec = pb::VhostUserSpec::default();
    for (key, value) in pairs {
        match *key {
            "path" => spec.path = filled(key, value)?,
            "mode" => spec.mode = pb::SocketMode::from_spelling(value)?.into(),
            "queues" => spec.queues = Some(number(key, value)?),
            "owner" => spec.owner = filled(key, value)?,
            "permissions" => spec.permissions = Some(spelling::permissions(value)?),
            _ => return Err(unknown(key, "vhost-user", VHOST_USER_KEYS)),
        }
    }
    Ok(spec)
}

fn dpdk(pairs: &[(&str, &str)]) -> Result<pb::DpdkSpec, String> {
    let mut spec = pb::DpdkSpec::default();
    for (key, value) in pairs {
        match *key {
            "devargs" => spec.devargs = filled(key, value)?,
            "n_rxq" => spec.rx_queues = Some(number(key, value)?),
            _ => return Err(unknown(key, "dpdk", DPDK_KEYS)),
        }
    }
    if spec.devargs.is_empty() {
        return Err(
            "option devargs= is missing: a PCI address or virtual device, e.g. devargs=net_null0"
                .into(),
        );
    }
    Ok(spec)
}

fn filled(key: &str, value: &str) -> Result<String, String> {
    match value.is_empty() {
        true => Err(format!("option {key}= is empty")),
        false => Ok(value.to_owned()),
    }
}

fn number(key: &str, value: &str) -> Result<u32, String> {
    let number = value.parse();
    number.map_err(|_| format!("option {key}={value} is not a number"))
}

fn unknown(key: &str, kind: &str, allowed: &[&str]) -> String {
    format!(
        "option {key}= is not known for type={kind}; its options: {}",
        allowed.join(", ")
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn parsed(line: &str) -> Result<port_spec::Kind, String> {
        let options: Vec<_> = line.split_whitespace().map(str::to_owned).collect();
        let port = parse("br0", "vm1", &options)?;
        assert_eq!((port.name.as_str(), port.bridge.as_str()), ("vm1", "br0"));
        Ok(port.kind.unwrap())
    }

    #[test]
    fn every_vhost_user_option_is_taken() {
        let kind = parsed(
            "queues=4 type=vhost-user path=/x.sock mode=client owner=libvirt:kvm permissions=0660",
        );
        let expected = pb::VhostUserSpec {
            path: "/x.sock".into(),
            mode: pb::SocketMode::Client.into(),
            queues: Some(4),
            owner: "libvirt:kvm".into(),
            permissions: Some(0o660),
        };
        assert_eq!(kind, Ok(port_spec::Kind::VhostUser(expected)));
    }

    #[test]
    fn a_number_is_an_option_of_every_type() {
        for line in [
            "type=vhost-user number=7",
            "ofport_request=7 type=dpdk devargs=net_null0",
        ] {
            let options: Vec<_> = line.split_whitespace().map(str::to_owned).collect();
            assert_eq!(
                parse("br0", "p0", &options).unwrap().number,
                Some(7),
                "{line}"
            );
        }
        let why = parsed("type=vhost-user number=x").unwrap_err();
        assert_eq!(why, "option number=x is not a number");
        let why = parsed("type=vhost-user number=1 ofport_request=1").unwrap_err();
        assert!(why.contains("ofport_request="), "{why}");
    }

    #[test]
    fn devargs_keep_their_commas_and_equals_signs() {
        let kind = parsed("type=dpdk devargs=net_pcap0,rx_pcap=in.pcap,tx_pcap=out.pcap n_rxq=2");
        let expected = pb::DpdkSpec {
            devargs: "net_pcap0,rx_pcap=in.pcap,tx_pcap=out.pcap".into(),
            rx_queues: Some(2),
            ..Default::default()
        };
        assert_eq!(kind, Ok(port_spec::Kind::Dpdk(expected)));
    }

    #[test]
    fn what_has_no_meaning_is_refused_by_name() {
        for (line, telling) in [
            ("", "type= is missing"),
            ("vhost-user", "\"vhost-user\" is not of the form key=value"),
            ("type=bond", "\"bond\" is not supported yet"),
            ("type=vxlan", "\"vxlan\" is not supported yet"),
            ("type=foo", "not one of vhost-user, dpdk"),
            (
                "type=vhost-user speed=9",
                "speed= is not known for type=vhost-user; its options: path, mode",
            ),
            ("type=vhost-user devargs=x", "devargs= is not known"),
            (
                "type=dpdk devargs=x path=/y",
                "path= is not known for type=dpdk; its options: devargs, n_rxq",
            ),
            ("type=dpdk", "devargs= is missing"),
            ("type=vhost-user queues=two", "queues=two is not a number"),
            (
                "type=vhost-user queues=1 queues=2",
                "queues= is given twice",
            ),
            ("type=vhost-user mode=both", "not one of server, client"),
            ("type=vhost-user permissions=999", "octal"),
            ("type=vhost-user path=", "path= is empty"),
        ] {
            let why = parsed(line).unwrap_err();
            assert!(why.contains(telling), "{line:?}: {why}");
        }
    }

    proptest! {
        #[test]
        fn devargs_are_never_altered(devargs in "[!-~]{1,80}") {
            let options = ["type=dpdk".to_owned(), format!("devargs={devargs}")];
            let port = parse("br0", "p0", &options).unwrap();
            let Some(port_spec::Kind::Dpdk(spec)) = port.kind else { panic!("{port:?}") };
            prop_assert_eq!(spec.devargs, devargs);
        }

        #[test]
        fn no_input_panics(options in proptest::collection::vec(".{0,20}", 0..6)) {
            let _ = parse("br0", "p0", &options);
        }
    }
}
