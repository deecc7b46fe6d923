//! The servers behind the proxies, one thread: echo, sink and UDP echo.

use std::net::Ipv4Addr;

use anyhow::Context;
use clap::Args;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream, UdpSocket},
    runtime::LocalRuntime,
};

/// Serves until killed.
#[derive(Args)]
pub(crate) struct Options {
    /// The address to listen on; the ports are fixed.
    #[arg(long)]
    bind: Ipv4Addr,
}

/// Sends back what it gets.
pub(crate) const ECHO_PORT: u16 = 7001;
/// Reads and forgets.
pub(crate) const SINK_PORT: u16 = 7002;
/// Sends datagrams back.
pub(crate) const UDP_PORT: u16 = 7004;

/// Runs until killed; prints `ready` once it listens.
pub(crate) fn run(options: &Options) -> anyhow::Result<()> {
    let ip = options.bind;
    LocalRuntime::new()?.block_on(async move {
        let echo = TcpListener::bind((ip, ECHO_PORT))
            .await
            .context("bind the echo port")?;
        let sink = TcpListener::bind((ip, SINK_PORT))
            .await
            .context("bind the sink port")?;
        let udp = UdpSocket::bind((ip, UDP_PORT))
            .await
            .context("bind the UDP port")?;
        println!("ready");
        tokio::join!(serve(echo, false), serve(sink, true), echo_datagrams(udp));
        Ok(())
    })
}

async fn serve(listener: TcpListener, discard: bool) {
    loop {
        // Out of descriptors: the clients' errors tell.
        let Ok((stream, _)) = listener.accept().await else {
            continue;
        };
        drop(stream.set_nodelay(true));
        tokio::task::spawn_local(converse(stream, discard));
    }
}

async fn converse(mut stream: TcpStream, discard: bool) {
    let mut buffer = vec![0; if discard { 256 * 1024 } else { 4096 }];
    while let Ok(count @ 1..) = stream.read(&mut buffer).await {
        if !discard && stream.write_all(&buffer[..count]).await.is_err() {
            return;
        }
    }
}

async fn echo_datagrams(socket: UdpSocket) {
    let mut buffer = [0; 2048];
    loop {
        let Ok((count, from)) = socket.recv_from(&mut buffer).await else {
            continue;
        };
        drop(socket.try_send_to(&buffer[..count], from));
    }
}
