//! A control plane for tests, on a loopback port.

use std::{net::SocketAddr, sync::Arc};

use fairlead_config::xds::{
    proto::discovery::{DeltaDiscoveryRequest, DeltaDiscoveryResponse},
    service::{Aggregated, AggregatedServer, Answers},
};
use hyper_util::{
    rt::{TokioExecutor, TokioIo},
    server::conn::auto,
    service::TowerToHyperService,
};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::TcpListener,
    sync::{Mutex, mpsc, oneshot},
    task::{JoinHandle, JoinSet},
};
use tokio_rustls::TlsAcceptor;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status, Streaming};

/// A control plane that hands each stream to the test.
pub(super) struct Plane {
    pub(super) addr: SocketAddr,
    streams: mpsc::Receiver<PlaneStream>,
    stop: oneshot::Sender<()>,
    task: JoinHandle<()>,
}

/// One stream of a client.
pub(super) struct PlaneStream {
    pub(super) authorization: Option<String>,
    requests: Streaming<DeltaDiscoveryRequest>,
    answers: mpsc::Sender<Result<DeltaDiscoveryResponse, Status>>,
}

struct Hand(Mutex<mpsc::Sender<PlaneStream>>);

impl Plane {
    /// Starts on `addr`, port 0 for any.
    pub(super) async fn start(addr: SocketAddr, tls: Option<TlsAcceptor>) -> Self {
        let (sender, streams) = mpsc::channel(16);
        let (stop, stopped) = oneshot::channel::<()>();
        let service = AggregatedServer::new(Arc::new(Hand(Mutex::new(sender))));
        let listener = TcpListener::bind(addr).await.expect("a loopback port");
        let addr = listener.local_addr().expect("bound");
        let task = tokio::spawn(accept(listener, tls, service, stopped));
        Self {
            addr,
            streams,
            stop,
            task,
        }
    }

    /// The next stream that a client opens.
    pub(super) async fn stream(&mut self) -> PlaneStream {
        self.streams.recv().await.expect("the server runs")
    }

    /// Stops serving and cuts open connections; the port is free afterwards.
    pub(super) async fn stop(self) {
        self.stop.send(()).expect("the server runs");
        self.task.await.expect("the server didn't panic");
    }
}

/// Accepts connections for `service` until `stopped`; those that are open then are cut.
pub(in crate::source) async fn accept<T>(
    listener: TcpListener,
    tls: Option<TlsAcceptor>,
    service: T,
    mut stopped: oneshot::Receiver<()>,
) where
    T: Grpc,
    T::Future: Send,
{
    let mut connections = JoinSet::new();
    loop {
        let socket = tokio::select! {
            accepted = listener.accept() => accepted.expect("a socket").0,
            _ = &mut stopped => return,
        };
        let (tls, service) = (tls.clone(), service.clone());
        connections.spawn(async move {
            match tls {
                None => serve(socket, service).await,
                Some(tls) => {
                    // A client that doesn't trust us hangs up; that is a test, too.
                    if let Ok(socket) = tls.accept(socket).await {
                        serve(socket, service).await;
                    }
                }
            }
        });
    }
}

async fn serve<S, T>(socket: S, service: T)
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    T: Grpc,
    T::Future: Send,
{
    let service = TowerToHyperService::new(service);
    let connection = auto::Builder::new(TokioExecutor::new()).http2_only();
    // A client that goes away mid-stream is what the tests are about.
    connection
        .serve_connection(TokioIo::new(socket), service)
        .await
        .ok();
}

/// A gRPC service, as its server types are.
pub(in crate::source) trait Grpc:
    tower::Service<
        http::Request<hyper::body::Incoming>,
        Response = http::Response<tonic::body::Body>,
        Error = std::convert::Infallible,
    > + Clone
    + Send
    + 'static
{
}

impl<T> Grpc for T where
    T: tower::Service<
            http::Request<hyper::body::Incoming>,
            Response = http::Response<tonic::body::Body>,
            Error = std::convert::Infallible,
        > + Clone
        + Send
        + 'static
{
}

impl PlaneStream {
    pub(super) async fn request(&mut self) -> DeltaDiscoveryRequest {
        let request = self.requests.message().await.expect("an open stream");
        request.expect("a request")
    }

    pub(super) async fn answer(&self, answer: DeltaDiscoveryResponse) {
        self.answers.send(Ok(answer)).await.expect("an open stream");
    }

    /// Ends the stream with an error.
    pub(super) async fn end(self, status: Status) {
        self.answers
            .send(Err(status))
            .await
            .expect("an open stream");
    }
}

impl Aggregated for Hand {
    async fn delta_aggregated_resources(
        &self,
        request: Request<Streaming<DeltaDiscoveryRequest>>,
    ) -> Result<Response<Answers<DeltaDiscoveryResponse>>, Status> {
        let authorization = request.metadata().get("authorization");
        let authorization = authorization.and_then(|value| value.to_str().ok());
        let (answers, queue) = mpsc::channel(16);
        let stream = PlaneStream {
            authorization: authorization.map(str::to_owned),
            requests: request.into_inner(),
            answers,
        };
        let handed = self.0.lock().await.send(stream).await;
        handed.map_err(|_| Status::unavailable("the test is over"))?;
        Ok(Response::new(Box::pin(ReceiverStream::new(queue))))
    }
}
