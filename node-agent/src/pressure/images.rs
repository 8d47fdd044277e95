//! Images that nobody uses go when the disk gets full, those first that have not been used for longest.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use k8s_openapi::api::core::v1::Node;
use tokio::time::Instant;

use super::signal;
use crate::{cri::report::Image, shared::Shared};

/// Above this the disk is too full, and below that full enough (kubelets: the same), in hundredths.
const HIGH: u64 = 85;
const LOW: u64 = 80;
/// An image is not removed sooner than this after it was seen first, or used last.
const AGE_MIN: Duration = Duration::from_mins(2);

/// When each image was used last, or was seen first.
#[derive(Debug, Default)]
pub(super) struct Unused(BTreeMap<String, Instant>);

impl Unused {
    fn see(&mut self, images: &[Image], used: &BTreeSet<String>, now: Instant) {
        self.0.retain(|id, _| images.iter().any(|it| it.id == *id));
        for image in images {
            let last = self.0.entry(image.id.clone()).or_insert(now);
            if is_used(image, used) {
                *last = now;
            }
        }
    }

    /// Images that can go, until so many bytes are free.
    fn plan(
        &self,
        images: &[Image],
        used: &BTreeSet<String>,
        bytes: u64,
        now: Instant,
    ) -> Vec<String> {
        let is_old =
            |id: &str| self.0.get(id).is_some_and(|last| now.duration_since(*last) >= AGE_MIN);
        // What came from no registry would not come again.
        let mut all: Vec<&Image> = images
            .iter()
            .filter(|it| !it.repo_digests.is_empty() && !is_used(it, used) && is_old(&it.id))
            .collect();
        all.sort_by_key(|it| self.0.get(&it.id).copied());
        let mut freed = 0;
        let mut chosen = Vec::new();
        for image in all {
            if freed >= bytes {
                break;
            }
            freed += image.size;
            chosen.push(image.id.clone());
        }
        chosen
    }
}

fn is_used(image: &Image, used: &BTreeSet<String>) -> bool {
    let names = image.repo_tags.iter().chain(&image.repo_digests);
    used.contains(&image.id) || names.into_iter().any(|it| used.contains(it))
}

/// Removes images if the disk is too full, or if `is_short` says so; whether any went.
pub(super) async fn clean(
    shared: &Shared,
    node: &Node,
    unused: &mut Unused,
    is_short: bool,
) -> bool {
    let Some((percent, size)) = signal::fill(&shared.settings.data) else { return false };
    let (Ok(images), Ok(containers)) =
        (shared.runtime.images().await, shared.runtime.containers(None).await)
    else {
        return false;
    };
    let used: BTreeSet<String> = containers
        .into_iter()
        .flat_map(|it| [it.image_ref, it.image_id, it.image.unwrap_or_default().image])
        .chain([crate::pause::IMAGE.to_owned()])
        .collect();
    let now = Instant::now();
    unused.see(&images, &used, now);
    if percent < HIGH && !is_short {
        return false;
    }
    let wanted = size / 100 * percent.saturating_sub(LOW).max(1);
    let chosen = unused.plan(&images, &used, wanted, now);
    let mut went = false;
    for id in &chosen {
        match shared.runtime.remove_image(id).await {
            Ok(()) => {
                tracing::info!(image = id, "an image that nobody uses is removed");
                went = true;
            }
            Err(status) => tracing::warn!(image = id, %status, "an image cannot be removed"),
        }
    }
    if !went && percent >= HIGH {
        let words = format!(
            "Failed to garbage collect required amount of images. Attempted to free {wanted} bytes, but \
             only found 0 bytes eligible to free."
        );
        shared.events.node(node, true, "FreeDiskSpaceFailed", words);
    }
    went
}

#[cfg(test)]
mod tests {
    use super::*;

    fn image(id: &str, is_pulled: bool) -> Image {
        Image {
            id: id.into(),
            repo_tags: vec![format!("{id}:1")],
            repo_digests: if is_pulled { vec![format!("{id}@sha256:1")] } else { Vec::new() },
            size: 100,
            ..Image::default()
        }
    }

    #[test]
    fn images_go_in_the_order_of_their_last_use() {
        let images =
            [image("used", true), image("own", false), image("late", true), image("early", true)];
        let used = BTreeSet::from(["used:1".to_owned()]);
        let begun = Instant::now();
        let mut unused = Unused::default();
        unused.see(&images, &BTreeSet::from(["late:1".to_owned()]), begun);
        unused.see(&images, &BTreeSet::from(["late:1".to_owned()]), begun + AGE_MIN);
        let now = begun + AGE_MIN * 2;
        unused.see(&images, &used, now);
        assert_eq!(unused.plan(&images, &used, 100, now), ["early"]);
        assert_eq!(unused.plan(&images, &used, 1_000, now), ["early", "late"]);
        // Too soon after its last use.
        let soon = begun + AGE_MIN + AGE_MIN / 2;
        assert_eq!(unused.plan(&images, &used, 1_000, soon), ["early"]);
    }
}
