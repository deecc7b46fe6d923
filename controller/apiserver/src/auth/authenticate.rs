//! Who sends a request: static bearer tokens, ServiceAccount tokens, anonymous.
//!
//! Owns the token table and the signing key of one server. A token that was verified once is
//! remembered (bounded), so that only its times and bound objects are checked again.

use super::User;
use super::jwt::{BoundObjects, Claims, Found, ObjectUid, SigningKey, TokenError};
use crate::kinds::Lookup;
use http::HeaderMap;
use parking_lot::Mutex;
use serde_json::Value;
use std::collections::HashMap;
use std::sync::Arc;

/// How one server recognises its users.
#[derive(Debug)]
pub struct Authentication {
    tokens: HashMap<String, User>,
    key: SigningKey,
    issuer: String,
    audiences: Vec<String>,
    anonymous: bool,
    verified: Mutex<HashMap<String, Arc<Claims>>>,
}

/// A user, and the audiences for which the token counted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Authenticated {
    pub user: User,
    pub audiences: Vec<String>,
}

/// The request's credentials are wrong, or there are none and there must be.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("Unauthorized")]
pub struct Unauthorized;

// === impl Authentication ===

impl Authentication {
    /// With the issuer and audience that Kubernetes has in a cluster, and anonymous requests
    /// let through to authorization.
    pub fn new(key: SigningKey) -> Self {
        Self {
            tokens: HashMap::new(),
            key,
            issuer: DEFAULT_ISSUER.to_owned(),
            audiences: vec![DEFAULT_ISSUER.to_owned()],
            anonymous: true,
            verified: Mutex::default(),
        }
    }

    /// The bearer token of a user, as `--token-auth-file` gives it.
    #[must_use]
    pub fn with_token(mut self, token: impl Into<String>, user: User) -> Self {
        self.tokens.insert(token.into(), user);
        self
    }

    /// Sets the issuer of ServiceAccount tokens, which also is the server's audience.
    #[must_use]
    pub fn with_issuer(mut self, issuer: impl Into<String>) -> Self {
        self.issuer = issuer.into();
        self.audiences = vec![self.issuer.clone()];
        self
    }

    /// Refuses requests without credentials with 401 instead of treating them as
    /// `system:anonymous`.
    #[must_use]
    pub fn without_anonymous(mut self) -> Self {
        self.anonymous = false;
        self
    }

    pub fn key(&self) -> &SigningKey {
        &self.key
    }

    pub fn issuer(&self) -> &str {
        &self.issuer
    }

    /// What `/.well-known/openid-configuration` serves to those who check tokens themselves.
    pub fn openid_configuration(&self) -> Value {
        let issuer = &self.issuer;
        serde_json::json!({
            "issuer": issuer,
            "jwks_uri": format!("{issuer}/openid/v1/jwks"),
            "response_types_supported": ["id_token"],
            "subject_types_supported": ["public"],
            "id_token_signing_alg_values_supported": ["ES256"],
        })
    }

    pub fn audiences(&self) -> &[String] {
        &self.audiences
    }

    /// The user behind a request's headers. `now` in seconds since the epoch.
    ///
    /// # Errors
    /// [`Unauthorized`] for a token that isn't accepted, whatever the reason.
    pub fn authenticate(
        &self,
        headers: &HeaderMap,
        now: i64,
        lookup: &dyn Lookup,
    ) -> Result<User, Unauthorized> {
        let Some(header) = headers.get(http::header::AUTHORIZATION) else {
            return if self.anonymous {
                Ok(User::anonymous())
            } else {
                Err(Unauthorized)
            };
        };
        let Some(token) = header.to_str().ok().and_then(bearer) else {
            // Another scheme is no credential this server knows.
            return if self.anonymous {
                Ok(User::anonymous())
            } else {
                Err(Unauthorized)
            };
        };
        self.review(token, &self.audiences, now, lookup)
            .map(|authenticated| authenticated.user)
            .map_err(|_| Unauthorized)
    }

