use super::*;
use crate::auth::impersonate::impersonate;
use crate::auth::jwt::SigningKey;
use crate::auth::{AlwaysAllow, Masters};
use crate::kinds::tests::Bench;
use http::{HeaderMap, HeaderName, HeaderValue};

fn authentication() -> Authentication {
    let key = SigningKey::from_pkcs8(&SigningKey::generate().unwrap()).unwrap();
    Authentication::new(key).with_token("secret-token", User::new("ann", ["staff"]))
}

fn bench() -> Bench {
    let named = |name: &str, uid: &str| json!({"metadata": {"name": name, "uid": uid}});
    let mut pod = named("pod", "u-pod");
    pod["spec"] = json!({"serviceAccountName": "sa", "nodeName": "node"});
    Bench::new()
        .with("serviceaccounts", "blue", "sa", named("sa", "u-sa"))
        .with("pods", "blue", "pod", pod)
        .with("nodes", "", "node", named("node", "u-node"))
}

fn ask(
    bench: &Bench,
    authentication: &Authentication,
    resource: &str,
    body: Value,
) -> Result<Value, ApiError> {
    bench.run(resource, |_, ctx| {
        Reviewer {
            ctx,
            authorizer: &Masters,
            authentication,
        }
        .answer(body)
    })
}

fn issue(bench: &Bench, authentication: &Authentication, body: Value) -> Result<Value, ApiError> {
    bench.run("serviceaccounts:token", |_, ctx| {
        Reviewer {
            ctx,
            authorizer: &Masters,
            authentication,
        }
        .issue("sa", body)
    })
}

fn headers(pairs: &[(&str, &str)]) -> HeaderMap {
    pairs
        .iter()
        .map(|(name, value)| {
            (
                HeaderName::from_bytes(name.as_bytes()).unwrap(),
                HeaderValue::from_str(value).unwrap(),
            )
        })
        .collect()
}

#[test]
fn bearer_tokens_name_their_users() {
    let (bench, authentication) = (bench(), authentication());
    let who = |pairs: &[(&str, &str)]| authentication.authenticate(&headers(pairs), 100, &bench);
    assert_eq!(
        who(&[("authorization", "Bearer secret-token")])
            .unwrap()
            .groups,
        ["staff", "system:authenticated"]
    );
    assert_eq!(who(&[]).unwrap().name, "system:anonymous");
    assert!(who(&[("authorization", "Bearer wrong")]).is_err());
    let strict = self::authentication().without_anonymous();
    assert!(strict.authenticate(&HeaderMap::new(), 100, &bench).is_err());
}

#[test]
fn an_issued_token_authenticates_its_account_until_the_pod_is_gone() {
    let (bench, authentication) = (bench(), authentication());
    let wish =
        json!({"spec": {"boundObjectRef": {"kind": "Pod", "apiVersion": "v1", "name": "pod"}}});
    let issued = issue(&bench, &authentication, wish).unwrap();
    assert_eq!(
        issued["status"]["expirationTimestamp"],
        "1970-01-01T01:00:00Z"
    );
    assert_eq!(
        issued["spec"]["audiences"][0],
        super::super::authenticate::DEFAULT_ISSUER
    );
    let token = issued["status"]["token"].as_str().unwrap().to_owned();
    let bearer = headers(&[("authorization", &format!("Bearer {token}"))]);
    let user = authentication.authenticate(&bearer, 100, &bench).unwrap();
    assert_eq!(user.name, "system:serviceaccount:blue:sa");
    assert!(
        user.groups
            .contains(&"system:serviceaccounts:blue".to_owned())
    );
    assert_eq!(
        user.extra["authentication.kubernetes.io/node-uid"],
        ["u-node"]
    );
    assert!(
        authentication
            .authenticate(&bearer, 3600 + 61, &bench)
            .is_err(),
        "expired"
    );
    let without_pod = Bench::new().with(
        "serviceaccounts",
        "blue",
        "sa",
        json!({"metadata": {"name": "sa", "uid": "u-sa"}}),
    );
    assert!(
        authentication
            .authenticate(&bearer, 100, &without_pod)
            .is_err()
    );
}

#[test]
fn token_requests_are_checked() {
    let (bench, authentication) = (bench(), authentication());
    let code = |body: Value| issue(&bench, &authentication, body).unwrap_err().code();
    assert_eq!(code(json!({"spec": {"expirationSeconds": 599}})), 422);
    assert_eq!(
        code(json!({"spec": {"expirationSeconds": 4_294_967_297_i64}})),
        422
    );
    assert_eq!(code(json!({"metadata": {"name": "other"}})), 422);
    let bound = |reference: Value| json!({"spec": {"boundObjectRef": reference}});
    assert_eq!(code(bound(json!({"kind": "Pod", "name": "none"}))), 404);
    assert_eq!(
        code(bound(json!({"kind": "Pod", "name": "pod", "uid": "older"}))),
        409
    );
    assert_eq!(code(bound(json!({"kind": "ConfigMap", "name": "x"}))), 400);
}

