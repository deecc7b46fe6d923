//! A service's policy as a `Cluster`, and back.

use std::time::Duration;

use super::{
    endpoints, metadata, ours,
    proto::{
        self, Any, Typed,
        cluster::{
            CircuitBreakers, Cluster, ClusterDiscoveryType, CommonLbConfig, DiscoveryType,
            EdsClusterConfig, LbConfig, LbPolicy, LeastRequestLbConfig, LocalityWeightedLbConfig,
            OutlierDetection, RoundRobinLbConfig, SlowStartConfig, Thresholds,
            UpstreamConnectionOptions,
        },
        core::{
            AggregatedConfigSource, ApiVersion, ConfigSource, ConfigSourceKind, Percent,
            ProxyProtocolConfig, ProxyProtocolVersion, SelfConfigSource, TcpKeepalive,
            TransportSocket,
        },
        filter::{
            ExplicitHttpConfig, Http2ProtocolOptions, HttpProtocolOptions,
            ProxyProtocolUpstreamTransport, RawBuffer,
        },
        pack, unpack,
    },
};
use crate::{
    endpoint::Target,
    policy::{Balancer, OnUnhealthy, Policy, Probe, ProxyVersion},
    rule,
    service::Service,
    snapshot::Endpoints,
    yaml::metadata::{Fault, overlay_policy, policy_difference},
};

mod probe;

/// The `Cluster` of a service. Its endpoints are asked for only to see whether one is a DNS name:
/// then they stand in the Cluster itself, because an EDS cluster takes addresses only.
pub fn cluster(service: &Service, rows: &Endpoints) -> Cluster {
    let policy = &service.policy;
    let mut cluster = native(service.name.as_str(), policy);
    let dns = rows
        .keys()
        .any(|key| matches!(key.target, Target::Dns { .. }));
    let kind = if dns {
        cluster.load_assignment = Some(endpoints::assignment(service, rows));
        DiscoveryType::StrictDns
    } else {
        cluster.eds_cluster_config = Some(EdsClusterConfig {
            eds_config: Some(ads()),
            service_name: String::new(),
        });
        DiscoveryType::Eds
    };
    cluster.discovery_type = Some(ClusterDiscoveryType::Type(kind.into()));
    let base = read_native(&cluster).expect("we read what we write");
    cluster.metadata = metadata(policy_difference(policy, &base));
    cluster
}

/// "On this same stream."
pub(super) fn ads() -> ConfigSource {
    ConfigSource {
        kind: Some(ConfigSourceKind::Ads(AggregatedConfigSource {})),
        resource_api_version: ApiVersion::V3.into(),
    }
}

/// The policy of a `Cluster`, and whether its metadata says the spill factor. The faults are
/// (field, message).
pub(super) fn read(cluster: &Cluster) -> Result<(Policy, bool), Vec<Fault>> {
    let mut policy = read_native(cluster)?;
    let mut explicit_spill = false;
    if let Some(values) = ours(cluster.metadata.as_ref()) {
        overlay_policy(values, &mut policy).map_err(|faults| {
            let place = |(path, message)| (format!("metadata.{path}"), message);
            faults.into_iter().map(place).collect::<Vec<_>>()
        })?;
        explicit_spill = values.fields.contains_key("spillFactor");
    }
    Ok((policy, explicit_spill))
}

