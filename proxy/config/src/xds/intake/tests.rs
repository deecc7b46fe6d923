use proptest::prelude::*;
use prost_types::Any;

use super::*;

/// Takes any resource that has bytes and whose bytes, as a place, are nobody else's.
#[derive(Debug, Default)]
struct Places {
    held: BTreeMap<Key, Arc<Resource>>,
    log: Vec<String>,
}

impl Holder for Places {
    const TYPES: &'static [Type] = &Type::OF_PROXIES;

    fn find(&self, of: Type, name: &str) -> Option<&Arc<Resource>> {
        self.held.get(&(of, name.to_owned()))
    }

    fn all(&self, of: Type) -> impl Iterator<Item = &Arc<Resource>> {
        let all = self.held.iter();
        all.filter(move |((one, _), _)| *one == of)
            .map(|(_, held)| held)
    }

    fn put(&mut self, of: Type, resource: Arc<Resource>) -> Result<bool, Refusal> {
        let place = place(&resource);
        let refusal = |message: &str, may_fit_later| Refusal {
            problems: vec![Problem::resource(of.noun(), &*resource.name, "", message)],
            may_fit_later,
        };
        if place.is_empty() {
            return Err(refusal("has no place", false));
        }
        let in_the_way =
            |held: &Arc<Resource>| held.name != resource.name && self::place(held) == place;
        if self.all(of).any(in_the_way) {
            return Err(refusal("its place is taken", true));
        }
        self.log.push(format!("+{}", resource.name));
        self.held.insert((of, resource.name.clone()), resource);
        Ok(true)
    }

    fn remove(&mut self, of: Type, name: &str) -> bool {
        let gone = self.held.remove(&(of, name.to_owned())).is_some();
        self.log.extend(gone.then(|| format!("-{name}")));
        gone
    }
}

fn place(resource: &Resource) -> &[u8] {
    let any = resource.resource.as_ref();
    any.map_or(&[], |any| &any.value)
}

fn resource(name: &str, place: &str, as_of: u64) -> Resource {
    let stamp = Stamp {
        as_of,
        epoch: "one".to_owned(),
    };
    let any = Any {
        type_url: Type::Listener.url().to_owned(),
        value: place.as_bytes().to_vec(),
    };
    Resource {
        version: envelope::content_hash(&any),
        resource: Some(any),
        ..envelope::seal(
            name,
            &crate::xds::proto::listener::Listener::default(),
            &stamp,
        )
    }
}

/// What a server says of listeners.
fn said(resources: &[Resource], removed: &[&str]) -> DeltaDiscoveryResponse {
    DeltaDiscoveryResponse {
        type_url: Type::Listener.url().to_owned(),
        nonce: "7".to_owned(),
        resources: resources.to_vec(),
        removed_resources: removed.iter().map(|name| (*name).to_owned()).collect(),
        ..DeltaDiscoveryResponse::default()
    }
}

/// A client at second zero.
struct Client(Intake<Places>);

impl Client {
    fn new() -> Self {
        Self(Intake::new(Places::default()))
    }

    /// The refusal that an answer meets, empty when it meets none.
    fn hear(&mut self, resources: &[Resource], removed: &[&str]) -> String {
        let (answer, _) = self.0.receive(said(resources, removed), Duration::ZERO);
        let detail = answer.error_detail;
        detail.map(|detail| detail.message).unwrap_or_default()
    }

    fn names(&self) -> Vec<&str> {
        let all = self.0.holder().all(Type::Listener);
        all.map(|held| held.name.as_str()).collect()
    }
}

#[test]
fn removals_go_first_so_that_one_answer_can_give_a_place_to_another() {
    let mut client = Client::new();
    client.hear(&[resource("a", "80", 1)], &[]);
    let refusal = client.hear(&[resource("b", "80", 2)], &["a"]);
    assert_eq!(refusal, "");
    assert_eq!(client.0.holder().log, ["+a", "-a", "+b"]);
    assert_eq!(client.0.counts().refused, 0);
    // What goes and comes under one name is there.
    client.hear(&[resource("b", "81", 3)], &["b"]);
    assert_eq!(client.names(), ["b"]);
}

#[test]
fn what_found_its_place_taken_takes_force_when_the_place_is_given_up() {
    let mut client = Client::new();
    client.hear(&[resource("a", "80", 1)], &[]);
    let refusal = client.hear(&[resource("b", "80", 2), resource("c", "80", 2)], &[]);
    assert_eq!(
        refusal,
        "listener b: its place is taken; listener c: its place is taken"
    );
    assert_eq!(client.names(), ["a"]);
    // Another place than a's is no reason to try, let alone to be quiet about it.
    let refusal = client.hear(&[resource("d", "81", 3)], &[]);
    assert!(refusal.starts_with("listener b: its"), "{refusal}");
    let (answer, outcome) = client.0.receive(said(&[], &["a"]), Duration::ZERO);
    assert!(outcome.changed && outcome.problems.is_empty());
    assert_eq!(client.names(), ["b", "d"]);
    assert_eq!(
        answer.error_detail.unwrap().message,
        "listener c: its place is taken"
    );
    // By moving, too.
    assert_eq!(client.hear(&[resource("b", "82", 4)], &[]), "");
    assert_eq!(client.names(), ["b", "c", "d"]);
    let counts = client.0.counts();
    assert_eq!((counts.refused, counts.fitted_later), (2, 2));
}

