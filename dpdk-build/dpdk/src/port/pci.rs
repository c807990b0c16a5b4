//! Why a PCI device cannot be attached, as the kernel's sysfs knows it, and
//! which commands help.

use std::fs;
use std::path::{Path, PathBuf};

use super::AttachError;
use super::error::Refusal;

/// Kernel drivers that give a device to DPDK.
const USERSPACE: &[&str] = &["vfio-pci", "igb_uio", "uio_pci_generic"];
/// Kernel drivers that share their device with DPDK.
const SHARING: &[&str] = &["mana", "mlx4_core", "mlx5_core"];

/// A PCI device in sysfs.
struct PciDevice {
    address: String,
    /// Vendor and device, `8086:1572`.
    id: String,
    /// The kernel driver that has it.
    driver: Option<String>,
    /// Kernel interfaces on it.
    interfaces: Vec<String>,
    iommu: bool,
}

/// Finds what makes it useless, or harmful to the host, to try. `hugepages`:
/// whether DPDK has them.
pub(super) fn check(devargs: &str, address: &str, hugepages: bool) -> Result<(), AttachError> {
    check_in(Path::new("/sys"), devargs, address, hugepages).map(drop)
}

/// Turns a refusal into what is wrong and what to do.
pub(super) fn explain(
    devargs: &str,
    address: &str,
    ret: i32,
    log: String,
    hugepages: bool,
) -> AttachError {
    explain_in(Path::new("/sys"), devargs, address, ret, log, hugepages)
}

fn check_in(
    sys: &Path,
    devargs: &str,
    address: &str,
    hugepages: bool,
) -> Result<PciDevice, AttachError> {
    let (devargs, address) = (devargs.to_owned(), address.to_owned());
    let Some(device) = PciDevice::read(sys, &address) else {
        return Err(AttachError::NoSuchDevice {
            devargs,
            address,
            there: network_devices(sys),
        });
    };
    let driver = device.driver.as_deref();
    if driver.is_some_and(|driver| USERSPACE.contains(&driver) || SHARING.contains(&driver)) {
        return Ok(device);
    }
    Err(AttachError::WrongDriver {
        devargs,
        address,
        what: device.id.clone(),
        binding: device.binding(),
        remedy: device.how_to_bind(sys, hugepages),
    })
}

fn explain_in(
    sys: &Path,
    devargs: &str,
    address: &str,
    ret: i32,
    log: String,
    hugepages: bool,
) -> AttachError {
    let device = match check_in(sys, devargs, address, hugepages) {
        Ok(device) => device,
        Err(error) => return error,
    };
    let driver = device.driver.clone().unwrap_or_default();
    AttachError::PciRefused {
        devargs: devargs.to_owned(),
        device: format!("{address} ({}, bound to {driver})", device.id),
        reason: Refusal::new(ret, log),
        remedy: device.why_refused(ret, hugepages),
    }
}

impl PciDevice {
    fn read(sys: &Path, address: &str) -> Option<PciDevice> {
        let folder = sys.join("bus/pci/devices").join(address);
        let word = |file: &str| {
            let text = fs::read_to_string(folder.join(file)).ok()?;
            Some(text.trim().trim_start_matches("0x").to_owned())
        };
        Some(PciDevice {
            address: address.to_owned(),
            id: format!("{}:{}", word("vendor")?, word("device")?),
            driver: fs::read_link(folder.join("driver"))
                .ok()
                .and_then(|link| Some(link.file_name()?.to_str()?.to_owned())),
            interfaces: interfaces(&folder),
            iommu: folder.join("iommu_group").exists(),
        })
    }

    /// `bound to the kernel's i40e (interface eth3)`
    fn binding(&self) -> String {
        let Some(driver) = &self.driver else {
            return "bound to no driver".to_owned();
        };
        match self.interfaces.as_slice() {
            [] => format!("bound to the kernel's driver {driver}"),
            names => format!(
                "bound to the kernel's driver {driver} (interface {})",
                names.join(", ")
            ),
        }
    }