/// What Envoy has fields for.
fn native(name: &str, policy: &Policy) -> Cluster {
    let lb_policy = match policy.balancer {
        Balancer::P2c | Balancer::LeastConnections => LbPolicy::LeastRequest,
        Balancer::RoundRobin => LbPolicy::RoundRobin,
        Balancer::Random => LbPolicy::Random,
        Balancer::Maglev => LbPolicy::Maglev,
        Balancer::Rendezvous => LbPolicy::RingHash,
    };
    let mut cluster = Cluster {
        name: name.to_owned(),
        connect_timeout: encode_duration(policy.timeouts.connect),
        lb_policy: lb_policy.into(),
        lb_config: slow_start(lb_policy, policy.slow_start),
        circuit_breakers: Some(circuit_breakers(policy)),
        outlier_detection: Some(outlier_detection(policy)),
        transport_socket: policy.proxy_protocol.map(transport_socket),
        common_lb_config: Some(CommonLbConfig {
            healthy_panic_threshold: Some(Percent {
                value: policy.panic_below.into(),
            }),
            locality_weighted_lb_config: Some(LocalityWeightedLbConfig {}),
        }),
        upstream_connection_options: keepalive(policy),
        close_connections_on_host_health_failure: policy.drain.unhealthy == OnUnhealthy::Reset,
        lrs_server: Some(ConfigSource {
            kind: Some(ConfigSourceKind::SelfSource(SelfConfigSource {
                transport_api_version: ApiVersion::V3.into(),
            })),
            resource_api_version: ApiVersion::V3.into(),
        }),
        ..Cluster::default()
    };
    if let Some(check) = &policy.health_check {
        cluster.health_checks.extend(probe::encode(check));
        if matches!(check.probe, Probe::Grpc { .. }) {
            let options = (
                HttpProtocolOptions::URL.trim_start_matches("type.googleapis.com/"),
                http2(),
            );
            cluster
                .typed_extension_protocol_options
                .insert(options.0.to_owned(), options.1);
        }
    }
    cluster
}

/// What the fields alone say; what they don't say has our default.
fn read_native(cluster: &Cluster) -> Result<Policy, Vec<Fault>> {
    let mut policy = Policy::default();
    let mut faults = Vec::new();
    let mut take = |field: &str, result: Result<(), String>| {
        if let Err(message) = result {
            faults.push((field.to_owned(), message));
        }
    };
    take("lb_policy", read_balancer(cluster, &mut policy));
    take("connect_timeout", read_timeout(cluster, &mut policy));
    take("health_checks", read_health_check(cluster, &mut policy));
    take("lb_config", read_slow_start(cluster, &mut policy));
    take(
        "circuit_breakers",
        read_circuit_breakers(cluster, &mut policy),
    );
    take(
        "outlier_detection",
        read_outlier_detection(cluster, &mut policy),
    );
    take("common_lb_config", read_panic(cluster, &mut policy));
    take(
        "upstream_connection_options",
        read_keepalive(cluster, &mut policy),
    );
    take(
        "transport_socket",
        read_transport_socket(cluster, &mut policy),
    );
    if cluster.close_connections_on_host_health_failure {
        policy.drain.unhealthy = OnUnhealthy::Reset;
    }
    if faults.is_empty() {
        Ok(policy)
    } else {
        Err(faults)
    }
}

fn read_balancer(cluster: &Cluster, policy: &mut Policy) -> Result<(), String> {
    policy.balancer = match LbPolicy::try_from(cluster.lb_policy) {
        Ok(LbPolicy::RoundRobin) => Balancer::RoundRobin,
        Ok(LbPolicy::LeastRequest) => Balancer::P2c,
        Ok(LbPolicy::RingHash) => Balancer::Rendezvous,
        Ok(LbPolicy::Random) => Balancer::Random,
        Ok(LbPolicy::Maglev) => Balancer::Maglev,
        Ok(LbPolicy::ClusterProvided | LbPolicy::LoadBalancingPolicyConfig) | Err(_) => {
            return Err(
                "is a policy that this proxy has not; use ROUND_ROBIN, LEAST_REQUEST, \
                        RING_HASH, RANDOM or MAGLEV"
                    .to_owned(),
            );
        }
    };
    Ok(())
}

fn read_timeout(cluster: &Cluster, policy: &mut Policy) -> Result<(), String> {
    if let Some(timeout) = &cluster.connect_timeout {
        policy.timeouts.connect = rule::duration_in(decode_duration(timeout)?, &rule::TIMEOUT)?;
    }
    Ok(())
}

fn read_health_check(cluster: &Cluster, policy: &mut Policy) -> Result<(), String> {
    policy.health_check = match cluster.health_checks.as_slice() {
        [] => None,
        [check] => Some(probe::decode(check)?),
        _ => return Err("has more than one check; a service has one".to_owned()),
    };
    Ok(())
}

fn slow_start(lb_policy: LbPolicy, window: Duration) -> Option<LbConfig> {
    if window.is_zero() {
        return None;
    }
    let slow_start_config = Some(SlowStartConfig {
        slow_start_window: encode_duration(window),
    });
    match lb_policy {
        LbPolicy::LeastRequest => {
            let config = LeastRequestLbConfig { slow_start_config };
            Some(LbConfig::LeastRequest(config))
        }
        LbPolicy::RoundRobin => Some(LbConfig::RoundRobin(RoundRobinLbConfig {
            slow_start_config,
        })),
        _ => None,
    }
}

