use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt, DuplexStream},
    net::TcpStream,
};

use super::*;

#[tokio::test]
async fn pages_are_listed_read_and_changed() {
    let rig = Rig::start(false).await;
    let index = rig.get("/").await;
    assert!(index.contains("GET   /echo        says it back"), "{index}");
    assert!(index.contains("POST  /change      changes it"), "{index}");
    let echo = rig.get("/echo?a=1%20%2Bx&b=y+z&c").await;
    assert!(echo.starts_with("HTTP/1.1 200 OK\r\n"), "{echo}");
    assert!(echo.ends_with("\r\n\r\na=1 +x;b=y z;c=;"), "{echo}");
    let changed = rig
        .ask("POST /change HTTP/1.1\r\ncontent-length: 2\r\n", "ok")
        .await;
    assert!(changed.ends_with("changed to ok"), "{changed}");
}

#[tokio::test]
async fn head_is_get_without_a_body() {
    let rig = Rig::start(false).await;
    let head = rig.ask("HEAD /echo?a=1 HTTP/1.1\r\n", "").await;
    assert!(
        head.starts_with("HTTP/1.1 200 OK\r\n") && head.ends_with("\r\n\r\n"),
        "{head}"
    );
}

#[tokio::test]
async fn wrong_paths_and_methods_say_what_would_be_right() {
    let rig = Rig::start(false).await;
    let missing = rig.get("/nope").await;
    assert!(
        missing.starts_with("HTTP/1.1 404") && missing.contains("/ lists them"),
        "{missing}"
    );
    let read = rig.get("/change").await;
    assert!(
        read.starts_with("HTTP/1.1 405") && read.contains("allow: POST"),
        "{read}"
    );
    let changed = rig
        .ask("POST /echo HTTP/1.1\r\ncontent-length: 0\r\n", "")
        .await;
    assert!(
        changed.starts_with("HTTP/1.1 405") && changed.contains("allow: GET"),
        "{changed}"
    );
}

#[tokio::test]
async fn a_web_page_of_another_site_cannot_change_anything() {
    let rig = Rig::start(true).await;
    let head = "POST /change HTTP/1.1\r\norigin: https://evil.example\r\ncontent-length: 0\r\n";
    let refused = rig.ask(head, "").await;
    assert!(refused.starts_with("HTTP/1.1 403"), "{refused}");
}

#[tokio::test]
async fn only_peers_that_may_change_things_can() {
    for (may_change, status) in [(true, "HTTP/1.1 200"), (false, "HTTP/1.1 403")] {
        let (client, server) = pair().await;
        let place = Arc::new(Semaphore::new(1)).acquire_owned().await.unwrap();
        let mut serving = JoinSet::new();
        serving.spawn(converse(server, Arc::new(pages()), may_change, place));
        let head = "POST /change HTTP/1.1\r\ncontent-length: 0\r\n";
        let answer = talk(client, head, "").await;
        assert!(answer.starts_with(status), "{answer}");
    }
}

#[tokio::test]
async fn what_is_too_large_is_refused() {
    let rig = Rig::start(false).await;
    let long = format!("GET /echo?{} HTTP/1.1\r\n", "x".repeat(HEAD_BYTES_MAX));
    let answer = rig.ask(&long, "").await;
    assert!(
        answer.is_empty() || answer.starts_with("HTTP/1.1 4"),
        "{answer}"
    );
    let many = format!(
        "GET /echo HTTP/1.1\r\n{}",
        "a: b\r\n".repeat(HEADERS_MAX + 1)
    );
    let answer = rig.ask(&many, "").await;
    assert!(
        answer.is_empty() || answer.starts_with("HTTP/1.1 4"),
        "{answer}"
    );
    let head = format!(
        "POST /change HTTP/1.1\r\ncontent-length: {}\r\n",
        BODY_BYTES_MAX + 1
    );
    let answer = rig.ask(&head, &"x".repeat(BODY_BYTES_MAX + 1)).await;
    assert!(
        answer.is_empty() || answer.starts_with("HTTP/1.1 413"),
        "{answer}"
    );
    assert!(
        rig.get("/echo?a=1").await.ends_with("a=1;"),
        "and the next one is served"
    );
}

