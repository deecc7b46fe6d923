//! The authority as a Secret on the hub, and the hub's serving certificate.

use std::collections::BTreeMap;

use fairlead_api::labels;
use fairlead_runtime::clock::Clock;
use k8s_openapi::{ByteString, api::core::v1::Secret, jiff::Timestamp};
use kube::{Api, Client, api::PostParams};
use rcgen::KeyPair;

use super::{Authority, CertificateError, Due, Signer, new_signer};
use crate::time;

/// What goes wrong while the authority is loaded.
#[derive(Debug, thiserror::Error)]
pub enum AuthorityError {
    /// The API server.
    #[error("Secret {SECRET} in namespace fairlead-system: {0}")]
    Api(#[from] kube::Error),
    /// The content.
    #[error(transparent)]
    Certificate(#[from] CertificateError),
}

/// Loads the authority, makes it when there is none, and takes a rotation one step on when it is
/// due. Of replicas that do so at once one wins; the others load what it wrote.
pub async fn load(client: &Client, clock: &Clock) -> Result<Authority, AuthorityError> {
    let api: Api<Secret> = Api::namespaced(client.clone(), labels::SYSTEM_NAMESPACE);
    let now = time::timestamp(clock);
    let authority = match api.get_opt(SECRET).await? {
        Some(secret) => {
            let mut authority = parse(&secret)?;
            if !rotate(&mut authority, now)? {
                return Ok(authority);
            }
            let mut written = to_secret(&authority);
            written.metadata.resource_version = secret.metadata.resource_version;
            match api.replace(SECRET, &PostParams::default(), &written).await {
                Ok(_) => return Ok(authority),
                Err(kube::Error::Api(status)) if status.code == 409 => None,
                Err(error) => return Err(error.into()),
            }
        }
        None => {
            let authority = Authority {
                current: new_signer(&key()?, now)?,
                next: None,
                old: None,
            };
            let secret = to_secret(&authority);
            match api.create(&PostParams::default(), &secret).await {
                Ok(_) => Some(authority),
                Err(kube::Error::Api(status)) if status.code == 409 => None,
                Err(error) => return Err(error.into()),
            }
        }
    };
    match authority {
        Some(authority) => Ok(authority),
        None => Ok(parse(&api.get(SECRET).await?)?),
    }
}

/// A fresh key.
pub fn key() -> Result<KeyPair, CertificateError> {
    KeyPair::generate().map_err(|error| CertificateError::Signing(error.to_string()))
}

pub(crate) fn rotate(authority: &mut Authority, now: Timestamp) -> Result<bool, CertificateError> {
    match authority.due(now) {
        Due::Nothing => return Ok(false),
        Due::MakeNext => authority.next = Some(new_signer(&key()?, now)?),
        Due::Promote => authority.promote(),
        Due::DropOld => authority.old = None,
    }
    tracing::info!("the certificate authority moved one step on in its rotation");
    Ok(true)
}

pub(crate) fn parse(secret: &Secret) -> Result<Authority, CertificateError> {
    let current = signer(secret, "ca")?;
    let current = current.ok_or_else(|| {
        CertificateError::Stored(format!("Secret {SECRET} has no ca.crt, ca.key and ca.made"))
    })?;
    Ok(Authority {
        current,
        next: signer(secret, "next")?,
        old: signer(secret, "old")?,
    })
}

fn signer(secret: &Secret, name: &str) -> Result<Option<Signer>, CertificateError> {
    let text = |part: &str| {
        let data = secret.data.as_ref()?.get(&format!("{name}.{part}"))?;
        String::from_utf8(data.0.clone()).ok()
    };
    let (Some(certificate), Some(key), Some(made)) = (text("crt"), text("key"), text("made"))
    else {
        return Ok(None);
    };
    let made = made.parse::<Timestamp>();
    let made = made.map_err(|error| CertificateError::Stored(format!("{name}.made: {error}")))?;
    Ok(Some(Signer {
        certificate,
        key,
        made,
    }))
}

pub(crate) fn to_secret(authority: &Authority) -> Secret {
    let mut data = BTreeMap::new();
    let mut put = |name: &str, signer: &Signer| {
        let parts = [
            ("crt", signer.certificate.clone()),
            ("key", signer.key.clone()),
            ("made", signer.made.to_string()),
        ];
        for (part, text) in parts {
            data.insert(format!("{name}.{part}"), ByteString(text.into_bytes()));
        }
    };
    put("ca", &authority.current);
    if let Some(next) = &authority.next {
        put("next", next);
    }
    if let Some(old) = &authority.old {
        put("old", old);
    }
    let mut secret = Secret {
        data: Some(data),
        ..Secret::default()
    };
    secret.metadata.name = Some(SECRET.to_owned());
    secret.metadata.namespace = Some(labels::SYSTEM_NAMESPACE.to_owned());
    secret
}

const SECRET: &str = "fairlead-hub-ca";
