//! The two gRPC services, client and server, as a code generator would write them.

use std::{
    convert::Infallible,
    future::Future,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
};

use http::uri::PathAndQuery;
use prost::Message;
use tonic::{
    IntoStreamingRequest, Request, Response, Status, Streaming,
    body::Body,
    client::GrpcService,
    codegen::{Bytes, Service, StdError, tokio_stream::Stream},
    server::{NamedService, StreamingService},
};
use tonic_prost::ProstCodec;

use super::proto::{
    discovery::{DeltaDiscoveryRequest, DeltaDiscoveryResponse},
    load_stats::{LoadStatsRequest, LoadStatsResponse},
};

/// A stream of answers.
pub type Answers<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send + 'static>>;

/// Serves `envoy.service.discovery.v3.AggregatedDiscoveryService`, incremental only.
pub trait Aggregated: Send + Sync + 'static {
    /// One stream of one client.
    fn delta_aggregated_resources(
        &self,
        request: Request<Streaming<DeltaDiscoveryRequest>>,
    ) -> impl Future<Output = Result<Response<Answers<DeltaDiscoveryResponse>>, Status>> + Send;
}

/// Serves `envoy.service.load_stats.v3.LoadReportingService`.
pub trait LoadReporting: Send + Sync + 'static {
    /// One stream of one client.
    fn stream_load_stats(
        &self,
        request: Request<Streaming<LoadStatsRequest>>,
    ) -> impl Future<Output = Result<Response<Answers<LoadStatsResponse>>, Status>> + Send;
}

/// Asks a control plane: incremental ADS and LRS over one channel.
#[derive(Debug, Clone)]
pub struct Client<T> {
    inner: tonic::client::Grpc<T>,
}

impl<T> Client<T>
where
    T: GrpcService<Body>,
    T::Error: Into<StdError>,
    T::ResponseBody: tonic::codegen::Body<Data = Bytes> + Send + 'static,
    <T::ResponseBody as tonic::codegen::Body>::Error: Into<StdError> + Send,
{
    /// Over `channel`.
    pub fn new(channel: T) -> Self {
        let inner = tonic::client::Grpc::new(channel).max_decoding_message_size(MESSAGE_BYTES_MAX);
        Self { inner }
    }

    /// Opens an incremental ADS stream.
    pub async fn delta_aggregated_resources(
        &mut self,
        requests: impl IntoStreamingRequest<Message = DeltaDiscoveryRequest>,
    ) -> Result<Response<Streaming<DeltaDiscoveryResponse>>, Status> {
        self.stream(DELTA_PATH, requests.into_streaming_request())
            .await
    }

    /// Opens a stream of load reports.
    pub async fn stream_load_stats(
        &mut self,
        requests: impl IntoStreamingRequest<Message = LoadStatsRequest>,
    ) -> Result<Response<Streaming<LoadStatsResponse>>, Status> {
        self.stream(LOAD_PATH, requests.into_streaming_request())
            .await
    }

    async fn stream<Q, A, S>(
        &mut self,
        path: &'static str,
        requests: Request<S>,
    ) -> Result<Response<Streaming<A>>, Status>
    where
        Q: Message + Send + Sync + 'static,
        A: Message + Default + Send + Sync + 'static,
        S: Stream<Item = Q> + Send + 'static,
    {
        self.inner.ready().await.map_err(|error| {
            Status::unavailable(format!(
                "the control plane can't be reached: {}",
                error.into()
            ))
        })?;
        let codec = ProstCodec::<Q, A>::default();
        let path = PathAndQuery::from_static(path);
        self.inner.streaming(requests, path, codec).await
    }
}

macro_rules! server {
    ($(#[$doc:meta])* $server:ident, $trait:ident, $method:ident, $request:ty, $response:ty, $name:expr, $path:expr) => {
        $(#[$doc])*
        #[derive(Debug)]
        pub struct $server<T> {
            inner: Arc<T>,
        }

        impl<T> $server<T> {
            /// Serves with `inner`.
            pub fn new(inner: Arc<T>) -> Self {
                Self { inner }
            }
        }

        impl<T> Clone for $server<T> {
            fn clone(&self) -> Self {
                Self { inner: self.inner.clone() }
            }
        }

        impl<T> NamedService for $server<T> {
            const NAME: &'static str = $name;
        }

        impl<T: $trait, B> Service<http::Request<B>> for $server<T>
        where
            B: tonic::codegen::Body + Send + 'static,
            B::Error: Into<StdError> + Send + 'static,
        {
            type Response = http::Response<Body>;
            type Error = Infallible;
            type Future =
                Pin<Box<dyn Future<Output = Result<Self::Response, Self::Error>> + Send + 'static>>;

            fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
                Poll::Ready(Ok(()))
            }

            fn call(&mut self, request: http::Request<B>) -> Self::Future {
                struct Method<T>(Arc<T>);

                impl<T: $trait> StreamingService<$request> for Method<T> {
                    type Response = $response;
                    type ResponseStream = Answers<$response>;
                    type Future = Pin<
                        Box<dyn Future<Output = Result<Response<Self::ResponseStream>, Status>> + Send>,
                    >;

                    fn call(&mut self, request: Request<Streaming<$request>>) -> Self::Future {
                        let inner = self.0.clone();
                        Box::pin(async move { inner.$method(request).await })
                    }
                }

                let known = request.uri().path() == $path;
                let method = Method(self.inner.clone());
                Box::pin(async move {
                    if !known {
                        return Ok(Status::unimplemented("only incremental streams are served").into_http());
                    }
                    let codec = ProstCodec::<$response, $request>::default();
                    let mut grpc = tonic::server::Grpc::new(codec)
                        .max_decoding_message_size(MESSAGE_BYTES_MAX);
                    Ok(grpc.streaming(method, request).await)
                })
            }
        }
    };
}

server! {
    /// The tower service of an [`Aggregated`].
    AggregatedServer, Aggregated, delta_aggregated_resources,
    DeltaDiscoveryRequest, DeltaDiscoveryResponse,
    "envoy.service.discovery.v3.AggregatedDiscoveryService", DELTA_PATH
}

server! {
    /// The tower service of a [`LoadReporting`].
    LoadReportingServer, LoadReporting, stream_load_stats,
    LoadStatsRequest, LoadStatsResponse,
    "envoy.service.load_stats.v3.LoadReportingService", LOAD_PATH
}

/// The largest message taken; a server sends larger states in several responses.
pub const MESSAGE_BYTES_MAX: usize = 64 * 1024 * 1024;

const DELTA_PATH: &str =
    "/envoy.service.discovery.v3.AggregatedDiscoveryService/DeltaAggregatedResources";
const LOAD_PATH: &str = "/envoy.service.load_stats.v3.LoadReportingService/StreamLoadStats";
