//! Versions, properties and capacity of a member.

use std::collections::BTreeMap;

use fairlead_api::member::{MemberReportSpec, PropertyValue, ResourceUsage};
use k8s_openapi::{
    api::core::v1::{Container, Node, Pod},
    apimachinery::pkg::{api::resource::Quantity, apis::meta::v1::Time},
};

/// What was observed. What was not is absent from the report, never guessed.
#[derive(Debug, Clone, Default)]
pub struct Observed {
    /// Of the member's API server.
    pub kubernetes_version: String,
    /// Of its `kube-system` namespace.
    pub cluster_uid: String,
    /// Whether its `/readyz` says so.
    pub api_server_ready: bool,
    /// Its nodes; `None` where they cannot be listed.
    pub nodes: Option<Vec<Node>>,
    /// What all pods that are placed ask for; `None` where the agent was not asked to list them, or
    /// could not list them all.
    pub requests: Option<Requests>,
}

/// What pods ask for, summed as they are listed: a page of them at a time is enough.
#[derive(Debug, Clone, Default)]
pub struct Requests(Sum);

impl Requests {
    /// Takes more pods in; those that take nothing of a node count for nothing.
    pub fn add(&mut self, pods: &[Pod]) {
        for pod in pods.iter().filter(|pod| is_placed(pod)) {
            self.0.add_all(&requests(pod));
        }
    }
}

/// The report of a moment.
pub fn report(observed: &Observed, agent_version: &str, now: &Time) -> MemberReportSpec {
    let mut properties = BTreeMap::new();
    let mut resource_usage = None;
    if let Some(nodes) = &observed.nodes {
        let value = PropertyValue {
            value: nodes.len().to_string(),
            observation_time: Some(now.clone()),
        };
        properties.insert(NODE_COUNT.to_owned(), value);
        resource_usage = Some(usage(nodes, observed.requests.as_ref(), now));
    }
    MemberReportSpec {
        agent_version: agent_version.to_owned(),
        kubernetes_version: observed.kubernetes_version.clone(),
        cluster_uid: observed.cluster_uid.clone(),
        api_server_ready: observed.api_server_ready,
        properties,
        resource_usage,
        epoch: None,
        observed_at: Some(now.clone()),
    }
}

fn usage(nodes: &[Node], requests: Option<&Requests>, now: &Time) -> ResourceUsage {
    let mut capacity = Sum::default();
    let mut allocatable = Sum::default();
    for status in nodes.iter().filter_map(|node| node.status.as_ref()) {
        capacity.add(status.capacity.as_ref());
        allocatable.add(status.allocatable.as_ref());
    }
    let available = requests.map(|requests| {
        let mut left = allocatable.clone();
        left.subtract(&requests.0);
        left.quantities()
    });
    ResourceUsage {
        capacity: capacity.quantities(),
        allocatable: allocatable.quantities(),
        available: available.unwrap_or_default(),
        observation_time: Some(now.clone()),
    }
}

/// What the scheduler sets aside for a pod, resource by resource: the containers that run together,
/// sidecars among them, or what some init container needs beside the sidecars started before it,
/// whichever is more; and the pod's overhead. What the pod as a whole asks for counts instead of
/// its containers' sum.
fn requests(pod: &Pod) -> Sum {
    let Some(spec) = &pod.spec else {
        return Sum::default();
    };
    let of = |container: &Container| {
        let mut sum = Sum::default();
        let resources = container.resources.as_ref();
        sum.add(resources.and_then(|resources| resources.requests.as_ref()));
        sum
    };
    let mut sidecars = Sum::default();
    let mut most = Sum::default();
    for container in spec.init_containers.iter().flatten() {
        let mut with = of(container);
        with.add_all(&sidecars);
        if container.restart_policy.as_deref() == Some("Always") {
            sidecars.clone_from(&with);
        }
        most.raise_to(&with);
    }
    let mut together = sidecars;
    for container in &spec.containers {
        together.add_all(&of(container));
    }
    most.raise_to(&together);
    let whole = spec.resources.as_ref();
    for (resource, quantity) in whole
        .and_then(|whole| whole.requests.as_ref())
        .into_iter()
        .flatten()
    {
        most.0.insert(resource.clone(), thousandths(&quantity.0));
    }
    most.add(spec.overhead.as_ref());
    most
}

