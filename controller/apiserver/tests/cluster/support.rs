//! What the tests share.

use std::time::Duration;

use fairlead_apiserver::ApiServer;
use k8s_openapi::api::core::v1::Namespace;
use kube::api::PostParams;
use kube::runtime::wait::{Condition, await_condition};
use kube::{Api, Client, Error};
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

pub(crate) async fn server() -> ApiServer {
    ApiServer::builder()
        .build()
        .await
        .expect("a server without a data folder starts")
}

pub(crate) fn of<T: DeserializeOwned>(value: Value) -> T {
    serde_json::from_value(value).expect("the value has the form of the kind")
}

pub(crate) async fn create<T>(api: &Api<T>, value: Value) -> T
where
    T: Clone + std::fmt::Debug + DeserializeOwned + serde::Serialize,
{
    api.create(&PostParams::default(), &of(value))
        .await
        .expect("the object is created")
}

pub(crate) async fn until<T>(api: &Api<T>, name: &str, condition: impl Condition<T>) -> Option<T>
where
    T: kube::Resource + Clone + std::fmt::Debug + DeserializeOwned + Send + Sync + 'static,
{
    let waiting = await_condition(api.clone(), name, condition);
    tokio::time::timeout(Duration::from_secs(60), waiting)
        .await
        .expect("the condition is met")
        .expect("the watch goes on")
}

pub(crate) fn code(error: Error) -> u16 {
    status(error).0
}

/// The code and the message of a refusal.
pub(crate) fn status(error: Error) -> (u16, String) {
    match error {
        Error::Api(status) => (status.code, status.message.clone()),
        other => panic!("not an answer of the server: {other}"),
    }
}

pub(crate) async fn namespace(client: &Client, name: &str) {
    let api: Api<Namespace> = Api::all(client.clone());
    create(&api, json!({"metadata": {"name": name}})).await;
}