#[tokio::test]
async fn connections_beyond_the_limit_are_closed_and_places_come_back() {
    let rig = Rig::start(false).await;
    let mut held = Vec::new();
    for _ in 0..CONNECTIONS_MAX {
        let mut stream = TcpStream::connect(rig.addr).await.unwrap();
        stream
            .write_all(b"GET /echo HTTP/1.1\r\n\r\n")
            .await
            .unwrap();
        stream.read_exact(&mut [0; 12]).await.unwrap();
        held.push(stream);
    }
    let mut extra = TcpStream::connect(rig.addr).await.unwrap();
    // Closed at once: an orderly end, or a reset where bytes were under way.
    assert_eq!(extra.read(&mut [0; 1]).await.unwrap_or(0), 0);
    drop(held);
    loop {
        if rig.get("/echo?a=1").await.ends_with("a=1;") {
            return;
        }
        tokio::task::yield_now().await;
    }
}

#[tokio::test]
async fn a_taken_address_is_named() {
    let rig = Rig::start(false).await;
    let error = Server::bind(rig.addr, false).unwrap_err();
    assert!(error.to_string().contains(&rig.addr.to_string()));
}

#[test]
fn queries_are_decoded_and_broken_escapes_stay() {
    let decoded = |text: &str| decode_query(text);
    let pair = |key: &str, value: &str| (key.to_owned(), value.to_owned());
    assert_eq!(decoded(""), []);
    assert_eq!(
        decoded("&&a&b=%41%zz%4"),
        [pair("a", ""), pair("b", "A%zz%4")]
    );
    assert_eq!(decoded("s=shop%2Fweb:http"), [pair("s", "shop/web:http")]);
    assert_eq!(decoded("a=%ff"), [pair("a", "\u{fffd}")]);
}

struct Rig {
    addr: SocketAddr,
    _serving: JoinSet<()>,
}

impl Rig {
    async fn start(allow_remote: bool) -> Self {
        let server = Server::bind("127.0.0.1:0".parse().unwrap(), allow_remote).unwrap();
        let addr = server.addr();
        let mut serving = JoinSet::new();
        serving.spawn(async move { server.serve(pages()).await });
        Self {
            addr,
            _serving: serving,
        }
    }

    async fn get(&self, path: &str) -> String {
        self.ask(&format!("GET {path} HTTP/1.1\r\n"), "").await
    }

    async fn ask(&self, head: &str, body: &str) -> String {
        talk(TcpStream::connect(self.addr).await.unwrap(), head, body).await
    }
}

/// The whole answer; what comes after a reset is nothing.
async fn talk(mut stream: TcpStream, head: &str, body: &str) -> String {
    let request = format!("{head}host: here\r\nconnection: close\r\n\r\n{body}");
    // A server that refuses the head may close before all of the request is written.
    let _refused = stream.write_all(request.as_bytes()).await;
    let mut answer = Vec::new();
    let _reset = stream.read_to_end(&mut answer).await;
    String::from_utf8(answer).unwrap()
}

fn pages() -> Pages {
    Pages::new()
        .get("/echo", "says it back", |request| async move {
            let pairs = request
                .query
                .iter()
                .map(|(key, value)| format!("{key}={value};"));
            Answer::text(pairs.collect::<String>())
        })
        .post("/change", "changes it", |request| async move {
            Answer::text([b"changed to ", &*request.body].concat())
        })
}

async fn pair() -> (TcpStream, TcpStream) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let client = TcpStream::connect(listener.local_addr().unwrap())
        .await
        .unwrap();
    (client, listener.accept().await.unwrap().0)
}

