use super::*;
use crate::socket::{
    close::Close,
    frame::Frame,
    framing,
    link::{Link, Turn},
    outbox::{Limits, Outbox},
};
use std::{iter::once, time::Duration};
use tokio::{
    io::AsyncReadExt,
    net::{TcpSocket, TcpStream},
    task::JoinHandle,
};

struct Served {
    client: TcpStream,
    conn: Arc<Conn>,
    relay: Arc<Relay>,
    /// Ends with the frames and bytes that were sent.
    task: JoinHandle<(u64, u64)>,
}

async fn serve() -> Served {
    // Small buffers, which are full soon and take parts of frames.
    let socket = TcpSocket::new_v4().unwrap();
    socket.set_send_buffer_size(16 * 1_024).unwrap();
    socket.bind("127.0.0.1:0".parse().unwrap()).unwrap();
    let listener = socket.listen(1).unwrap();
    let socket = TcpSocket::new_v4().unwrap();
    socket.set_recv_buffer_size(8 * 1_024).unwrap();
    let client = socket.connect(listener.local_addr().unwrap()).await.unwrap();
    let (stream, _) = listener.accept().await.unwrap();
    let limits = Limits { messages: 1_000_000, bytes: 1 << 30 };
    let conn = Arc::new(Conn::new(Outbox::new(limits), "notifications", "here"));
    let mut link = Link::new(stream, &[], conn.clone(), 1_024);
    let task = tokio::spawn(async move {
        loop {
            if let Turn::Close(close) = link.turn().await {
                link.close(&close).await;
                return (link.traffic().sent, link.traffic().bytes_sent);
            }
        }
    });
    let relay = Arc::new(Relay::default());
    tokio::spawn(relay.clone().run());
    Served { client, conn, relay, task }
}

/// Whether the connection's task was left asleep.
fn offer(conn: &Arc<Conn>, relay: &Relay, text: &str, may_relay: bool) -> bool {
    let is_asleep = conn.outbox.offer(once(Frame::reply(text.as_bytes())), may_relay);
    if is_asleep {
        relay.write(vec![conn.clone()]);
    }
    is_asleep
}

impl Served {
    fn offer(&self, text: &str) -> bool {
        offer(&self.conn, &self.relay, text, true)
    }

    async fn expect(&mut self, text: &str) {
        let mut read = vec![0; 2 + text.len()];
        self.client.read_exact(&mut read).await.unwrap();
        assert_eq!(&read[2..], text.as_bytes());
    }
}

#[tokio::test]
async fn an_event_to_a_sleeping_connection_is_written_past_its_task() {
    let mut served = serve().await;
    assert!(!served.offer("one"), "its task has not slept yet");
    served.expect("one").await;
    assert!(served.offer("two"));
    assert!(!served.offer("three"), "somebody was told");
    served.expect("two").await;
    served.expect("three").await;
    assert_eq!(served.conn.outbox.relayed().frames, 0, "two are the task's, in one write");
    assert!(served.offer("four"));
    served.expect("four").await;
    assert_eq!(served.conn.outbox.relayed().frames, 1);
    served.conn.outbox.close(Close::KICKED);
    served.client.read_to_end(&mut Vec::new()).await.unwrap();
    drop(served.client);
    assert_eq!(served.task.await.unwrap(), (4, 4 * 2 + 15));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
#[expect(clippy::disallowed_methods, reason = "shorter than a timer's tick, and other threads serve the connection")]
async fn frames_arrive_whole_and_in_order_whoever_writes_them() {
    const FRAMES: usize = 20_000;
    let Served { mut client, conn, relay, task } = serve().await;
    // Now it keeps up, now the socket is full.
    let reading = tokio::spawn(async move {
        let (mut all, mut some) = (Vec::new(), vec![0; 3_000]);
        for turn in 0.. {
            match client.read(&mut some).await.unwrap() {
                0 => break,
                read => all.extend_from_slice(&some[..read]),
            }
            if turn % 5 == 0 {
                tokio::time::sleep(Duration::from_millis(2)).await;
            }
        }
        all
    });
    let mut expected = Vec::new();
    for n in 0..FRAMES {
        let text = format!("{n:>width$}", width = 1 + n % 997);
        expected.extend_from_slice(&framing::text(text.as_bytes()));
        if n % 17 == 0 {
            conn.outbox.push(Frame::reply(text.as_bytes()));
        } else {
            offer(&conn, &relay, &text, n % 19 > 0);
        }
        // Now the relay comes in time, now there is more than one frame, for the task.
        std::thread::sleep(Duration::from_micros((n % 4) as u64 * 15));
    }
    conn.outbox.close(Close::KICKED);
    expected.extend_from_slice(&framing::close(Close::KICKED.code, &Close::KICKED.reason));
    assert!(reading.await.unwrap() == expected);
    assert!(conn.outbox.relayed().frames > 100, "{:?}", conn.outbox.relayed());
    assert_eq!(task.await.unwrap().0, FRAMES as u64);
}
