//! `Watch`: what there is, looked at once for all who watch, however many.

use std::sync::Arc;
use std::time::Duration;

use ringway_proto::v1 as pb;
use tokio::sync::{Notify, mpsc, watch};
use tonic::Status;

use crate::control::Control;
use crate::stop::Stopping;
use crate::switch::Switch;

/// How often port states are looked at that change by themselves.
const PERIOD: Duration = Duration::from_millis(200);

/// Where watchers come together.
#[derive(Debug)]
pub struct Watchers {
    shown: watch::Sender<Option<Arc<pb::ShowResponse>>>,
    joined: Notify,
}

impl Default for Watchers {
    fn default() -> Self {
        Self {
            shown: watch::Sender::new(None),
            joined: Notify::new(),
        }
    }
}

async fn show<S: Switch>(control: &Arc<Control<S>>) -> Option<Arc<pb::ShowResponse>> {
    let control = Arc::clone(control);
    let shown = tokio::task::spawn_blocking(move || control.show()).await;
    shown.ok().map(Arc::new)
}

impl Watchers {
    /// Looks while anybody watches.
    pub async fn run<S: Switch>(&self, control: Arc<Control<S>>, mut stopping: Stopping) {
        let mut changed = control.subscribe();
        loop {
            tokio::select! {
                () = stopping.wait() => return,
                () = self.joined.notified() => {}
            }
            while self.shown.receiver_count() > 0 {
                let Some(now) = show(&control).await else {
                    return;
                };
                self.shown.send_if_modified(|shown| {
                    let differs = shown.as_ref() != Some(&now);
                    if differs {
                        *shown = Some(now);
                    }
                    differs
                });
                tokio::select! {
                    () = stopping.wait() => return,
                    outcome = changed.changed() => if outcome.is_err() { return },
                    () = tokio::time::sleep(PERIOD) => {}
                }
            }
        }
    }

    /// Tells one watcher what there is, and again at every change.
    pub async fn tell<S: Switch>(
        self: Arc<Self>,
        control: Arc<Control<S>>,
        mut stopping: Stopping,
        sender: mpsc::Sender<Result<pb::ShowResponse, Status>>,
    ) {
        let mut shown = self.shown.subscribe();
        self.joined.notify_one();
        let Some(mut last) = show(&control).await else {
            return;
        };
        if sender
            .send(Ok(pb::ShowResponse::clone(&last)))
            .await
            .is_err()
        {
            return;
        }
        loop {
            tokio::select! {
                () = stopping.wait() => {
                    let _ = sender.send(Err(Status::unavailable("ringwayd is stopping"))).await;
                    return;
                }
                () = sender.closed() => return,
                outcome = shown.changed() => if outcome.is_err() { return },
            }
            let now = shown.borrow_and_update().clone();
            if let Some(now) = now.filter(|now| *now != last) {
                last = Arc::clone(&now);
                if sender
                    .send(Ok(pb::ShowResponse::clone(&now)))
                    .await
                    .is_err()
                {
                    return;
                }
            }
        }
    }
}