/// Parts of [`PART`] bytes, as many as are asked for; what was made is counted, and whether it lives.
fn endless(made: &Arc<AtomicUsize>) -> Pages {
    let made = made.clone();
    Pages::new().get("/long", "never ends", move |_| {
        let made = made.clone();
        let parts = std::iter::repeat_with(move || {
            made.fetch_add(1, Relaxed);
            Bytes::from(vec![b'x'; PART])
        });
        async move { Answer::parts("text/plain", Parts::new(parts)) }
    })
}

async fn serve_endless(made: &Arc<AtomicUsize>) -> (DuplexStream, JoinSet<()>) {
    let (mut client, server) = tokio::io::duplex(PART);
    let place = Arc::new(Semaphore::new(1)).acquire_owned().await.unwrap();
    let mut serving = JoinSet::new();
    serving.spawn(converse(server, Arc::new(endless(made)), true, place));
    let request = b"GET /long HTTP/1.1\r\nhost: x\r\n\r\n";
    client.write_all(request).await.unwrap();
    (client, serving)
}

const PART: usize = 64 * 1024;

#[tokio::test]
async fn parts_are_made_as_they_are_read_and_no_sooner() {
    let made = Arc::new(AtomicUsize::new(0));
    let (mut client, _serving) = serve_endless(&made).await;
    let mut taken = vec![0; PART];
    for round in 1..=200 {
        client.read_exact(&mut taken).await.unwrap();
        // One in the pipe, one with the connection, one being made.
        let made = made.load(Relaxed);
        assert!(made <= round + 3, "{made} made, {round} taken");
    }
    let text = String::from_utf8(taken).unwrap();
    assert!(text.contains("\r\n10000\r\n"), "in chunks of a part each");
}

#[tokio::test]
async fn what_a_reader_leaves_unread_is_not_made() {
    let made = Arc::new(AtomicUsize::new(0));
    let (mut client, mut serving) = serve_endless(&made).await;
    client.read_exact(&mut [0; 1000]).await.unwrap();
    drop(client);
    serving.join_next().await.unwrap().unwrap();
    assert!(made.load(Relaxed) <= 3);
    // The pages are gone with the connection; the last part may still be on its way out.
    while Arc::strong_count(&made) > 1 {
        tokio::task::yield_now().await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_reader_that_takes_nothing_is_left() {
    let (mut client, server) = tokio::io::duplex(10);
    let mut server = Patient::new(server, STALL_TIMEOUT);
    // Each pause is within its patience, all of them together are not.
    for _ in 0..3 {
        let reading = async {
            tokio::time::sleep(STALL_TIMEOUT * 2 / 3).await;
            client.read_exact(&mut [0; 12]).await.unwrap();
        };
        let (written, ()) = tokio::join!(server.write_all(&[b'x'; 12]), reading);
        written.unwrap();
    }
    let before = tokio::time::Instant::now();
    let error = server.write_all(&[b'x'; 100]).await.unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::TimedOut);
    assert_eq!(before.elapsed().as_secs(), STALL_TIMEOUT.as_secs());
}

#[tokio::test]
async fn a_page_that_breaks_in_the_middle_ends_without_its_end() {
    let pages = Pages::new().get("/broken", "", |_| async {
        let parts = (0..3).map(|number| {
            assert!(number < 2, "a page with a bug");
            Bytes::from_static(b"part")
        });
        Answer::parts("text/plain", Parts::new(parts))
    });
    let (client, server) = pair().await;
    let place = Arc::new(Semaphore::new(1)).acquire_owned().await.unwrap();
    let mut serving = JoinSet::new();
    serving.spawn(converse(server, Arc::new(pages), true, place));
    let answer = talk(client, "GET /broken HTTP/1.1\r\n", "").await;
    assert!(answer.contains("part"), "{answer}");
    assert!(!answer.ends_with("0\r\n\r\n"), "{answer}");
}
