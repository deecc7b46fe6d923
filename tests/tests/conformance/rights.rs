//! Who may do what, and who says so.

use anyhow::{Context, ensure};
use fairlead_tests::wait;
use k8s_openapi::api::{
    authentication::v1::{TokenRequest, TokenReview},
    authorization::v1::{SelfSubjectAccessReview, SubjectAccessReview},
    core::v1::{ConfigMap, Namespace, Pod, Secret, ServiceAccount},
    rbac::v1::{ClusterRole, Role, RoleBinding},
};
use kube::{
    Api,
    api::{DeleteParams, ListParams, PostParams},
};
use serde_json::json;

use crate::{
    Case, same,
    support::{config_map, object, refused},
};

pub(crate) async fn a_user_without_rights_is_forbidden(case: Case) -> anyhow::Result<()> {
    let client = case.cluster.client_as("eve", &["system:authenticated"])?;
    let api = Api::<ConfigMap>::namespaced(client, &case.namespace);
    let status = refused(api.get("one").await, 403, "Forbidden")?;
    same!(
        status.message,
        format!(
            "configmaps \"one\" is forbidden: User \"eve\" cannot get resource \"configmaps\" in API group \"\" in the namespace \"{}\"",
            case.namespace
        )
    );
    Ok(())
}

pub(crate) async fn a_role_grants_what_it_names_and_no_more(case: Case) -> anyhow::Result<()> {
    case.api()
        .create(&PostParams::default(), &config_map("one", "1"))
        .await?;
    case.api()
        .create(&PostParams::default(), &config_map("two", "1"))
        .await?;
    grant(&case, "bob", json!([
        { "apiGroups": [""], "resources": ["configmaps"], "resourceNames": ["one"], "verbs": ["get"] },
        { "apiGroups": [""], "resources": ["secrets"], "verbs": ["list"] },
    ]))
    .await?;
    let client = case.cluster.client_as("bob", &["system:authenticated"])?;
    let maps = Api::<ConfigMap>::namespaced(client.clone(), &case.namespace);
    wait::until("the role to count", async || Ok(maps.get("one").await)).await?;
    refused(maps.get("two").await, 403, "Forbidden")?;
    refused(maps.list(&ListParams::default()).await, 403, "Forbidden")?;
    refused(
        maps.create(&PostParams::default(), &config_map("x", "1"))
            .await,
        403,
        "Forbidden",
    )?;
    let secrets = Api::<Secret>::namespaced(client.clone(), &case.namespace);
    secrets.list(&ListParams::default()).await?;
    let elsewhere = Api::<Secret>::namespaced(client, "default");
    refused(
        elsewhere.list(&ListParams::default()).await,
        403,
        "Forbidden",
    )?;
    Ok(())
}

pub(crate) async fn a_role_speaks_of_its_own_namespace_too(case: Case) -> anyhow::Result<()> {
    grant(
        &case,
        "dan",
        json!([
            { "apiGroups": [""], "resources": ["namespaces"], "verbs": ["get"] },
        ]),
    )
    .await?;
    let client = case.cluster.client_as("dan", &["system:authenticated"])?;
    let namespaces = Api::<Namespace>::all(client);
    wait::until("the role to count", async || {
        Ok(namespaces.get(&case.namespace).await)
    })
    .await?;
    refused(namespaces.get("default").await, 403, "Forbidden")?;
    refused(
        namespaces.list(&ListParams::default()).await,
        403,
        "Forbidden",
    )?;
    Ok(())
}

pub(crate) async fn nobody_grants_more_than_they_have(case: Case) -> anyhow::Result<()> {
    grant(
        &case,
        "carol",
        json!([
            {
                "apiGroups": ["rbac.authorization.k8s.io"], "resources": ["roles"],
                "verbs": ["create", "update"],
            },
            { "apiGroups": [""], "resources": ["configmaps"], "verbs": ["get"] },
        ]),
    )
    .await?;
    let client = case.cluster.client_as("carol", &["system:authenticated"])?;
    let roles = Api::<Role>::namespaced(client, &case.namespace);
    let role = |name: &str, verb: &str| {
        object::<Role>(json!({
            "metadata": { "name": name },
            "rules": [ { "apiGroups": [""], "resources": ["configmaps"], "verbs": [verb] } ],
        }))
    };
    let less = role("less", "get")?;
    wait::until("the role to count", async || {
        Ok(roles.create(&PostParams::default(), &less).await)
    })
    .await?;
    let more = roles
        .create(&PostParams::default(), &role("more", "delete")?)
        .await;
    // Nor by a change of what they may grant.
    let grown = role("less", "delete")?;
    let grown = roles.replace("less", &PostParams::default(), &grown).await;
    for result in [more, grown] {
        let status = refused(result, 403, "Forbidden")?;
        ensure!(
            status
                .message
                .contains("is attempting to grant RBAC permissions not currently held"),
            "{}",
            status.message
        );
    }
    Ok(())
}

pub(crate) async fn reviews_answer_for_others_and_for_oneself(case: Case) -> anyhow::Result<()> {
    grant(
        &case,
        "dave",
        json!([
            { "apiGroups": [""], "resources": ["pods"], "verbs": ["get"] },
        ]),
    )
    .await?;
    let attributes =
        |verb: &str| json!({ "namespace": case.namespace, "verb": verb, "resource": "pods" });
    let reviews = Api::<SubjectAccessReview>::all(case.client());
    for (verb, expected) in [("get", true), ("delete", false)] {
        let review: SubjectAccessReview = object(json!({
            "metadata": {},
            "spec": { "user": "dave", "resourceAttributes": attributes(verb) },
        }))?;
        wait::until("the review", async || {
            let seen = reviews.create(&PostParams::default(), &review).await?;
            let allowed = seen.status.context("a status")?.allowed;
            Ok(if allowed == expected {
                Ok(())
            } else {
                Err(allowed)
            })
        })
        .await?;
    }
    let client = case.cluster.client_as("dave", &["system:authenticated"])?;
    let review: SelfSubjectAccessReview =
        object(json!({ "metadata": {}, "spec": { "resourceAttributes": attributes("get") } }))?;
    let seen = Api::<SelfSubjectAccessReview>::all(client)
        .create(&PostParams::default(), &review)
        .await?;
    ensure!(seen.status.context("a status")?.allowed);
    Ok(())
}

