//! The hub's certificate authority: who signs members' certificates, and how it is replaced.
//!
//! Members trust a bundle. A new authority is in the bundle for [`OVERLAP`] before it signs
//! anything, the old one stays until it runs out, so a rotation is seen by nobody who asks for a
//! token at least once in that time. Keys and times are arguments.

pub mod io;

use std::time::Duration;

use fairlead_api::labels;
use k8s_openapi::jiff::Timestamp;
use rcgen::{
    BasicConstraints, CertificateParams, CertificateSigningRequestParams, DnType,
    ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, KeyUsagePurpose,
};

/// An authority: certificate and key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Signer {
    /// PEM.
    pub certificate: String,
    /// PEM.
    pub key: String,
    /// When it was made.
    pub made: Timestamp,
}

/// The authorities of a hub.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Authority {
    /// Who signs.
    pub current: Signer,
    /// Who will sign, already trusted.
    pub next: Option<Signer>,
    /// Who signed before.
    pub old: Option<Signer>,
}

/// What a rotation needs next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Due {
    /// Nothing.
    Nothing,
    /// A next signer.
    MakeNext,
    /// The next one signs from now on.
    Promote,
    /// The old one has run out.
    DropOld,
}

/// Who a client certificate stands for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Holder {
    /// The member's name.
    pub member: String,
    /// The UID of its MemberCluster: a certificate doesn't outlive its membership.
    pub membership: String,
}

/// A certificate of another replica of this hub, by its name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Replica(pub String);

/// What goes wrong with certificates.
#[derive(Debug, thiserror::Error)]
pub enum CertificateError {
    /// The request is none, or its key is of a kind that is not taken.
    #[error(
        "the certificate request cannot be used; send a PKCS#10 request in PEM with an ECDSA or Ed25519 key: {0}"
    )]
    Request(String),
    /// Signing failed.
    #[error("signing failed: {0}")]
    Signing(String),
    /// A stored authority cannot be read.
    #[error("the stored authority cannot be read: {0}")]
    Stored(String),
}

impl Authority {
    /// Everything that is trusted, PEM.
    pub fn bundle(&self) -> String {
        let others = self.next.iter().chain(&self.old);
        let all = std::iter::once(&self.current).chain(others);
        all.map(|signer| signer.certificate.as_str()).collect()
    }

    /// What a rotation needs at `now`.
    pub fn due(&self, now: Timestamp) -> Due {
        let age = |signer: &Signer| seconds_since(signer.made, now);
        if self.old.as_ref().is_some_and(|old| age(old) >= SIGNER_LIFE) {
            return Due::DropOld;
        }
        match &self.next {
            Some(next) if age(next) >= OVERLAP => Due::Promote,
            None if age(&self.current) >= SIGNER_LIFE / 3 * 2 => Due::MakeNext,
            _ => Due::Nothing,
        }
    }

    /// The next signer signs from now on.
    pub fn promote(&mut self) {
        if let Some(next) = self.next.take() {
            self.old = Some(std::mem::replace(&mut self.current, next));
        }
    }

    /// Signs a member's request: good for [`MEMBER_LIFE`], as a client only.
    pub fn sign_member(
        &self,
        request: &str,
        holder: &Holder,
        now: Timestamp,
    ) -> Result<String, CertificateError> {
        let mut request = CertificateSigningRequestParams::from_pem(request)
            .map_err(|error| CertificateError::Request(error.to_string()))?;
        let mut params = CertificateParams::default();
        limit(&mut params, now, MEMBER_LIFE);
        let name = format!("{}{}", labels::MEMBER_NAMESPACE_PREFIX, holder.member);
        params.distinguished_name = rcgen::DistinguishedName::new();
        params.distinguished_name.push(DnType::CommonName, name);
        let membership = holder.membership.clone();
        params
            .distinguished_name
            .push(DnType::OrganizationalUnitName, membership);
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
        params.use_authority_key_identifier_extension = true;
        // Nothing of what the member asked for is taken but its key.
        request.params = params;
        let signed = request.signed_by(&self.issuer()?);
        let signed = signed.map_err(|error| CertificateError::Signing(error.to_string()))?;
        Ok(signed.pem())
    }

