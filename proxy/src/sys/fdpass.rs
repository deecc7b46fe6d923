//! Passing descriptors over Unix sockets (SCM_RIGHTS), and taking those that a parent left open.
#![allow(
    unsafe_code,
    reason = "a descriptor that a service manager passed has only its number, and tokio wants our word"
)]

use std::{
    io::{self, IoSlice, IoSliceMut},
    mem::MaybeUninit,
    os::fd::{AsFd, BorrowedFd, FromRawFd, OwnedFd, RawFd},
    path::Path,
    sync::atomic::{AtomicBool, Ordering},
};

use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, ReturnFlags,
    SendAncillaryBuffer, SendAncillaryMessage, SendFlags, SocketAddrUnix, SocketFlags, SocketType,
    accept_with, bind, connect, listen, recvmsg, sendmsg, socket_with, socketpair, sockopt,
};
use tokio::io::unix::AsyncFd;

/// Sends one message with descriptors, of which the receiver gets copies. At most [`FDS_MAX`].
pub fn send(socket: impl AsFd, bytes: &[u8], fds: &[BorrowedFd<'_>]) -> io::Result<()> {
    let mut space = [MaybeUninit::uninit(); SPACE];
    let mut control = SendAncillaryBuffer::new(&mut space);
    if !fds.is_empty() && !control.push(SendAncillaryMessage::ScmRights(fds)) {
        return Err(io::Error::other("more descriptors than a message takes"));
    }
    let flags = SendFlags::NOSIGNAL | SendFlags::DONTWAIT;
    sendmsg(socket, &[IoSlice::new(bytes)], &mut control, flags)?;
    Ok(())
}

/// Receives one message with its descriptors, which close on exec. No bytes: the other end is
/// gone. A message longer than `buffer`, or with more descriptors than [`FDS_MAX`], is an error.
pub fn receive(socket: impl AsFd, buffer: &mut [u8]) -> io::Result<(usize, Vec<OwnedFd>)> {
    let mut space = [MaybeUninit::uninit(); SPACE];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let flags = RecvFlags::CMSG_CLOEXEC | RecvFlags::DONTWAIT;
    let message = recvmsg(socket, &mut [IoSliceMut::new(buffer)], &mut control, flags)?;
    let mut fds = Vec::new();
    for part in control.drain() {
        if let RecvAncillaryMessage::ScmRights(some) = part {
            fds.extend(some);
        }
    }
    if message
        .flags
        .intersects(ReturnFlags::TRUNC | ReturnFlags::CTRUNC)
    {
        return Err(io::Error::other("a message that was cut off"));
    }
    Ok((message.bytes, fds))
}

/// Two connected sockets that keep messages apart.
pub fn pair() -> io::Result<(OwnedFd, OwnedFd)> {
    Ok(socketpair(AddressFamily::UNIX, KIND, FLAGS, None)?)
}

/// Listens at `path`, for this user only. What was there before is replaced in one step.
pub fn listen_at(path: &Path) -> io::Result<OwnedFd> {
    use std::{fs, os::unix::fs::PermissionsExt as _};
    let socket = socket_with(AddressFamily::UNIX, KIND, FLAGS, None)?;
    let mut next = path.as_os_str().to_owned();
    next.push(format!(".{}", std::process::id()));
    let next = Path::new(&next);
    fs::remove_file(next).ok();
    bind(&socket, &SocketAddrUnix::new(next)?)?;
    fs::set_permissions(next, fs::Permissions::from_mode(0o600))?;
    listen(&socket, 4)?;
    fs::rename(next, path)?;
    Ok(socket)
}

/// Connects to whoever listens at `path`.
pub fn connect_to(path: &Path) -> io::Result<OwnedFd> {
    let socket = socket_with(AddressFamily::UNIX, KIND, FLAGS, None)?;
    connect(&socket, &SocketAddrUnix::new(path)?)?;
    Ok(socket)
}

/// Accepts whoever connects, if it is this user or root.
pub fn accept(listener: impl AsFd) -> io::Result<OwnedFd> {
    let socket = accept_with(listener, FLAGS)?;
    let peer = sockopt::socket_peercred(&socket)?.uid;
    if peer.is_root() || peer == rustix::process::geteuid() {
        return Ok(socket);
    }
    Err(io::ErrorKind::PermissionDenied.into())
}

/// The descriptors that a service manager left open for this process (`LISTEN_PID`, `LISTEN_FDS`),
/// made to close on exec. Only the first call gets them.
pub fn from_manager() -> Vec<OwnedFd> {
    static TAKEN: AtomicBool = AtomicBool::new(false);
    let number = |name| std::env::var(name).ok()?.parse::<u32>().ok();
    let meant = number("LISTEN_PID") == Some(std::process::id());
    let count = number("LISTEN_FDS").filter(|_| meant).unwrap_or(0);
    if TAKEN.swap(true, Ordering::Relaxed) {
        return Vec::new();
    }
    take_open(MANAGER_FIRST, count as usize)
}

fn take_open(first: RawFd, count: usize) -> Vec<OwnedFd> {
    let numbers = (first..).take(count);
    let open = numbers.filter(|fd| Path::new(&format!("/proc/self/fd/{fd}")).exists());
    open.filter_map(|number| {
        // SAFETY: it is open, it was left for this process by its manager, and the only caller
        // takes it once, so nothing else owns it.
        let fd = unsafe { OwnedFd::from_raw_fd(number) };
        rustix::io::fcntl_setfd(&fd, rustix::io::FdFlags::CLOEXEC).ok()?;
        Some(fd)
    })
    .collect()
}

/// Lets tokio tell when a socket is ready.
pub fn watch(socket: OwnedFd) -> io::Result<AsyncFd<OwnedFd>> {
    // SAFETY: the socket is owned by the AsyncFd, which never gives it out to be closed.
    let watched = unsafe { AsyncFd::register(socket) };
    Ok(watched?)
}

/// Descriptors in a message; the kernel takes 253.
pub const FDS_MAX: usize = 64;
/// `SD_LISTEN_FDS_START`.
const MANAGER_FIRST: RawFd = 3;
const SPACE: usize = rustix::cmsg_space!(ScmRights(FDS_MAX));
const KIND: SocketType = SocketType::SEQPACKET;
const FLAGS: SocketFlags = SocketFlags::CLOEXEC.union(SocketFlags::NONBLOCK);

#[cfg(test)]
mod tests {
    use std::{
        io::{Read as _, Write as _},
        net::{TcpListener, TcpStream},
        os::fd::IntoRawFd as _,
    };

    use super::*;

    #[test]
    fn a_passed_listener_accepts_what_waited_for_the_first_owner() {
        let (giver, taker) = pair().unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let mut client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        send(&giver, b"one socket", &[listener.as_fd()]).unwrap();
        drop(listener);
        let mut buffer = [0; 64];
        let (len, mut fds) = receive(&taker, &mut buffer).unwrap();
        assert_eq!(&buffer[..len], b"one socket");
        let listener = TcpListener::from(fds.pop().unwrap());
        let (mut accepted, _) = listener.accept().unwrap();
        accepted.write_all(b"hello").unwrap();
        let mut hello = [0; 5];
        client.read_exact(&mut hello).unwrap();
        assert_eq!(&hello, b"hello");
    }

    #[test]
    fn messages_stay_apart_and_an_end_is_no_bytes() {
        let (giver, taker) = pair().unwrap();
        let fds: Vec<OwnedFd> = (0..FDS_MAX).map(|_| pair().unwrap().0).collect();
        let borrowed: Vec<BorrowedFd<'_>> = fds.iter().map(AsFd::as_fd).collect();
        send(&giver, b"many", &borrowed).unwrap();
        send(&giver, b"none", &[]).unwrap();
        drop(giver);
        let mut buffer = [0; 8];
        assert_eq!(receive(&taker, &mut buffer).unwrap().1.len(), FDS_MAX);
        let (len, fds) = receive(&taker, &mut buffer).unwrap();
        assert_eq!((&buffer[..len], fds.len()), (&b"none"[..], 0));
        assert_eq!(receive(&taker, &mut buffer).unwrap().0, 0);
    }

    #[test]
    fn a_message_too_long_is_an_error() {
        let (giver, taker) = pair().unwrap();
        send(&giver, b"longer than that", &[]).unwrap();
        assert!(receive(&taker, &mut [0; 4]).is_err());
    }

    #[test]
    fn who_listens_at_a_path_is_replaced_in_one_step() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("hand-over");
        let _first = listen_at(&path).unwrap();
        let second = listen_at(&path).unwrap();
        let client = connect_to(&path).unwrap();
        let server = accept(&second).unwrap();
        send(&client, b"hi", &[]).unwrap();
        assert_eq!(receive(&server, &mut [0; 8]).unwrap().0, 2);
    }

    #[test]
    fn descriptors_left_by_a_parent_are_taken_by_number() {
        let (one, _other) = pair().unwrap();
        let number = one.into_raw_fd();
        let taken = take_open(number, 1);
        assert_eq!(taken.len(), 1);
    }
}
