//! Who may do what: RBAC, ServiceAccount tokens, client certificates.

use k8s_openapi::api::authentication::v1::TokenReview;
use k8s_openapi::api::authorization::v1::SelfSubjectAccessReview;
use k8s_openapi::api::core::v1::{Secret, ServiceAccount};
use k8s_openapi::api::rbac::v1::{Role, RoleBinding};
use kube::api::{DeleteParams, PostParams};
use kube::runtime::wait::conditions;
use kube::{Api, Client, Error};
use serde_json::json;

use crate::support::{code, create, namespace, of, server, until};

#[tokio::test]
async fn a_user_may_what_its_bindings_say() {
    let server = server().await;
    let admin = server.client();
    namespace(&admin, "blue").await;
    let bob = server.client_as("bob", ["staff"]);
    let secrets: Api<Secret> = Api::namespaced(bob.clone(), "blue");
    let Err(Error::Api(refusal)) = secrets.list(&Default::default()).await else {
        panic!("bob may not list")
    };
    assert_eq!(refusal.code, 403);
    assert_eq!(
        refusal.message,
        "secrets is forbidden: User \"bob\" cannot list resource \"secrets\" in API group \"\" in \
         the namespace \"blue\""
    );
    create(
        &Api::<Role>::namespaced(admin.clone(), "blue"),
        json!({
            "metadata": {"name": "reader"},
            "rules": [{"apiGroups": [""], "resources": ["secrets"], "verbs": ["get", "list"]}],
        }),
    )
    .await;
    create(&Api::<RoleBinding>::namespaced(admin.clone(), "blue"), json!({
        "metadata": {"name": "staff"},
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "Role", "name": "reader"},
        "subjects": [{"kind": "Group", "name": "staff", "apiGroup": "rbac.authorization.k8s.io"}],
    }))
    .await;
    secrets
        .list(&Default::default())
        .await
        .expect("the binding counts at once");
    let other: Api<Secret> = Api::namespaced(bob.clone(), "default");
    assert_eq!(
        code(other.list(&Default::default()).await.unwrap_err()),
        403
    );
    let review: SelfSubjectAccessReview = of(json!({"spec": {"resourceAttributes": {
        "namespace": "blue", "verb": "get", "resource": "secrets",
    }}}));
    let reviews: Api<SelfSubjectAccessReview> = Api::all(bob.clone());
    let answer = reviews
        .create(&PostParams::default(), &review)
        .await
        .unwrap();
    let status = answer.status.unwrap();
    assert!(status.allowed);
    assert_eq!(
        status.reason.as_deref(),
        Some("RBAC: allowed by RoleBinding \"staff/blue\" of Role \"reader\" to Group \"staff\"")
    );
    // Nobody grants themselves more.
    let roles: Api<Role> = Api::namespaced(bob, "blue");
    let more = of(json!({"metadata": {"name": "more"}, "rules": [
        {"apiGroups": ["*"], "resources": ["*"], "verbs": ["*"]},
    ]}));
    assert_eq!(
        code(
            roles
                .create(&PostParams::default(), &more)
                .await
                .unwrap_err()
        ),
        403
    );
}

#[tokio::test]
async fn an_issued_token_is_reviewed_until_its_account_goes() {
    let server = server().await;
    let client = server.client();
    let accounts: Api<ServiceAccount> = Api::namespaced(client.clone(), "default");
    create(&accounts, json!({"metadata": {"name": "robot"}})).await;
    let request = of(json!({"spec": {"audiences": ["streams"], "expirationSeconds": 3600}}));
    let issued = accounts
        .create_token_request("robot", &PostParams::default(), &request)
        .await
        .unwrap();
    let token = issued.status.unwrap().token.unwrap();
    let reviews: Api<TokenReview> = Api::all(client);
    let review = |token: &str| {
        of::<TokenReview>(json!({"spec": {"token": token, "audiences": ["streams"]}}))
    };
    let status = reviews
        .create(&PostParams::default(), &review(&token))
        .await
        .unwrap()
        .status
        .unwrap();
    assert_eq!(status.authenticated, Some(true));
    let user = status.user.unwrap();
    assert_eq!(
        user.username.as_deref(),
        Some("system:serviceaccount:default:robot")
    );
    accounts
        .delete("robot", &DeleteParams::default())
        .await
        .unwrap();
    until(
        &accounts,
        "robot",
        conditions::is_deleted(user.uid.as_deref().unwrap()),
    )
    .await;
    let status = reviews
        .create(&PostParams::default(), &review(&token))
        .await
        .unwrap()
        .status
        .unwrap();
    assert_ne!(status.authenticated, Some(true));
}

#[tokio::test]
async fn a_client_certificate_names_its_user_and_group() {
    let server = server().await;
    let addr = std::net::SocketAddr::from(([127, 0, 0, 1], 0));
    let listener = server
        .serve(addr, fairlead_apiserver::Security::Tls)
        .await
        .unwrap();
    let url: http::Uri = format!("https://{}", listener.addr()).parse().unwrap();
    let who = async |user: &str, group: Option<&str>| {
        let issued = server.client_certificate(user, group).unwrap();
        let mut config = kube::Config::new(url.clone());
        let ca = pem_body(server.ca_pem());
        config.root_cert = Some(vec![ca]);
        let encode = |text: &str| {
            use base64::Engine as _;
            base64::engine::general_purpose::STANDARD.encode(text)
        };
        config.auth_info.client_certificate_data = Some(encode(&issued.certificate));
        config.auth_info.client_key_data = Some(encode(&issued.key).into());
        Client::try_from(config).unwrap()
    };
    let admin = who("root", Some("system:masters")).await;
    Api::<Secret>::all(admin)
        .list(&Default::default())
        .await
        .expect("a master may");
    let bob = who("bob", None).await;
    let Err(Error::Api(refusal)) = Api::<Secret>::all(bob).list(&Default::default()).await else {
        panic!("bob may not list")
    };
    assert!(
        refusal.message.contains("User \"bob\" cannot list"),
        "{}",
        refusal.message
    );
}

fn pem_body(pem: &str) -> Vec<u8> {
    use base64::Engine as _;
    let body: String = pem
        .lines()
        .filter(|line| !line.starts_with("-----"))
        .collect();
    base64::engine::general_purpose::STANDARD
        .decode(body)
        .unwrap()
}
