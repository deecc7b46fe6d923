//! Events on the hub's objects, for `kubectl describe` and alerts.
//!
//! They are told when the hub can; a full queue drops them, because statuses and metrics say the
//! same.

use std::time::Duration;

use fairlead_api::{member::MemberCluster, proxy::ProxyGroup};
use k8s_openapi::api::core::v1::ObjectReference;
use kube::{
    Api, Client, Resource,
    api::PartialObjectMeta,
    runtime::events::{Event, EventType, Recorder, Reporter},
};
use tokio::sync::mpsc;

/// Takes events; clones share the queue.
#[derive(Clone)]
pub(super) struct Announcer(mpsc::Sender<Announcement>);

/// What happened, to whom.
#[derive(Debug)]
struct Announcement {
    about: About,
    warning: bool,
    reason: &'static str,
    action: &'static str,
    note: String,
}

/// The object that an event is about.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum About {
    Member(String),
    Group(String),
}

/// An announcer, and the queue that [`run`] works off.
pub(super) fn new() -> (Announcer, Queue) {
    let (sender, receiver) = mpsc::channel(QUEUE);
    (Announcer(sender), Queue(receiver))
}

/// Events that wait.
pub(super) struct Queue(mpsc::Receiver<Announcement>);

impl Announcer {
    pub(super) fn normal(&self, about: About, reason: &'static str, note: String) {
        self.tell(about, false, (reason, "Observe"), note);
    }

    pub(super) fn warning(&self, about: About, reason: &'static str, note: String) {
        self.tell(about, true, (reason, "Observe"), note);
    }

    /// Somebody was refused. Events of one reason and `action` become one, told with its first note.
    pub(super) fn refused(
        &self,
        about: About,
        reason: &'static str,
        action: &'static str,
        note: String,
    ) {
        self.tell(about, true, (reason, action), note);
    }

    fn tell(
        &self,
        about: About,
        warning: bool,
        (reason, action): (&'static str, &'static str),
        mut note: String,
    ) {
        // The API takes 1 KiB.
        let cut = (0..=NOTE_BYTES_MAX.min(note.len())).rev();
        let cut = cut.into_iter().find(|at| note.is_char_boundary(*at));
        note.truncate(cut.unwrap_or(0));
        let announcement = Announcement {
            about,
            warning,
            reason,
            action,
            note,
        };
        if self.0.try_send(announcement).is_err() {
            tracing::debug!(reason, "an event was dropped: too many wait");
        }
    }
}

/// Tells events until nobody has any more.
pub(super) async fn run(client: Client, replica: String, mut queue: Queue) {
    let reporter = Reporter {
        controller: "fairlead-hub".to_owned(),
        instance: Some(replica),
    };
    let recorder = Recorder::new(client.clone(), reporter);
    while let Some(announcement) = queue.0.recv().await {
        let told = tell(&client, &recorder, &announcement);
        match tokio::time::timeout(TIMEOUT, told).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => tracing::debug!(?announcement, %error, "an event was not told"),
            Err(_) => tracing::debug!(?announcement, "an event was not told in time"),
        }
    }
}

async fn tell(
    client: &Client,
    recorder: &Recorder,
    announcement: &Announcement,
) -> Result<(), kube::Error> {
    let reference = match &announcement.about {
        About::Member(name) => reference::<MemberCluster>(client, name).await?,
        About::Group(name) => reference::<ProxyGroup>(client, name).await?,
    };
    let Some(reference) = reference else {
        return Ok(());
    };
    let event = Event {
        type_: match announcement.warning {
            true => EventType::Warning,
            false => EventType::Normal,
        },
        reason: announcement.reason.to_owned(),
        note: Some(announcement.note.clone()),
        action: announcement.action.to_owned(),
        secondary: None,
    };
    recorder.publish(&event, &reference).await
}

async fn reference<K>(client: &Client, name: &str) -> Result<Option<ObjectReference>, kube::Error>
where
    K: Resource<DynamicType = (), Scope = kube::core::ClusterResourceScope>
        + Clone
        + std::fmt::Debug
        + serde::de::DeserializeOwned,
{
    let api: Api<K> = Api::all(client.clone());
    let found: Option<PartialObjectMeta<K>> = api.get_metadata_opt(name).await?;
    Ok(found.map(|object| ObjectReference {
        api_version: Some(K::api_version(&()).into_owned()),
        kind: Some(K::kind(&()).into_owned()),
        name: Some(name.to_owned()),
        uid: object.metadata.uid,
        ..ObjectReference::default()
    }))
}

const QUEUE: usize = 256;
const NOTE_BYTES_MAX: usize = 1000;
const TIMEOUT: Duration = Duration::from_secs(5);
