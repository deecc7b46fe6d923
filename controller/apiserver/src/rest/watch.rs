//! Watching: a list's changes as a stream of JSON lines.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::Stream;
use http::{HeaderMap, Response};
use serde_json::json;
use tokio::time::Instant;

use super::Request;
use super::list::Selection;
use crate::auth::User;
use crate::core::Core;
use crate::error::{ApiError, Cause};
use crate::http::{Accept, Body, Place, Query, Shape, Syntax, options_invalid, raw};
use crate::resource::Resource;
use crate::store::{Batch, Lost, Object, Scope, Watcher};

/// How long a watch lasts whose client names no time, at least; as long again at most.
const WATCH_TIME: Duration = Duration::from_secs(1800);
/// How often a client that wants bookmarks gets one.
const BOOKMARK_PERIOD: Duration = Duration::from_secs(60);
/// Events printed into one chunk, at least: fewer, larger writes under load.
const CHUNK_BYTES: usize = 32 << 10;
/// On the bookmark that ends the initial events of a streaming list.
const INITIAL_EVENTS_END: &str = "k8s.io/initial-events-end";

/// One client's watch.
struct Session {
    core: Arc<Core>,
    user: User,
    query: Query,
    place: Place,
    resource: Arc<Resource>,
    accept: Accept,
    selection: Selection,
    watcher: Watcher,
    phase: Phase,
    bookmarks: bool,
    next_bookmark: Instant,
    ends: Instant,
    columns_sent: bool,
}

enum Phase {
    /// The state at the start is still being sent, the last object first in the list.
    Initial {
        left: Vec<Arc<Object>>,
        revision: u64,
        end_mark: bool,
    },
    Live,
    Ended,
}

/// Where a watch starts.
enum Start {
    /// With the present state, then its changes. `end_mark`: a bookmark between the two.
    State {
        end_mark: bool,
    },
    /// With the changes from now on.
    Now,
    After(u64),
}