pub(crate) async fn a_requested_token_is_reviewed_with_its_audience(
    case: Case,
) -> anyhow::Result<()> {
    let accounts = case.api::<ServiceAccount>();
    let account = object(json!({ "metadata": { "name": "robot" } }))?;
    accounts.create(&PostParams::default(), &account).await?;
    let request: TokenRequest =
        object(json!({ "spec": { "audiences": ["ships"], "expirationSeconds": 600 } }))?;
    let token = accounts
        .create_token_request("robot", &PostParams::default(), &request)
        .await?
        .status
        .context("a token")?
        .token;
    let reviews = Api::<TokenReview>::all(case.client());
    let review = async |audience: &str| {
        let spec = json!({ "token": token, "audiences": [audience] });
        let review: TokenReview = object(json!({ "metadata": {}, "spec": spec }))?;
        let seen = reviews.create(&PostParams::default(), &review).await?;
        seen.status.context("a status")
    };
    let right = review("ships").await?;
    same!(right.authenticated, Some(true));
    same!(right.audiences, Some(vec!["ships".to_owned()]));
    let user = right.user.and_then(|user| user.username);
    same!(
        user,
        Some(format!("system:serviceaccount:{}:robot", case.namespace))
    );
    let wrong = review("planes").await?;
    ensure!(wrong.authenticated != Some(true));
    Ok(())
}

pub(crate) async fn a_token_is_bound_to_a_pod_of_its_account(case: Case) -> anyhow::Result<()> {
    let accounts = case.api::<ServiceAccount>();
    for name in ["robot", "other"] {
        let account = object(json!({ "metadata": { "name": name } }))?;
        accounts.create(&PostParams::default(), &account).await?;
    }
    let pod: Pod = object(json!({
        "metadata": { "name": "one" },
        "spec": { "serviceAccountName": "robot", "containers": [ { "name": "a", "image": "a" } ] },
    }))?;
    case.api().create(&PostParams::default(), &pod).await?;
    let bound = json!({ "spec": { "audiences": [], "boundObjectRef": {
        "apiVersion": "v1", "kind": "Pod", "name": "one",
    } } });
    let request: TokenRequest = object(bound)?;
    let by = PostParams::default();
    let foreign = accounts.create_token_request("other", &by, &request).await;
    let status = refused(foreign, 400, "BadRequest")?;
    ensure!(
        status.message.contains("different serviceaccount name"),
        "{}",
        status.message
    );
    let own = accounts
        .create_token_request("robot", &by, &request)
        .await?;
    let token = own.status.context("a token")?.token;
    let review: TokenReview = object(json!({ "metadata": {}, "spec": { "token": token } }))?;
    let reviews = Api::<TokenReview>::all(case.client());
    let status = reviews.create(&by, &review).await?.status;
    same!(status.and_then(|status| status.authenticated), Some(true));
    // The token ends with its pod.
    let pods = case.api::<Pod>();
    pods.delete("one", &DeleteParams::default().grace_period(0))
        .await?;
    wait::until("the token to end", async || {
        let status = reviews.create(&by, &review).await?.status;
        let counts = status.and_then(|status| status.authenticated) == Some(true);
        Ok(if counts { Err("it counts") } else { Ok(()) })
    })
    .await
}

pub(crate) async fn a_cluster_role_aggregates_others(case: Case) -> anyhow::Result<()> {
    let roles = Api::<ClusterRole>::all(case.client());
    let label = case.unique("join");
    let whole: ClusterRole = object(json!({
        "metadata": { "name": case.unique("whole") },
        "aggregationRule": { "clusterRoleSelectors": [ { "matchLabels": { "into": label } } ] },
        "rules": [],
    }))?;
    roles.create(&PostParams::default(), &whole).await?;
    let part: ClusterRole = object(json!({
        "metadata": { "name": case.unique("part"), "labels": { "into": label } },
        "rules": [ { "apiGroups": [""], "resources": ["pods"], "verbs": ["get"] } ],
    }))?;
    roles.create(&PostParams::default(), &part).await?;
    wait::until("the rules to come together", async || {
        let seen = roles.get(&case.unique("whole")).await?;
        let rules = seen.rules.unwrap_or_default();
        Ok(if rules.len() == 1 { Ok(()) } else { Err(rules) })
    })
    .await
}

/// Binds `user` to a Role with `rules` in the case's namespace.
async fn grant(case: &Case, user: &str, rules: serde_json::Value) -> anyhow::Result<()> {
    let role: Role = object(json!({ "metadata": { "name": user }, "rules": rules }))?;
    case.api().create(&PostParams::default(), &role).await?;
    let binding: RoleBinding = object(json!({
        "metadata": { "name": user },
        "roleRef": { "apiGroup": "rbac.authorization.k8s.io", "kind": "Role", "name": user },
        "subjects": [ { "kind": "User", "name": user, "apiGroup": "rbac.authorization.k8s.io" } ],
    }))?;
    case.api().create(&PostParams::default(), &binding).await?;
    Ok(())
}
