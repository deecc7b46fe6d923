//! Client certificates: who they name, and how the server's own CA issues them.
//!
//! As in Kubernetes the common name is the user and each organization is a group. The TLS layer has
//! checked the chain and the dates before a certificate comes here.

use rcgen::{CertificateParams, DnType, ExtendedKeyUsagePurpose, Issuer, KeyPair, KeyUsagePurpose};
use x509_parser::prelude::{FromDer as _, X509Certificate};

use crate::auth::User;

/// A certificate and its key, PEM.
#[derive(Debug, Clone)]
pub struct ClientCertificate {
    pub certificate: String,
    pub key: String,
}

/// The user that a certificate names; `None` when it has no common name.
pub(super) fn user(der: &[u8]) -> Option<User> {
    let (_, certificate) = X509Certificate::from_der(der).ok()?;
    let subject = certificate.subject();
    let name = subject.iter_common_name().next()?.as_str().ok()?;
    let groups = subject
        .iter_organization()
        .filter_map(|group| group.as_str().ok());
    let mut user = User::new(name, groups);
    crate::auth::authenticate::add_group(&mut user, crate::auth::authenticate::AUTHENTICATED);
    Some(user)
}

/// Issues a certificate for a user, in one group at most.
pub(super) fn issue(
    (ca_pem, ca_key): (&str, &str),
    user: &str,
    group: Option<&str>,
) -> Result<ClientCertificate, rcgen::Error> {
    let mut params = CertificateParams::new(Vec::new())?;
    params.distinguished_name = rcgen::DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, user);
    if let Some(group) = group {
        params
            .distinguished_name
            .push(DnType::OrganizationName, group);
    }
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
    let key = KeyPair::generate()?;
    let issuer = Issuer::from_ca_cert_pem(ca_pem, KeyPair::from_pem(ca_key)?)?;
    let certificate = params.signed_by(&key, &issuer)?;
    Ok(ClientCertificate {
        certificate: certificate.pem(),
        key: key.serialize_pem(),
    })
}