#[test]
fn a_token_review_tells_who_and_for_which_audience() {
    let (bench, authentication) = (bench(), authentication());
    let wish = json!({"spec": {"audiences": ["streams"]}});
    let token = issue(&bench, &authentication, wish).unwrap()["status"]["token"].clone();
    let review = |spec: Value| {
        ask(
            &bench,
            &authentication,
            "tokenreviews",
            json!({"spec": spec}),
        )
        .unwrap()
    };
    let good = review(json!({"token": token, "audiences": ["streams", "x"]}));
    assert_eq!(good["status"]["authenticated"], true);
    assert_eq!(good["status"]["audiences"], json!(["streams"]));
    assert_eq!(
        good["status"]["user"]["username"],
        "system:serviceaccount:blue:sa"
    );
    let wrong = review(json!({"token": token}));
    assert!(wrong["status"].get("authenticated").is_none());
    assert!(
        wrong["status"]["error"]
            .as_str()
            .unwrap()
            .contains("audiences")
    );
    assert_eq!(
        review(json!({"token": "x"}))["status"]["error"],
        "invalid bearer token"
    );
    let error = ask(&bench, &authentication, "tokenreviews", json!({"spec": {}})).unwrap_err();
    assert_eq!(error.code(), 400);
}

#[test]
fn access_reviews_answer_for_others_and_for_oneself() {
    let authentication = authentication();
    let bench = bench().of_user(User::new("bob", ["staff"]));
    let attributes = json!({"verb": "get", "resource": "pods", "namespace": "blue"});
    let others = json!({"spec": {"user": "root", "groups": ["system:masters"], "resourceAttributes": attributes}});
    let answer = ask(&bench, &authentication, "subjectaccessreviews", others).unwrap();
    assert_eq!(answer["status"], json!({"allowed": true}));
    let own = json!({"spec": {"resourceAttributes": attributes}});
    let answer = ask(&bench, &authentication, "selfsubjectaccessreviews", own).unwrap();
    assert_eq!(answer["status"], json!({"allowed": false}));
    for (resource, spec) in [
        (
            "subjectaccessreviews",
            json!({"resourceAttributes": attributes}),
        ),
        ("selfsubjectaccessreviews", json!({})),
        (
            "localsubjectaccessreviews",
            json!({"user": "x", "resourceAttributes": {"namespace": "red"}}),
        ),
    ] {
        let error = ask(&bench, &authentication, resource, json!({"spec": spec})).unwrap_err();
        assert_eq!(error.code(), 422, "{resource}");
    }
    let me = ask(&bench, &authentication, "selfsubjectreviews", json!({})).unwrap();
    assert_eq!(
        me["status"]["userInfo"],
        json!({"username": "bob", "groups": ["staff"]})
    );
}

#[test]
fn impersonation_needs_the_right_for_each_part() {
    let admin = User::admin();
    let asked = headers(&[
        ("impersonate-user", "bob"),
        ("impersonate-group", "staff"),
        ("impersonate-extra-scopes%2fone", "a"),
        ("impersonate-uid", "42"),
    ]);
    let acting = impersonate(&admin, &asked, &AlwaysAllow).unwrap().unwrap();
    assert_eq!((acting.name.as_str(), acting.uid.as_str()), ("bob", "42"));
    assert_eq!(acting.groups, ["staff", "system:authenticated"]);
    assert_eq!(acting.extra["scopes/one"], ["a"]);
    let error = impersonate(&User::new("eve", ["x"]), &asked, &Masters).unwrap_err();
    assert_eq!(error.code(), 403);
    assert_eq!(
        error.to_string(),
        "users \"bob\" is forbidden: User \"eve\" cannot impersonate resource \"users\" in API \
         group \"\" at the cluster scope"
    );
    let account = headers(&[("impersonate-user", "system:serviceaccount:blue:sa")]);
    let acting = impersonate(&admin, &account, &AlwaysAllow)
        .unwrap()
        .unwrap();
    assert!(
        acting
            .groups
            .contains(&"system:serviceaccounts:blue".to_owned())
    );
    let nobody = headers(&[("impersonate-group", "staff")]);
    assert_eq!(
        impersonate(&admin, &nobody, &AlwaysAllow)
            .unwrap_err()
            .code(),
        400
    );
    assert_eq!(
        impersonate(&admin, &HeaderMap::new(), &Masters).unwrap(),
        None
    );
}
