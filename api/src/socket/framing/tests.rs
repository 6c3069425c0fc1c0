use super::*;
use proptest::prelude::*;

/// A client's frame.
fn client(first: u8, payload: &[u8], mask: [u8; 4]) -> Vec<u8> {
    let mut out = vec![first];
    match payload.len() {
        len @ 0..=125 => out.push(0x80 | u8::try_from(len).unwrap()),
        len @ 126..=0xffff => {
            out.push(0x80 | 126);
            out.extend(u16::try_from(len).unwrap().to_be_bytes());
        }
        len => {
            out.push(0x80 | 127);
            out.extend((len as u64).to_be_bytes());
        }
    }
    out.extend(mask);
    out.extend(payload.iter().zip(mask.iter().cycle()).map(|(byte, key)| byte ^ key));
    out
}

const MASK: [u8; 4] = [0x12, 0x00, 0xff, 0x7e];

fn decode(bytes: &[u8]) -> Result<Vec<Incoming>, Violation> {
    let mut decoder = Decoder::new(70_000);
    decoder.feed(bytes);
    let mut all = Vec::new();
    while let Some(incoming) = decoder.next()? {
        all.push(incoming);
    }
    Ok(all)
}

fn code_of(bytes: &[u8]) -> u16 {
    decode(bytes).expect_err("a violation").code
}

#[test]
fn messages_of_every_length_form_arrive_whole() {
    for len in [0, 1, 7, 8, 9, 125, 126, 127, 65_535, 65_536, 70_000] {
        let text = "x".repeat(len);
        assert_eq!(decode(&client(0x81, text.as_bytes(), MASK)).unwrap(), [Incoming::Text(text)]);
    }
    assert_eq!(code_of(&client(0x81, &[b'x'; 70_001], MASK)), 1009);
}

#[test]
fn fragments_join_with_control_frames_between_them() {
    let mut bytes = client(0x01, "é".as_bytes().get(..1).unwrap(), MASK);
    bytes.extend(client(0x89, b"hi", MASK));
    bytes.extend(client(0x00, &"é".as_bytes()[1..], MASK));
    bytes.extend(client(0x8a, b"", MASK));
    bytes.extend(client(0x80, b"!", MASK));
    let expected = [Incoming::Ping(b"hi".to_vec()), Incoming::Pong, Incoming::Text("é!".into())];
    assert_eq!(decode(&bytes).unwrap(), expected);
}

#[test]
fn fragments_together_keep_to_the_limit() {
    let mut bytes = client(0x01, &[b'x'; 69_999], MASK);
    bytes.extend(client(0x80, b"xx", MASK));
    assert_eq!(code_of(&bytes), 1009);
    let mut many = client(0x01, b"", MASK);
    for _ in 0..MAX_FRAGMENTS {
        many.extend(client(0x00, b"", MASK));
    }
    assert_eq!(code_of(&many), 1008);
}

#[test]
fn what_the_protocol_forbids_is_refused() {
    for first in [0xc1, 0xa1, 0x91, 0x83, 0x87, 0x8b, 0x8f] {
        assert_eq!(code_of(&client(first, b"x", MASK)), 1002, "{first:x}");
    }
    assert_eq!(code_of(&client(0x82, b"x", MASK)), 1003, "binary");
    assert_eq!(code_of(&client(0x80, b"x", MASK)), 1002, "continuation of nothing");
    let mut nested = client(0x01, b"x", MASK);
    nested.extend(client(0x81, b"x", MASK));
    assert_eq!(code_of(&nested), 1002, "message within a message");
    assert_eq!(code_of(&client(0x09, b"x", MASK)), 1002, "fragmented ping");
    assert_eq!(code_of(&client(0x89, &[b'x'; 126], MASK)), 1002, "long ping");
    assert_eq!(code_of(&[0x81, 0x01, b'x']), 1002, "unmasked");
    assert_eq!(code_of(&[0x81, 0xfe, 0x00, 0x05, 0, 0, 0, 0]), 1002, "length not in its shortest form");
    assert_eq!(code_of(&[0x81, 0xff, 0x80, 0, 0, 0, 0, 0, 0, 0]), 1002, "length of more than 63 bits");
    assert_eq!(
        code_of(&[0x81, 0xff, 0x7f, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff]),
        1009,
        "an absurd length is not waited for"
    );
    assert_eq!(code_of(&client(0x81, b"\xff\xfe", MASK)), 1007);
    assert_eq!(code_of(&client(0x81, b"\xed\xa0\x80", MASK)), 1007, "a surrogate");
}

