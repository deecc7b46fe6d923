use std::{net::TcpStream, time::Duration};

use fairlead_config::name::FrontendName;
use rustix::net::sockopt;

use super::*;

fn listening_with(liveness: &Liveness) -> (Bind, Bound) {
    let mut bind = Bind {
        protocol: Protocol::Tcp,
        addr: "127.0.0.1:0".parse().unwrap(),
    };
    let name = FrontendName::parse("a").unwrap();
    let sockets = io::bind(bind, 1, liveness, &name, true).unwrap();
    bind.addr = tcp::local_addr(&sockets[0]).unwrap();
    let sockets = sockets.into_iter().map(|socket| Listening {
        thread: 0,
        id: 0,
        socket: Arc::new(socket),
    });
    let bound = Bound {
        liveness: *liveness,
        sockets: sockets.collect(),
    };
    (bind, bound)
}

/// What the kernel says of a connection accepted now.
fn accepted(bind: Bind, bound: &Bound) -> Liveness {
    let _client = TcpStream::connect(bind.addr).unwrap();
    let listener = bound.sockets().next().unwrap();
    let (socket, _) = loop {
        match tcp::accept(listener) {
            Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => {
                std::thread::yield_now();
            }
            accepted => break accepted.unwrap(),
        }
    };
    let idle = sockopt::tcp_keepidle(&socket).unwrap();
    let interval = sockopt::tcp_keepintvl(&socket).unwrap();
    let probes = u8::try_from(sockopt::tcp_keepcnt(&socket).unwrap()).unwrap();
    let user = u64::from(sockopt::tcp_user_timeout(&socket).unwrap());
    let is_on = sockopt::socket_keepalive(&socket).unwrap();
    Liveness {
        keepalive: is_on.then_some((idle, interval, probes)),
        user_timeout: (user > 0).then(|| Duration::from_millis(user)),
    }
}

#[test]
fn connections_have_the_keepalive_that_their_listener_was_last_given() {
    let seconds = Duration::from_secs;
    let settings = [
        (Some((seconds(60), seconds(10), 3)), Some(seconds(20))),
        (Some((seconds(7), seconds(5), 2)), Some(seconds(30))),
        (Some((seconds(7), seconds(5), 2)), None),
        (None, None),
        (None, Some(seconds(9))),
    ];
    let [first, later @ ..] = settings.map(|(keepalive, user_timeout)| Liveness {
        keepalive,
        user_timeout,
    });
    let (bind, mut bound) = listening_with(&first);
    assert_eq!(accepted(bind, &bound), first);
    for liveness in later {
        bound.update(bind, &liveness);
        assert_eq!(accepted(bind, &bound), liveness);
    }
}
