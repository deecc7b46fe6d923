//! A proxy that follows a board over streams, with or without chunks.

use std::collections::BTreeMap;

use fairlead_config::{
    snapshot::Snapshot,
    xds::{
        chunks,
        decoder::Decoder,
        proto::discovery::{DeltaDiscoveryRequest, DeltaDiscoveryResponse},
    },
};

use crate::{
    board::{Board, Table, Type},
    stream::Stream,
};

pub(super) struct Follower {
    types: Vec<Type>,
    stream: Stream,
    decoder: Decoder,
    snapshot: Snapshot,
    has: BTreeMap<Type, BTreeMap<String, String>>,
    /// Bytes of resources received.
    pub(super) bytes: usize,
}

impl Follower {
    pub(super) fn new(takes_chunks: bool) -> Self {
        let types = Type::OF_PROXIES.into_iter();
        let mut follower = Self {
            types: types
                .filter(|of| takes_chunks || *of != Type::Chunk)
                .collect(),
            stream: Stream::default(),
            decoder: Decoder::default(),
            snapshot: Snapshot::default(),
            has: BTreeMap::new(),
            bytes: 0,
        };
        follower.connect();
        follower
    }

    /// A new stream, with what it has from the one before.
    pub(super) fn connect(&mut self) {
        self.stream = Stream::default();
        for of in self.types.clone() {
            self.stream.hear(&DeltaDiscoveryRequest {
                type_url: of.url().to_owned(),
                resource_names_subscribe: vec!["*".to_owned()],
                initial_resource_versions: self.has.entry(of).or_default().clone(),
                ..DeltaDiscoveryRequest::default()
            });
        }
    }

    /// Hears everything that the board has to say to group `edge`; the state that it comes to.
    pub(super) fn follow(&mut self, board: &Board) -> Snapshot {
        let none = Table::default();
        let table = board.group("edge").unwrap_or(&none);
        loop {
            let said =
                self.stream
                    .say_with(table, board.chunks(), board.revision(), &Type::OF_PROXIES);
            if said.is_empty() {
                break;
            }
            said.into_iter().for_each(|response| self.hear(response));
        }
        assert!(self.stream.is_settled() && !self.stream.is_lost());
        assert_eq!(self.stream.applied(), Some(table.hash().as_str()));
        bare(self.snapshot.clone())
    }

    fn hear(&mut self, response: DeltaDiscoveryResponse) {
        let of = Type::parse(&response.type_url).unwrap();
        assert!(self.types.contains(&of), "{of:?} was not asked for");
        let (new, gone) = (&response.resources, &response.removed_resources);
        let decoded = self.decoder.decode(of.url(), new, gone);
        assert_eq!(decoded.problems, []);
        let (_, problems) = self.snapshot.apply(decoded.delta);
        assert_eq!(problems, []);
        for name in gone {
            self.has.entry(of).or_default().remove(name);
            if of == Type::Assignment {
                let prefix = chunks::prefix(name);
                let held = self.has.entry(Type::Chunk).or_default();
                held.retain(|name, _| !name.starts_with(&prefix));
            }
        }
        for resource in new {
            self.bytes += prost::Message::encoded_len(resource);
            let held = self.has.entry(of).or_default();
            held.insert(resource.name.clone(), resource.version.clone());
        }
        self.stream.hear(&DeltaDiscoveryRequest {
            type_url: response.type_url,
            response_nonce: response.nonce,
            ..DeltaDiscoveryRequest::default()
        });
    }
}

/// A row without endpoints is the same as none.
pub(super) fn bare(mut snapshot: Snapshot) -> Snapshot {
    snapshot.endpoints.retain(|_, rows| !rows.is_empty());
    snapshot
}