fn read_slow_start(cluster: &Cluster, policy: &mut Policy) -> Result<(), String> {
    let config = match &cluster.lb_config {
        Some(LbConfig::LeastRequest(config)) => &config.slow_start_config,
        Some(LbConfig::RoundRobin(config)) => &config.slow_start_config,
        _ => return Ok(()),
    };
    let window = config
        .as_ref()
        .and_then(|config| config.slow_start_window.as_ref());
    if let Some(window) = window {
        policy.slow_start = rule::duration_in(decode_duration(window)?, &rule::WAIT)?;
    }
    Ok(())
}

fn circuit_breakers(policy: &Policy) -> CircuitBreakers {
    let limit = |max_connections| Thresholds {
        priority: 0,
        max_connections,
        max_pending_requests: None,
    };
    // Envoy's own default is 1024 each; ours is off.
    let connections = policy.limits.connections.unwrap_or(u32::MAX);
    let per_host = policy.limits.connections_per_endpoint;
    CircuitBreakers {
        thresholds: vec![Thresholds {
            max_pending_requests: Some(u32::MAX),
            ..limit(Some(connections))
        }],
        per_host_thresholds: per_host.map(|max| limit(Some(max))).into_iter().collect(),
    }
}

fn read_circuit_breakers(cluster: &Cluster, policy: &mut Policy) -> Result<(), String> {
    let Some(breakers) = &cluster.circuit_breakers else {
        return Ok(());
    };
    let limit = |thresholds: &[Thresholds]| -> Result<Option<u32>, String> {
        let default = thresholds.iter().find(|threshold| threshold.priority == 0);
        let max = default.and_then(|threshold| threshold.max_connections);
        let max = max.filter(|max| *max != u32::MAX);
        max.map(|max| rule::in_range(max, &rule::LIMIT)).transpose()
    };
    policy.limits.connections = limit(&breakers.thresholds)?;
    policy.limits.connections_per_endpoint = limit(&breakers.per_host_thresholds)?;
    Ok(())
}

/// As near to our own passive health as Envoy comes: three strikes, a second that doubles.
fn outlier_detection(policy: &Policy) -> OutlierDetection {
    OutlierDetection {
        interval: encode_duration(Duration::from_secs(1)),
        base_ejection_time: encode_duration(Duration::from_secs(1)),
        max_ejection_time: encode_duration(Duration::from_secs(60)),
        max_ejection_percent: Some(policy.passive.max_ejected.into()),
        split_external_local_origin_errors: true,
        consecutive_local_origin_failure: Some(3),
        enforcing_local_origin_success_rate: Some(0),
    }
}

fn read_outlier_detection(cluster: &Cluster, policy: &mut Policy) -> Result<(), String> {
    let detection = cluster.outlier_detection.as_ref();
    if let Some(percent) = detection.and_then(|detection| detection.max_ejection_percent) {
        policy.passive.max_ejected = percent_of(f64::from(percent))?;
    }
    Ok(())
}

fn read_panic(cluster: &Cluster, policy: &mut Policy) -> Result<(), String> {
    let config = cluster.common_lb_config.as_ref();
    if let Some(percent) = config.and_then(|config| config.healthy_panic_threshold.as_ref()) {
        policy.panic_below = percent_of(percent.value)?;
    }
    Ok(())
}

fn keepalive(policy: &Policy) -> Option<UpstreamConnectionOptions> {
    let seconds = |duration: Duration| u32::try_from(duration.as_secs()).ok();
    let keepalive = &policy.keepalive;
    (!keepalive.idle.is_zero()).then(|| UpstreamConnectionOptions {
        tcp_keepalive: Some(TcpKeepalive {
            keepalive_probes: Some(keepalive.probes.into()),
            keepalive_time: seconds(keepalive.idle),
            keepalive_interval: seconds(keepalive.interval),
        }),
    })
}

