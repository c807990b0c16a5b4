//! A port's descriptors from one process to another.

use ringway_vhost::{Descriptors, HandoverError};
use serde::{Deserialize, Serialize};

use super::{HostPort, HostPortConfig, HostPortKind, Kernel};

/// A port whose other end is the kernel, as another process takes it over. Its
/// interface, addresses and routes, and the taking of what it receives, are the
/// kernel's: only the descriptors go.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct HostPortForm {
    /// The interface's number.
    index: u32,
    /// The interface's MTU without a bridge's.
    own_mtu: u32,
    queues: Vec<u32>,
}

impl HostPort {
    /// Ends the threads, once they have written what the poll-mode cores
    /// delivered; these must have let go of the rings. What was read and not yet
    /// taken by them is lost.
    pub fn halt(&mut self) {
        self.end_threads();
    }

    /// What the port is made of; `None`: packet sockets, whose frames lie in memory
    /// of this process. They are opened anew.
    ///
    /// # Errors
    ///
    /// The system's: too many open files.
    pub fn export(
        &self,
        descriptors: &mut Descriptors,
    ) -> Result<Option<HostPortForm>, HandoverError> {
        let HostPortKind::Internal { .. } = self.config.kind else {
            return Ok(None);
        };
        let queues = self.kernels.iter();
        Ok(Some(HostPortForm {
            index: self.index,
            own_mtu: self.own_mtu,
            queues: queues
                .map(|kernel| descriptors.give(&**kernel))
                .collect::<Result<_, _>>()?,
        }))
    }

    /// A port that takes over another process's descriptors. Nothing is read
    /// before [`HostPort::go_on`].
    ///
    /// # Errors
    ///
    /// The port is of another kind now, or a descriptor is missing.
    pub fn adopt(
        config: HostPortConfig,
        form: HostPortForm,
        descriptors: &mut Descriptors,
    ) -> Result<Self, HandoverError> {
        match config.kind {
            HostPortKind::Internal { queues, .. } if form.queues.len() == usize::from(queues) => {}
            _ => {
                return Err(HandoverError::Unfit(
                    "the port is of another kind now, or has other queues".to_owned(),
                ));
            }
        }
        let kernels = form
            .queues
            .into_iter()
            .map(|place| Ok(Kernel::Tap(descriptors.take(place)?)))
            .collect::<Result<_, HandoverError>>()?;
        Self::over(config, form.index, form.own_mtu, kernels)
            .map_err(|error| HandoverError::Unfit(error.to_string()))
    }
}