    fn how_to_bind(&self, sys: &Path, hugepages: bool) -> String {
        let mut commands = Vec::new();
        if !sys.join("bus/pci/drivers/vfio-pci").exists() {
            commands.push("modprobe vfio-pci".to_owned());
        }
        if !self.iommu {
            commands
                .push("echo 1 > /sys/module/vfio/parameters/enable_unsafe_noiommu_mode".to_owned());
        }
        for name in &self.interfaces {
            commands.push(format!("ip link set {name} down"));
        }
        commands.push(format!("dpdk-devbind.py --bind=vfio-pci {}", self.address));
        let mut remedy = format!("DPDK needs it bound to vfio-pci: {}", commands.join(" && "));
        if !self.interfaces.is_empty() {
            remedy
                .push_str(" (the host loses the interface: not the one you are logged in through)");
        }
        if !self.iommu {
            remedy.push_str(
                ". The device has no IOMMU group, so nothing would confine it: better turn the \
                 IOMMU on (firmware, intel_iommu=on or amd_iommu=on) and leave the echo out",
            );
        }
        if !self.iommu && !hugepages {
            remedy.push_str(". Without an IOMMU it needs hugepages too (dpdk-build/setup.sh)");
        }
        remedy
    }

    fn why_refused(&self, ret: i32, hugepages: bool) -> String {
        let mut reasons = Vec::new();
        if ret == -libc::ENOTSUP {
            reasons.push(format!(
                "No driver for {} is built in: build ringway with RINGWAY_DPDK_DRIVERS naming it",
                self.id
            ));
        } else {
            reasons.push(
                "May this process use /dev/vfio/ (as root, or with the group's file handed over \
                 and ulimit -l raised), and has no other process the device or one of its IOMMU \
                 group?"
                    .to_owned(),
            );
        }
        if !self.iommu && !hugepages {
            reasons.push(
                "It has no IOMMU group, and then needs hugepages (dpdk-build/setup.sh)".to_owned(),
            );
        }
        reasons.join(" ")
    }
}

/// The kernel's interfaces on a device; a virtio device has them one level down.
fn interfaces(folder: &Path) -> Vec<String> {
    let entries = |folder: PathBuf| fs::read_dir(folder).into_iter().flatten().flatten();
    let names = |folder: PathBuf| -> Vec<String> {
        entries(folder)
            .filter_map(|entry| entry.file_name().into_string().ok())
            .collect()
    };
    let mut found = names(folder.join("net"));
    for entry in entries(folder.to_owned()) {
        if entry.file_name().to_string_lossy().starts_with("virtio") {
            found.extend(names(entry.path().join("net")));
        }
    }
    found.sort();
    found
}

