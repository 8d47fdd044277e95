//! Certificates: an authority of our own, one for the server, one for the administrator.

use std::{
    fs,
    io::Write as _,
    net::IpAddr,
    os::unix::fs::OpenOptionsExt as _,
    path::{Path, PathBuf},
    sync::Arc,
};

use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa,
    Issuer, KeyPair, KeyUsagePurpose, SanType,
};
use rustls::{
    ClientConfig, RootCertStore, ServerConfig,
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject as _},
    server::WebPkiClientVerifier,
};
use x509_parser::prelude::{FromDer as _, X509Certificate};

use super::{NODE, NODES, User};

/// How long certificates that are not the authority's are good.
const DAYS: i64 = 365;
/// How long the authority is.
const AUTHORITY_DAYS: i64 = 3_650;

/// Why there are no certificates.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A file.
    #[error("cannot {doing} {}: {cause}", path.display())]
    File {
        /// What failed.
        doing: &'static str,
        /// Which file.
        path: PathBuf,
        /// Why.
        cause: std::io::Error,
    },
    /// A certificate cannot be made.
    #[error("cannot make a certificate: {0}")]
    Make(#[from] rcgen::Error),
    /// A file holds something else.
    #[error("{} holds no certificate or key: {words}", path.display())]
    Damaged {
        /// Which file.
        path: PathBuf,
        /// Why.
        words: String,
    },
    /// TLS does not take them.
    #[error("TLS does not take the certificates: {0}")]
    Tls(#[from] rustls::Error),
}

/// A certificate with its key, as PEM.
#[derive(Clone, Debug)]
pub struct Pair {
    /// The certificate.
    pub certificate: String,
    /// Its key.
    pub key: String,
}

/// The authority, in files of a directory.
#[expect(missing_debug_implementations, reason = "it holds a key")]
pub struct Authority {
    issuer: Issuer<'static, KeyPair>,
    /// Its certificate, as PEM.
    pub certificate: String,
}

impl Authority {
    /// Opens the authority of a directory, or makes one.
    pub fn open(directory: &Path) -> Result<Self, Error> {
        let (certificate_path, key_path) = (directory.join("ca.crt"), directory.join("ca.key"));
        if !key_path.exists() {
            fs::create_dir_all(directory).map_err(|cause| Error::File {
                doing: "make",
                path: directory.into(),
                cause,
            })?;
            let key = KeyPair::generate()?;
            let mut params = CertificateParams::default();
            params.distinguished_name = subject("hashplane-ca", None);
            params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
            params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
            valid(&mut params, AUTHORITY_DAYS);
            let certificate = params.self_signed(&key)?;
            write_private(&certificate_path, &certificate.pem())?;
            write_private(&key_path, &key.serialize_pem())?;
        }
        let certificate = read(&certificate_path)?;
        let key = KeyPair::from_pem(&read(&key_path)?)?;
        let issuer = Issuer::from_ca_cert_pem(&certificate, key)?;
        Ok(Self { issuer, certificate })
    }

    /// A certificate for a client in one group.
    pub fn client(&self, name: &str, group: &str) -> Result<Pair, Error> {
        let mut params = CertificateParams::default();
        params.distinguished_name = subject(name, Some(group));
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
        self.sign(params, DAYS)
    }

    /// A certificate for the server.
    pub fn server(&self, names: &[&str], addresses: &[IpAddr]) -> Result<Pair, Error> {
        let names: Vec<String> = names.iter().map(|it| (*it).to_owned()).collect();
        let mut params = CertificateParams::new(names)?;
        params.distinguished_name = subject("kube-apiserver", None);
        params.subject_alt_names.extend(addresses.iter().map(|it| SanType::IpAddress(*it)));
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        self.sign(params, DAYS)
    }

    fn sign(&self, mut params: CertificateParams, days: i64) -> Result<Pair, Error> {
        params.key_usages =
            vec![KeyUsagePurpose::DigitalSignature, KeyUsagePurpose::KeyEncipherment];
        valid(&mut params, days);
        let key = KeyPair::generate()?;
        let certificate = params.signed_by(&key, &self.issuer)?;
        Ok(Pair { certificate: certificate.pem(), key: key.serialize_pem() })
    }

    /// How the server speaks TLS: clients may show a certificate of the authority.
    pub fn config(&self, pair: &Pair) -> Result<Arc<ServerConfig>, Error> {
        let damaged = |words: String| Error::Damaged { path: "ca.crt".into(), words };
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let mut roots = RootCertStore::empty();
        for certificate in CertificateDer::pem_slice_iter(self.certificate.as_bytes()) {
            roots.add(certificate.map_err(|error| damaged(error.to_string()))?)?;
        }
        let clients =
            WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider.clone())
                .allow_unauthenticated()
                .build()
                .map_err(|error| damaged(error.to_string()))?;
        let chain: Result<Vec<_>, _> =
            CertificateDer::pem_slice_iter(pair.certificate.as_bytes()).collect();
        let chain = chain.map_err(|error| damaged(error.to_string()))?;
        let key = PrivateKeyDer::from_pem_slice(pair.key.as_bytes())
            .map_err(|error| damaged(error.to_string()))?;
        let mut config = ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()?
            .with_client_cert_verifier(clients)
            .with_single_cert(chain, key)?;
        config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
        Ok(Arc::new(config))
    }

    /// How the server speaks TLS to nodes: it shows its certificate, and takes those of the authority.
    pub fn client_config(&self, pair: &Pair) -> Result<Arc<ClientConfig>, Error> {
        let damaged = |words: String| Error::Damaged { path: "ca.crt".into(), words };
        let mut roots = RootCertStore::empty();
        for certificate in CertificateDer::pem_slice_iter(self.certificate.as_bytes()) {
            roots.add(certificate.map_err(|error| damaged(error.to_string()))?)?;
        }
        let chain: Result<Vec<_>, _> =
            CertificateDer::pem_slice_iter(pair.certificate.as_bytes()).collect();
        let chain = chain.map_err(|error| damaged(error.to_string()))?;
        let key = PrivateKeyDer::from_pem_slice(pair.key.as_bytes())
            .map_err(|error| damaged(error.to_string()))?;
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let config = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()?
            .with_root_certificates(roots)
            .with_client_auth_cert(chain, key)?;
        Ok(Arc::new(config))
    }

    /// A certificate for a node: it serves by it, and is a client by it.
    pub fn node(&self, name: &str, addresses: &[IpAddr]) -> Result<Pair, Error> {
        let mut params = CertificateParams::new(vec![name.to_owned()])?;
        params.distinguished_name = subject(&format!("{NODE}{name}"), Some(NODES));
        params.subject_alt_names.extend(addresses.iter().map(|it| SanType::IpAddress(*it)));
        params.extended_key_usages =
            vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        self.sign(params, DAYS)
    }
}