/// Whether a pod takes resources of a node.
fn is_placed(pod: &Pod) -> bool {
    let phase = pod
        .status
        .as_ref()
        .and_then(|status| status.phase.as_deref());
    let bound = pod
        .spec
        .as_ref()
        .is_some_and(|spec| spec.node_name.is_some());
    bound && !matches!(phase, Some("Succeeded" | "Failed"))
}

/// Sums of quantities in thousandths, resource by resource. A quantity that cannot be read makes
/// its resource unknown.
#[derive(Debug, Clone, Default)]
struct Sum(BTreeMap<String, Option<i128>>);

impl Sum {
    fn add(&mut self, more: Option<&BTreeMap<String, Quantity>>) {
        for (resource, quantity) in more.into_iter().flatten() {
            self.combine(resource, thousandths(&quantity.0), i128::checked_add);
        }
    }

    fn add_all(&mut self, more: &Self) {
        for (resource, value) in &more.0 {
            self.combine(resource, *value, i128::checked_add);
        }
    }

    fn subtract(&mut self, less: &Self) {
        for (resource, value) in &less.0 {
            self.combine(resource, *value, i128::checked_sub);
        }
    }

    fn raise_to(&mut self, other: &Self) {
        for (resource, value) in &other.0 {
            self.combine(resource, *value, |one, other| Some(one.max(other)));
        }
    }

    fn combine(
        &mut self,
        resource: &str,
        value: Option<i128>,
        how: impl Fn(i128, i128) -> Option<i128>,
    ) {
        let sum = self.0.entry(resource.to_owned()).or_insert(Some(0));
        *sum = match (*sum, value) {
            (Some(sum), Some(value)) => how(sum, value),
            _ => None,
        };
    }

    fn quantities(&self) -> BTreeMap<String, Quantity> {
        let known = self
            .0
            .iter()
            .filter_map(|(name, sum)| Some((name.clone(), (*sum)?)));
        known
            .map(|(name, sum)| {
                let text = if sum % 1000 == 0 {
                    format!("{}", sum / 1000)
                } else {
                    format!("{sum}m")
                };
                (name, Quantity(text))
            })
            .collect()
    }
}

/// A Kubernetes quantity in thousandths, rounded up: digits with an optional point, then a suffix
/// (`m`, `k`, `M`, `G`, `T`, `P`, `E`, `Ki` … `Ei`) or a decimal exponent.
fn thousandths(text: &str) -> Option<i128> {
    let split = text
        .find(|letter: char| !letter.is_ascii_digit() && !matches!(letter, '.' | '-' | '+'))
        .unwrap_or(text.len());
    let (number, suffix) = text.split_at(split);
    let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
    let negative = whole.starts_with('-');
    let digits: i128 = format!("{}{fraction}", whole.trim_start_matches(['-', '+']))
        .parse()
        .ok()?;
    let scale: i128 = 10i128.checked_pow(u32::try_from(fraction.len()).ok()?)?;
    let factor = match suffix {
        "" => 1000,
        "m" => 1,
        "k" => 1_000_000,
        "M" => 1_000_000_000,
        "G" => 1_000_000_000_000,
        "T" => 1_000_000_000_000_000,
        "P" => 1_000_000_000_000_000_000,
        "E" => 1_000_000_000_000_000_000_000,
        "Ki" => 1000 << 10,
        "Mi" => 1000 << 20,
        "Gi" => 1000 << 30,
        "Ti" => 1000 << 40,
        "Pi" => 1000 << 50,
        "Ei" => 1000 << 60,
        _ => {
            let exponent: u32 = suffix.strip_prefix(['e', 'E'])?.parse().ok()?;
            1000 * 10i128.checked_pow(exponent)?
        }
    };
    let value = digits.checked_mul(factor)?;
    let rounded = value.div_euclid(scale) + i128::from(value.rem_euclid(scale) != 0);
    Some(if negative { -rounded } else { rounded })
}

/// KubeFleet's name for it.
pub const NODE_COUNT: &str = "kubernetes-fleet.io/node-count";

#[cfg(test)]
mod tests {
    use k8s_openapi::jiff::Timestamp;
    use serde_json::json;

    use super::*;

    #[test]
    fn quantities_are_read_in_thousandths() {
        for (text, expected) in [
            ("1", 1000),
            ("250m", 250),
            ("1.5", 1500),
            ("0.0001", 1),
            ("2Ki", 2_048_000),
            ("1.5Gi", 1_610_612_736_000),
            ("3k", 3_000_000),
            ("1e3", 1_000_000),
        ] {
            assert_eq!(thousandths(text), Some(expected), "{text}");
        }
        for text in ["", "x", "1.2.3", "1Zi", "e5"] {
            assert_eq!(thousandths(text), None, "{text}");
        }
    }

