//! Lets in clients that put a socket's path into `:authority`.
//!
//! gRPC's C core (Python, C++, Ruby and others) and grpc-java name a unix socket by its path, which is no authority by RFC 9113 section
//! 8.3.1; the HTTP/2 library here refuses it with PROTOCOL_ERROR before any service is asked. On a unix socket the authority says
//! nothing, so another one takes its place before it is read.

use std::{
    io,
    ops::Range,
    pin::Pin,
    task::{Context, Poll, ready},
};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tonic::transport::server::Connected;

/// What a connection starts with, before its frames (RFC 9113 section 3.4).
const PREFACE: usize = "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".len();

/// Length, type, flags and stream (RFC 9113 section 4.1).
const FRAME_HEAD: usize = 9;

/// The longest frame that is looked into: what a server takes unless it says otherwise. A longer one goes by, and is refused.
const MAX_FRAME: usize = 16_384;

/// Read from the socket at once.
const CHUNK: usize = 4_096;

const HEADERS: u8 = 1;
const PADDED: u8 = 0x8;
const PRIORITY: u8 = 0x20;

/// `:authority` in HPACK's static table (RFC 7541 appendix A).
const AUTHORITY_INDEX: usize = 1;

/// What every request says instead: as short as can be, because an entry of HPACK's dynamic table that is longer than the client's own
/// would push out others that the client still refers to.
const INSTEAD: [u8; 2] = [1, b'u'];

/// A connection whose client may say any authority. Only header frames are held back until they are whole, 16 KiB at most.
pub struct AnyAuthority<S> {
    stream: S,
    /// Not looked at yet.
    raw: Vec<u8>,
    /// To be read, from `taken` on.
    ready: Vec<u8>,
    taken: usize,
    /// Bytes that go by unseen.
    passing: usize,
}

impl<S> AnyAuthority<S> {
    /// Over a connection that nothing was read from yet.
    pub fn new(stream: S) -> Self {
        Self { stream, raw: Vec::new(), ready: Vec::new(), taken: 0, passing: PREFACE }
    }