impl Request<'_> {
    pub(super) fn watch(&self) -> Result<Response<Body>, ApiError> {
        let selection = self.selection()?;
        let start = self.watch_start()?;
        let wanted = self.revision_option()?.unwrap_or_default();
        if let (Start::State { .. }, Err(error)) = (&start, self.reached(wanted)) {
            // This failure is told in the stream, not by the response.
            let mut line = Vec::new();
            error_line(&error, &mut line);
            return Ok(raw(200, Syntax::Json, line));
        }
        if self.accept.syntax == Syntax::Yaml {
            return Err(ApiError::not_streamable(&["application/json;stream=watch"]));
        }
        let (watcher, phase) = match self.open(&selection, start) {
            Ok(opened) => opened,
            // Once a watch is accepted, errors are events: clients list again on this one, and only
            // retry on a refused request.
            Err(lost) => {
                let mut line = Vec::new();
                error_line(&expired(lost), &mut line);
                return Ok(raw(200, Syntax::Json, line));
            }
        };
        let now = Instant::now();
        let session = Session {
            core: Arc::clone(self.core),
            user: self.user.clone(),
            query: self.query.clone(),
            place: self.place.clone(),
            resource: Arc::clone(&self.resource),
            accept: self.accept,
            selection,
            watcher,
            phase,
            bookmarks: self.query.flag("allowWatchBookmarks") == Some(true),
            next_bookmark: now + BOOKMARK_PERIOD,
            ends: now + self.watch_time()?,
            columns_sent: false,
        };
        let mut response = Response::new(Body::stream(session.stream()));
        let kind = http::HeaderValue::from_static("application/json");
        response
            .headers_mut()
            .insert(http::header::CONTENT_TYPE, kind);
        Ok(response)
    }

    /// The position that a watch starts from, and what is to be sent first.
    fn open(&self, selection: &Selection, start: Start) -> Result<(Watcher, Phase), Lost> {
        let (store, table) = (&self.core.store, &self.resource.table);
        let scope = self.scope(selection);
        let from = match start {
            Start::After(revision) => revision,
            Start::Now => store.revision(),
            Start::State { end_mark } => {
                let range = self.range(selection);
                let (mut listing, watcher) =
                    store.list_and_watch(table, &range, scope, &|object| selection.matches(object));
                listing.objects.reverse();
                let phase = Phase::Initial {
                    left: listing.objects,
                    revision: listing.revision,
                    end_mark,
                };
                return Ok((watcher, phase));
            }
        };
        Ok((store.watch(table, scope, from)?, Phase::Live))
    }

    fn scope(&self, selection: &Selection) -> Scope {
        let range = self.range(selection);
        Scope::new(
            range.namespace.as_deref().unwrap_or_default(),
            range.name.as_deref(),
        )
    }

    /// The rules of `resourceVersion`, `resourceVersionMatch` and `sendInitialEvents` for watches.
    fn watch_start(&self) -> Result<Start, ApiError> {
        let revision = self.revision_option()?;
        let initial = self.query.flag("sendInitialEvents");
        let matching = self.query.text("resourceVersionMatch");
        let invalid = |cause| Err(options_invalid("ListOptions", vec![cause]));
        if self.query.text("continue").is_some() {
            return invalid(Cause::forbidden(
                "resourceVersionMatch",
                "resourceVersionMatch is forbidden when continue is provided",
            ));
        }
        match (initial, matching) {
            (None, Some(other)) => {
                let mut causes = vec![Cause::forbidden(
                    "resourceVersionMatch",
                    "resourceVersionMatch is forbidden for watch unless sendInitialEvents is \
                     provided",
                )];
                if other != "NotOlderThan" {
                    causes.push(unsupported_match(other));
                }
                return Err(options_invalid("ListOptions", causes));
            }
            (Some(_), None) => {
                return invalid(Cause::forbidden(
                    "resourceVersionMatch",
                    "sendInitialEvents requires setting resourceVersionMatch to NotOlderThan",
                ));
            }
            (Some(_), Some(other)) if other != "NotOlderThan" => {
                let requires = Cause::forbidden(
                    "resourceVersionMatch",
                    "sendInitialEvents requires setting resourceVersionMatch to NotOlderThan",
                );
                let unsupported = unsupported_match(other);
                return Err(options_invalid("ListOptions", vec![requires, unsupported]));
            }
            _ => {}
        }
        match (initial, revision) {
            (Some(true), _) => {
                let end_mark = self.query.flag("allowWatchBookmarks") == Some(true);
                Ok(Start::State { end_mark })
            }
            (Some(false), None | Some(0)) => Ok(Start::Now),
            (None, None | Some(0)) => Ok(Start::State { end_mark: false }),
            (_, Some(revision)) => Ok(Start::After(revision)),
        }
    }

    fn watch_time(&self) -> Result<Duration, ApiError> {
        let seconds = self.query.integer("timeoutSeconds")?.unwrap_or_default();
        if let Ok(seconds @ 1..) = u64::try_from(seconds) {
            return Ok(Duration::from_secs(seconds));
        }
        let mut byte = [0_u8];
        self.core.random.fill(&mut byte);
        // Watches that started together don't all end together.
        Ok(WATCH_TIME + WATCH_TIME * u32::from(byte[0]) / 256)
    }
}

// === impl Session ===

impl Session {
    fn stream(self) -> impl Stream<Item = Bytes> + Send {
        futures::stream::unfold(self, |mut session| async move {
            let chunk = session.next().await?;
            Some((chunk, session))
        })
    }

    /// The next chunk of lines; `None` ends the stream.
    async fn next(&mut self) -> Option<Bytes> {
        loop {
            let out = match self.phase {
                Phase::Initial { .. } => self.initial(),
                Phase::Live => self.live().await,
                Phase::Ended => return None,
            };
            if !out.is_empty() {
                return Some(Bytes::from(out));
            }
        }
    }

    fn initial(&mut self) -> Vec<u8> {
        let mut out = Vec::new();
        let Phase::Initial {
            left,
            revision,
            end_mark,
        } = std::mem::replace(&mut self.phase, Phase::Live)
        else {
            return out;
        };
        let mut left = left;
        while let Some(object) = left.pop() {
            self.line("ADDED", &object, object.revision(), &mut out);
            if out.len() >= CHUNK_BYTES {
                break;
            }
        }
        if !left.is_empty() {
            self.phase = Phase::Initial {
                left,
                revision,
                end_mark,
            };
        } else if end_mark {
            self.bookmark(revision, true, &mut out);
        }
        out
    }