#[test]
fn close_codes_are_checked() {
    let close = |payload: &[u8]| decode(&client(0x88, payload, MASK));
    assert_eq!(close(b"").unwrap(), [Incoming::Close(None)]);
    assert_eq!(close(b"\x03\xe8bye").unwrap(), [Incoming::Close(Some(1000))]);
    assert_eq!(close(&4001_u16.to_be_bytes()).unwrap(), [Incoming::Close(Some(4001))]);
    assert_eq!(close(b"\x03").unwrap_err().code, 1002);
    for code in [0_u16, 999, 1004, 1005, 1006, 1015, 1100, 2999, 5000, 65535] {
        assert_eq!(close(&code.to_be_bytes()).unwrap_err().code, 1002, "{code}");
    }
    assert_eq!(close(b"\x03\xe8\xff").unwrap_err().code, 1007);
}

#[test]
fn an_idle_decoder_holds_no_memory() {
    let mut decoder = Decoder::new(1_000);
    decoder.feed(&client(0x81, b"{}", MASK));
    while decoder.next().unwrap().is_some() {}
    assert_eq!(decoder.buffer.capacity(), 0);
}

#[test]
fn server_frames_have_the_shortest_header() {
    assert_eq!(&text(b"hi")[..], b"\x81\x02hi");
    assert_eq!(text(&[b'x'; 126])[..4], [0x81, 126, 0, 126]);
    assert_eq!(text(&[b'x'; 65_536])[..10], [0x81, 127, 0, 0, 0, 0, 0, 1, 0, 0]);
    assert_eq!(&close(1000, "")[..], b"\x88\x02\x03\xe8");
    let long = close(1000, &"é".repeat(100));
    assert_eq!((long.len(), std::str::from_utf8(&long[4..]).unwrap().chars().count()), (2 + 2 + 122, 61));
}

proptest! {
    /// However the bytes are cut into reads and the message into fragments, the same message comes out.
    #[test]
    fn cuts_do_not_matter(text in ".{0,300}", mask: [u8; 4], fragments in 1_usize..6, reads in proptest::collection::vec(1_usize..40, 1..20)) {
        let bytes = text.as_bytes();
        let size = bytes.len().div_ceil(fragments).max(1);
        let parts: Vec<&[u8]> = if bytes.is_empty() { vec![b""] } else { bytes.chunks(size).collect() };
        let mut wire = Vec::new();
        for (n, part) in parts.iter().enumerate() {
            let opcode = if n == 0 { TEXT } else { CONTINUATION };
            let fin = if n + 1 == parts.len() { 0x80 } else { 0 };
            wire.extend(client(opcode | fin, part, mask));
        }
        let mut decoder = Decoder::new(10_000);
        let (mut rest, mut cuts, mut got) = (&wire[..], reads.iter().cycle(), Vec::new());
        while !rest.is_empty() {
            let (now, later) = rest.split_at(rest.len().min(*cuts.next().unwrap()));
            decoder.feed(now);
            while let Some(incoming) = decoder.next().unwrap() {
                got.push(incoming);
            }
            rest = later;
        }
        prop_assert_eq!(got, vec![Incoming::Text(text)]);
    }

    /// No bytes make it panic, and a refusal always carries a code that may be sent.
    #[test]
    fn noise_is_survived(bytes in proptest::collection::vec(any::<u8>(), 0..400)) {
        if let Err(violation) = decode(&bytes) {
            prop_assert!(matches!(violation.code, 1002 | 1003 | 1007 | 1008 | 1009));
        }
    }

    #[test]
    fn unmasking_twice_changes_nothing(payload in proptest::collection::vec(any::<u8>(), 0..100), mask: [u8; 4]) {
        let mut twice = payload.clone();
        unmask(&mut twice, mask);
        for (n, byte) in twice.iter().enumerate() {
            prop_assert_eq!(*byte, payload[n] ^ mask[n % 4]);
        }
        unmask(&mut twice, mask);
        prop_assert_eq!(twice, payload);
    }
}
