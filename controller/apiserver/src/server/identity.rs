//! The server's keys: CA, serving certificates, tokens of static users; kept in `--data` if there
//! is one.

use std::collections::HashMap;
use std::io::Write as _;
use std::net::{IpAddr, SocketAddr};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose, SanType,
};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};

use super::{Security, ServerError};
use rustls::server::WebPkiClientVerifier;
use rustls::server::danger::ClientCertVerifier;

use crate::auth::authenticate::Authentication;
use crate::auth::jwt::SigningKey;
use crate::auth::{MASTERS, User};
use crate::clock::Random;

/// Keys and tokens of one server.
pub(super) struct Identity {
    pub(super) ca_pem: String,
    ca_key: String,
    admin_token: String,
    tokens: HashMap<String, User>,
    /// Signs ServiceAccount tokens; P-256, PKCS#8.
    signing_key: KeyPair,
}

const CA_CERTIFICATE: &str = "ca.crt";
const CA_KEY: &str = "ca.key";
const SIGNING_KEY: &str = "sa.key";
/// Lines of `token,user,uid,"group,group"`, the form of kube-apiserver's `--token-auth-file`.
const TOKENS: &str = "tokens.csv";
const ADMIN: &str = "kubernetes-admin";

impl Identity {
    /// Reads keys and tokens from a folder and makes what is missing there.
    pub(super) fn open(data: Option<PathBuf>, random: &dyn Random) -> Result<Self, ServerError> {
        let data = data.as_deref();
        if let Some(path) = data {
            std::fs::create_dir_all(path).map_err(|source| ServerError::Data {
                path: path.to_owned(),
                source,
            })?;
        }
        let (ca_pem, ca_key) = match (load(data, CA_CERTIFICATE)?, load(data, CA_KEY)?) {
            (Some(certificate), Some(key)) => (certificate, key),
            _ => {
                let (certificate, key) = new_ca().map_err(keys)?;
                save(data, CA_KEY, &key)?;
                save(data, CA_CERTIFICATE, &certificate)?;
                (certificate, key)
            }
        };
        let lines = match load(data, TOKENS)? {
            Some(lines) => lines,
            None => {
                let mut secret = [0_u8; 32];
                random.fill(&mut secret);
                let token = URL_SAFE_NO_PAD.encode(secret);
                let line = format!("{token},{ADMIN},,\"{MASTERS}\"\n");
                save(data, TOKENS, &line)?;
                line
            }
        };
        let path = data.map(|path| path.join(TOKENS)).unwrap_or_default();
        let tokens = parse_tokens(&lines).map_err(|why| ServerError::Content {
            path: path.clone(),
            why,
        })?;
        let admin = tokens.iter().find(|(_, user)| user.is_master());
        let admin_token = admin.map(|(token, _)| token.clone()).ok_or_else(|| {
            let why = format!("no user in the group {MASTERS}");
            ServerError::Content { path, why }
        })?;
        let signing_key = signing_key(data)?;
        Ok(Self {
            ca_pem,
            ca_key,
            admin_token,
            tokens,
            signing_key,
        })
    }

    /// How this server recognises its users.
    pub(super) fn authentication(&self) -> Result<Authentication, ServerError> {
        let key = SigningKey::from_pkcs8(&self.signing_key.serialize_der())
            .map_err(|error| ServerError::Keys(error.to_string()))?;
        let tokens = self.tokens.iter();
        Ok(
            tokens.fold(Authentication::new(key), |known, (token, user)| {
                known.with_token(token.clone(), user.clone())
            }),
        )
    }

    pub(super) fn kubeconfig(&self, addr: SocketAddr, security: Security) -> String {
        let addr = reachable(addr);
        let (scheme, ca) = match security {
            Security::Tls => {
                let ca = STANDARD.encode(&self.ca_pem);
                ("https", format!("    certificate-authority-data: {ca}\n"))
            }
            Security::Plain => ("http", String::new()),
        };
        let token = &self.admin_token;
        format!(
            "apiVersion: v1\nkind: Config\nclusters:\n- name: fairlead\n  cluster:\n    server: \
             {scheme}://{addr}\n{ca}users:\n- name: {ADMIN}\n  user:\n    token: {token}\n\
             contexts:\n- name: fairlead\n  context:\n    cluster: fairlead\n    user: {ADMIN}\n\
             current-context: fairlead\n"
        )
    }