    /// Signs the hub's own serving certificate for these names and addresses.
    pub fn sign_server(
        &self,
        names: &[String],
        key: &KeyPair,
        now: Timestamp,
    ) -> Result<String, CertificateError> {
        let signing = |error: rcgen::Error| CertificateError::Signing(error.to_string());
        let mut params = CertificateParams::new(names.to_vec()).map_err(signing)?;
        limit(&mut params, now, SERVER_LIFE);
        params
            .distinguished_name
            .push(DnType::CommonName, "fairlead-hub");
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        params.use_authority_key_identifier_extension = true;
        let signed = params.signed_by(key, &self.issuer()?).map_err(signing)?;
        Ok(signed.pem())
    }

    /// Signs what a replica of the hub shows to another: good for as long as its own serving
    /// certificate, as a client only.
    pub fn sign_replica(
        &self,
        replica: &str,
        key: &KeyPair,
        now: Timestamp,
    ) -> Result<String, CertificateError> {
        let signing = |error: rcgen::Error| CertificateError::Signing(error.to_string());
        let mut params = CertificateParams::default();
        limit(&mut params, now, SERVER_LIFE);
        let name = &mut params.distinguished_name;
        *name = rcgen::DistinguishedName::new();
        name.push(DnType::CommonName, REPLICA);
        name.push(DnType::OrganizationalUnitName, replica);
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
        params.use_authority_key_identifier_extension = true;
        let signed = params.signed_by(key, &self.issuer()?).map_err(signing)?;
        Ok(signed.pem())
    }

    fn issuer(&self) -> Result<Issuer<'static, KeyPair>, CertificateError> {
        let stored = |error: rcgen::Error| CertificateError::Stored(error.to_string());
        let key = KeyPair::from_pem(&self.current.key).map_err(stored)?;
        Issuer::from_ca_cert_pem(&self.current.certificate, key).map_err(stored)
    }
}

/// A new authority with this key.
pub fn new_signer(key: &KeyPair, now: Timestamp) -> Result<Signer, CertificateError> {
    let mut params = CertificateParams::default();
    limit(&mut params, now, SIGNER_LIFE);
    // The name tells authorities apart: a chain is looked up by it.
    let name = format!("fairlead-hub-ca-{}", now.as_second());
    params.distinguished_name.push(DnType::CommonName, name);
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    let certificate = params
        .self_signed(key)
        .map_err(|error| CertificateError::Signing(error.to_string()))?;
    Ok(Signer {
        certificate: certificate.pem(),
        key: key.serialize_pem(),
        made: now,
    })
}

/// Who a verified client certificate (DER) stands for.
pub fn holder(certificate: &[u8]) -> Option<Holder> {
    let (name, membership) = subject(certificate)?;
    let member = labels::member_of_namespace(&name)?;
    Some(Holder {
        member: member.to_owned(),
        membership,
    })
}

/// The replica that a verified client certificate (DER) stands for.
pub fn replica(certificate: &[u8]) -> Option<Replica> {
    let (name, unit) = subject(certificate)?;
    (name == REPLICA).then_some(Replica(unit))
}

/// Common name and organizational unit.
fn subject(certificate: &[u8]) -> Option<(String, String)> {
    let (_, parsed) = x509_parser::parse_x509_certificate(certificate).ok()?;
    let subject = parsed.subject();
    let name = subject.iter_common_name().next()?.as_str().ok()?;
    let unit = subject.iter_organizational_unit().next()?.as_str().ok()?;
    Some((name.to_owned(), unit.to_owned()))
}

fn limit(params: &mut CertificateParams, now: Timestamp, life: Duration) {
    let seconds = |time: Timestamp| u64::try_from(time.as_second()).unwrap_or(0);
    let epoch = rcgen::date_time_ymd(1970, 1, 1);
    let now = Duration::from_secs(seconds(now));
    // Clocks differ a little: a certificate is good from five minutes ago.
    params.not_before = epoch + now.saturating_sub(Duration::from_secs(300));
    params.not_after = epoch + (now + life);
}

fn seconds_since(earlier: Timestamp, now: Timestamp) -> Duration {
    let seconds = now.as_second() - earlier.as_second();
    Duration::from_secs(u64::try_from(seconds).unwrap_or(0))
}

