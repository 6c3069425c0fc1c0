//! WebSocket framing, the server's side (RFC 6455 section 5): text in, text out, no extensions.
//!
//! Own code instead of a crate, because the crates keep a read buffer per connection and write once per message; measured figures are in
//! `docs/SCALING.md`. [`Decoder`] holds no memory between messages.

use bytes::{BufMut, Bytes, BytesMut};

/// Longest payload of a control frame (section 5.5).
const MAX_CONTROL: usize = 125;
/// Frames one message may be cut into: more serves nobody but an attacker who wants the per-frame work done.
const MAX_FRAGMENTS: usize = 1_024;

const CONTINUATION: u8 = 0;
const TEXT: u8 = 1;
const BINARY: u8 = 2;
const CLOSE: u8 = 8;
const PING: u8 = 9;
const PONG: u8 = 10;

/// What a client sent.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Incoming {
    /// A whole text message.
    Text(String),
    /// To be answered with the same payload.
    Ping(Vec<u8>),
    Pong,
    /// The client's close code; `None` where it gave none.
    Close(Option<u16>),
}

/// Why a connection must end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Violation {
    pub(crate) code: u16,
    pub(crate) reason: &'static str,
}

const fn protocol(reason: &'static str) -> Violation {
    Violation { code: 1002, reason }
}

/// Turns bytes into messages. Feed it, then take messages until there is none.
#[derive(Debug)]
pub(crate) struct Decoder {
    /// Bytes that do not make a frame yet, or messages not taken yet. Empty and unallocated otherwise.
    buffer: Vec<u8>,
    taken: usize,
    message: Option<Partial>,
    max_message: usize,
}

#[derive(Debug, Default)]
struct Partial {
    text: Vec<u8>,
    fragments: usize,
}

struct Header {
    is_final: bool,
    opcode: u8,
    mask: [u8; 4],
    start: usize,
    len: usize,
}

impl Decoder {
    /// `max_message`: largest message in bytes, over all its fragments.
    pub(crate) fn new(max_message: usize) -> Self {
        Self { buffer: Vec::new(), taken: 0, message: None, max_message }
    }

    /// Adds what was read.
    pub(crate) fn feed(&mut self, bytes: &[u8]) {
        if self.taken > 0 {
            self.buffer.drain(..self.taken);
            self.taken = 0;
        }
        self.buffer.extend_from_slice(bytes);
    }

    /// The next message, or `None` until more is fed.
    ///
    /// # Errors
    /// [`Violation`]: answer with its close code; the decoder must not be used any more.
    pub(crate) fn next(&mut self) -> Result<Option<Incoming>, Violation> {
        loop {
            let header = self.header()?;
            let Some(header) = header.filter(|header| self.buffer.len() - self.taken >= header.start + header.len)
            else {
                if self.taken == self.buffer.len() {
                    // Not `clear`: an idle connection keeps no buffer.
                    self.buffer = Vec::new();
                    self.taken = 0;
                }
                return Ok(None);
            };
            let start = self.taken + header.start;
            let mut payload = self.buffer[start..start + header.len].to_vec();
            unmask(&mut payload, header.mask);
            self.taken = start + header.len;
            if let Some(incoming) = self.accept(&header, payload)? {
                return Ok(Some(incoming));
            }
        }
    }

    /// Reads and checks a header as soon as its bytes are there, so that nothing too big is ever buffered.
    fn header(&self) -> Result<Option<Header>, Violation> {
        let bytes = &self.buffer[self.taken..];
        let [first, second, ..] = *bytes else { return Ok(None) };
        if first & 0x70 != 0 {
            return Err(protocol("reserved bits are set"));
        }
        if second & 0x80 == 0 {
            return Err(protocol("client frames must be masked"));
        }
        let opcode = first & 0x0f;
        let is_final = first & 0x80 != 0;
        let short = usize::from(second & 0x7f);
        let is_control = opcode >= CLOSE;
        match opcode {
            BINARY => return Err(Violation { code: 1003, reason: "text frames only" }),
            CONTINUATION if self.message.is_none() => return Err(protocol("continuation of nothing")),
            TEXT if self.message.is_some() => return Err(protocol("a new message inside another")),
            CONTINUATION | TEXT => {}
            CLOSE | PING | PONG if is_final && short <= MAX_CONTROL => {}
            CLOSE | PING | PONG => return Err(protocol("control frames are short and whole")),
            _ => return Err(protocol("unknown opcode")),
        }
        let (len, after) = match short {
            126 => match bytes.get(2..4) {
                Some(&[a, b]) => (u64::from(u16::from_be_bytes([a, b])), 4),
                _ => return Ok(None),
            },
            127 => match bytes.get(2..10) {
                Some(&[a, b, c, d, e, f, g, h]) => (u64::from_be_bytes([a, b, c, d, e, f, g, h]), 10),
                _ => return Ok(None),
            },
            short => (short as u64, 2),
        };
        if (after == 4 && len < 126) || (after == 10 && (len <= 0xffff || len >> 63 != 0)) {
            return Err(protocol("the length is not in its shortest form"));
        }
        let before = self.message.as_ref().map_or(0, |message| message.text.len());
        let len = usize::try_from(len).unwrap_or(usize::MAX);
        if !is_control && len > self.max_message.saturating_sub(before) {
            return Err(Violation { code: 1009, reason: "message too big" });
        }
        let Some(&[a, b, c, d]) = bytes.get(after..after + 4) else { return Ok(None) };
        Ok(Some(Header { is_final, opcode, mask: [a, b, c, d], start: after + 4, len }))
    }

