//! The server as a whole: store, API, controllers, and the file that lets an administrator in.

use std::{
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use axum::{
    Router,
    extract::{ConnectInfo, Request, State},
    response::Response,
};
use base64::{Engine as _, engine::general_purpose::STANDARD};
use http_body::Body;
use tokio::{net::TcpListener, sync::oneshot, task::JoinHandle};
use tower_http::{
    CompressionLevel,
    compression::{CompressionLayer, Predicate},
};

use crate::{
    api::{
        audit::Audit,
        connect::Nodes,
        join::{Cluster, Joining},
        listen::{Certified, Tls},
        metrics::Metrics,
        serve::Server,
        status::Failure,
    },
    auth::{
        MASTERS,
        rbac::Authorizer,
        tls::{self, Authority, Pair, write_private},
        tokens::Signer,
    },
    bootstrap,
    controllers::{self, balancer::Pool},
    registry::{self, Registry, names},
    store::{self, Embedded, Etcd, Sealed, Store, sealed::KeyError},
};

/// Answers below this are not compressed, as upstream has it.
const COMPRESS_MIN: u64 = 128 << 10;
/// How long requests may go on once the server is asked to stop.
const GRACE: Duration = Duration::from_secs(1);

/// How the server is started.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Where keys and certificates are kept, and objects unless etcd has them.
    pub data: PathBuf,
    /// Servers of the etcd that keeps objects, for several servers of ours; none is a file in `data`.
    pub etcd: Vec<String>,
    /// Where it listens.
    pub listen: SocketAddr,
    /// Where the file for the administrator goes.
    pub kubeconfig: Option<PathBuf>,
    /// Where pods reach it; nothing is `listen`, unless that is the loopback or every address.
    pub advertise: Option<IpAddr>,
    /// Where is noted who did what; nothing is nowhere.
    pub audit: Option<PathBuf>,
    /// Whether Secrets are encrypted in the store, by a key in `data`.
    pub seals_secrets: bool,
    /// Addresses and ports of Services.
    pub registry: registry::Settings,
    /// Pools of addresses for Services of type LoadBalancer.
    pub pools: Vec<Pool>,
    /// Networks of all pods, of which each node gets a part: first address and shared bits.
    pub pods: Vec<(IpAddr, u8)>,
    /// Addresses of cluster DNS, one per family; none makes no Service for it.
    pub dns: Vec<IpAddr>,
    /// The cluster's DNS domain.
    pub domain: String,
}

impl Settings {
    /// Everything else as it is by default.
    pub fn new(data: PathBuf, listen: SocketAddr) -> Self {
        let registry = registry::Settings::default();
        Self {
            data,
            etcd: Vec::new(),
            listen,
            kubeconfig: None,
            advertise: None,
            audit: None,
            seals_secrets: false,
            registry,
            pools: Vec::new(),
            pods: Vec::new(),
            dns: Vec::new(),
            domain: "cluster.local".into(),
        }
    }

    /// Where pods reach the server, if they can.
    fn advertised(&self, bound: SocketAddr) -> Option<SocketAddr> {
        let own = |ip: &IpAddr| !ip.is_loopback() && !ip.is_unspecified();
        let ip = self.advertise.or_else(|| {
            let ip = bound.ip();
            if ip.is_unspecified() { towards_others(ip.is_ipv6()) } else { Some(ip) }
        });
        ip.filter(own).map(|ip| SocketAddr::new(ip, bound.port()))
    }
}

/// The address of this machine from which it would send to others. Nothing is sent.
fn towards_others(v6: bool) -> Option<IpAddr> {
    // Documentation addresses (RFC 5737, RFC 3849): only the way there is looked up.
    let (any, other) =
        if v6 { ("[::]:0", "[2001:db8::1]:9") } else { ("0.0.0.0:0", "192.0.2.1:9") };
    let socket = std::net::UdpSocket::bind(any).ok()?;
    socket.connect(other).ok()?;
    socket.local_addr().ok().map(|address| address.ip())
}

