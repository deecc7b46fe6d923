use super::*;
use std::collections::HashMap;

struct Objects(HashMap<(&'static str, String), Found>);

impl BoundObjects for Objects {
    fn find(&self, resource: &'static str, _: &str, name: &str) -> Option<Found> {
        self.0.get(&(resource, name.to_owned())).cloned()
    }
}

fn found(uid: &str) -> Found {
    Found {
        uid: uid.into(),
        deleted_at: None,
    }
}

fn objects() -> Objects {
    Objects(HashMap::from([
        (("serviceaccounts", "sa".to_owned()), found("u-sa")),
        (("pods", "pod".to_owned()), found("u-pod")),
        (("nodes", "node".to_owned()), found("u-node")),
        (("secrets", "secret".to_owned()), found("u-secret")),
    ]))
}

fn bound(name: &str, uid: &str) -> Option<ObjectUid> {
    Some(ObjectUid {
        name: name.into(),
        uid: uid.into(),
    })
}

fn claims() -> Claims {
    Claims {
        aud: vec!["api".into(), "other".into()],
        exp: 4600,
        iat: 1000,
        iss: "issuer".into(),
        jti: "id".into(),
        kubernetes: PrivateClaims {
            namespace: "blue".into(),
            serviceaccount: ObjectUid {
                name: "sa".into(),
                uid: "u-sa".into(),
            },
            ..PrivateClaims::default()
        },
        nbf: 1000,
        sub: "system:serviceaccount:blue:sa".into(),
    }
}

fn check(claims: &Claims, now: i64) -> Result<Vec<String>, TokenError> {
    claims.check("issuer", &["api".to_owned()], now, &objects())
}

fn key() -> SigningKey {
    SigningKey::from_pkcs8(&SigningKey::generate().unwrap()).unwrap()
}

#[test]
fn a_signed_token_comes_back_as_it_was() {
    let key = key();
    let token = key.sign(&claims());
    assert_eq!(key.verify(&token).unwrap(), claims());
    assert_eq!(token.split('.').count(), 3);
}

#[test]
fn a_key_keeps_verifying_after_it_was_stored() {
    let pkcs8 = SigningKey::generate().unwrap();
    let token = SigningKey::from_pkcs8(&pkcs8).unwrap().sign(&claims());
    assert!(
        SigningKey::from_pkcs8(&pkcs8)
            .unwrap()
            .verify(&token)
            .is_ok()
    );
    assert!(SigningKey::from_pkcs8(b"no key").is_err());
}

#[test]
fn forged_and_broken_tokens_are_refused() {
    let key = key();
    let token = key.sign(&claims());
    assert_eq!(self::key().verify(&token), Err(TokenError::Signature));
    let (head, signature) = token.rsplit_once('.').unwrap();
    let (header, _) = head.split_once('.').unwrap();
    let richer = Claims {
        sub: "system:serviceaccount:blue:admin".into(),
        ..claims()
    };
    let body = URL_SAFE_NO_PAD.encode(serde_json::to_vec(&richer).unwrap());
    assert_eq!(
        key.verify(&format!("{header}.{body}.{signature}")),
        Err(TokenError::Signature)
    );
    let none = URL_SAFE_NO_PAD.encode(r#"{"alg":"none"}"#);
    assert_eq!(
        key.verify(&format!("{none}.{body}.")),
        Err(TokenError::Malformed)
    );
    for broken in ["", ".", "..", "a.b.c", "abc"] {
        assert_eq!(key.verify(broken), Err(TokenError::Malformed), "{broken:?}");
    }
    assert_eq!(
        key.verify(&"a".repeat(TOKEN_MAX + 1)),
        Err(TokenError::Malformed)
    );
}

#[test]
fn a_token_counts_between_its_times_with_a_minute_of_grace() {
    assert_eq!(check(&claims(), 1000), Ok(vec!["api".into()]));
    assert_eq!(check(&claims(), 940), Ok(vec!["api".into()]));
    assert_eq!(check(&claims(), 939), Err(TokenError::NotYetValid));
    assert_eq!(check(&claims(), 4660), Ok(vec!["api".into()]));
    assert_eq!(check(&claims(), 4661), Err(TokenError::Expired));
}

#[test]
fn a_token_is_good_for_its_audiences_and_issuer_only() {
    let wanted =
        |audience: &str| claims().check("issuer", &[audience.to_owned()], 2000, &objects());
    assert_eq!(wanted("other"), Ok(vec!["other".into()]));
    assert!(matches!(wanted("third"), Err(TokenError::Audience { .. })));
    let other = Claims {
        iss: "someone".into(),
        ..claims()
    };
    assert_eq!(
        check(&other, 2000),
        Err(TokenError::Issuer("someone".into()))
    );
}

#[test]
fn a_token_dies_with_its_account() {
    let mut stale = claims();
    stale.kubernetes.serviceaccount.uid = "u-older".into();
    assert!(matches!(
        check(&stale, 2000),
        Err(TokenError::AccountUid { .. })
    ));
    let mut gone = claims();
    gone.kubernetes.serviceaccount.name = "gone".into();
    assert_eq!(
        check(&gone, 2000),
        Err(TokenError::AccountMissing("gone".into()))
    );
    let mut leaving = objects();
    leaving.0.insert(
        ("serviceaccounts", "sa".into()),
        Found {
            uid: "u-sa".into(),
            deleted_at: Some(1900),
        },
    );
    let api = ["api".to_owned()];
    assert!(claims().check("issuer", &api, 1960, &leaving).is_ok());
    assert!(claims().check("issuer", &api, 1961, &leaving).is_err());
}

#[test]
fn a_token_dies_with_the_object_it_is_bound_to() {
    type Bind = fn(&mut PrivateClaims, Option<ObjectUid>);
    let kinds: [(&str, Bind); 3] = [
        ("pod", |claims, object| claims.pod = object),
        ("secret", |claims, object| claims.secret = object),
        ("node", |claims, object| claims.node = object),
    ];
    for (kind, bind) in kinds {
        let mut token = claims();
        bind(&mut token.kubernetes, bound(kind, &format!("u-{kind}")));
        assert!(check(&token, 2000).is_ok(), "{kind}");
        bind(&mut token.kubernetes, bound(kind, "u-older"));
        assert!(
            matches!(check(&token, 2000), Err(TokenError::BoundUid { .. })),
            "{kind}"
        );
        bind(&mut token.kubernetes, bound("gone", "u"));
        assert_eq!(check(&token, 2000), Err(TokenError::Invalidated), "{kind}");
    }
    let mut on_node = claims();
    on_node.kubernetes.pod = bound("pod", "u-pod");
    on_node.kubernetes.node = bound("a node long gone", "u");
    assert!(
        check(&on_node, 2000).is_ok(),
        "the node of a pod-bound token is no bond"
    );
}

#[test]
fn the_key_set_names_the_key_in_the_header() {
    let key = key();
    let token = key.sign(&claims());
    let header = URL_SAFE_NO_PAD
        .decode(token.split('.').next().unwrap())
        .unwrap();
    let header: serde_json::Value = serde_json::from_slice(&header).unwrap();
    assert_eq!(key.key_set()["keys"][0]["kid"], header["kid"]);
}