fn subject(name: &str, group: Option<&str>) -> DistinguishedName {
    let mut subject = DistinguishedName::new();
    subject.push(DnType::CommonName, name);
    if let Some(group) = group {
        subject.push(DnType::OrganizationName, group);
    }
    subject
}

fn valid(params: &mut CertificateParams, days: i64) {
    // Clocks of clients may be behind ours.
    params.not_before = time::OffsetDateTime::now_utc() - time::Duration::hours(1);
    params.not_after = time::OffsetDateTime::now_utc() + time::Duration::days(days);
}

fn read(path: &Path) -> Result<String, Error> {
    fs::read_to_string(path).map_err(|cause| Error::File {
        doing: "read",
        path: path.into(),
        cause,
    })
}

/// Writes a file that only its owner may read; it is whole or not there.
pub fn write_private(path: &Path, text: &str) -> Result<(), Error> {
    let fail = |doing| move |cause| Error::File { doing, path: path.into(), cause };
    let part = path.with_extension("part");
    let mut options = fs::OpenOptions::new();
    let mut file = options
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o600)
        .open(&part)
        .map_err(fail("write"))?;
    file.write_all(text.as_bytes()).map_err(fail("write"))?;
    file.sync_all().map_err(fail("write"))?;
    fs::rename(&part, path).map_err(fail("write"))
}

/// Whom a client's certificate names; it has been verified.
pub fn user(certificate: &CertificateDer<'_>) -> Option<User> {
    let (_, certificate) = X509Certificate::from_der(certificate).ok()?;
    let subject = certificate.subject();
    let name = subject.iter_common_name().next()?.as_str().ok()?.to_owned();
    let groups = subject.iter_organization().filter_map(|it| it.as_str().ok());
    Some(User::known(name, String::new(), groups.map(str::to_owned).collect()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_client_certificate_names_its_user_and_group() {
        let directory = tempfile::tempdir().expect("a directory");
        let authority = Authority::open(directory.path()).expect("an authority");
        let pair = authority.client("ann", "devs").expect("a certificate");
        let der = CertificateDer::from_pem_slice(pair.certificate.as_bytes()).expect("PEM");
        let user = user(&der).expect("a user");
        assert_eq!(user.name, "ann");
        assert_eq!(user.groups, ["devs", "system:authenticated"]);
        let again = Authority::open(directory.path()).expect("the same authority");
        assert_eq!(again.certificate, authority.certificate);
        let server = again.server(&["localhost"], &[]).expect("a certificate");
        assert!(again.config(&server).is_ok());
    }
}