/// Why the server does not run.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The directory.
    #[error("cannot make {}: {cause}", path.display())]
    Directory {
        /// Which.
        path: PathBuf,
        /// Why.
        cause: std::io::Error,
    },
    /// The address.
    #[error("cannot listen on {address}: {cause}")]
    Listen {
        /// Which.
        address: SocketAddr,
        /// Why.
        cause: std::io::Error,
    },
    /// The store.
    #[error(transparent)]
    Store(#[from] store::Error),
    /// The file of who did what.
    #[error("cannot write the audit log {}: {cause}", path.display())]
    Audit {
        /// Which.
        path: PathBuf,
        /// Why.
        cause: std::io::Error,
    },
    /// The key of Secrets.
    #[error(transparent)]
    Key(#[from] KeyError),
    /// Certificates.
    #[error(transparent)]
    Tls(#[from] tls::Error),
    /// The first objects.
    #[error("cannot create what every cluster has: {}", .0.status()["message"])]
    Bootstrap(Failure),
    /// Serving ended.
    #[error("serving ended: {0}")]
    Serve(std::io::Error),
}

fn audit(settings: &Settings) -> Result<Option<Audit>, Error> {
    let open = |path: &PathBuf| {
        let failed = |cause| Error::Audit { path: path.clone(), cause };
        Audit::open(path).map_err(failed)
    };
    settings.audit.as_ref().map(open).transpose()
}

/// Serves until `stop` is done. `serving` is called with the address once requests are answered.
pub async fn run(
    settings: Settings,
    stop: impl Future<Output = ()> + Send + 'static,
    serving: impl FnOnce(SocketAddr),
) -> Result<(), Error> {
    let data = &settings.data;
    std::fs::create_dir_all(data)
        .map_err(|cause| Error::Directory { path: data.clone(), cause })?;
    let store: Arc<dyn Store> = if settings.etcd.is_empty() {
        Arc::new(Embedded::open(&data.join("objects.redb"))?)
    } else {
        Arc::new(Etcd::open(&settings.etcd).await?)
    };
    let authority = Authority::open(&data.join("pki"))?;
    let store = sealed(store, &settings).await?;
    let registry = Arc::new(Registry::new(store, settings.registry.clone()));
    bootstrap::run(&registry).await.map_err(Error::Bootstrap)?;
    let signer = Signer::open(&data.join("pki"))?;
    let authorizer = Arc::new(Authorizer::default());
    authorizer.load(&registry).await.map_err(Error::Bootstrap)?;
    let fail = |cause| Error::Listen { address: settings.listen, cause };
    let listener = TcpListener::bind(settings.listen).await.map_err(fail)?;
    let address = listener.local_addr().map_err(fail)?;
    let advertised = settings.advertised(address);
    let networks = &settings.registry.networks;
    let pair = authority.server(&NAMES, &addresses(address.ip(), advertised, networks))?;
    let tls = Tls::new(listener, authority.config(&pair)?).map_err(fail)?;
    bootstrap::kubernetes(&registry, networks, advertised).await.map_err(Error::Bootstrap)?;
    bootstrap::names(&registry, &settings.dns).await.map_err(Error::Bootstrap)?;
    let control = controllers::Settings {
        root_ca: authority.certificate.clone(),
        pools: settings.pools.clone(),
        pods: settings.pods.clone(),
        identity: (!settings.etcd.is_empty()).then(|| identity(address)),
    };
    let mut tasks = Tasks(controllers::start(registry.clone(), control));
    tasks.0.push(tokio::spawn(authorizer.clone().follow(registry.clone())));
    let audit = audit(&settings)?;
    let (nodes, joining) = (nodes(&authority)?, joining(&settings));
    let server = Arc::new(Server {
        registry,
        authorizer,
        signer,
        audit,
        nodes,
        joining,
        metrics: Metrics::default(),
    });
    let compression =
        CompressionLayer::new().quality(CompressionLevel::Fastest).compress_when(Long);
    let app = Router::new().fallback(answer).with_state(server).layer(compression);
    let app = app.into_make_service_with_connect_info::<Certified>();
    if let Some(path) = &settings.kubeconfig {
        let admin = authority.client("kubernetes-admin", MASTERS)?;
        write_kubeconfig(path, address, &authority.certificate, &admin)?;
    }
    serving(address);
    let (stopping, stopped) = oneshot::channel();
    let stop = async move {
        stop.await;
        // Whoever waits for it may be gone, and then nothing is served any more.
        let _gone = stopping.send(());
    };
    let late = async {
        if stopped.await.is_ok() {
            tokio::time::sleep(GRACE).await;
        }
    };
    tokio::select! {
        ended = axum::serve(tls, app).with_graceful_shutdown(stop) => ended.map_err(Error::Serve),
        // Watches have no end of their own.
        () = late => Ok(()),
    }
}

/// The way to nodes: they know the server by its group.
fn nodes(authority: &Authority) -> Result<Nodes, Error> {
    let own = authority.client("kube-apiserver-kubelet-client", MASTERS)?;
    Ok(Nodes::new(authority.client_config(&own)?))
}

/// What machines are told that become nodes.
fn joining(settings: &Settings) -> Joining {
    let texts =
        |all: &[(IpAddr, u8)]| all.iter().map(|(ip, bits)| format!("{ip}/{bits}")).collect();
    let cluster = Cluster {
        pods: texts(&settings.pods),
        services: texts(&settings.registry.networks.service_cidrs),
        dns: settings.dns.clone(),
        domain: settings.domain.clone(),
    };
    Joining { data: settings.data.clone(), cluster }
}

/// The store with Secrets sealed, or readable if they ever were.
async fn sealed(store: Arc<dyn Store>, settings: &Settings) -> Result<Arc<dyn Store>, Error> {
    let key = settings.data.join("pki/secrets.key");
    if !settings.seals_secrets && !key.exists() {
        return Ok(store);
    }
    let store = Sealed::open(store, "/core/secrets/", &key, settings.seals_secrets)?;
    let count = store.convert().await?;
    if count > 0 {
        let now = if settings.seals_secrets { "encrypted" } else { "decrypted" };
        tracing::info!(count, "Secrets were {now} in the store");
    }
    Ok(Arc::new(store))
}

/// A name that no other server has, also not the same one after a restart.
fn identity(address: SocketAddr) -> String {
    let host = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    format!("{}_{address}_{}", host.trim(), names::uid())
}

/// Answers that are worth compressing: not watches, whose length nobody knows.
#[derive(Clone, Copy)]
struct Long;

impl Predicate for Long {
    fn should_compress<B: Body>(&self, response: &http::Response<B>) -> bool {
        response.body().size_hint().exact().is_some_and(|length| length >= COMPRESS_MIN)
    }
}

/// What goes on beside the API, and ends with it.
struct Tasks(Vec<JoinHandle<()>>);

impl Drop for Tasks {
    fn drop(&mut self) {
        for task in &self.0 {
            task.abort();
        }
    }
}

async fn answer(
    State(server): State<Arc<Server>>,
    ConnectInfo(Certified(user)): ConnectInfo<Certified>,
    request: Request,
) -> Response {
    server.answer(request, user).await
}

const NAMES: [&str; 5] = [
    "localhost",
    "kubernetes",
    "kubernetes.default",
    "kubernetes.default.svc",
    "kubernetes.default.svc.cluster.local",
];

fn addresses(
    own: IpAddr,
    advertised: Option<SocketAddr>,
    networks: &registry::Networks,
) -> Vec<IpAddr> {
    let mut all = vec![IpAddr::V4(Ipv4Addr::LOCALHOST), IpAddr::V6(Ipv6Addr::LOCALHOST)];
    let others = [Some(own), advertised.map(|it| it.ip()), networks.first_address()];
    for ip in others.into_iter().flatten() {
        if !ip.is_unspecified() && !all.contains(&ip) {
            all.push(ip);
        }
    }
    all
}

/// What a node gets to be one.
#[derive(Clone)]
#[expect(missing_debug_implementations, reason = "it holds a key")]
pub struct NodeFiles {
    /// The way to the API, with the node's certificate.
    pub kubeconfig: String,
    /// The node's certificate and key, by which it serves too.
    pub pair: Pair,
    /// The authority of everybody.
    pub authority: String,
}

impl NodeFiles {
    /// Makes a node's certificate by the authority in `data`; `server` is where the node finds the API, such
    /// as `https://192.0.2.1:6443`.
    pub fn new(
        data: &Path,
        server: &str,
        name: &str,
        addresses: &[IpAddr],
    ) -> Result<Self, tls::Error> {
        let authority = Authority::open(&data.join("pki"))?;
        let pair = authority.node(name, addresses)?;
        let user = format!("{}{name}", crate::auth::NODE);
        let kubeconfig = kubeconfig(server, &authority.certificate, &user, &pair);
        Ok(Self { kubeconfig, pair, authority: authority.certificate })
    }
}

/// The file that lets an administrator in.
fn write_kubeconfig(
    path: &Path,
    address: SocketAddr,
    authority: &str,
    admin: &Pair,
) -> Result<(), tls::Error> {
    let host = match address.ip() {
        ip if ip.is_unspecified() && ip.is_ipv4() => IpAddr::V4(Ipv4Addr::LOCALHOST),
        ip if ip.is_unspecified() => IpAddr::V6(Ipv6Addr::LOCALHOST),
        ip => ip,
    };
    let server = SocketAddr::new(host, address.port());
    let server = format!("https://{server}");
    write_private(path, &kubeconfig(&server, authority, "kubernetes-admin", admin))
}

/// The way to a server for somebody with a certificate.
fn kubeconfig(server: &str, authority: &str, user: &str, pair: &Pair) -> String {
    format!(
        "apiVersion: v1\nkind: Config\nclusters:\n- name: hashplane\n  cluster:\n    server: {}\n    \
         certificate-authority-data: {}\ncontexts:\n- name: hashplane\n  context:\n    cluster: hashplane\n    \
         user: {user}\ncurrent-context: hashplane\nusers:\n- name: {user}\n  user:\n    \
         client-certificate-data: {}\n    client-key-data: {}\n",
        server,
        STANDARD.encode(authority),
        STANDARD.encode(&pair.certificate),
        STANDARD.encode(&pair.key),
    )
}
