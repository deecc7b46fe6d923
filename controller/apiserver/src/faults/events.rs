//! Faults of watches: the stream of lines is cut into events, and each meets the rules.

use std::collections::VecDeque;

use bytes::Bytes;
use futures::{Stream, StreamExt as _};
use http::Response;

use super::{Effect, Faults, Subject};
use crate::http::Body;

impl Faults {
    /// The same response to a watch, its events exposed to the rules.
    pub(crate) fn expose(&self, subject: Subject, response: Response<Body>) -> Response<Body> {
        let faults = self.clone();
        response.map(|body| match body.into_stream() {
            Ok(stream) => Body::stream(faults.events(subject, stream)),
            Err(body) => body,
        })
    }

    fn events(
        self,
        subject: Subject,
        stream: impl Stream<Item = Bytes> + Send + 'static,
    ) -> impl Stream<Item = Bytes> + Send + 'static {
        let start = (self, subject, Box::pin(stream), VecDeque::<Bytes>::new());
        futures::stream::unfold(
            start,
            |(faults, subject, mut stream, mut queue)| async move {
                loop {
                    while let Some(line) = queue.pop_front() {
                        match faults.meet_event(&subject, &line).await {
                            Copies::End => return None,
                            Copies::None => {}
                            Copies::One => return Some((line, (faults, subject, stream, queue))),
                            Copies::Two => {
                                let twice = Bytes::from([&line[..], &line[..]].concat());
                                return Some((twice, (faults, subject, stream, queue)));
                            }
                        }
                    }
                    queue = lines(&stream.next().await?);
                }
            },
        )
    }

    async fn meet_event(&self, subject: &Subject, line: &[u8]) -> Copies {
        let on_events = |effect| {
            matches!(
                effect,
                Effect::DropEvent
                    | Effect::RepeatEvent
                    | Effect::DelayEvent(_)
                    | Effect::EndWatch
                    | Effect::Hang
            )
        };
        // Bookmarks and errors are not events of objects; a partition holds them all the same.
        let object = [
            &b"{\"type\":\"ADDED\""[..],
            b"{\"type\":\"MODIFIED\"",
            b"{\"type\":\"DELETED\"",
        ]
        .iter()
        .any(|head| line.starts_with(head));
        let mut copies = Copies::One;
        for active in self.strike(subject, |effect| {
            on_events(effect) && (object || effect == Effect::Hang)
        }) {
            match active.rule.effect {
                Effect::DropEvent => copies = Copies::None,
                Effect::RepeatEvent => copies = Copies::Two,
                Effect::DelayEvent(time) => tokio::time::sleep(time).await,
                Effect::Hang => active.end().await,
                _ => return Copies::End,
            }
        }
        copies
    }
}

enum Copies {
    None,
    One,
    Two,
    /// The watch ends instead.
    End,
}

/// A chunk's lines, each with its end.
fn lines(chunk: &Bytes) -> VecDeque<Bytes> {
    let mut lines = VecDeque::new();
    let mut start = 0;
    for (at, byte) in chunk.iter().enumerate() {
        if *byte == b'\n' {
            lines.push_back(chunk.slice(start..=at));
            start = at + 1;
        }
    }
    if start < chunk.len() {
        lines.push_back(chunk.slice(start..));
    }
    lines
}