    fn sift(&mut self) {
        loop {
            let passes = self.passing.min(self.raw.len());
            self.ready.extend(self.raw.drain(..passes));
            self.passing -= passes;
            let Some((&[a, b, c, kind, ..], _)) = self.raw.split_first_chunk::<FRAME_HEAD>() else { return };
            let whole = FRAME_HEAD + usize::from(a) * 65_536 + usize::from(b) * 256 + usize::from(c);
            if kind != HEADERS || whole > FRAME_HEAD + MAX_FRAME {
                self.passing = whole;
            } else if self.raw.len() >= whole {
                let mut frame: Vec<u8> = self.raw.drain(..whole).collect();
                replace_authority(&mut frame);
                self.ready.append(&mut frame);
            } else {
                return;
            }
        }
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for AnyAuthority<S> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = &mut *self;
        while this.taken == this.ready.len() {
            this.ready.clear();
            this.taken = 0;
            let mut chunk = [0; CHUNK];
            let mut read = ReadBuf::new(&mut chunk);
            ready!(Pin::new(&mut this.stream).poll_read(cx, &mut read))?;
            if read.filled().is_empty() {
                // The end: a frame that was cut off is the reader's to judge.
                this.ready.append(&mut this.raw);
                if this.ready.is_empty() {
                    return Poll::Ready(Ok(()));
                }
                break;
            }
            this.raw.extend_from_slice(read.filled());
            this.sift();
        }
        let takes = buf.remaining().min(this.ready.len() - this.taken);
        buf.put_slice(&this.ready[this.taken..this.taken + takes]);
        this.taken += takes;
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for AnyAuthority<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, buf)
    }

    fn poll_write_vectored(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bufs: &[io::IoSlice<'_>]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

impl<S: Connected> Connected for AnyAuthority<S> {
    type ConnectInfo = S::ConnectInfo;

    fn connect_info(&self) -> Self::ConnectInfo {
        self.stream.connect_info()
    }
}

/// In a whole HEADERS frame. One that makes no sense stays as it is.
fn replace_authority(frame: &mut Vec<u8>) {
    let (flags, payload) = (frame[4], &frame[FRAME_HEAD..]);
    let Some(value) = Block::of(payload, flags).and_then(Block::authority) else { return };
    // An empty one is shorter than what would take its place.
    if value.len() < INSTEAD.len() {
        return;
    }
    frame.splice(FRAME_HEAD + value.start..FRAME_HEAD + value.end, INSTEAD);
    let length = u32::try_from(frame.len() - FRAME_HEAD).expect("a frame that became no longer").to_be_bytes();
    frame[..3].copy_from_slice(&length[1..]);
}

/// A header block (RFC 7541 section 6), as far as it lies in one frame.
struct Block<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl<'a> Block<'a> {
    fn of(payload: &'a [u8], flags: u8) -> Option<Self> {
        let (padding, mut at) = if flags & PADDED == 0 { (0, 0) } else { (usize::from(*payload.first()?), 1) };
        if flags & PRIORITY != 0 {
            at += 5;
        }
        Some(Self { bytes: payload.get(..payload.len().checked_sub(padding)?)?, at })
    }

    /// Where the authority's value stands, its length included. A client that sends it in full names it by the static table, or in
    /// plain letters; afterwards it refers to what it sent.
    fn authority(mut self) -> Option<Range<usize>> {
        loop {
            let first = *self.bytes.get(self.at)?;
            if first & 0x80 != 0 {
                self.integer(7)?;
            } else if first & 0xe0 == 0x20 {
                self.integer(5)?;
            } else {
                let is_authority = match self.integer(if first & 0x40 == 0 { 4 } else { 6 })? {
                    0 => self.string()? == b":authority",
                    index => index == AUTHORITY_INDEX,
                };
                let start = self.at;
                self.string()?;
                if is_authority {
                    return Some(start..self.at);
                }
            }
        }
    }

    /// RFC 7541 section 5.1.
    fn integer(&mut self, prefix: u32) -> Option<usize> {
        let most = (1 << prefix) - 1;
        let mut value = usize::from(self.next()?) & most;
        if value < most {
            return Some(value);
        }
        for shift in [0, 7, 14] {
            let byte = usize::from(self.next()?);
            value += (byte & 0x7f) << shift;
            if byte & 0x80 == 0 {
                return Some(value);
            }
        }
        None
    }

    /// RFC 7541 section 5.2: as it is coded.
    fn string(&mut self) -> Option<&'a [u8]> {
        let length = self.integer(7)?;
        let string = self.bytes.get(self.at..self.at.checked_add(length)?)?;
        self.at += length;
        Some(string)
    }

    fn next(&mut self) -> Option<u8> {
        let byte = *self.bytes.get(self.at)?;
        self.at += 1;
        Some(byte)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::VecDeque;

    use proptest::prelude::*;
    use tokio::io::AsyncReadExt;

    use super::*;

    const BEGIN: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

    fn frame(kind: u8, flags: u8, payload: &[u8]) -> Vec<u8> {
        let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
        [&length[1..], &[kind, flags, 0, 0, 0, 1], payload].concat()
    }

    fn literal(first: &[u8], value: &[u8]) -> Vec<u8> {
        [first, &[u8::try_from(value.len()).unwrap()], value].concat()
    }

    /// What a reader sees when the bytes come in chunks.
    fn seen(bytes: &[u8], chunk: usize) -> Vec<u8> {
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        let mut all = Vec::new();
        runtime.block_on(AnyAuthority::new(Chunks(bytes.chunks(chunk).map(<[u8]>::to_vec).collect())).read_to_end(&mut all)).unwrap();
        all
    }

    struct Chunks(VecDeque<Vec<u8>>);

    impl AsyncRead for Chunks {
        fn poll_read(mut self: Pin<&mut Self>, _: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
            // Each is shorter than what is read at once.
            self.0.pop_front().into_iter().for_each(|chunk| buf.put_slice(&chunk));
            Poll::Ready(Ok(()))
        }
    }

    /// As gRPC's C core says it: in letters, then by reference.
    #[test]
    fn a_path_becomes_an_authority() {
        let head = [b"@\x05:path\x04/a/b".to_vec(), literal(b"@\x0a:authority", b"tmp%2Fx.sock"), b"\x83\x86".to_vec()].concat();
        let instead = [b"@\x05:path\x04/a/b".to_vec(), literal(b"@\x0a:authority", b"u"), b"\x83\x86".to_vec()].concat();
        let data = frame(0, 1, b"\x41\x05hello, which looks like a header");
        let (sent, expected) = (frame(HEADERS, 4, &head), frame(HEADERS, 4, &instead));
        for chunk in [1, 7, CHUNK] {
            let all = [BEGIN, &frame(4, 0, &[]), &sent, &data, &frame(HEADERS, 4, b"\xbe\x83")].concat();
            assert_eq!(seen(&all, chunk), [BEGIN, &frame(4, 0, &[]), &expected, &data, &frame(HEADERS, 4, b"\xbe\x83")].concat());
        }
    }

    #[test]
    fn by_the_static_table_with_padding_and_priority() {
        let head = [&[2, 0, 0, 0, 0, 9][..], &literal(&[0x41], b"/run/x.sock"), &[0, 0]].concat();
        let instead = [&[2, 0, 0, 0, 0, 9][..], &literal(&[0x41], b"u"), &[0, 0]].concat();
        let flags = PADDED | PRIORITY;
        assert_eq!(seen(&[BEGIN, &frame(HEADERS, flags, &head)].concat(), 64), [BEGIN, &frame(HEADERS, flags, &instead)].concat());
    }

    #[test]
    fn what_makes_no_sense_or_is_too_long_goes_by() {
        let long = frame(HEADERS, 4, &[&literal(&[0x41], b"/x"), &vec![0x82; MAX_FRAME][..]].concat());
        for bytes in [frame(HEADERS, 4, &[0x41, 0x7f, 1]), frame(HEADERS, PADDED, &[200]), literal(&[0x41], b""), long, vec![0, 0, 9, 1]] {
            let all = [BEGIN, &bytes].concat();
            assert_eq!(seen(&all, 100), all);
        }
    }

    proptest! {
        #[test]
        fn nothing_that_comes_is_lost_or_ends_it(bytes in prop::collection::vec(any::<u8>(), 0..300), chunk in 1_usize..50) {
            prop_assert!(seen(&[BEGIN, &bytes].concat(), chunk).starts_with(BEGIN));
            let other_frames = [BEGIN, &frame(0, 0, &bytes)].concat();
            prop_assert_eq!(seen(&other_frames, chunk), other_frames);
        }
    }
}
