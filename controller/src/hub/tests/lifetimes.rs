//! What ends, and what outlives it: tokens, authorities, memberships.

use fairlead_runtime::clock::Tick;
use k8s_openapi::{
    ByteString,
    api::core::v1::{ConfigMap, Secret},
};

use super::{
    identity::{joined, post},
    *,
};
use crate::{
    authority::{self, Signer},
    join::{self, Tokens},
};

#[tokio::test]
async fn a_stream_ends_when_its_token_runs_out_and_says_so() {
    let server = store().await;
    let life = Duration::from_secs(600);
    // A hub whose clock is two seconds before the end of the token.
    let wall = crate::time::timestamp(&Clock::system()).as_second();
    let wall = Duration::from_secs(u64::try_from(wall).unwrap());
    let clock = Clock::manual(Tick::from_start(wall + life - Duration::from_secs(2)));
    let hub = start_on(&server, false, clock).await;
    let token = join::io::make_proxy_token(&server.client(), "edge", life)
        .await
        .unwrap();
    let channel = Channel::from_shared(format!("http://{}", hub.addr)).unwrap();
    let channel = channel.connect().await.unwrap();
    let mut proxy = Proxy::open(channel, "edge", Some(&token.token))
        .await
        .unwrap();
    let ended = tokio::time::timeout(Duration::from_secs(60), async {
        loop {
            match proxy.answers.message().await {
                Ok(Some(_)) => {}
                Ok(None) => panic!("it ended without a reason"),
                Err(status) => break status,
            }
        }
    });
    let ended = ended.await.expect("it ends");
    assert_eq!(ended.code(), tonic::Code::Unauthenticated);
    assert!(ended.message().contains("run out"), "{}", ended.message());
    hub.stop().await;
}

/// A Secret as the hub keeps it.
fn secret(signers: &[(&str, &Signer)]) -> Secret {
    let mut secret = Secret::default();
    secret.metadata.name = Some("fairlead-hub-ca".into());
    secret.metadata.namespace = Some(labels::SYSTEM_NAMESPACE.into());
    let data = secret.data.get_or_insert_default();
    for (name, signer) in signers {
        for (part, text) in [
            ("crt", signer.certificate.clone()),
            ("key", signer.key.clone()),
            ("made", signer.made.to_string()),
        ] {
            data.insert(format!("{name}.{part}"), ByteString(text.into_bytes()));
        }
    }
    secret
}

#[tokio::test]
async fn a_rotation_of_the_authority_locks_nobody_out() {
    let server = store().await;
    let now = crate::time::timestamp(&Clock::system());
    let key = || rcgen::KeyPair::generate().unwrap();
    let first = authority::new_signer(&key(), now).unwrap();
    let mut second = authority::new_signer(&key(), now).unwrap();
    let secrets: Api<Secret> = Api::namespaced(server.client(), labels::SYSTEM_NAMESPACE);
    let before = secret(&[("ca", &first), ("next", &second)]);
    secrets
        .create(&PostParams::default(), &before)
        .await
        .unwrap();
    let hub = start_on(&server, true, Clock::system()).await;
    let world = World {
        client: server.client(),
        server,
        hub,
    };
    let bundle = world.hub.bundle().unwrap();
    assert!(bundle.contains(&first.certificate) && bundle.contains(&second.certificate));
    let (certificate, member_key) = joined(&world).await;

    // The second one signs from now on, the first one is still trusted.
    let World {
        server,
        hub,
        client,
    } = world;
    hub.stop().await;
    second.made = now;
    let after = secret(&[("ca", &second), ("old", &first)]);
    let name = after.metadata.name.clone().unwrap();
    secrets
        .replace(&name, &PostParams::default(), &after)
        .await
        .unwrap();
    let hub = start_on(&server, true, Clock::system()).await;
    let identity = Some((certificate.as_str(), member_key.as_str()));
    let trusted = Some(bundle.as_str());
    let (status, body) = post(&hub, "/token", &json!({}), identity, trusted).await;
    assert_eq!(status, 200, "{body}");
    let tokens: Tokens = serde_json::from_str(&body).unwrap();
    assert!(tokens.bundle.contains(&second.certificate));

    // Once the first one has run out, what it signed is worth nothing.
    hub.stop().await;
    let last = secret(&[("ca", &second)]);
    secrets
        .replace(&name, &PostParams::default(), &last)
        .await
        .unwrap();
    let hub = start_on(&server, true, Clock::system()).await;
    let nothing = json!({});
    let refused = post(&hub, "/token", &nothing, identity, trusted);
    let refused = std::panic::AssertUnwindSafe(refused);
    let refused = futures::FutureExt::catch_unwind(refused).await;
    assert!(refused.is_err() || refused.is_ok_and(|(status, _)| status == 401));
    drop(client);
    hub.stop().await;
}