#[test]
fn the_order_inside_an_answer_does_not_matter() {
    let mut client = Client::new();
    client.hear(&[resource("a", "80", 1)], &[]);
    let refusal = client.hear(&[resource("b", "80", 2), resource("a", "81", 2)], &[]);
    assert_eq!(refusal, "");
    assert_eq!(client.names(), ["a", "b"]);
    assert_eq!(client.0.counts().refused, 0, "nobody was told of a refusal");
}

#[test]
fn what_is_refused_is_tried_again_only_as_it_was_said_last() {
    let mut client = Client::new();
    client.hear(&[resource("a", "80", 1), resource("b", "81", 1)], &[]);
    client.hear(&[resource("b", "80", 2)], &[]);
    assert_eq!(
        client.hear(&[resource("b", "81", 3)], &[]),
        "",
        "as it is in force"
    );
    client.hear(&[resource("c", "80", 3)], &[]);
    client.hear(&[], &["c"]);
    client.hear(&[resource("d", "80", 3)], &[]);
    client.0.connect();
    client.hear(&[], &["a"]);
    assert_eq!(client.names(), ["b"], "a new stream says again what is so");
    assert_eq!(
        place(client.0.holder().find(Type::Listener, "b").unwrap()),
        b"81"
    );
}

#[test]
fn a_refusal_that_no_room_helps_is_named_until_it_is_taken_back() {
    let mut client = Client::new();
    client.hear(&[resource("a", "80", 1)], &[]);
    let (_, outcome) = client
        .0
        .receive(said(&[resource("b", "", 2)], &[]), Duration::ZERO);
    assert_eq!(outcome.problems.len(), 1);
    let (answer, outcome) = client.0.receive(said(&[], &["a"]), Duration::ZERO);
    assert_eq!(
        answer.error_detail.unwrap().message,
        "listener b: has no place"
    );
    assert_eq!(outcome.problems, [], "it is known");
    assert_eq!(client.hear(&[], &["b"]), "");
    let counts = client.0.counts();
    assert_eq!((counts.refused, counts.fitted_later), (1, 0));
}

#[test]
fn an_answer_names_what_is_refused_of_its_own_type_in_four_kibibytes() {
    let mut client = Client::new();
    let many: Vec<Resource> = (0..500)
        .map(|one| resource(&format!("{one:03}"), "", 1))
        .collect();
    let refusal = client.hear(&many, &[]);
    assert!(refusal.len() <= REFUSAL_BYTES_MAX, "{}", refusal.len());
    assert!(
        refusal.starts_with("listener 000: has no place; listener 001"),
        "{refusal}"
    );
    assert!(refusal.ends_with(" more"), "{refusal}");
    let mut clusters = said(&[], &[]);
    clusters.type_url = Type::Cluster.url().to_owned();
    let (answer, _) = client.0.receive(clusters, Duration::ZERO);
    assert_eq!(answer.error_detail, None);
}

#[test]
fn beyond_the_limit_refusals_are_named_but_not_remembered() {
    let mut client = Client::new();
    client.hear(&[resource("a", "80", 1)], &[]);
    let many: Vec<Resource> = (0..REFUSED_MAX + 2)
        .map(|one| resource(&format!("b{one:04}"), "80", 1))
        .collect();
    let (_, outcome) = client.0.receive(said(&many, &[]), Duration::ZERO);
    assert_eq!(outcome.problems.len(), REFUSED_MAX + 2);
    assert_eq!(client.0.counts().refused, REFUSED_MAX as u64 + 2);
    client.hear(&[], &["a"]);
    assert_eq!(client.names(), ["b0000"]);
    let large = "x".repeat(REFUSED_BYTES_MAX / 2);
    let mut client = Client::new();
    client.hear(&[resource("a", &large, 1)], &[]);
    for name in ["b", "c", "d"] {
        client.hear(&[resource(name, &large, 1)], &[]);
    }
    assert!(client.0.refused_bytes <= REFUSED_BYTES_MAX);
    client.hear(&[], &["a"]);
    client.hear(&[], &["b"]);
    client.hear(&[], &["c"]);
    assert_eq!(client.names(), [""; 0], "d was too much to keep, and c");
}

