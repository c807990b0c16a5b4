//! The name in front of devargs: which device on which bus.

use super::AttachError;

/// Where a device lives.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Bus {
    Virtual,
    Pci,
}

/// Devargs, taken apart.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct DeviceName<'a> {
    pub name: String,
    pub bus: Bus,
    /// What follows the first comma.
    pub arguments: &'a str,
}

impl<'a> DeviceName<'a> {
    /// Takes `devargs` apart; `drivers` are the virtual drivers built in.
    pub fn parse(
        devargs: &'a str,
        drivers: &[&'static str],
    ) -> Result<DeviceName<'a>, AttachError> {
        let malformed = |why: &str| AttachError::Malformed {
            devargs: devargs.to_owned(),
            why: why.to_owned(),
        };
        let (name, arguments) = devargs.split_once(',').unwrap_or((devargs, ""));
        if name.is_empty() {
            return Err(malformed("they start with no device name"));
        }
        if name.len() >= dpdk_sys::RW_DEV_NAME_MAX as usize {
            return Err(malformed("the device name is longer than 63 bytes"));
        }
        if devargs.bytes().any(|byte| byte.is_ascii_control()) {
            return Err(malformed("they hold a control character"));
        }
        if let Some(address) = pci_address(name) {
            return Ok(DeviceName {
                name: address,
                bus: Bus::Pci,
                arguments,
            });
        }
        if drivers.iter().any(|driver| name.starts_with(driver)) {
            return Ok(DeviceName {
                name: name.to_owned(),
                bus: Bus::Virtual,
                arguments,
            });
        }
        Err(AttachError::UnknownDriver {
            devargs: devargs.to_owned(),
            device: name.to_owned(),
            drivers: drivers.join(", "),
        })
    }
}

/// `01:00.0` or `0000:01:00.0`, written in full as DPDK does.
fn pci_address(name: &str) -> Option<String> {
    let hex = |text: &str, digits: usize| {
        (text.len() == digits && text.bytes().all(|byte| byte.is_ascii_hexdigit())).then_some(())
    };
    let parts: Vec<&str> = name.split(':').collect();
    let (domain, bus, rest) = match parts[..] {
        [bus, rest] => ("0000", bus, rest),
        [domain, bus, rest] => (domain, bus, rest),
        _ => return None,
    };
    let (device, function) = rest.split_once('.')?;
    hex(domain, 4)?;
    hex(bus, 2)?;
    hex(device, 2)?;
    hex(function, 1)?;
    Some(format!("{domain}:{bus}:{device}.{function}").to_lowercase())
}

#[cfg(test)]
mod tests {
    use super::*;

    const DRIVERS: &[&str] = &["net_null", "net_pcap"];

    #[test]
    fn takes_devargs_apart() {
        let device = DeviceName::parse("net_pcap0,rx_pcap=a,tx_pcap=b", DRIVERS).unwrap();
        assert_eq!(device.name, "net_pcap0");
        assert_eq!(device.bus, Bus::Virtual);
        assert_eq!(device.arguments, "rx_pcap=a,tx_pcap=b");
        let device = DeviceName::parse("AF:00.1", DRIVERS).unwrap();
        assert_eq!(
            (device.name.as_str(), device.bus),
            ("0000:af:00.1", Bus::Pci)
        );
    }

    #[test]
    fn knows_pci_addresses() {
        assert_eq!(pci_address("0001:0a:1f.7").as_deref(), Some("0001:0a:1f.7"));
        for other in [
            "net_null0",
            "00:00",
            "0:00.0",
            "0000:00:00.00",
            "g0:00.0",
            "1:2:3:4.5",
        ] {
            assert_eq!(pci_address(other), None, "{other}");
        }
    }

    #[test]
    fn refuses_what_is_no_device() {
        for (devargs, said) in [
            ("", "no device name"),
            (",rx_pcap=a", "no device name"),
            ("net_null0\n", "control character"),
            ("net_foo0", "net_null, net_pcap"),
            ("eth0", "net_null, net_pcap"),
        ] {
            let error = DeviceName::parse(devargs, DRIVERS).unwrap_err().to_string();
            assert!(error.contains(said), "{devargs:?}: {error}");
        }
        let long = format!("net_null{}", "0".repeat(64));
        let error = DeviceName::parse(&long, DRIVERS).unwrap_err().to_string();
        assert!(error.contains("63 bytes"), "{error}");
    }
}
