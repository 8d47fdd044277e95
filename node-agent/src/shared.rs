//! What all pods of a node share.

use std::{
    collections::BTreeMap,
    net::IpAddr,
    sync::{Arc, Mutex, PoisonError, RwLock},
    time::Duration,
};

use k8s_openapi::api::core::v1::{Pod, Service};
use kube::Client;
use tokio::sync::watch;

use crate::{
    announce,
    barrier::Barrier,
    cgroup::Groups,
    configs::Configs,
    cri::{Runtime, wire::DnsConfig},
    dns::zone::Zone,
    events::Events,
    pod::{env::Place, plan::Patience},
    settings::Settings,
};

/// A pod may set how long its containers wait at most, in seconds.
const PATIENCE: &str = "hashplane.dev/crash-loop-max-seconds";

/// What all pods share.
pub(crate) struct Shared {
    pub(crate) settings: Settings,
    pub(crate) runtime: Runtime,
    pub(crate) client: Client,
    pub(crate) configs: Configs,
    pub(crate) groups: Groups,
    pub(crate) events: Events,
    pub(crate) drain: Barrier,
    place: RwLock<Place>,
    capacity_memory: i64,
    services: RwLock<BTreeMap<(String, String), Service>>,
    /// The cluster's names.
    pub(crate) zone: Arc<RwLock<Zone>>,
    /// Tells that some slice has changed.
    pub(crate) slices_changed: watch::Sender<()>,
    /// Services with addresses that nodes answer for.
    pub(crate) balanced: RwLock<announce::Table>,
    /// Tells that those have changed.
    pub(crate) balanced_changed: watch::Sender<()>,
    /// Which pod a container or sandbox is of.
    owners: Mutex<BTreeMap<String, String>>,
    resolv: String,
}

impl Shared {
    #[expect(clippy::too_many_arguments, reason = "it is put together once")]
    pub(crate) fn new(
        settings: Settings,
        runtime: Runtime,
        client: Client,
        configs: Configs,
        groups: Groups,
        events: Events,
        place: Place,
        capacity_memory: i64,
    ) -> Self {
        let zone = Arc::new(RwLock::new(Zone::new(&settings.domain)));
        let resolv = std::fs::read_to_string("/etc/resolv.conf").unwrap_or_default();
        Self {
            drain: Barrier::new(settings.drain, settings.dataplane_port),
            settings,
            runtime,
            client,
            configs,
            groups,
            events,
            place: RwLock::new(place),
            capacity_memory,
            services: RwLock::default(),
            zone,
            slices_changed: watch::Sender::new(()),
            balanced: RwLock::default(),
            balanced_changed: watch::Sender::new(()),
            owners: Mutex::default(),
            resolv,
        }
    }

    pub(crate) fn place(&self) -> Place {
        self.place.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Bytes of memory that the machine has.
    pub(crate) fn capacity_memory(&self) -> i64 {
        self.capacity_memory
    }

    /// The Services that a pod of this namespace may know by its environment.
    pub(crate) fn services(&self, namespace: &str) -> Vec<Service> {
        let services = self.services.read().unwrap_or_else(PoisonError::into_inner);
        let is_near = |key: &(String, String)| key.0 == namespace || key.0 == "default";
        services.iter().filter(|(key, _)| is_near(key)).map(|(_, it)| it.clone()).collect()
    }

    pub(crate) fn put_service(&self, service: Service) {
        let text = |it: &Option<String>| it.clone().unwrap_or_default();
        let key = (text(&service.metadata.namespace), text(&service.metadata.name));
        self.services.write().unwrap_or_else(PoisonError::into_inner).insert(key, service);
    }

    pub(crate) fn remove_service(&self, namespace: &str, name: &str) {
        let key = (namespace.to_owned(), name.to_owned());
        self.services.write().unwrap_or_else(PoisonError::into_inner).remove(&key);
    }

    /// Changes what is known of Services with addresses; `change` says whether anything is different.
    pub(crate) fn balance(&self, change: impl FnOnce(&mut announce::Table) -> bool) {
        if change(&mut self.balanced.write().unwrap_or_else(PoisonError::into_inner)) {
            self.balanced_changed.send_replace(());
        }
    }

    /// The name servers of the node.
    pub(crate) fn resolv(&self) -> &str {
        &self.resolv
    }

    /// Notes whose a container or sandbox is.
    pub(crate) fn knows(&self, id: &str, pod: &str) {
        let mut owners = self.owners.lock().unwrap_or_else(PoisonError::into_inner);
        if !owners.contains_key(id) {
            owners.insert(id.into(), pod.into());
        }
    }

    pub(crate) fn forgets(&self, id: &str) {
        self.owners.lock().unwrap_or_else(PoisonError::into_inner).remove(id);
    }

    pub(crate) fn owner(&self, id: &str) -> Option<String> {
        self.owners.lock().unwrap_or_else(PoisonError::into_inner).get(id).cloned()
    }

    pub(crate) fn patience(&self, pod: &Pod) -> Patience {
        let (first, most) = self.settings.restart;
        let own = pod.metadata.annotations.as_ref().and_then(|it| it.get(PATIENCE));
        let own = own.and_then(|it| it.parse().ok()).map(Duration::from_secs);
        let most = own.unwrap_or(most);
        Patience { first: first.min(most), most }
    }

    /// How a pod finds names.
    pub(crate) fn dns(&self, pod: &Pod) -> DnsConfig {
        crate::resolv::of(pod, &self.settings.domain, &self.settings.dns, &self.resolv)
    }

    /// Waits until no node sends to the pod any more, or until that takes too long.
    pub(crate) async fn barrier(&self, pod: &Pod, addresses: &[IpAddr]) {
        let changed = self.slices_changed.subscribe();
        let others = || {
            let zone = self.zone.read().unwrap_or_else(PoisonError::into_inner);
            zone.has_others(addresses)
        };
        self.drain.wait(pod, addresses, changed, others).await;
    }
}