    /// A serving certificate for that address, signed by this server's CA.
    pub(super) fn tls_config(&self, addr: IpAddr) -> Result<rustls::ServerConfig, ServerError> {
        let (chain, key) = self.serving_certificate(addr).map_err(keys)?;
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let mut config = rustls::ServerConfig::builder_with_provider(Arc::clone(&provider))
            .with_safe_default_protocol_versions()
            .map_err(|error| ServerError::Keys(error.to_string()))?
            .with_client_cert_verifier(self.client_verifier(&provider)?)
            .with_single_cert(chain, key)
            .map_err(|error| ServerError::Keys(error.to_string()))?;
        config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
        Ok(config)
    }

    /// Certificate and key of the CA.
    pub(super) fn ca(&self) -> (&str, &str) {
        (&self.ca_pem, &self.ca_key)
    }

    /// Clients may show a certificate of this server's CA; those without one use tokens.
    fn client_verifier(
        &self,
        provider: &Arc<rustls::crypto::CryptoProvider>,
    ) -> Result<Arc<dyn ClientCertVerifier>, ServerError> {
        let failed = |error: &dyn std::fmt::Display| ServerError::Keys(error.to_string());
        let mut roots = rustls::RootCertStore::empty();
        let ca = CertificateDer::from_pem_slice(self.ca_pem.as_bytes()).map_err(|e| failed(&e))?;
        roots.add(ca).map_err(|e| failed(&e))?;
        WebPkiClientVerifier::builder_with_provider(Arc::new(roots), Arc::clone(provider))
            .allow_unauthenticated()
            .build()
            .map_err(|e| failed(&e))
    }

    fn serving_certificate(
        &self,
        addr: IpAddr,
    ) -> Result<(Vec<CertificateDer<'static>>, PrivateKeyDer<'static>), rcgen::Error> {
        let names = [
            "localhost",
            "kubernetes",
            "kubernetes.default",
            "kubernetes.default.svc",
        ];
        let mut params = CertificateParams::new(
            names
                .iter()
                .map(|name| (*name).to_owned())
                .collect::<Vec<_>>(),
        )?;
        for ip in [
            IpAddr::from([127, 0, 0, 1]),
            IpAddr::from([0_u16, 0, 0, 0, 0, 0, 0, 1]),
            addr,
        ] {
            params.subject_alt_names.push(SanType::IpAddress(ip));
        }
        params
            .distinguished_name
            .push(DnType::CommonName, "kube-apiserver");
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        let key = KeyPair::generate()?;
        let issuer = Issuer::from_ca_cert_pem(&self.ca_pem, KeyPair::from_pem(&self.ca_key)?)?;
        let certificate = params.signed_by(&key, &issuer)?;
        let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(key.serialize_der()));
        Ok((vec![certificate.der().clone()], key))
    }
}

impl std::fmt::Debug for Identity {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Identity")
            .field("tokens", &self.tokens.len())
            .finish_non_exhaustive()
    }
}

fn new_ca() -> Result<(String, String), rcgen::Error> {
    let mut params = CertificateParams::new(Vec::new())?;
    params
        .distinguished_name
        .push(DnType::CommonName, "kubernetes-ca");
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages = vec![
        KeyUsagePurpose::KeyCertSign,
        KeyUsagePurpose::CrlSign,
        KeyUsagePurpose::DigitalSignature,
    ];
    let key = KeyPair::generate()?;
    let certificate = params.self_signed(&key)?;
    Ok((certificate.pem(), key.serialize_pem()))
}