/// The common name of replicas: no member's, because those start with their namespace's prefix.
const REPLICA: &str = "fairlead-hub-replica";
/// How long an authority signs and is trusted.
pub const SIGNER_LIFE: Duration = Duration::from_secs(2 * 365 * 24 * 3600);
/// How long a new authority is trusted before it signs.
pub const OVERLAP: Duration = Duration::from_secs(30 * 24 * 3600);
/// How long a member's certificate is good: an agent away for weeks comes back by itself.
pub const MEMBER_LIFE: Duration = Duration::from_secs(30 * 24 * 3600);
/// How long the hub's own is good; it is made anew at 2/3 of that.
pub const SERVER_LIFE: Duration = Duration::from_secs(30 * 24 * 3600);

#[cfg(test)]
mod tests {
    use super::*;

    const DAY: Duration = Duration::from_secs(24 * 3600);

    fn at(days: u32) -> Timestamp {
        let start = Timestamp::from_second(1_700_000_000).unwrap();
        start + DAY * days
    }

    fn authority() -> Authority {
        Authority {
            current: new_signer(&KeyPair::generate().unwrap(), at(0)).unwrap(),
            next: None,
            old: None,
        }
    }

    fn request() -> String {
        let mut params = CertificateParams::new(vec!["evil.example".to_owned()]).unwrap();
        params
            .distinguished_name
            .push(DnType::CommonName, "fairlead-member-other");
        let key = KeyPair::generate().unwrap();
        params.serialize_request(&key).unwrap().pem().unwrap()
    }

    #[test]
    fn a_certificate_says_what_the_hub_says_not_what_was_asked_for() {
        let holder_of_a = Holder {
            member: "a".into(),
            membership: "uid-1".into(),
        };
        let pem = authority()
            .sign_member(&request(), &holder_of_a, at(1))
            .unwrap();
        let (_, parsed) = x509_parser::pem::parse_x509_pem(pem.as_bytes()).unwrap();
        assert_eq!(holder(&parsed.contents), Some(holder_of_a));
        let certificate = parsed.parse_x509().unwrap();
        assert!(certificate.subject_alternative_name().unwrap().is_none());
        let life = certificate.validity().not_after.timestamp() - at(1).as_second();
        assert_eq!(life, 30 * 24 * 3600);
    }

    #[test]
    fn a_replica_is_no_member_and_a_member_no_replica() {
        let key = KeyPair::generate().unwrap();
        let der = |pem: &str| {
            let (_, parsed) = x509_parser::pem::parse_x509_pem(pem.as_bytes()).unwrap();
            parsed.contents
        };
        let pem = authority().sign_replica("hub-1", &key, at(1)).unwrap();
        assert_eq!(replica(&der(&pem)), Some(Replica("hub-1".into())));
        assert_eq!(holder(&der(&pem)), None);
        // Whatever name a member has, its certificate is not a replica's.
        let sly = Holder {
            member: "hub-replica".into(),
            membership: "hub-1".into(),
        };
        let pem = authority().sign_member(&request(), &sly, at(1)).unwrap();
        assert_eq!(replica(&der(&pem)), None);
    }

    #[test]
    fn a_request_that_is_none_is_refused_with_what_to_send() {
        let holder = Holder {
            member: "a".into(),
            membership: "u".into(),
        };
        let error = authority()
            .sign_member("nonsense", &holder, at(0))
            .unwrap_err();
        assert!(error.to_string().contains("PKCS#10"));
    }

    #[test]
    fn a_rotation_trusts_the_new_before_it_signs_and_the_old_until_it_runs_out() {
        let mut authority = authority();
        assert_eq!(authority.due(at(400)), Due::Nothing);
        assert_eq!(authority.due(at(490)), Due::MakeNext);
        let next = new_signer(&KeyPair::generate().unwrap(), at(490)).unwrap();
        authority.next = Some(next.clone());
        assert!(authority.bundle().contains(&next.certificate));
        assert_eq!(authority.due(at(519)), Due::Nothing);
        assert_eq!(authority.due(at(520)), Due::Promote);
        let first = authority.current.clone();
        authority.promote();
        assert_eq!(authority.current, next);
        assert!(authority.bundle().contains(&first.certificate));
        assert_eq!(authority.due(at(729)), Due::Nothing);
        assert_eq!(authority.due(at(730)), Due::DropOld);
    }
}
