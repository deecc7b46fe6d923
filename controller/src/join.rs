//! How a cluster becomes a member: bootstrap tokens, and what is said over `/join`, `/token` and
//! `/renew`.
//!
//! A bootstrap token admits one key of one member, once, within 24 h. It is `MEMBER.SECRET`; the
//! hub keeps only the hash of the secret, in a Secret that is deleted by whoever uses it first. The
//! certificate it is exchanged for is good for nothing but tokens and its own renewal.

pub mod io;

use std::{collections::BTreeMap, time::Duration};

use fairlead_api::labels;
use fairlead_config::name::MemberName;
use k8s_openapi::{ByteString, api::core::v1::Secret, jiff::Timestamp};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

/// `POST /join`: a member asks to be admitted.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct JoinRequest {
    /// The bootstrap token.
    pub token: String,
    /// A PKCS#10 request in PEM; its key never leaves the member.
    pub request: String,
    /// The UID of the member's `kube-system` namespace: a name belongs to one cluster.
    pub cluster_uid: String,
}

/// `POST /renew`, with the member's certificate: a new one for a new key.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct RenewRequest {
    /// A PKCS#10 request in PEM.
    pub request: String,
}

/// The answer to `/join` and `/renew`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Admission {
    /// The member's name.
    pub member: String,
    /// Its certificate, PEM, good for 30 days; to be renewed after 20.
    pub certificate: String,
    /// What the hub's own certificates are checked against, PEM.
    pub bundle: String,
}

/// The answer to `POST /token`, which takes the member's certificate and no body.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Tokens {
    /// The member's name.
    pub member: String,
    /// For the hub's Kubernetes API.
    pub kubernetes: Token,
    /// For streams.
    pub xds: Token,
    /// The hub's Kubernetes API; absent when it is to be reached as before.
    pub api_server: Option<ApiServer>,
    /// What the hub's own certificates are checked against, PEM; it changes with a rotation.
    pub bundle: String,
}

/// A bearer token.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Token {
    /// The token.
    pub token: String,
    /// When it runs out, RFC 3339.
    pub expires: String,
}

/// Where the hub's Kubernetes API is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ApiServer {
    /// `https://host:port`.
    pub url: String,
    /// PEM; absent for a plain or publicly signed one.
    pub bundle: Option<String>,
}

/// Why a member is not admitted.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// It is not of the form `MEMBER.SECRET`.
    #[error("this is no bootstrap token; make one on the hub with `fairlead join`")]
    NotAToken,
    /// It is unknown: never made, or used already. Which one is not said to whoever holds it.
    #[error("the bootstrap token is unknown or was used already; make a new one")]
    Unknown,
    /// It ran out.
    #[error("the bootstrap token ran out at {0}; make a new one")]
    Expired(Timestamp),
    /// Another cluster has the name.
    #[error(
        "member {member} is another cluster (kube-system UID {uid}); join under another name, or take that member out first"
    )]
    Taken {
        /// The name.
        member: String,
        /// The UID of the cluster that has it.
        uid: String,
    },
    /// The member is being taken out.
    #[error("member {0} is being taken out; wait until it is gone")]
    Leaving(String),
    /// There is no such member.
    #[error("there is no member {0}; it was taken out, or never joined")]
    NoMember(String),
    /// The certificate is of an earlier membership, or there is none.
    #[error("a client certificate of a member is needed here; join (again) with a bootstrap token")]
    NoCertificate,
}

/// A token as it is handed out, and the Secret that remembers it.
pub fn new_token(
    member: &MemberName,
    secret: &[u8; 24],
    now: Timestamp,
    life: Duration,
) -> (String, Secret) {
    let secret: String = secret.iter().map(|byte| format!("{byte:02x}")).collect();
    let data = [
        ("member", member.as_str().to_owned()),
        ("hash", hash(&secret)),
        ("expires", (now + life).to_string()),
    ];
    let data = data.map(|(key, text)| (key.to_owned(), ByteString(text.into_bytes())));
    let mut object = Secret {
        type_: Some(SECRET_TYPE.to_owned()),
        data: Some(BTreeMap::from(data)),
        ..Secret::default()
    };
    object.metadata.name = Some(secret_name(member));
    object.metadata.namespace = Some(labels::SYSTEM_NAMESPACE.to_owned());
    (format!("{member}.{secret}"), object)
}

/// The member that a token is for.
pub fn member_of(token: &str) -> Result<MemberName, Refusal> {
    let (member, _) = token.split_once('.').ok_or(Refusal::NotAToken)?;
    MemberName::parse(member).map_err(|_| Refusal::NotAToken)
}

/// Whether the token is the one that `remembered` stands for.
pub fn check(token: &str, remembered: Option<&Secret>, now: Timestamp) -> Result<(), Refusal> {
    let (member, secret) = token.split_once('.').ok_or(Refusal::NotAToken)?;
    let text = |key: &str| {
        let data = remembered?.data.as_ref()?.get(key)?;
        String::from_utf8(data.0.clone()).ok()
    };
    let given = hash(secret);
    let known = text("hash").unwrap_or_default();
    // Hashes of the same length: comparing them tells nothing of the secret.
    if known != given || text("member").as_deref() != Some(member) {
        return Err(Refusal::Unknown);
    }
    let expires = text("expires").and_then(|text| text.parse::<Timestamp>().ok());
    match expires {
        Some(expires) if now < expires => Ok(()),
        Some(expires) => Err(Refusal::Expired(expires)),
        None => Err(Refusal::Unknown),
    }
}

/// The name of the Secret that remembers a member's token.
pub fn secret_name(member: &MemberName) -> String {
    format!("join-{member}")
}

fn hash(secret: &str) -> String {
    let digest = Sha256::digest(secret.as_bytes());
    digest.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// The type of such Secrets.
pub const SECRET_TYPE: &str = "fairlead.dev/join-token";
/// How long a bootstrap token is good.
pub const TOKEN_LIFE: Duration = Duration::from_secs(24 * 3600);

#[cfg(test)]
mod tests {
    use super::*;

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(1_700_000_000 + second).unwrap()
    }

    #[test]
    fn a_token_admits_its_member_until_it_runs_out_and_nobody_else() {
        let member = MemberName::parse("a").unwrap();
        let (token, secret) = new_token(&member, &[7; 24], at(0), TOKEN_LIFE);
        assert_eq!(member_of(&token), Ok(member));
        assert_eq!(check(&token, Some(&secret), at(10)), Ok(()));
        assert_eq!(check(&token, None, at(10)), Err(Refusal::Unknown));
        let late = check(&token, Some(&secret), at(24 * 3600));
        assert_eq!(late, Err(Refusal::Expired(at(24 * 3600))));
        let other = token.replacen("a.", "b.", 1);
        assert_eq!(check(&other, Some(&secret), at(10)), Err(Refusal::Unknown));
        let guessed = format!("a.{}", "0".repeat(48));
        assert_eq!(
            check(&guessed, Some(&secret), at(10)),
            Err(Refusal::Unknown)
        );
        assert_eq!(member_of("nonsense"), Err(Refusal::NotAToken));
    }

    #[test]
    fn the_hub_does_not_keep_what_it_hands_out() {
        let member = MemberName::parse("a").unwrap();
        let (token, secret) = new_token(&member, &[7; 24], at(0), TOKEN_LIFE);
        let kept = serde_json::to_string(&secret.data).unwrap();
        let plain = token.split_once('.').unwrap().1;
        for (_, value) in secret.data.unwrap() {
            assert_ne!(value.0, plain.as_bytes());
        }
        assert!(!kept.contains(plain));
    }
}