    /// Checks one token for some of `audiences`.
    ///
    /// # Errors
    /// Why it isn't accepted, in words that a TokenReview may show.
    pub fn review(
        &self,
        token: &str,
        audiences: &[String],
        now: i64,
        lookup: &dyn Lookup,
    ) -> Result<Authenticated, TokenError> {
        if let Some(user) = self.tokens.get(token) {
            let mut user = user.clone();
            add_group(&mut user, AUTHENTICATED);
            return Ok(Authenticated {
                user,
                audiences: audiences.to_vec(),
            });
        }
        let claims = self.claims(token)?;
        let audiences = claims.check(&self.issuer, audiences, now, &StoredObjects(lookup))?;
        Ok(Authenticated {
            user: account_user(&claims),
            audiences,
        })
    }

    fn claims(&self, token: &str) -> Result<Arc<Claims>, TokenError> {
        if let Some(claims) = self.verified.lock().get(token) {
            return Ok(Arc::clone(claims));
        }
        let claims = Arc::new(self.key.verify(token)?);
        let mut verified = self.verified.lock();
        if verified.len() >= VERIFIED_MAX {
            verified.clear();
        }
        verified.insert(token.to_owned(), Arc::clone(&claims));
        Ok(claims)
    }
}

/// The user that a ServiceAccount acts as.
pub fn account(namespace: &str, name: &str, uid: &str) -> User {
    let mut user = User::new(
        super::rbac::service_account_user(namespace, name),
        [
            "system:serviceaccounts".to_owned(),
            format!("system:serviceaccounts:{namespace}"),
            AUTHENTICATED.to_owned(),
        ],
    );
    user.uid = uid.to_owned();
    user
}

pub(crate) fn add_group(user: &mut User, group: &str) {
    if !user.groups.iter().any(|own| own == group) {
        user.groups.push(group.to_owned());
    }
}

fn account_user(claims: &Claims) -> User {
    let own = &claims.kubernetes;
    let mut user = account(
        &own.namespace,
        &own.serviceaccount.name,
        &own.serviceaccount.uid,
    );
    let mut extra = |key: &str, value: String| {
        user.extra
            .insert(format!("authentication.kubernetes.io/{key}"), vec![value]);
    };
    let mut bound = |kind: &str, object: Option<&ObjectUid>| {
        if let Some(object) = object {
            extra(&format!("{kind}-name"), object.name.clone());
            if !object.uid.is_empty() {
                extra(&format!("{kind}-uid"), object.uid.clone());
            }
        }
    };
    bound("pod", own.pod.as_ref());
    bound("node", own.node.as_ref());
    if !claims.jti.is_empty() {
        extra("credential-id", format!("JTI={}", claims.jti));
    }
    user
}

fn bearer(header: &str) -> Option<&str> {
    let (scheme, token) = header.trim().split_once(' ')?;
    let token = token.trim();
    (scheme.eq_ignore_ascii_case("bearer") && !token.is_empty()).then_some(token)
}

/// The server's own store as the source of bound objects.
struct StoredObjects<'a>(&'a dyn Lookup);

impl BoundObjects for StoredObjects<'_> {
    fn find(&self, resource: &'static str, namespace: &str, name: &str) -> Option<Found> {
        let object = self.0.one("", resource, namespace, name)?;
        let meta = &object["metadata"];
        let deleted_at = meta.get("deletionTimestamp").and_then(Value::as_str);
        Some(Found {
            uid: meta["uid"].as_str()?.to_owned(),
            deleted_at: deleted_at
                .and_then(|at| at.parse::<jiff::Timestamp>().ok())
                .map(jiff::Timestamp::as_second),
        })
    }
}

/// The issuer that kubeadm clusters have.
pub const DEFAULT_ISSUER: &str = "https://kubernetes.default.svc.cluster.local";
pub(crate) const AUTHENTICATED: &str = "system:authenticated";
/// Tokens remembered as verified; above it the memory starts anew.
const VERIFIED_MAX: usize = 4096;
