//! Any bytes are a resource of each type that is accepted or refused, and never break a table.
#![no_main]

use fairlead_config::{
    snapshot::Snapshot,
    xds::{
        Type,
        decoder::Decoder,
        proto::{Any, Message, discovery::Resource},
    },
};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    let mut decoder = Decoder::default();
    let mut snapshot = Snapshot::default();
    for type_url in Type::OF_PROXIES.map(Type::url) {
        let any = Any {
            type_url: type_url.to_owned(),
            value: bytes.to_vec(),
        };
        // The decoder wants the name that the content has; field 1 is the name of all three.
        let name = Resource::decode(bytes).map_or_else(|_| String::new(), |it| it.version);
        let resource = Resource {
            name: name.clone(),
            resource: Some(any),
            ..Resource::default()
        };
        let decoded = decoder.decode(type_url, &[resource], &[]);
        snapshot.apply(decoded.delta);
    }
});