fn signing_key(data: Option<&Path>) -> Result<KeyPair, ServerError> {
    if let Some(pem) = load(data, SIGNING_KEY)? {
        return KeyPair::from_pem(&pem).map_err(|error| ServerError::Content {
            path: data.unwrap_or(Path::new("")).join(SIGNING_KEY),
            why: error.to_string(),
        });
    }
    let key = KeyPair::generate().map_err(keys)?;
    save(data, SIGNING_KEY, &key.serialize_pem())?;
    Ok(key)
}

fn parse_tokens(lines: &str) -> Result<HashMap<String, User>, String> {
    let mut tokens = HashMap::new();
    for (index, line) in lines.lines().enumerate() {
        if line.trim().is_empty() {
            continue;
        }
        let mut columns = line.splitn(4, ',');
        let mut column = || columns.next().unwrap_or_default().trim();
        let (token, name, uid) = (column(), column(), column());
        let groups = column().trim_matches('"');
        if token.is_empty() || name.is_empty() {
            return Err(format!(
                "line {} is not token,user,uid,\"groups\"",
                index + 1
            ));
        }
        let groups = groups.split(',').filter(|group| !group.is_empty());
        let mut user = User::new(name, groups);
        user.groups.push("system:authenticated".to_owned());
        uid.clone_into(&mut user.uid);
        tokens.insert(token.to_owned(), user);
    }
    Ok(tokens)
}

/// An address that a client on this machine can dial: not the wildcard.
fn reachable(addr: SocketAddr) -> SocketAddr {
    match addr.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => SocketAddr::from(([127, 0, 0, 1], addr.port())),
        IpAddr::V6(ip) if ip.is_unspecified() => {
            SocketAddr::from((std::net::Ipv6Addr::LOCALHOST, addr.port()))
        }
        _ => addr,
    }
}

fn load(data: Option<&Path>, name: &str) -> Result<Option<String>, ServerError> {
    let Some(path) = data.map(|data| data.join(name)) else {
        return Ok(None);
    };
    match std::fs::read_to_string(&path) {
        Ok(text) => Ok(Some(text)),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(source) => Err(ServerError::Data { path, source }),
    }
}

/// Writes a secret file that only its owner can read, whole or not at all.
fn save(data: Option<&Path>, name: &str, text: &str) -> Result<(), ServerError> {
    let Some(path) = data.map(|data| data.join(name)) else {
        return Ok(());
    };
    let fault = |source| ServerError::Data {
        path: path.clone(),
        source,
    };
    let temporary = path.with_extension("new");
    let mut options = std::fs::OpenOptions::new();
    let mut file = options
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o600)
        .open(&temporary)
        .map_err(fault)?;
    file.write_all(text.as_bytes())
        .and_then(|()| file.sync_all())
        .map_err(fault)?;
    std::fs::rename(&temporary, &path).map_err(fault)
}

fn keys(error: rcgen::Error) -> ServerError {
    ServerError::Keys(error.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::SystemRandom;

    #[test]
    fn a_data_folder_keeps_ca_and_tokens_across_restarts() {
        let folder = tempfile::tempdir().unwrap();
        let open = || Identity::open(Some(folder.path().to_owned()), &SystemRandom).unwrap();
        let (first, second) = (open(), open());
        let addr = SocketAddr::from(([0, 0, 0, 0], 6443));
        let config = first.kubeconfig(addr, Security::Tls);
        assert_eq!(config, second.kubeconfig(addr, Security::Tls));
        assert!(config.contains("server: https://127.0.0.1:6443"));
        assert!(
            second
                .tokens
                .get(&first.admin_token)
                .is_some_and(User::is_master)
        );
    }

    #[test]
    fn a_broken_token_file_is_refused_with_its_line() {
        let error = parse_tokens("a,b,,\"c,d\"\n\nx\n").unwrap_err();
        assert!(error.contains("line 3"), "{error}");
        let tokens = parse_tokens("a,b,u,\"c,d\"\n").unwrap();
        assert_eq!(tokens["a"].groups, ["c", "d", "system:authenticated"]);
    }
}
