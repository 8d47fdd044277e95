//! The server as a whole: store, API, controllers, and the file that lets an administrator in.

use std::{
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    path::{Path, PathBuf},
    sync::Arc,
};

use axum::{
    Router,
    extract::{ConnectInfo, Request, State},
    response::Response,
};
use base64::{Engine as _, engine::general_purpose::STANDARD};
use tokio::net::TcpListener;

use crate::{
    api::{
        listen::{Certified, Tls},
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
    registry::{self, Registry},
    store::{self, Embedded, Store},
};

/// How the server is started.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Where everything is kept.
    pub data: PathBuf,
    /// Where it listens.
    pub listen: SocketAddr,
    /// Where the file for the administrator goes.
    pub kubeconfig: Option<PathBuf>,
    /// Addresses and ports of Services.
    pub registry: registry::Settings,
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

/// Serves until `stop` is done. `serving` is called with the address once requests are answered.
pub async fn run(
    settings: Settings,
    stop: impl Future<Output = ()> + Send + 'static,
    serving: impl FnOnce(SocketAddr),
) -> Result<(), Error> {
    let data = &settings.data;
    std::fs::create_dir_all(data)
        .map_err(|cause| Error::Directory { path: data.clone(), cause })?;
    let store: Arc<dyn Store> = Arc::new(Embedded::open(&data.join("objects.redb"))?);
    let registry = Arc::new(Registry::new(store, settings.registry.clone()));
    bootstrap::run(&registry).await.map_err(Error::Bootstrap)?;
    let authority = Authority::open(&data.join("pki"))?;
    let signer = Signer::open(&data.join("pki"))?;
    let authorizer = Arc::new(Authorizer::default());
    authorizer.load(&registry).await.map_err(Error::Bootstrap)?;
    tokio::spawn(authorizer.clone().follow(registry.clone()));
    let fail = |cause| Error::Listen { address: settings.listen, cause };
    let listener = TcpListener::bind(settings.listen).await.map_err(fail)?;
    let address = listener.local_addr().map_err(fail)?;
    let pair = authority.server(&NAMES, &addresses(address.ip()))?;
    let tls = Tls::new(listener, authority.config(&pair)?).map_err(fail)?;
    let server = Arc::new(Server { registry, authorizer, signer });
    let app = Router::new().fallback(answer).with_state(server);
    let app = app.into_make_service_with_connect_info::<Certified>();
    if let Some(path) = &settings.kubeconfig {
        let admin = authority.client("kubernetes-admin", MASTERS)?;
        write_kubeconfig(path, address, &authority.certificate, &admin)?;
    }
    serving(address);
    axum::serve(tls, app).with_graceful_shutdown(stop).await.map_err(Error::Serve)
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

fn addresses(own: IpAddr) -> Vec<IpAddr> {
    let mut all = vec![IpAddr::V4(Ipv4Addr::LOCALHOST), IpAddr::V6(Ipv6Addr::LOCALHOST)];
    if !own.is_unspecified() && !all.contains(&own) {
        all.push(own);
    }
    all.push(IpAddr::V4(Ipv4Addr::new(10, 96, 0, 1)));
    all
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
    let text = format!(
        "apiVersion: v1\nkind: Config\nclusters:\n- name: hashplane\n  cluster:\n    server: https://{}\n    \
         certificate-authority-data: {}\ncontexts:\n- name: hashplane\n  context:\n    cluster: hashplane\n    \
         user: kubernetes-admin\ncurrent-context: hashplane\nusers:\n- name: kubernetes-admin\n  user:\n    \
         client-certificate-data: {}\n    client-key-data: {}\n",
        SocketAddr::new(host, address.port()),
        STANDARD.encode(authority),
        STANDARD.encode(&admin.certificate),
        STANDARD.encode(&admin.key),
    );
    write_private(path, &text)
}