#[tokio::test]
async fn a_member_whose_namespace_is_stuck_goes_when_it_is_forced() {
    let world = world(false).await;
    world.member("a").await;
    let namespace = labels::member_namespace("a");
    let maps: Api<ConfigMap> = Api::namespaced(world.client.clone(), &namespace);
    let mut stuck = ConfigMap::default();
    stuck.metadata.name = Some("stuck".into());
    stuck.metadata.finalizers = Some(vec!["example.com/never".into()]);
    maps.create(&PostParams::default(), &stuck).await.unwrap();
    let members: Api<MemberCluster> = Api::all(world.client.clone());
    members.delete("a", &DeleteParams::default()).await.unwrap();
    let namespaces: Api<Namespace> = Api::all(world.client.clone());
    eventually("its namespace to be going", async || {
        let namespace = namespaces.get(&namespace).await.ok()?;
        namespace.metadata.deletion_timestamp.map(drop)
    })
    .await;
    assert!(members.get_opt("a").await.unwrap().is_some(), "it waits");
    let force = json!({ "metadata": { "annotations": { labels::FORCE_LEAVE: "true" } } });
    members
        .patch("a", &PatchParams::default(), &Patch::Merge(&force))
        .await
        .unwrap();
    eventually("the member to be gone", async || {
        members.get_opt("a").await.ok()?.is_none().then_some(())
    })
    .await;
    world.hub.stop().await;
}

/// What keeps a deleted member, as its condition says.
async fn held(world: &World, name: &str) -> String {
    let members: Api<MemberCluster> = Api::all(world.client.clone());
    eventually("word of what keeps it", async || {
        let member = members.get(name).await.ok()?;
        member.metadata.deletion_timestamp.as_ref()?;
        let status = member.status?;
        let leaving = fairlead_api::conditions::find(&status.conditions, "Leaving")?;
        (leaving.status == "False").then(|| leaving.message.clone())
    })
    .await
}

async fn gone(world: &World, name: &str) {
    let members: Api<MemberCluster> = Api::all(world.client.clone());
    eventually("the member to be gone", async || {
        members.get_opt(name).await.ok()?.is_none().then_some(())
    })
    .await;
}

#[tokio::test]
async fn a_deleted_member_serves_on_until_its_exports_are_withdrawn_or_it_is_told_to_skip() {
    let world = world(false).await;
    let members: Api<MemberCluster> = Api::all(world.client.clone());
    world.member("b").await;
    for skips in [false, true] {
        world.member("a").await;
        world.exports("a", &["10.0.0.1"]).await;
        if !skips {
            world.serves().await;
        }
        let mut proxy = world.plain("edge").await;
        proxy.until(|proxy| proxy.endpoints().len() == 1).await;
        members.delete("a", &DeleteParams::default()).await.unwrap();
        let why = held(&world, "a").await;
        assert!(why.contains("1 of its exports: shop/web"), "{why}");
        assert!(why.contains("delete serviceexport web"), "{why}");
        assert!(why.contains("validationMode to Skip"), "{why}");
        // Its agent has what it needs to go on, and what it changes arrives.
        let mut agent = world.plain("member/a").await;
        agent.until(|agent| !agent.imports.is_empty()).await;
        let namespace = labels::member_namespace("a");
        let slices: Api<EndpointSlice> = Api::namespaced(world.client.clone(), &namespace);
        let slice = slices
            .list(&ListParams::default())
            .await
            .unwrap()
            .items
            .remove(0);
        let patch =
            json!([{ "op": "replace", "path": "/endpoints/0/addresses/0", "value": "10.0.0.2" }]);
        let patch = Patch::Json::<()>(serde_json::from_value(patch).unwrap());
        let (name, params) = (slice.name_any(), PatchParams::default());
        slices.patch(&name, &params, &patch).await.unwrap();
        let moved = |proxy: &Proxy| proxy.endpoints().iter().any(|one| one.contains("10.0.0.2"));
        proxy.until(moved).await;
        if skips {
            let skip = json!({ "spec": { "deleteOptions": { "validationMode": "Skip" } } });
            members
                .patch("a", &params, &Patch::Merge(&skip))
                .await
                .unwrap();
        } else {
            let records: Api<ExportRecord> = Api::namespaced(world.client.clone(), &namespace);
            let name = labels::export_record_name("shop", "web");
            records
                .delete(&name, &DeleteParams::default())
                .await
                .unwrap();
        }
        proxy.until(|proxy| proxy.endpoints().is_empty()).await;
        gone(&world, "a").await;
    }
    told(&world, "a", "DeletionHeld", "serviceexport web").await;
    told(&world, "a", "Leaving", "").await;
    world.hub.stop().await;
}

#[tokio::test]
async fn a_deleted_member_that_nobody_uses_is_not_held() {
    let world = world(false).await;
    world.member("a").await;
    world.exports("a", &["10.0.0.1"]).await;
    let members: Api<MemberCluster> = Api::all(world.client.clone());
    members.delete("a", &DeleteParams::default()).await.unwrap();
    gone(&world, "a").await;
    world.hub.stop().await;
}
