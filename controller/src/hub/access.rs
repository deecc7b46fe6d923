//! Who opens a stream: tokens reviewed by an API server, the hub's or, for a member's proxies, the
//! member's.

use std::time::Duration;

use base64::Engine;
use fairlead_api::labels;
use fairlead_runtime::clock::Clock;
use k8s_openapi::api::authentication::v1::{
    TokenReview, TokenReviewSpec, TokenReviewStatus, UserInfo,
};
use kube::{Api, Client, api::PostParams};
use tonic::{Code, Status, metadata::MetadataMap};

use super::events::{About, Announcer};
use crate::{identity::Subject, time};

/// Reviews the tokens of streams.
#[derive(Clone)]
pub(crate) struct Access {
    client: Client,
    clock: Clock,
    /// Streams without a token are taken for what they claim to be.
    trusting: bool,
}

/// Who a stream is, and for how long.
#[derive(Debug, Clone)]
pub(crate) struct Admitted {
    /// `None`: whatever the node claims (a hub that trusts its clients).
    pub(crate) subject: Option<Subject>,
    /// The token's remaining life.
    pub(crate) life: Option<Duration>,
}

impl Access {
    pub(crate) fn new(client: Client, clock: Clock, trusting: bool) -> Self {
        Self {
            client,
            clock,
            trusting,
        }
    }

    pub(crate) async fn admit(&self, metadata: &MetadataMap) -> Result<Admitted, Status> {
        let header = metadata.get("authorization");
        let Some(header) = header else {
            if self.trusting {
                return Ok(Admitted {
                    subject: None,
                    life: None,
                });
            }
            return Err(Status::unauthenticated(
                "a bearer token of audience fairlead-xds is needed",
            ));
        };
        let token = header
            .to_str()
            .ok()
            .and_then(|text| text.strip_prefix("Bearer "))
            .ok_or_else(|| Status::unauthenticated("the authorization is no bearer token"))?;
        let subject = self.review(token).await?;
        Ok(Admitted {
            subject: Some(subject),
            life: Some(self.life(token)?),
        })
    }

    /// Logs that a stream is refused, and tells whom `about` finds behind its token, if anybody.
    pub(crate) async fn tell_refused(
        &self,
        metadata: &MetadataMap,
        refused: &Status,
        events: &Announcer,
        about: fn(&UserInfo) -> Option<About>,
    ) {
        if !matches!(
            refused.code(),
            Code::Unauthenticated | Code::PermissionDenied
        ) {
            return;
        }
        let user = self.whose(metadata).await.unwrap_or_default();
        let name = user.username.clone().unwrap_or_default();
        tracing::warn!(
            user = name,
            reason = refused.message(),
            "a stream was refused"
        );
        if let Some(about) = about(&user) {
            let note = format!("a stream of {name} was refused: {}", refused.message());
            events.refused(about, "StreamRefused", "CheckToken", note);
        }
    }

    /// Whose token it is that a stream is refused with, so that somebody can be told; `None` where it
    /// is nobody's, and where there is none. The audience may be any.
    async fn whose(&self, metadata: &MetadataMap) -> Option<UserInfo> {
        let header = metadata.get("authorization")?.to_str().ok()?;
        let token = header.strip_prefix("Bearer ")?;
        let audiences = match &claims(token)["aud"] {
            serde_json::Value::String(one) => vec![one.clone()],
            all => serde_json::from_value(all.clone()).ok()?,
        };
        let few = !audiences.is_empty() && audiences.len() <= AUDIENCES_MAX;
        let status = self
            .ask(token, Some(audiences).filter(|_| few)?)
            .await
            .ok()?;
        status.user.filter(|_| status.authenticated == Some(true))
    }

    async fn ask(&self, token: &str, audiences: Vec<String>) -> Result<TokenReviewStatus, Status> {
        let reviews: Api<TokenReview> = Api::all(self.client.clone());
        let review = TokenReview {
            spec: TokenReviewSpec {
                token: token.to_owned(),
                audiences: Some(audiences),
            },
            ..TokenReview::default()
        };
        let params = PostParams::default();
        let answer = tokio::time::timeout(TIMEOUT, reviews.create(&params, &review));
        match answer.await {
            Ok(Ok(answer)) => Ok(answer.status.unwrap_or_default()),
            Ok(Err(error)) => Err(Status::unavailable(format!(
                "tokens cannot be reviewed: {error}"
            ))),
            Err(_) => Err(Status::unavailable("tokens cannot be reviewed: no answer")),
        }
    }

    async fn review(&self, token: &str) -> Result<Subject, Status> {
        let status = self
            .ask(token, vec![labels::XDS_AUDIENCE.to_owned()])
            .await?;
        let audiences = status.audiences.unwrap_or_default();
        if status.authenticated != Some(true)
            || !audiences.iter().any(|one| one == labels::XDS_AUDIENCE)
        {
            return Err(Status::unauthenticated(format!(
                "the token is not good for audience {}: {}",
                labels::XDS_AUDIENCE,
                status
                    .error
                    .unwrap_or_else(|| "unknown or expired".to_owned()),
            )));
        }
        let user = status
            .user
            .and_then(|user| user.username)
            .unwrap_or_default();
        Subject::parse(&user).map_err(Status::permission_denied)
    }

    /// The API server has checked the signature; only the end is read here.
    fn life(&self, token: &str) -> Result<Duration, Status> {
        let end = claims(token)["exp"].as_i64();
        let end = end.ok_or_else(|| Status::unauthenticated("the token has no end"))?;
        let left = end - time::timestamp(&self.clock).as_second();
        u64::try_from(left)
            .map(Duration::from_secs)
            .map_err(|_| Status::unauthenticated("the token has run out"))
    }
}

/// What a token says, whoever signed it.
fn claims(token: &str) -> serde_json::Value {
    let payload = token.split('.').nth(1).unwrap_or_default();
    let engine = base64::engine::general_purpose::URL_SAFE_NO_PAD;
    let json = engine.decode(payload).unwrap_or_default();
    serde_json::from_slice(&json).unwrap_or_default()
}

/// The object that a refused user's token stands for: a member, a proxy group, or its account.
pub(crate) fn about(user: &UserInfo) -> Option<About> {
    let name = user.username.as_deref()?;
    match Subject::parse(name) {
        Ok(Subject::Agent(member)) => Some(About::Member(member.to_string())),
        Ok(Subject::Proxy(group)) => Some(About::Group(group)),
        Err(_) => account(user),
    }
}

/// The account of a user, in whatever namespace.
pub(crate) fn account(user: &UserInfo) -> Option<About> {
    let account = user
        .username
        .as_deref()?
        .strip_prefix("system:serviceaccount:")?;
    let (namespace, name) = account.split_once(':')?;
    let uid = user.uid.clone().unwrap_or_default();
    Some(About::Account(namespace.to_owned(), name.to_owned(), uid))
}

/// A token names one audience as a rule.
const AUDIENCES_MAX: usize = 4;
const TIMEOUT: Duration = Duration::from_secs(5);
