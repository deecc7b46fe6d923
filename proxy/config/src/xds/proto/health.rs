//! `envoy.config.core.v3.HealthCheck`.

use prost::{Message, Oneof};

use super::{Any, Duration, core::Int64Range};

/// `HealthCheck`.
#[derive(Clone, PartialEq, Message)]
pub struct HealthCheck {
    #[prost(message, optional, tag = "1")]
    pub timeout: Option<Duration>,
    #[prost(message, optional, tag = "2")]
    pub interval: Option<Duration>,
    #[prost(uint32, tag = "18")]
    pub interval_jitter_percent: u32,
    #[prost(message, optional, tag = "4")]
    pub unhealthy_threshold: Option<u32>,
    #[prost(message, optional, tag = "5")]
    pub healthy_threshold: Option<u32>,
    #[prost(message, optional, tag = "6")]
    pub alt_port: Option<u32>,
    #[prost(oneof = "HealthChecker", tags = "8, 9, 11, 13")]
    pub checker: Option<HealthChecker>,
    /// How often to probe while no traffic flows; Envoy's default is a minute.
    #[prost(message, optional, tag = "12")]
    pub no_traffic_interval: Option<Duration>,
}

/// What is asked.
#[derive(Clone, PartialEq, Oneof)]
pub enum HealthChecker {
    #[prost(message, tag = "8")]
    Http(HttpHealthCheck),
    #[prost(message, tag = "9")]
    Tcp(TcpHealthCheck),
    #[prost(message, tag = "11")]
    Grpc(GrpcHealthCheck),
    #[prost(message, tag = "13")]
    Custom(CustomHealthCheck),
}

/// `HealthCheck.HttpHealthCheck`.
#[derive(Clone, PartialEq, Message)]
pub struct HttpHealthCheck {
    #[prost(string, tag = "1")]
    pub host: String,
    #[prost(string, tag = "2")]
    pub path: String,
    #[prost(message, repeated, tag = "9")]
    pub expected_statuses: Vec<Int64Range>,
}

/// `HealthCheck.TcpHealthCheck`.
#[derive(Clone, PartialEq, Eq, Message)]
pub struct TcpHealthCheck {
    #[prost(message, optional, tag = "1")]
    pub send: Option<Payload>,
    #[prost(message, repeated, tag = "2")]
    pub receive: Vec<Payload>,
}

/// `HealthCheck.GrpcHealthCheck`.
#[derive(Clone, PartialEq, Eq, Message)]
pub struct GrpcHealthCheck {
    #[prost(string, tag = "1")]
    pub service_name: String,
}

/// `HealthCheck.CustomHealthCheck`, which we refuse.
#[derive(Clone, PartialEq, Message)]
pub struct CustomHealthCheck {
    #[prost(string, tag = "1")]
    pub name: String,
    #[prost(message, optional, tag = "3")]
    pub typed_config: Option<Any>,
}

/// `HealthCheck.Payload`.
#[derive(Clone, PartialEq, Eq, Message)]
pub struct Payload {
    #[prost(oneof = "PayloadKind", tags = "1, 2")]
    pub payload: Option<PayloadKind>,
}

/// Bytes, or their hexadecimal digits.
#[derive(Clone, PartialEq, Eq, Oneof)]
pub enum PayloadKind {
    #[prost(string, tag = "1")]
    Hex(String),
    #[prost(bytes, tag = "2")]
    Binary(Vec<u8>),
}