/// A sentence with all network devices on PCI.
fn network_devices(sys: &Path) -> String {
    const NETWORK: &str = "0x02";
    let folder = sys.join("bus/pci/devices");
    let mut addresses: Vec<String> = fs::read_dir(&folder)
        .into_iter()
        .flatten()
        .flatten()
        .filter(|entry| {
            let class = fs::read_to_string(entry.path().join("class"));
            class.is_ok_and(|class| class.starts_with(NETWORK))
        })
        .filter_map(|entry| entry.file_name().into_string().ok())
        .collect();
    addresses.sort();
    let devices: Vec<String> = addresses
        .iter()
        .filter_map(|address| PciDevice::read(sys, address))
        .map(|device| format!("{} ({}, {})", device.address, device.id, device.binding()))
        .collect();
    if devices.is_empty() {
        return "It has no network device on PCI (lspci shows what it has); a kernel interface is \
                added with type=system"
            .to_owned();
    }
    format!("Its network devices are {}", devices.join("; "))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::symlink;

    /// A sysfs with devices: address, class, driver, interface folder.
    fn sysfs(devices: &[(&str, &str, Option<&str>, Option<&str>)]) -> tempfile::TempDir {
        let sys = tempfile::tempdir().unwrap();
        for (address, class, driver, interface) in devices {
            let folder = sys.path().join("bus/pci/devices").join(address);
            fs::create_dir_all(&folder).unwrap();
            fs::write(folder.join("class"), format!("{class}\n")).unwrap();
            fs::write(folder.join("vendor"), "0x8086\n").unwrap();
            fs::write(folder.join("device"), "0x1572\n").unwrap();
            if let Some(driver) = driver {
                symlink(
                    format!("../../../bus/pci/drivers/{driver}"),
                    folder.join("driver"),
                )
                .unwrap();
            }
            if let Some(interface) = interface {
                fs::create_dir_all(folder.join(interface)).unwrap();
            }
        }
        sys
    }

    fn said(sys: &tempfile::TempDir, address: &str, ret: i32) -> String {
        let log = "EAL: no".to_owned();
        explain_in(sys.path(), address, address, ret, log, false).to_string()
    }

    #[test]
    fn an_empty_address_lists_the_devices_there_are() {
        let sys = sysfs(&[
            ("0000:01:00.0", "0x020000", Some("i40e"), Some("net/eth3")),
            ("0000:02:00.0", "0x020000", None, None),
            ("0000:03:00.0", "0x010000", Some("nvme"), None),
        ]);
        let said = said(&sys, "0000:09:00.0", -2);
        assert!(said.contains("no PCI device 0000:09:00.0"), "{said}");
        assert!(
            said.contains(
                "0000:01:00.0 (8086:1572, bound to the kernel's driver i40e (interface eth3))"
            ),
            "{said}"
        );
        assert!(
            said.contains("0000:02:00.0 (8086:1572, bound to no driver)"),
            "{said}"
        );
        assert!(!said.contains("0000:03:00.0"), "a disk: {said}");
    }

    #[test]
    fn a_machine_without_network_devices_is_told_so() {
        let sys = sysfs(&[("0000:03:00.0", "0x010000", None, None)]);
        let said = said(&sys, "0000:09:00.0", -2);
        assert!(said.contains("no network device on PCI"), "{said}");
    }

    #[test]
    fn a_device_of_the_kernel_is_to_be_bound() {
        let sys = sysfs(&[(
            "0000:00:03.0",
            "0x020000",
            Some("virtio-pci"),
            Some("virtio2/net/eth0"),
        )]);
        let message = said(&sys, "0000:00:03.0", -95);
        assert!(
            message.contains("kernel's driver virtio-pci (interface eth0)"),
            "{message}"
        );
        let commands = "modprobe vfio-pci && \
            echo 1 > /sys/module/vfio/parameters/enable_unsafe_noiommu_mode && \
            ip link set eth0 down && dpdk-devbind.py --bind=vfio-pci 0000:00:03.0";
        assert!(message.contains(commands), "{message}");
        assert!(message.contains("hugepages"), "{message}");

        let folder = sys.path().join("bus/pci/devices/0000:00:03.0/iommu_group");
        fs::create_dir(folder).unwrap();
        fs::create_dir_all(sys.path().join("bus/pci/drivers/vfio-pci")).unwrap();
        let message = said(&sys, "0000:00:03.0", -95);
        assert!(
            !message.contains("modprobe") && !message.contains("IOMMU"),
            "{message}"
        );
    }

    #[test]
    fn a_device_bound_right_may_lack_its_driver() {
        let sys = sysfs(&[("0000:01:00.0", "0x020000", Some("vfio-pci"), None)]);
        let message = said(&sys, "0000:01:00.0", -libc::ENOTSUP);
        assert!(message.contains("RINGWAY_DPDK_DRIVERS"), "{message}");
        let message = said(&sys, "0000:01:00.0", -1);
        assert!(
            message.contains("/dev/vfio/") && message.contains("EAL: no"),
            "{message}"
        );
    }
}
