//! Events on objects of the hub, and of a member for its agent, for `kubectl describe` and alerts.
//!
//! They are told when the hub can; a full queue drops them, because statuses and metrics say the
//! same.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use fairlead_api::{
    mcs::v1beta1::{ServiceExport, ServiceImport},
    member::MemberCluster,
    proxy::ProxyGroup,
    service::MultiClusterService,
};
use k8s_openapi::api::core::v1::{ObjectReference, ServiceAccount};
use kube::{
    Api, Client, Resource,
    api::PartialObjectMeta,
    runtime::events::{Event, EventType, Recorder, Reporter},
};
use parking_lot::Mutex;
use tokio::sync::mpsc;

/// Takes events; clones share the queue.
#[derive(Clone)]
pub(crate) struct Announcer {
    queue: mpsc::Sender<News>,
    /// What was told last of each object and reason, and of which version of the object.
    told: Arc<Mutex<Told>>,
}

/// By object and reason: the object's version, and the note.
type Told = BTreeMap<(About, &'static str), (u64, String)>;

/// What happened, to whom.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct News {
    pub(crate) about: About,
    pub(crate) warning: bool,
    pub(crate) reason: &'static str,
    /// Events of one object, reason and action become one, told with its first note.
    pub(crate) action: String,
    pub(crate) note: String,
}

/// The object that an event is about.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum About {
    Member(String),
    Group(String),
    /// The ServiceImport of a service, by namespace and name.
    Import(String, String),
    /// A MultiClusterService, by namespace and name.
    Service(String, String),
    /// A ServiceExport, by namespace, name and UID.
    Export(String, String, String),
    /// A ServiceAccount, by namespace, name and UID.
    Account(String, String, String),
}

/// An announcer, and the queue that [`run`] works off.
pub(crate) fn new() -> (Announcer, Queue) {
    let (queue, receiver) = mpsc::channel(QUEUE);
    let announcer = Announcer {
        queue,
        told: Arc::default(),
    };
    (announcer, Queue(receiver))
}

/// Events that wait.
pub(crate) struct Queue(mpsc::Receiver<News>);

impl News {
    pub(crate) fn normal(about: About, reason: &'static str, note: String) -> Self {
        Self {
            about,
            warning: false,
            reason,
            action: "Observe".to_owned(),
            note,
        }
    }

    pub(crate) fn warning(about: About, reason: &'static str, note: String) -> Self {
        Self {
            warning: true,
            ..Self::normal(about, reason, note)
        }
    }

    pub(crate) fn with_action(self, action: impl Into<String>) -> Self {
        Self {
            action: action.into(),
            ..self
        }
    }
}

impl Announcer {
    pub(crate) fn normal(&self, about: About, reason: &'static str, note: String) {
        self.push(News::normal(about, reason, note));
    }

    pub(crate) fn warning(&self, about: About, reason: &'static str, note: String) {
        self.push(News::warning(about, reason, note));
    }

    /// Somebody was refused.
    pub(crate) fn refused(
        &self,
        about: About,
        reason: &'static str,
        action: &'static str,
        note: String,
    ) {
        self.push(News::warning(about, reason, note).with_action(action));
    }

    /// Tells each of them, once for each version of the object that the news were found by: a state is
    /// stated again and again until it is written.
    pub(crate) fn tell(&self, version: u64, news: impl IntoIterator<Item = News>) {
        for one in news {
            let mut told = self.told.lock();
            if told.len() >= TOLD_MAX {
                told.clear();
            }
            let at = (one.about.clone(), one.reason);
            let stated = (version, one.note.clone());
            let old = told.insert(at, stated.clone());
            if old.as_ref() != Some(&stated) {
                drop(told);
                self.push(one);
            }
        }
    }

    /// What was told of an object for a reason is over; if it comes back it is told again.
    pub(crate) fn is_over(&self, about: &About, reason: &'static str) {
        self.told.lock().remove(&(about.clone(), reason));
    }

