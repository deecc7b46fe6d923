//! How a cluster is invited: one line of text that the hub prints and the member is given.
//!
//! It names the hub, carries a bootstrap token (one member, single use, 24 h) and the certificates
//! that the hub is checked against, so that the first word already goes to the right one.

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use rcgen::{CertificateParams, KeyPair};
use serde::{Deserialize, Serialize};

/// What a member needs to join.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Invitation {
    /// `host:port` where the hub serves joins and streams.
    pub hub: String,
    /// `MEMBER.SECRET`.
    pub token: String,
    /// What the hub's certificate is checked against, PEM.
    pub bundle: String,
}

/// A text that is no invitation.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("this is no invitation ({0}); copy the whole line that `fairlead join` printed")]
pub struct NotAnInvitation(&'static str);

/// A fresh key and the request to certify it, both PEM. The key never leaves the member.
pub struct CertificateRequest {
    /// PKCS#8.
    pub key: String,
    /// PKCS#10.
    pub request: String,
}

impl Invitation {
    /// One line, without spaces.
    pub fn encode(&self) -> String {
        let json = serde_json::to_vec(self).expect("strings only");
        format!("{PREFIX}{}", URL_SAFE_NO_PAD.encode(json))
    }

    /// Reads such a line.
    pub fn decode(text: &str) -> Result<Self, NotAnInvitation> {
        let body = text
            .trim()
            .strip_prefix(PREFIX)
            .ok_or(NotAnInvitation("it has another start"))?;
        let json = URL_SAFE_NO_PAD
            .decode(body)
            .map_err(|_| NotAnInvitation("it is cut or garbled"))?;
        serde_json::from_slice(&json).map_err(|_| NotAnInvitation("it lacks a part"))
    }

    /// The member it is for.
    pub fn member(&self) -> &str {
        self.token.split('.').next().unwrap_or_default()
    }
}

impl std::fmt::Debug for Invitation {
    /// Without the token, which must not end up in a log.
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        out.debug_struct("Invitation")
            .field("hub", &self.hub)
            .finish_non_exhaustive()
    }
}

impl CertificateRequest {
    /// For a new key.
    pub fn new() -> Result<Self, rcgen::Error> {
        let key = KeyPair::generate()?;
        let request = CertificateParams::default().serialize_request(&key)?;
        Ok(Self {
            key: key.serialize_pem(),
            request: request.pem()?,
        })
    }
}

/// What every invitation starts with.
const PREFIX: &str = "fairlead1.";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_invitation_survives_being_copied_and_says_when_it_was_cut() {
        let invitation = Invitation {
            hub: "127.0.0.1:9901".into(),
            token: "eu-1.abcdef".into(),
            bundle: "-----BEGIN CERTIFICATE-----\n".into(),
        };
        let text = invitation.encode();
        assert_eq!(
            Invitation::decode(&format!("  {text}\n")),
            Ok(invitation.clone())
        );
        assert_eq!(invitation.member(), "eu-1");
        assert!(Invitation::decode(&text[..text.len() - 3]).is_err());
        let fault = Invitation::decode("eu-1.abcdef").unwrap_err();
        assert!(fault.to_string().contains("copy the whole line"));
        assert!(!format!("{invitation:?}").contains("abcdef"));
    }
}
