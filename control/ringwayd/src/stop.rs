//! One signal that everything is to end.

use tokio::sync::watch;

/// Gives the signal; dropping it gives it as well.
#[derive(Debug)]
pub struct Stopper(watch::Sender<bool>);

/// Waits for the signal. Every clone sees it, also one made later.
#[derive(Clone, Debug)]
pub struct Stopping(watch::Receiver<bool>);

/// A signal not given yet.
pub fn channel() -> (Stopper, Stopping) {
    let (sender, receiver) = watch::channel(false);
    (Stopper(sender), Stopping(receiver))
}

impl Stopper {
    /// Gives the signal.
    pub fn stop(&self) {
        self.0.send_replace(true);
    }
}

impl Stopping {
    /// Returns once the signal was given.
    pub async fn wait(&mut self) {
        let _ = self.0.wait_for(|stopping| *stopping).await;
    }
}
