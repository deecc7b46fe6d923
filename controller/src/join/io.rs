//! Joining, renewing and exchanging on the hub's API server.

use std::{sync::Arc, time::Duration};

use fairlead_api::{labels, member::MemberCluster};
use fairlead_config::name::MemberName;
use fairlead_runtime::clock::Clock;
use k8s_openapi::api::{
    authentication::v1::{TokenRequest, TokenRequestSpec},
    core::v1::{Secret, ServiceAccount},
};
use kube::{
    Api, Client, ResourceExt,
    api::{DeleteParams, Patch, PatchParams, PostParams, Preconditions},
};
use parking_lot::RwLock;
use ring::rand::SecureRandom;
use serde_json::json;

use super::{
    Admission, ApiServer, JoinRequest, Refusal, RenewRequest, TOKEN_LIFE, Token, Tokens, check,
    member_of, new_token, secret_name,
};
use crate::{
    authority::{Authority, CertificateError, Holder},
    time,
};

/// Admits members and hands out their tokens.
pub struct Registrar {
    client: Client,
    authority: Arc<RwLock<Authority>>,
    api_server: Option<ApiServer>,
    clock: Clock,
}

/// Why a request was not served.
#[derive(Debug, thiserror::Error)]
pub enum RequestError {
    /// It may not be.
    #[error(transparent)]
    Refused(#[from] Refusal),
    /// It cannot be read.
    #[error(transparent)]
    Certificate(#[from] CertificateError),
    /// The hub's API server.
    #[error("the hub's API server: {0}")]
    Api(#[from] kube::Error),
}

impl Registrar {
    /// With this authority; `api_server` is told to members.
    pub fn new(
        client: Client,
        authority: Arc<RwLock<Authority>>,
        api_server: Option<ApiServer>,
        clock: Clock,
    ) -> Self {
        Self {
            client,
            authority,
            api_server,
            clock,
        }
    }

    /// `/join`.
    pub async fn join(&self, request: &JoinRequest) -> Result<Admission, RequestError> {
        let member = member_of(&request.token)?;
        let secrets: Api<Secret> = Api::namespaced(self.client.clone(), labels::SYSTEM_NAMESPACE);
        let name = secret_name(&member);
        let remembered = secrets.get_opt(&name).await?;
        let now = time::timestamp(&self.clock);
        check(&request.token, remembered.as_ref(), now)?;
        let object = self.present(&member).await?;
        // One that is deleted and kept by its exports goes on as it is; nobody joins it.
        if object.metadata.deletion_timestamp.is_some() {
            return Err(Refusal::Leaving(member.to_string()).into());
        }
        let taken = object
            .status
            .as_ref()
            .and_then(|status| status.cluster_uid.clone());
        if let Some(uid) = taken.filter(|uid| *uid != request.cluster_uid) {
            let member = member.to_string();
            return Err(Refusal::Taken { member, uid }.into());
        }
        // Signed before the token is spent: a request that cannot be signed costs nothing.
        let admission = self.admit(&member, &object, &request.request)?;
        let spent = DeleteParams {
            preconditions: Some(Preconditions {
                resource_version: remembered.and_then(|secret| secret.metadata.resource_version),
                uid: None,
            }),
            ..DeleteParams::default()
        };
        match secrets.delete(&name, &spent).await {
            Ok(_) => {}
            Err(kube::Error::Api(status)) if matches!(status.code, 404 | 409) => {
                return Err(Refusal::Unknown.into());
            }
            Err(error) => return Err(error.into()),
        }
        self.claim_name(&member, &request.cluster_uid).await?;
        Ok(admission)
    }

    /// `/renew`.
    pub async fn renew(
        &self,
        holder: Option<&Holder>,
        request: &RenewRequest,
    ) -> Result<Admission, RequestError> {
        let (member, object) = self.holder(holder).await?;
        self.admit(&member, &object, &request.request)
    }

    /// `/token`.
    pub async fn tokens(&self, holder: Option<&Holder>) -> Result<Tokens, RequestError> {
        let (member, _) = self.holder(holder).await?;
        let namespace = labels::member_namespace(member.as_str());
        let (kubernetes, xds) = tokio::try_join!(
            self.request_token(&namespace, labels::AGENT_ACCOUNT, &[]),
            self.request_token(&namespace, labels::AGENT_ACCOUNT, &[labels::XDS_AUDIENCE]),
        )?;
        Ok(Tokens {
            member: member.to_string(),
            kubernetes,
            xds,
            api_server: self.api_server.clone(),
            bundle: self.authority.read().bundle(),
        })
    }

    async fn request_token(
        &self,
        namespace: &str,
        account: &str,
        audiences: &[&str],
    ) -> Result<Token, kube::Error> {
        request_token(&self.client, namespace, account, audiences, TOKEN_SECONDS).await
    }

    async fn present(&self, member: &MemberName) -> Result<MemberCluster, RequestError> {
        let members: Api<MemberCluster> = Api::all(self.client.clone());
        let object = members.get_opt(member.as_str()).await?;
        let object = object.ok_or_else(|| Refusal::NoMember(member.to_string()))?;
        if object.is_revoked() {
            return Err(Refusal::Leaving(member.to_string()).into());
        }
        Ok(object)
    }

    /// A certificate is good only for the membership it was made in.
    async fn holder(
        &self,
        holder: Option<&Holder>,
    ) -> Result<(MemberName, MemberCluster), RequestError> {
        let holder = holder.ok_or(Refusal::NoCertificate)?;
        let member = MemberName::parse(&holder.member).map_err(|_| Refusal::NoCertificate)?;
        let object = self.present(&member).await?;
        if object.uid().as_deref() != Some(holder.membership.as_str()) {
            return Err(Refusal::NoCertificate.into());
        }
        Ok((member, object))
    }

    fn admit(
        &self,
        member: &MemberName,
        object: &MemberCluster,
        request: &str,
    ) -> Result<Admission, RequestError> {
        let holder = Holder {
            member: member.to_string(),
            membership: object.uid().unwrap_or_default(),
        };
        let authority = self.authority.read();
        let now = time::timestamp(&self.clock);
        Ok(Admission {
            member: member.to_string(),
            certificate: authority.sign_member(request, &holder, now)?,
            bundle: authority.bundle(),
        })
    }

    async fn claim_name(&self, member: &MemberName, uid: &str) -> Result<(), kube::Error> {
        let members: Api<MemberCluster> = Api::all(self.client.clone());
        let body = json!({ "status": { "clusterUid": uid } });
        let params = PatchParams::default();
        members
            .patch_status(member.as_str(), &params, &Patch::Merge(&body))
            .await
            .map(drop)
    }
}

/// Makes a bootstrap token for a member, whose MemberCluster is made when missing. An earlier token
/// of the member is void.
pub async fn make_token(
    client: &Client,
    clock: &Clock,
    member: &MemberName,
) -> Result<String, kube::Error> {
    let members: Api<MemberCluster> = Api::all(client.clone());
    if members.get_opt(member.as_str()).await?.is_none() {
        let object = MemberCluster::new(member.as_str(), Default::default());
        match members.create(&PostParams::default(), &object).await {
            Ok(_) => {}
            Err(kube::Error::Api(status)) if status.code == 409 => {}
            Err(error) => return Err(error),
        }
    }
    let mut random = [0; 24];
    ring::rand::SystemRandom::new()
        .fill(&mut random)
        .map_err(|_| kube::Error::Service("the system has no randomness".into()))?;
    let (token, secret) = new_token(member, &random, time::timestamp(clock), TOKEN_LIFE);
    let secrets: Api<Secret> = Api::namespaced(client.clone(), labels::SYSTEM_NAMESPACE);
    let mut body = serde_json::to_value(&secret).map_err(kube::Error::SerdeError)?;
    body["apiVersion"] = json!("v1");
    body["kind"] = json!("Secret");
    let params = PatchParams::apply(labels::HUB_MANAGER).force();
    secrets
        .patch(&secret_name(member), &params, &Patch::Apply(&body))
        .await?;
    Ok(token)
}

/// A token of a proxy group's standalone proxies, for streams only. The identity is made when it is
/// missing.
pub async fn make_proxy_token(
    client: &Client,
    group: &str,
    life: Duration,
) -> Result<Token, kube::Error> {
    crate::hub::apply_manifest(client, &crate::identity::of_proxy_group(group)).await?;
    let seconds = i64::try_from(life.as_secs()).unwrap_or(TOKEN_SECONDS);
    let account = crate::identity::proxy_subject(group);
    let audiences = [labels::XDS_AUDIENCE];
    request_token(
        client,
        labels::SYSTEM_NAMESPACE,
        &account,
        &audiences,
        seconds,
    )
    .await
}

async fn request_token(
    client: &Client,
    namespace: &str,
    account: &str,
    audiences: &[&str],
    seconds: i64,
) -> Result<Token, kube::Error> {
    let accounts: Api<ServiceAccount> = Api::namespaced(client.clone(), namespace);
    let audiences: Vec<String> = audiences.iter().map(|one| (*one).to_owned()).collect();
    let request = TokenRequest {
        spec: Some(TokenRequestSpec {
            audiences: (!audiences.is_empty()).then_some(audiences),
            expiration_seconds: Some(seconds),
            ..TokenRequestSpec::default()
        }),
        ..TokenRequest::default()
    };
    let answer = accounts
        .create_token_request(account, &PostParams::default(), &request)
        .await?;
    let status = answer.status.unwrap_or_default();
    Ok(Token {
        token: status.token.unwrap_or_default(),
        expires: status
            .expiration_timestamp
            .map_or_else(String::new, |time| time.0.to_string()),
    })
}

/// An hour: what a stolen token is good for at most.
const TOKEN_SECONDS: i64 = 3600;
