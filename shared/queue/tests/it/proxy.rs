//! A TCP proxy in front of a server, which breaks connections in the ways that networks do.

use std::time::Duration;

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{
        TcpListener, TcpStream,
        tcp::{OwnedReadHalf, OwnedWriteHalf},
    },
    sync::watch,
    task::JoinSet,
};

/// What the proxy does with its connections.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Wire {
    /// Carries everything.
    Whole,
    /// Closes all connections and every new one at once.
    Cut,
    /// Carries nothing until it is whole again; nothing is lost.
    Stalled,
    /// What clients send arrives, what the server answers does not. A connection that was deaf carries nothing ever after, as
    /// after a firewall forgot it, and nobody is told.
    Deaf,
}

pub(crate) struct Proxy {
    pub(crate) port: u16,
    wire: watch::Sender<Wire>,
    accepting: tokio::task::JoinHandle<()>,
}

impl Proxy {
    /// To 127.0.0.1:`to`, whole.
    pub(crate) async fn start(to: u16) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let (wire, state) = watch::channel(Wire::Whole);
        let accepting = tokio::spawn(async move {
            let mut connections = JoinSet::new();
            loop {
                tokio::select! {
                    accepted = listener.accept() => {
                        let Ok((client, _)) = accepted else { continue };
                        connections.spawn(carry(client, to, state.clone()));
                    }
                    Some(_) = connections.join_next() => {}
                }
            }
        });
        Self { port, wire, accepting }
    }

    pub(crate) fn set(&self, wire: Wire) {
        self.wire.send_replace(wire);
    }

    pub(crate) fn url(&self) -> String {
        format!("redis://127.0.0.1:{}", self.port)
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.accepting.abort();
    }
}

/// One connection, until either side closes it or the wire is cut.
async fn carry(client: TcpStream, to: u16, mut wire: watch::Receiver<Wire>) {
    if *wire.borrow_and_update() == Wire::Cut {
        return;
    }
    let Ok(server) = TcpStream::connect(("127.0.0.1", to)).await else { return };
    let (from_client, to_client) = client.into_split();
    let (from_server, to_server) = server.into_split();
    let (there, back) = (wire.clone(), wire.clone());
    tokio::select! {
        () = copy(from_client, to_server, there, false) => {}
        () = copy(from_server, to_client, back, true) => {}
        _ = wire.wait_for(|wire| *wire == Wire::Cut) => {}
    }
}

async fn copy(mut from: OwnedReadHalf, mut to: OwnedWriteHalf, mut wire: watch::Receiver<Wire>, is_answer: bool) {
    let mut buffer = vec![0; 16 * 1024];
    let mut is_deaf = false;
    loop {
        let read = tokio::select! {
            read = from.read(&mut buffer) => read,
            Ok(()) = wire.changed() => {
                is_deaf |= *wire.borrow_and_update() == Wire::Deaf;
                continue;
            }
        };
        let Ok(read @ 1..) = read else { return };
        if wire.wait_for(|wire| *wire != Wire::Stalled).await.is_err() {
            return;
        }
        // What was held back goes down with the connection.
        if *wire.borrow() == Wire::Cut {
            return;
        }
        is_deaf |= *wire.borrow() == Wire::Deaf;
        // A deaf connection swallows answers; once the wire is whole again it swallows what is sent, too.
        let is_swallowed = is_deaf && (is_answer || *wire.borrow() != Wire::Deaf);
        if !is_swallowed && to.write_all(&buffer[..read]).await.is_err() {
            return;
        }
    }
}

#[tokio::test]
async fn the_proxy_itself_carries_stalls_swallows_and_cuts() {
    let server = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let proxy = Proxy::start(server.local_addr().unwrap().port()).await;
    let mut client = TcpStream::connect(("127.0.0.1", proxy.port)).await.unwrap();
    let (mut peer, _) = server.accept().await.unwrap();
    let mut buffer = [0; 4];
    client.write_all(b"ping").await.unwrap();
    peer.read_exact(&mut buffer).await.unwrap();
    proxy.set(Wire::Stalled);
    client.write_all(b"late").await.unwrap();
    let nothing = tokio::time::timeout(Duration::from_millis(100), peer.read_exact(&mut buffer)).await;
    assert!(nothing.is_err(), "a stalled wire carried something");
    proxy.set(Wire::Whole);
    peer.read_exact(&mut buffer).await.unwrap();
    assert_eq!(&buffer, b"late");
    proxy.set(Wire::Deaf);
    client.write_all(b"told").await.unwrap();
    peer.read_exact(&mut buffer).await.unwrap();
    peer.write_all(b"lost").await.unwrap();
    let nothing = tokio::time::timeout(Duration::from_millis(100), client.read_exact(&mut buffer)).await;
    assert!(nothing.is_err(), "a deaf wire answered");
    proxy.set(Wire::Cut);
    assert_eq!(client.read(&mut buffer).await.unwrap_or(0), 0, "a cut wire is at its end");
}
