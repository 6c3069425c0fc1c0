use super::*;
use tokio::net::{TcpListener, TcpStream, tcp::OwnedReadHalf};

fn outbox(messages: usize, bytes: usize) -> Outbox {
    Outbox::new(Limits { messages, bytes })
}

fn texts(outbox: &Outbox) -> Vec<String> {
    std::iter::from_fn(|| outbox.take()).map(|frame| String::from_utf8(frame.json().to_vec()).unwrap()).collect()
}

#[test]
fn a_full_queue_keeps_the_latest_of_each_state() {
    let outbox = outbox(8, 1_000_000);
    for n in 0..20 {
        outbox.push(Frame::stated(format!("a{n}").as_bytes(), 1));
        if n < 2 {
            outbox.push(Frame::reply(format!("r{n}").as_bytes()));
        }
    }
    assert_eq!(outbox.poll(Waker::noop()).close, None);
    let texts = texts(&outbox);
    assert_eq!(texts[..2], ["r0", "r1"], "what counts each for itself is never dropped");
    assert_eq!(texts.last().map(String::as_str), Some("a19"));
    assert!(texts.len() <= 8);
}

#[test]
fn a_queue_full_of_events_ends_the_connection() {
    let outbox = outbox(8, 1_000_000);
    for n in 0..9 {
        outbox.push(Frame::reply(format!("{n}").as_bytes()));
    }
    assert_eq!(outbox.poll(Waker::noop()).close, Some(Close::SLOW));
    assert_eq!((outbox.waiting(), outbox.dropped()), ((0, 0), 9));
}

#[test]
fn bytes_are_bounded_too_but_one_frame_always_fits() {
    let outbox = outbox(100, 64);
    outbox.push(Frame::reply(&[b'x'; 1_000]));
    assert_eq!(outbox.poll(Waker::noop()).close, None);
    outbox.push(Frame::reply(b"y"));
    assert_eq!(outbox.poll(Waker::noop()).close, Some(Close::SLOW));
}

#[test]
fn the_first_reason_to_close_stays() {
    let outbox = outbox(8, 64);
    outbox.close(Close::KICKED);
    outbox.close(Close::INTERNAL);
    assert_eq!(outbox.poll(Waker::noop()).close, Some(Close::KICKED));
}

#[test]
fn many_frames_leave_in_one_buffer() {
    let outbox = outbox(100, 10_000);
    for _ in 0..10 {
        outbox.push(Frame::reply(b"{}"));
    }
    let (mut out, mut noted) = (Vec::new(), 0);
    assert!(outbox.take_bytes(&mut out, 1_000, |_| noted += 1));
    assert_eq!((out.len(), noted), (40, 10));
    assert!(!outbox.take_bytes(&mut out, 1_000, |_| {}));
}

/// One with a socket, and what keeps that open.
async fn attached() -> (Outbox, (TcpStream, OwnedReadHalf)) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let client = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
    let (reading, writing) = listener.accept().await.unwrap().0.into_split();
    writing.writable().await.unwrap();
    let outbox = outbox(100, 10_000);
    outbox.attach(writing);
    (outbox, (client, reading))
}

#[tokio::test]
async fn nothing_overtakes_what_the_task_has_taken_out() {
    let (outbox, _ends) = attached().await;
    let offer = || outbox.offer(std::iter::once(Frame::reply(b"{}")), true);
    let write_now = || {
        outbox.write_now(|_, _| {});
        outbox.relayed().frames
    };
    assert!(!offer(), "its task is awake");
    let mut out = Vec::new();
    outbox.poll(Waker::noop());
    assert!(outbox.take_bytes(&mut out, 1_000, |_| {}));
    // Not written yet.
    assert!(!offer());
    assert_eq!((write_now(), outbox.waiting().0), (0, 1));
    outbox.poll(Waker::noop());
    assert!(outbox.take_bytes(&mut out, 1_000, |_| {}));
    assert!(!outbox.take_bytes(&mut out, 1_000, |_| {}), "all is written");
    assert!(offer());
    assert_eq!((write_now(), outbox.waiting().0), (1, 0));
    // The task has something to do first.
    outbox.poll(Waker::noop());
    outbox.signal_due();
    outbox.poll(Waker::noop());
    assert!(offer());
    outbox.close(Close::KICKED);
    outbox.poll(Waker::noop());
    assert_eq!((write_now(), outbox.waiting().0), (1, 1));
}

#[tokio::test]
async fn nothing_is_written_to_a_socket_whose_client_is_gone() {
    let (outbox, _ends) = attached().await;
    outbox.poll(Waker::noop());
    let offer = || outbox.offer(std::iter::once(Frame::reply(b"{}")), true);
    assert!(offer(), "somebody is told to write it");
    outbox.abandon(Close::INTERNAL);
    outbox.write_now(|_, _| panic!("it would count as read"));
    assert!(!offer());
    assert_eq!((outbox.relayed().frames, outbox.waiting().0), (0, 0));
}