    fn push(&self, mut news: News) {
        // The API takes 1 KiB of a note, and 128 bytes of an action.
        cut(&mut news.note, NOTE_BYTES_MAX);
        cut(&mut news.action, ACTION_BYTES_MAX);
        let reason = news.reason;
        if self.queue.try_send(news).is_err() {
            tracing::debug!(reason, "an event was dropped: too many wait");
        }
    }
}

fn cut(text: &mut String, max: usize) {
    let mut places = (0..=max.min(text.len())).rev();
    let at = places.find(|at| text.is_char_boundary(*at));
    text.truncate(at.unwrap_or(0));
}

/// Tells events until nobody has any more.
pub(crate) async fn run(client: Client, reporter: Reporter, mut queue: Queue) {
    let recorder = Recorder::new(client.clone(), reporter);
    while let Some(news) = queue.0.recv().await {
        let told = tell(&client, &recorder, &news);
        match tokio::time::timeout(TIMEOUT, told).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => tracing::debug!(?news, %error, "an event was not told"),
            Err(_) => tracing::debug!(?news, "an event was not told in time"),
        }
    }
}

async fn tell(client: &Client, recorder: &Recorder, news: &News) -> Result<(), kube::Error> {
    let reference = match &news.about {
        About::Member(name) => reference(Api::<MemberCluster>::all(client.clone()), name).await?,
        About::Group(name) => reference(Api::<ProxyGroup>::all(client.clone()), name).await?,
        About::Import(namespace, name) => {
            let api = Api::<ServiceImport>::namespaced(client.clone(), namespace);
            reference(api, name).await?
        }
        About::Service(namespace, name) => {
            let api = Api::<MultiClusterService>::namespaced(client.clone(), namespace);
            reference(api, name).await?
        }
        About::Export(namespace, name, uid) => Some(known::<ServiceExport>(namespace, name, uid)),
        About::Account(namespace, name, uid) => Some(known::<ServiceAccount>(namespace, name, uid)),
    };
    let Some(reference) = reference else {
        return Ok(());
    };
    let event = Event {
        type_: match news.warning {
            true => EventType::Warning,
            false => EventType::Normal,
        },
        reason: news.reason.to_owned(),
        note: Some(news.note.clone()),
        action: news.action.clone(),
        secondary: None,
    };
    recorder.publish(&event, &reference).await
}

async fn reference<K>(api: Api<K>, name: &str) -> Result<Option<ObjectReference>, kube::Error>
where
    K: Resource<DynamicType = ()> + Clone + std::fmt::Debug + serde::de::DeserializeOwned,
{
    let found: Option<PartialObjectMeta<K>> = api.get_metadata_opt(name).await?;
    Ok(found.map(|object| ObjectReference {
        api_version: Some(K::api_version(&()).into_owned()),
        kind: Some(K::kind(&()).into_owned()),
        name: Some(name.to_owned()),
        namespace: object.metadata.namespace,
        uid: object.metadata.uid,
        ..ObjectReference::default()
    }))
}

/// To an object that was seen a moment ago.
fn known<K: Resource<DynamicType = ()>>(namespace: &str, name: &str, uid: &str) -> ObjectReference {
    ObjectReference {
        api_version: Some(K::api_version(&()).into_owned()),
        kind: Some(K::kind(&()).into_owned()),
        name: Some(name.to_owned()),
        namespace: Some(namespace.to_owned()),
        uid: Some(uid.to_owned()),
        ..ObjectReference::default()
    }
}

const QUEUE: usize = 256;
const NOTE_BYTES_MAX: usize = 1000;
const ACTION_BYTES_MAX: usize = 128;
/// Objects and reasons whose last event is remembered; beyond that all are forgotten, and what goes on is
/// told once more.
const TOLD_MAX: usize = 10_000;
const TIMEOUT: Duration = Duration::from_secs(5);
