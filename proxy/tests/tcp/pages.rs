//! The admin server's pages, as a client of HTTP/1.1 gets them.

use std::{
    io::{self, Read, Write},
    net::{SocketAddr, TcpStream},
};

use super::PATIENCE;

/// An answer.
#[derive(Debug)]
pub(crate) struct Page {
    pub(crate) status: u16,
    pub(crate) body: String,
}

/// Asks once, on a connection of its own.
pub(crate) fn ask(admin: SocketAddr, method: &str, path: &str) -> io::Result<Page> {
    let mut stream = TcpStream::connect(admin)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    let head = format!("{method} {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n");
    stream.write_all(head.as_bytes())?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    let cut = || io::Error::new(io::ErrorKind::UnexpectedEof, answer.clone());
    let (head, body) = answer.split_once("\r\n\r\n").ok_or_else(cut)?;
    let status = head.split(' ').nth(1).and_then(|code| code.parse().ok());
    let body = match head.contains("transfer-encoding: chunked") {
        true => unchunked(body).ok_or_else(cut)?,
        false => body.to_owned(),
    };
    Ok(Page {
        status: status.ok_or_else(cut)?,
        body,
    })
}

/// The text of a page, whatever its status.
pub(crate) fn text(admin: SocketAddr, path: &str) -> String {
    ask(admin, "GET", path).unwrap().body
}

/// The value of a series, by all that comes before it in its line; 0 where there is no such line.
pub(crate) fn series(admin: SocketAddr, head: &str) -> u64 {
    let page = text(admin, "/metrics");
    let line = page.lines().find_map(|line| line.strip_prefix(head));
    line.map_or(0, |value| value.trim().parse().unwrap())
}

/// Configurations that took effect.
pub(crate) fn applied(admin: SocketAddr) -> u64 {
    series(admin, "fairlead_config_reloads_total{result=\"applied\"}")
}

fn unchunked(mut rest: &str) -> Option<String> {
    let mut whole = String::new();
    loop {
        let (size, after) = rest.split_once("\r\n")?;
        let size = usize::from_str_radix(size, 16).ok()?;
        if size == 0 {
            return Some(whole);
        }
        whole.push_str(after.get(..size)?);
        rest = after.get(size..)?.strip_prefix("\r\n")?;
    }
}
