//! Laws: a plan rests on its own result, says the same whatever came first, and moves little.

use proptest::prelude::*;

use super::*;

/// Addresses 10.0.x.y of a member, by number.
fn endpoint_number(number: u16) -> ImportEndpoint {
    let member = ["a", "c"][usize::from(number % 2)];
    let ip = format!("10.0.{}.{}", number / 200, number % 200 + 1);
    endpoint(member, &ip)
}

fn import_of(numbers: &BTreeSet<u16>) -> Import {
    Import {
        endpoints: numbers
            .iter()
            .map(|number| endpoint_number(*number))
            .collect(),
        ..told()
    }
}

fn check(observed: &Observed, numbers: &BTreeSet<u16>) {
    let wanted: BTreeSet<String> = numbers
        .iter()
        .map(|number| endpoint_number(*number).ip)
        .collect();
    let found: Vec<String> = observed
        .slices(&web())
        .flat_map(|slice| slice.endpoints.clone().unwrap())
        .map(|one| one.addresses[0].clone())
        .collect();
    assert_eq!(found.len(), wanted.len(), "each endpoint is in one slice");
    assert_eq!(found.into_iter().collect::<BTreeSet<_>>(), wanted);
    for slice in observed.slices(&web()) {
        let inside = slice.endpoints.as_ref().unwrap();
        assert!((1..=slices::ENDPOINTS_MAX).contains(&inside.len()));
        let source = &slice.metadata.labels.as_ref().unwrap()[labels::SOURCE_CLUSTER];
        let of_source = |one: &k8s_openapi::api::discovery::v1::Endpoint| {
            numbers.iter().any(|number| {
                let wanted = endpoint_number(*number);
                wanted.ip == one.addresses[0] && wanted.member == *source
            })
        };
        assert!(inside.iter().all(of_source), "a slice has one source");
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    #[test]
    fn whatever_came_before_the_slices_hold_exactly_the_endpoints(
        steps in proptest::collection::vec(proptest::collection::btree_set(0u16..900, 0..450), 1..5),
    ) {
        let mut observed = member(&[]);
        for numbers in &steps {
            observed.tell(web(), Some(import_of(numbers)));
            settle(&mut observed);
            check(&observed, numbers);
            prop_assert_eq!(plan_all(&mut observed), Vec::new());
        }
        observed.tell(web(), None);
        settle(&mut observed);
        prop_assert!(observed.imports.is_empty() && observed.slices(&web()).next().is_none());
    }

    #[test]
    fn one_endpoint_more_or_less_touches_one_slice_and_moves_no_other(
        numbers in proptest::collection::btree_set(0u16..900, 1..450),
        one in 0u16..900,
    ) {
        let mut observed = member(&[import_of(&numbers)]);
        settle(&mut observed);
        let before = layout(&observed);
        let mut changed = numbers;
        if !changed.remove(&one) {
            changed.insert(one);
        }
        observed.tell(web(), Some(import_of(&changed)));
        let writes = plan_all(&mut observed);
        let slices = writes.iter().filter(|write| {
            matches!(write, Write::PutSlice(_) | Write::DeleteSlice(..))
        });
        prop_assert_eq!(slices.count(), 1);
        writes.into_iter().for_each(|write| perform(&mut observed, write));
        settle(&mut observed);
        let after = layout(&observed);
        for (ip, slice) in &before {
            prop_assert!(after.get(ip).is_none_or(|now| now == slice), "{} moved", ip);
        }
    }

    #[test]
    fn the_result_does_not_depend_on_the_order_in_which_things_were_seen(
        numbers in proptest::collection::btree_set(0u16..300, 1..120),
        proxies_first: bool,
        namespace_last: bool,
    ) {
        let import = import_of(&numbers);
        let mut observed = Observed::default();
        let serve = |observed: &mut Observed| {
            observed.serve(&frontend("0.0.0.0", 30_001));
            observed.apply(pods(&["10.9.0.1"], true));
        };
        if !namespace_last {
            observed.apply(namespace("shop"));
            settle(&mut observed);
        }
        if proxies_first {
            serve(&mut observed);
        }
        observed.tell(web(), Some(import));
        settle(&mut observed);
        serve(&mut observed);
        observed.apply(namespace("shop"));
        settle(&mut observed);
        prop_assert_eq!(endpoints(&observed), ["b 10.9.0.1:30001"]);
        prop_assert_eq!(ready_condition(&observed).message, "served by 1 ready proxies of this member");
    }
}