#[test]
fn an_older_view_is_held_back_and_then_takes_force_counted() {
    let mut client = Client::new();
    client.hear(&[resource("a", "80", 50)], &[]);
    assert_eq!(client.hear(&[resource("a", "81", 40)], &[]), "");
    let place_of_a =
        |client: &Client| place(client.0.holder().find(Type::Listener, "a").unwrap()).to_vec();
    assert_eq!(place_of_a(&client), b"80");
    assert_eq!(client.0.next_deadline(), Some(HELD_BACK));
    let early = HELD_BACK - Duration::from_nanos(1);
    assert_eq!(client.0.release(early), Outcome::default());
    assert!(client.0.release(HELD_BACK).changed);
    assert_eq!(place_of_a(&client), b"81");
    assert_eq!(client.0.counts().accepted_stale, 1);
    assert_eq!(client.0.next_deadline(), None);
    // What is newer ends the wait, and so does what is in force, said again.
    for (place, as_of) in [("82", 60), ("81", 55)] {
        client.hear(&[resource("a", "90", 30)], &[]);
        assert!(client.0.next_deadline().is_some());
        client.hear(&[resource("a", place, as_of)], &[]);
        assert_eq!(client.0.next_deadline().is_some(), place == "81");
    }
    client.hear(&[resource("a", "82", 1)], &[]);
    assert_eq!(client.0.next_deadline(), None);
    assert_eq!(client.0.stamp().as_of, 60);
}

#[test]
fn what_was_removed_comes_back_at_once_only_when_it_is_newer_or_of_another_life() {
    let mut client = Client::new();
    client.hear(&[resource("a", "80", 50)], &[]);
    client.hear(&[], &["a"]);
    client.hear(&[resource("a", "80", 50)], &[]);
    assert_eq!(
        (client.names(), client.0.next_deadline()),
        (vec![], Some(HELD_BACK))
    );
    client.hear(&[], &["a"]);
    assert_eq!(client.0.next_deadline(), None, "it has caught up");
    client.hear(&[resource("a", "80", 51)], &[]);
    assert_eq!(client.names(), ["a"]);
    client.hear(&[], &["a"]);
    let mut restored = resource("a", "80", 3);
    let stamp = Stamp {
        as_of: 3,
        epoch: "two".to_owned(),
    };
    let empty = crate::xds::proto::listener::Listener::default();
    restored.metadata = envelope::seal("a", &empty, &stamp).metadata;
    client.hear(&[restored], &[]);
    assert_eq!(client.names(), ["a"]);
    assert_eq!(client.0.stamp(), &stamp);
}

#[test]
fn what_is_given_up_gives_its_place_and_may_come_back_as_it_was() {
    let mut client = Client::new();
    client.hear(&[resource("a", "80", 5), resource("b", "80", 5)], &[]);
    client.0.forget(Type::Listener, "a");
    client.hear(&[], &[]);
    assert_eq!(client.names(), ["b"]);
    client.hear(&[], &["b"]);
    client.hear(&[resource("a", "80", 5)], &[]);
    assert_eq!(client.names(), ["a"]);
}

#[test]
fn a_type_that_was_not_asked_for_is_refused_and_changes_nothing() {
    let mut client = Client::new();
    let mut imports = said(&[resource("a", "80", 1)], &[]);
    imports.type_url = Type::Import.url().to_owned();
    let (answer, outcome) = client.0.receive(imports, Duration::ZERO);
    assert_eq!(
        (answer.type_url.as_str(), answer.response_nonce.as_str()),
        (Type::Import.url(), "7")
    );
    let detail = answer.error_detail.unwrap();
    assert_eq!(detail.code, INVALID_ARGUMENT);
    assert_eq!(detail.message, "is a type that was not asked for");
    assert_eq!(outcome, Outcome::default());
}

#[test]
fn a_new_stream_says_what_is_here() {
    let mut client = Client::new();
    client.hear(&[resource("a", "80", 1), resource("b", "80", 1)], &[]);
    let request = client.0.subscribe(Type::Listener, vec!["*".to_owned()]);
    let versions: Vec<_> = request.initial_resource_versions.into_iter().collect();
    assert_eq!(
        versions,
        [("a".to_owned(), resource("a", "80", 1).version)],
        "what is refused is to be sent again"
    );
}

proptest! {
    /// However much is refused on the way: what is in force at the end is what was said last, as
    /// far as it fits, and nothing that fits is missing.
    #[test]
    fn in_the_end_everything_that_fits_is_in_force(
        steps in proptest::collection::vec((0u8..6, 0u8..5, any::<bool>()), 0..60),
    ) {
        let mut client = Client::new();
        let mut last: BTreeMap<String, String> = BTreeMap::new();
        for (as_of, (name, place, gone)) in (1..).zip(steps) {
            let (name, place) = (name.to_string(), place.to_string());
            if gone {
                client.hear(&[], &[&name]);
                last.remove(&name);
            } else {
                client.hear(&[resource(&name, &place, as_of)], &[]);
                last.insert(name, place);
            }
            let taken: BTreeSet<&[u8]> =
                client.0.holder().all(Type::Listener).map(|held| self::place(held)).collect();
            for (name, place) in &last {
                let held = client.0.holder().find(Type::Listener, name);
                let is_so = held.is_some_and(|held| self::place(held) == place.as_bytes());
                prop_assert!(is_so || taken.contains(place.as_bytes()), "{name} at {place}");
            }
            for name in client.names() {
                prop_assert!(last.contains_key(name), "{name} has gone");
            }
        }
    }
}