    async fn live(&mut self) -> Vec<u8> {
        let mut out = Vec::new();
        let wake = if self.bookmarks {
            self.next_bookmark.min(self.ends)
        } else {
            self.ends
        };
        let batch = tokio::select! {
            biased;
            batch = self.watcher.next() => Some(batch),
            () = tokio::time::sleep_until(wake) => None,
            () = self.core.stop.cancelled() => {
                self.phase = Phase::Ended;
                return out;
            }
        };
        match batch {
            Some(Ok(batch)) => self.events(batch, &mut out),
            Some(Err(lost)) => {
                error_line(&expired(lost), &mut out);
                self.phase = Phase::Ended;
            }
            None if Instant::now() >= self.ends => self.phase = Phase::Ended,
            None => {
                self.next_bookmark = Instant::now() + BOOKMARK_PERIOD;
                match self.watcher.take() {
                    Ok(batch) => {
                        let through = batch.through;
                        self.events(batch, &mut out);
                        self.bookmark(through, false, &mut out);
                    }
                    Err(lost) => {
                        error_line(&expired(lost), &mut out);
                        self.phase = Phase::Ended;
                    }
                }
            }
        }
        out
    }

    fn events(&mut self, batch: Batch, out: &mut Vec<u8>) {
        for event in &batch.events {
            if let Some((seen, object)) = event.seen(|object| self.selection.matches(object)) {
                self.line(seen.as_str(), object, event.revision, out);
            }
        }
    }

    fn line(&mut self, kind: &str, object: &Object, revision: u64, out: &mut Vec<u8>) {
        out.extend_from_slice(b"{\"type\":\"");
        out.extend_from_slice(kind.as_bytes());
        out.extend_from_slice(b"\",\"object\":");
        if self.accept.shape == Shape::Full && !super::events::is_renamed(&self.resource) {
            object.print_at(&self.resource.head(), revision, out);
        } else {
            let columns = !self.columns_sent;
            self.request().print_event(object, revision, columns, out);
            self.columns_sent = true;
        }
        out.extend_from_slice(b"}\n");
    }

    /// Tells the client a revision to resume from.
    fn bookmark(&mut self, revision: u64, end_of_initial: bool, out: &mut Vec<u8>) {
        let mut metadata = json!({"resourceVersion": revision.to_string()});
        if end_of_initial {
            metadata["annotations"] = json!({INITIAL_EVENTS_END: "true"});
        }
        let (kind, version) = match self.accept.shape {
            Shape::Metadata | Shape::MetadataList => (
                "PartialObjectMetadata".to_owned(),
                "meta.k8s.io/v1".to_owned(),
            ),
            _ => (self.resource.kind.clone(), self.resource.api_version()),
        };
        let mut object = json!({"kind": kind, "apiVersion": version, "metadata": metadata});
        if self.accept.shape == Shape::Table {
            object = json!({
                "kind": "Table", "apiVersion": "meta.k8s.io/v1",
                "metadata": {"resourceVersion": revision.to_string()},
                "columnDefinitions": null,
                "rows": [{"cells": [], "object": object}],
            });
        }
        let line = json!({"type": "BOOKMARK", "object": object});
        serde_json::to_writer(&mut *out, &line).expect("a value is serialisable");
        out.push(b'\n');
    }

    fn request(&self) -> Request<'_> {
        static NO_HEADERS: std::sync::LazyLock<HeaderMap> =
            std::sync::LazyLock::new(HeaderMap::new);
        Request {
            core: &self.core,
            user: &self.user,
            headers: &NO_HEADERS,
            query: self.query.clone(),
            place: self.place.clone(),
            resource: Arc::clone(&self.resource),
            accept: self.accept,
            warnings: parking_lot::Mutex::default(),
        }
    }
}

fn unsupported_match(given: &str) -> Cause {
    Cause::not_supported("resourceVersionMatch", &json!(given), &["NotOlderThan"])
}

fn expired(lost: Lost) -> ApiError {
    ApiError::expired(format!(
        "too old resource version: {} ({})",
        lost.asked, lost.floor
    ))
}

fn error_line(error: &ApiError, out: &mut Vec<u8>) {
    let line = json!({"type": "ERROR", "object": error.status()});
    serde_json::to_writer(&mut *out, &line).expect("a value is serialisable");
    out.push(b'\n');
}
