//! The relay without any feature: one thread, epoll, splice, recvmmsg. No balancing, no health, no
//! timeouts, no counters: what a proxy in user space costs at least on this machine.

use std::{
    net::{Ipv4Addr, SocketAddr, SocketAddrV4, UdpSocket},
    os::fd::AsRawFd,
};

use anyhow::Context;
use clap::Args;
use socket2::{Domain, Socket, Type};

use crate::sys::epoll::{Epoll, Events};

mod flows;
mod session;

/// `--tcp 10.0.0.1:80=10.0.1.1:80`: where to listen and where to relay to.
#[derive(Args)]
pub(crate) struct Options {
    #[arg(long, value_parser = route)]
    tcp: Vec<Route>,
    #[arg(long, value_parser = route)]
    udp: Vec<Route>,
}

/// A listening address and the backend behind it.
#[derive(Clone, Copy)]
pub(crate) struct Route {
    listen: SocketAddrV4,
    backend: SocketAddrV4,
}

fn route(text: &str) -> Result<Route, String> {
    let (listen, backend) = text.split_once('=').ok_or("write LISTEN=BACKEND")?;
    let parse = |part: &str| part.parse().map_err(|error| format!("{part}: {error}"));
    Ok(Route {
        listen: parse(listen)?,
        backend: parse(backend)?,
    })
}

/// Runs until killed.
pub(crate) fn run(options: &Options) -> anyhow::Result<()> {
    let epoll = Epoll::new()?;
    let mut listeners = Vec::new();
    for route in &options.tcp {
        let socket = listen(route.listen).with_context(|| format!("listen on {}", route.listen))?;
        epoll.add(socket.as_raw_fd(), token(KIND_LISTENER, listeners.len()))?;
        listeners.push((socket, route.backend));
    }
    let mut flows = flows::Flows::new();
    for route in &options.udp {
        let socket = UdpSocket::bind(SocketAddr::V4(route.listen))
            .with_context(|| format!("bind {}", route.listen))?;
        socket.set_nonblocking(true)?;
        flows.listen(&epoll, socket, route.backend)?;
    }
    let mut sessions = session::Sessions::new();
    let mut events = Events::with_capacity(1024);
    loop {
        for (token, flags) in epoll.wait(&mut events)? {
            let index = (token & INDEX_MASK) as usize;
            match token >> KIND_SHIFT {
                KIND_LISTENER => {
                    let (socket, backend) = &listeners[index];
                    sessions.accept(&epoll, socket, *backend);
                }
                KIND_SESSION => sessions.ready(index, flags),
                KIND_UDP => flows.forward_requests(&epoll, index),
                _ => flows.take_answer(index),
            }
        }
        flows.flush();
        sessions.reap();
    }
}

fn listen(addr: SocketAddrV4) -> std::io::Result<Socket> {
    let socket = Socket::new(Domain::IPV4, Type::STREAM.nonblocking(), None)?;
    socket.set_reuse_address(true)?;
    // Accepted sockets inherit it.
    socket.set_tcp_nodelay(true)?;
    socket.bind(&SocketAddr::V4(addr).into())?;
    socket.listen(4096)?;
    Ok(socket)
}

/// Any local address of IPv4.
const UNSPECIFIED: SocketAddrV4 = SocketAddrV4::new(Ipv4Addr::UNSPECIFIED, 0);

fn token(kind: u64, index: usize) -> u64 {
    kind << KIND_SHIFT | index as u64
}

const KIND_SHIFT: u32 = 56;
const INDEX_MASK: u64 = (1 << KIND_SHIFT) - 1;
const KIND_LISTENER: u64 = 0;
const KIND_SESSION: u64 = 1;
const KIND_UDP: u64 = 2;
const KIND_FLOW: u64 = 3;
