//! The kernel asked, and watched, through rtnetlink.

use std::time::Duration;

use ringway_host::HostError;
use ringway_host::link::{self, Link, LinkWatch};

use super::{Host, Interface};

/// After a first change others follow (an interface comes, gets an address, is
/// set up): they are looked at together.
const DEBOUNCE: Duration = Duration::from_millis(50);
/// Between a failure to watch and the next try.
const WATCH_AGAIN: Duration = Duration::from_secs(5);

/// The interfaces of this process's network namespace.
#[derive(Clone, Copy, Debug, Default)]
pub struct KernelHost;

impl Host for KernelHost {
    fn interface(&self, name: &str) -> Result<Option<Interface>, String> {
        let asked = || -> Result<Option<Interface>, HostError> {
            let Some(link) = link::find(name)? else {
                return Ok(None);
            };
            let addresses = link::addresses(link.index)?.into_iter();
            Ok(Some(Interface {
                mtu: link.mtu,
                admin_up: link.admin_up,
                master: match link.master {
                    Some(master) => Some(name_of(master)?),
                    None => None,
                },
                addresses: addresses
                    .filter(|address| !address.scope_link)
                    .map(|address| address.to_string())
                    .collect(),
            }))
        };
        asked().map_err(|error| error.to_string())
    }

    fn move_addresses(&self, from: &str, to: &str) -> Result<Vec<String>, String> {
        let commands = |link: Link| link::remedy(&link, to);
        let asked = link::find(from).and_then(|link| link.map_or(Ok(vec![]), commands));
        asked.map_err(|error| error.to_string())
    }
}

fn name_of(index: u32) -> Result<String, HostError> {
    let mut links = link::all()?.into_iter();
    let found = links.find(|link| link.index == index);
    Ok(found.map_or_else(|| format!("interface {index}"), |link| link.name))
}

/// Calls `changed` soon after each change of an interface or address, for
/// as long as it returns true, and once when the watch begins: what happened before
/// that was not seen. Blocks.
pub fn watch_links(mut changed: impl FnMut() -> bool) {
    loop {
        let watched = LinkWatch::new().and_then(|mut watch| {
            while changed() {
                watch.wait()?;
                std::thread::sleep(DEBOUNCE);
            }
            Ok(())
        });
        match watched {
            Ok(()) => return,
            Err(error) => {
                tracing::warn!(
                    "changes of interfaces are seen only once in a while, for they cannot be \
                     watched: {error}"
                );
                std::thread::sleep(WATCH_AGAIN);
            }
        }
    }
}
