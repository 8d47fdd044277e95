//! Images: whether one is there, and the patience with those that cannot be had.

use std::{collections::BTreeMap, time::Duration};

use k8s_openapi::api::core::v1::{Container, Pod};
use tokio::time::Instant;
use tonic::Code;

use super::{status::Waiting, worker::Worker};
use crate::cri::report::Image;

/// After the first pull that failed.
const FIRST: Duration = Duration::from_secs(10);
/// At most.
const MOST: Duration = Duration::from_mins(5);

/// What is known of an image that is not there.
#[derive(Debug)]
pub(crate) enum Pull {
    /// It comes.
    Coming,
    /// It did not come; it is asked for again then.
    Failed {
        /// When.
        again: Instant,
        /// What was waited for.
        delay: Duration,
        /// Why.
        message: String,
    },
    /// It came with this pull, for containers that always want a fresh one.
    Fresh,
}

/// Images by name.
pub(crate) type Pulls = BTreeMap<String, Pull>;

impl Worker {
    /// The image of a container if it is there; otherwise why the container waits.
    pub(super) async fn image(&mut self, container: &Container) -> Result<Image, Option<Waiting>> {
        let name = container.image.clone().unwrap_or_default();
        let waits =
            |reason: &str, message: String| Some(Waiting { reason: reason.into(), message });
        if matches!(self.pulls.get(&name), Some(Pull::Coming)) {
            return Err(None);
        }
        let policy = container.image_pull_policy.as_deref().unwrap_or("IfNotPresent");
        let there = match self.shared.runtime.image(&name).await {
            Ok(there) => there,
            Err(status)
                if status.code() == Code::InvalidArgument
                    || status.message().contains("invalid reference") =>
            {
                let message = format!(
                    "Failed to apply default image tag {name:?}: couldn't parse image name"
                );
                self.report(Some(&container.name), true, "InspectFailed", message.clone());
                return Err(waits("InvalidImageName", message));
            }
            Err(status) => return Err(waits("ImageInspectError", status.message().to_owned())),
        };
        match (there, policy) {
            (Some(image), "IfNotPresent" | "Never") => {
                let message = format!("Container image {name:?} already present on machine");
                self.report(Some(&container.name), false, "Pulled", message);
                Ok(image)
            }
            (Some(image), _) if matches!(self.pulls.get(&name), Some(Pull::Fresh)) => {
                self.pulls.remove(&name);
                Ok(image)
            }
            (None, "Never") => {
                let message =
                    format!("Container image {name:?} is not present with pull policy of Never");
                self.report(Some(&container.name), true, "ErrImageNeverPull", message.clone());
                Err(waits("ErrImageNeverPull", message))
            }
            _ => self.pull(container, name),
        }
    }

    /// Begins a pull unless the last one failed not long ago.
    fn pull(&mut self, container: &Container, name: String) -> Result<Image, Option<Waiting>> {
        if let Some(Pull::Failed { again, message, .. }) = self.pulls.get(&name)
            && *again > Instant::now()
        {
            let words = format!("Back-off pulling image {name:?}: {message}");
            let (again, waits) =
                (*again, Waiting { reason: "ImagePullBackOff".into(), message: words });
            self.look_at(again);
            self.report(
                Some(&container.name),
                false,
                "BackOff",
                format!("Back-off pulling image {name:?}"),
            );
            return Err(Some(waits));
        }
        self.report(Some(&container.name), false, "Pulling", format!("Pulling image {name:?}"));
        let delay = match self.pulls.insert(name.clone(), Pull::Coming) {
            Some(Pull::Failed { delay, .. }) => (delay * 2).min(MOST),
            _ => FIRST,
        };
        let (runtime, pulled) = (self.shared.runtime.clone(), self.pulled.clone());
        tokio::spawn(async move {
            let answer = runtime.pull(&name).await;
            let answer = answer.map(drop).map_err(|status| status.message().to_owned());
            // Nobody waits any more if the pod is gone.
            let _gone = pulled.send((name, delay, answer)).await;
        });
        Err(None)
    }

    /// Notes how a pull ended.
    pub(super) fn was_pulled(&mut self, name: String, delay: Duration, answer: Result<(), String>) {
        let users: Vec<String> = users(&self.pod, &name);
        match answer {
            Ok(()) => {
                for user in users {
                    let message = format!("Successfully pulled image {name:?}");
                    self.report(Some(&user), false, "Pulled", message);
                }
                self.pulls.insert(name, Pull::Fresh);
            }
            Err(message) => {
                for user in users {
                    let words = format!("Failed to pull image {name:?}: {message}");
                    self.report(Some(&user), true, "Failed", words.clone());
                    self.report(Some(&user), true, "Failed", "Error: ErrImagePull");
                    let waiting = Waiting { reason: "ErrImagePull".into(), message: words };
                    self.waiting.insert(user, waiting);
                }
                let again = Instant::now() + delay;
                self.look_at(again);
                self.pulls.insert(name, Pull::Failed { again, delay, message });
            }
        }
    }
}

/// The containers of a pod that run an image.
fn users(pod: &Pod, image: &str) -> Vec<String> {
    let of = |it: &&Container| it.image.as_deref() == Some(image);
    crate::configs::containers(pod).filter(of).map(|it| it.name.clone()).collect()
}