    fn accept(&mut self, header: &Header, payload: Vec<u8>) -> Result<Option<Incoming>, Violation> {
        match header.opcode {
            PING => Ok(Some(Incoming::Ping(payload))),
            PONG => Ok(Some(Incoming::Pong)),
            CLOSE => close_code(&payload).map(|code| Some(Incoming::Close(code))),
            _ => {
                let mut message = self.message.take().unwrap_or_default();
                message.fragments += 1;
                if message.fragments > MAX_FRAGMENTS {
                    return Err(Violation { code: 1008, reason: "too many fragments" });
                }
                if message.text.is_empty() {
                    message.text = payload;
                } else {
                    message.text.extend_from_slice(&payload);
                }
                if !header.is_final {
                    self.message = Some(message);
                    return Ok(None);
                }
                let text =
                    String::from_utf8(message.text).map_err(|_| Violation { code: 1007, reason: "invalid utf-8" })?;
                Ok(Some(Incoming::Text(text)))
            }
        }
    }
}

/// Section 7.4: what may stand in a close frame.
fn close_code(payload: &[u8]) -> Result<Option<u16>, Violation> {
    match *payload {
        [] => Ok(None),
        [a, b, ref reason @ ..] => {
            let code = u16::from_be_bytes([a, b]);
            if !matches!(code, 1000..=1003 | 1007..=1014 | 3000..=4999) {
                return Err(protocol("invalid close code"));
            }
            std::str::from_utf8(reason).map_err(|_| Violation { code: 1007, reason: "invalid utf-8" })?;
            Ok(Some(code))
        }
        [_] => Err(protocol("half a close code")),
    }
}

/// Section 5.3: XOR with the mask, eight bytes at a time.
fn unmask(payload: &mut [u8], mask: [u8; 4]) {
    let [a, b, c, d] = mask;
    let wide = u64::from_ne_bytes([a, b, c, d, a, b, c, d]);
    let mut chunks = payload.chunks_exact_mut(8);
    for chunk in &mut chunks {
        let mut word = [0; 8];
        word.copy_from_slice(chunk);
        chunk.copy_from_slice(&(u64::from_ne_bytes(word) ^ wide).to_ne_bytes());
    }
    for (byte, key) in chunks.into_remainder().iter_mut().zip(mask.iter().cycle()) {
        *byte ^= key;
    }
}

/// Length of the header that a server puts in front of `len` bytes.
pub(crate) fn header_len(len: usize) -> usize {
    match len {
        0..=125 => 2,
        126..=0xffff => 4,
        _ => 10,
    }
}

fn frame(opcode: u8, payload: &[u8]) -> Bytes {
    let mut out = BytesMut::with_capacity(header_len(payload.len()) + payload.len());
    out.put_u8(0x80 | opcode);
    // Each cast is within the range its arm matches.
    #[expect(clippy::cast_possible_truncation, reason = "each arm matches the range of its cast")]
    match payload.len() {
        len @ 0..=125 => out.put_u8(len as u8),
        len @ 126..=0xffff => {
            out.put_u8(126);
            out.put_u16(len as u16);
        }
        len => {
            out.put_u8(127);
            out.put_u64(len as u64);
        }
    }
    out.put_slice(payload);
    out.freeze()
}

/// A whole text frame.
pub(crate) fn text(payload: &[u8]) -> Bytes {
    frame(TEXT, payload)
}

/// A heartbeat; its answer counts as a sign of life.
pub(crate) fn ping() -> Bytes {
    frame(PING, b"")
}

/// The answer to a ping.
pub(crate) fn pong(payload: &[u8]) -> Bytes {
    frame(PONG, payload)
}

/// A close frame; the reason is cut to what fits, at a character's end.
pub(crate) fn close(code: u16, reason: &str) -> Bytes {
    let mut end = reason.len().min(MAX_CONTROL - 2);
    while !reason.is_char_boundary(end) {
        end -= 1;
    }
    let mut payload = code.to_be_bytes().to_vec();
    payload.extend_from_slice(&reason.as_bytes()[..end]);
    frame(CLOSE, &payload)
}

#[cfg(test)]
mod tests;