    #[test]
    fn available_is_absent_without_pods_and_counts_only_placed_ones() {
        let node: Node = serde_json::from_value(json!({
            "metadata": { "name": "n" },
            "status": { "capacity": { "cpu": "4" }, "allocatable": { "cpu": "3500m", "gpu": "1" } },
        }))
        .unwrap();
        let pod = |node: Option<&str>, phase: &str| -> Pod {
            serde_json::from_value(json!({
                "metadata": { "name": "p" },
                "spec": {
                    "nodeName": node,
                    "containers": [ { "name": "c", "resources": { "requests": { "cpu": "1" } } } ],
                },
                "status": { "phase": phase },
            }))
            .unwrap()
        };
        let now = Time(Timestamp::from_second(0).unwrap());
        let nodes = Some(vec![node.clone(), node]);
        let without = Observed {
            nodes: nodes.clone(),
            ..Observed::default()
        };
        let usage = report(&without, "1", &now).resource_usage.unwrap();
        assert!(usage.available.is_empty());
        let mut requests = Requests::default();
        requests.add(&[pod(Some("n"), "Running"), pod(None, "Pending")]);
        requests.add(&[pod(Some("n"), "Failed")]);
        let with = Observed {
            nodes,
            requests: Some(requests),
            ..Observed::default()
        };
        let usage = report(&with, "1", &now).resource_usage.unwrap();
        assert_eq!(usage.capacity["cpu"], Quantity("8".into()));
        assert_eq!(usage.allocatable["cpu"], Quantity("7".into()));
        assert_eq!(usage.available["cpu"], Quantity("6".into()));
        assert_eq!(usage.available["gpu"], Quantity("2".into()));
    }

    /// What a pod with this spec asks for.
    fn asked(spec: serde_json::Value) -> BTreeMap<String, Quantity> {
        let pod = json!({ "metadata": { "name": "p" }, "spec": spec });
        let pod: Pod = serde_json::from_value(pod).unwrap();
        requests(&pod).quantities()
    }

    fn container(cpu: &str) -> serde_json::Value {
        json!({ "name": "c", "resources": { "requests": { "cpu": cpu } } })
    }

    fn sidecar(cpu: &str) -> serde_json::Value {
        let mut made = container(cpu);
        made["restartPolicy"] = "Always".into();
        made
    }

    #[test]
    fn a_pod_asks_for_what_the_scheduler_sets_aside_for_it() {
        let one = container("1");
        for (what, spec, cpu) in [
            (
                "containers together",
                json!({ "containers": [one, one] }),
                "2",
            ),
            (
                "an init container that is smaller",
                json!({ "initContainers": [container("500m")], "containers": [one] }),
                "1",
            ),
            (
                "the largest init container, once",
                json!({ "initContainers": [container("3"), container("2")], "containers": [one] }),
                "3",
            ),
            (
                "a sidecar beside the containers",
                json!({ "initContainers": [sidecar("2")], "containers": [one] }),
                "3",
            ),
            (
                "an init container beside the sidecar that was started before it",
                json!({ "initContainers": [sidecar("2"), container("4")], "containers": [one] }),
                "6",
            ),
            (
                "an init container before the sidecar is started",
                json!({ "initContainers": [container("4"), sidecar("2")], "containers": [one] }),
                "4",
            ),
            (
                "the overhead on top",
                json!({ "containers": [one], "overhead": { "cpu": "250m" } }),
                "1250m",
            ),
            (
                "the pod as a whole instead of its containers",
                json!({
                    "containers": [one], "resources": { "requests": { "cpu": "5" } },
                    "overhead": { "cpu": "1" },
                }),
                "6",
            ),
        ] {
            assert_eq!(asked(spec)["cpu"], Quantity(cpu.into()), "{what}");
        }
    }

    #[test]
    fn each_resource_has_its_own_maximum() {
        let init =
            json!({ "name": "i", "resources": { "requests": { "cpu": "4", "memory": "1Gi" } } });
        let main = json!({ "name": "m", "resources": { "requests": { "cpu": "1", "memory": "3Gi", "gpu": "1" } } });
        let all = asked(json!({ "initContainers": [init], "containers": [main] }));
        assert_eq!(all["cpu"], Quantity("4".into()));
        assert_eq!(all["memory"], Quantity((3u64 << 30).to_string()));
        assert_eq!(all["gpu"], Quantity("1".into()));
    }
}