fn read_keepalive(cluster: &Cluster, policy: &mut Policy) -> Result<(), String> {
    let options = cluster.upstream_connection_options.as_ref();
    let Some(keepalive) = options.and_then(|options| options.tcp_keepalive.as_ref()) else {
        return Ok(());
    };
    let seconds = |seconds: u32| {
        let duration = Duration::from_secs(seconds.into());
        rule::duration_in(duration, &rule::KEEPALIVE)
    };
    if let Some(idle) = keepalive.keepalive_time {
        policy.keepalive.idle = seconds(idle)?;
    }
    if let Some(interval) = keepalive.keepalive_interval {
        policy.keepalive.interval = seconds(interval)?;
    }
    if let Some(probes) = keepalive.keepalive_probes {
        let probes = u8::try_from(probes).unwrap_or(u8::MAX);
        policy.keepalive.probes = rule::in_range(probes, &rule::KEEPALIVE_PROBES)?;
    }
    Ok(())
}

fn transport_socket(version: ProxyVersion) -> TransportSocket {
    let version = match version {
        ProxyVersion::V1 => ProxyProtocolVersion::V1,
        ProxyVersion::V2 => ProxyProtocolVersion::V2,
    };
    let inner = TransportSocket {
        name: "envoy.transport_sockets.raw_buffer".to_owned(),
        typed_config: Some(pack(&RawBuffer {})),
    };
    TransportSocket {
        name: "envoy.transport_sockets.upstream_proxy_protocol".to_owned(),
        typed_config: Some(pack(&ProxyProtocolUpstreamTransport {
            config: Some(ProxyProtocolConfig {
                version: version.into(),
            }),
            transport_socket: Some(inner),
        })),
    }
}

fn read_transport_socket(cluster: &Cluster, policy: &mut Policy) -> Result<(), String> {
    let Some(socket) = &cluster.transport_socket else {
        return Ok(());
    };
    let refused = "only PROXY protocol over raw sockets is supported, no TLS";
    let config = socket.typed_config.as_ref().ok_or(refused)?;
    if config.type_url == RawBuffer::URL {
        return Ok(());
    }
    let outer: ProxyProtocolUpstreamTransport =
        unpack(config).map_err(|error| format!("{error}; {refused}"))?;
    let inner = outer
        .transport_socket
        .and_then(|socket| socket.typed_config);
    if inner.is_none_or(|inner| inner.type_url != RawBuffer::URL) {
        return Err(refused.to_owned());
    }
    let version = outer.config.unwrap_or_default().version;
    policy.proxy_protocol = Some(match ProxyProtocolVersion::try_from(version) {
        Ok(ProxyProtocolVersion::V1) => ProxyVersion::V1,
        Ok(ProxyProtocolVersion::V2) => ProxyVersion::V2,
        Err(_) => return Err(format!("{version} is no version of the PROXY protocol")),
    });
    Ok(())
}

/// Envoy refuses a gRPC check on a cluster that doesn't speak HTTP/2.
fn http2() -> Any {
    pack(&HttpProtocolOptions {
        explicit_http_config: Some(ExplicitHttpConfig {
            http2_protocol_options: Some(Http2ProtocolOptions {}),
        }),
    })
}

fn percent_of(value: f64) -> Result<u8, String> {
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "checked to be within 0 to 100; the fraction is meant to go"
    )]
    let whole = |value: f64| value.round() as u8;
    if (0.0..=100.0).contains(&value) {
        Ok(whole(value))
    } else {
        Err(format!("{value} is no percentage"))
    }
}

/// `None` for a duration of more than 2^63 seconds, which no rule of ours lets pass.
pub(super) fn encode_duration(duration: Duration) -> Option<proto::Duration> {
    Some(proto::Duration {
        seconds: i64::try_from(duration.as_secs()).ok()?,
        nanos: i32::try_from(duration.subsec_nanos()).ok()?,
    })
}

/// A duration that is not negative.
pub(super) fn decode_duration(duration: &proto::Duration) -> Result<Duration, String> {
    let seconds = u64::try_from(duration.seconds);
    let nanos = u32::try_from(duration.nanos);
    match (seconds, nanos) {
        (Ok(seconds), Ok(nanos)) if nanos < 1_000_000_000 => Ok(Duration::new(seconds, nanos)),
        _ => Err("is a negative or malformed duration".to_owned()),
    }
}
