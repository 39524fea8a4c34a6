//! A reader of strict DER (X.690 section 10): one tag byte, definite lengths in their shortest form. The parsers at hand
//! take other classes and longer lengths; before a signature is verified nothing but DER should pass.

pub(super) const INTEGER: u8 = 0x02;
pub(super) const BIT_STRING: u8 = 0x03;
pub(super) const SEQUENCE: u8 = 0x30;
/// `[0]`, constructed.
pub(super) const CONTEXT_0: u8 = 0xa0;

/// What is left to read.
#[derive(Clone, Copy)]
pub(super) struct Reader<'a> {
    rest: &'a [u8],
}

/// One element.
#[derive(Clone, Copy)]
pub(super) struct Element<'a> {
    /// Tag, length and content.
    pub(super) whole: &'a [u8],
    /// The content.
    pub(super) content: &'a [u8],
}

impl<'a> Reader<'a> {
    pub(super) fn new(input: &'a [u8]) -> Self {
        Self { rest: input }
    }

    /// The next element, if it has this tag.
    pub(super) fn next(&mut self, tag: u8) -> Option<Element<'a>> {
        let [found, first, ..] = *self.rest else {
            return None;
        };
        let (header, length) = match first {
            0..=0x7f => (2, usize::from(first)),
            0x81 => (3, usize::from(*self.rest.get(2)?)),
            0x82 => (4, usize::from(*self.rest.get(2)?) << 8 | usize::from(*self.rest.get(3)?)),
            // Nothing that is read here has 64 KiB.
            _ => return None,
        };
        let shortest = match header {
            2 => true,
            3 => length >= 0x80,
            _ => length >= 0x100,
        };
        if found != tag || !shortest {
            return None;
        }
        let whole = self.rest.get(..header + length)?;
        self.rest = &self.rest[whole.len()..];
        Some(Element { whole, content: &whole[header..] })
    }

    /// The content of the next INTEGER, which is positive or zero, without the zero byte that may lead it.
    pub(super) fn unsigned(&mut self) -> Option<&'a [u8]> {
        match self.next(INTEGER)?.content {
            [] | [0x80..=0xff, ..] | [0, 0..=0x7f, ..] => None,
            [0, rest @ ..] if !rest.is_empty() => Some(rest),
            content => Some(content),
        }
    }

    /// The content of the next BIT STRING, which has whole bytes.
    pub(super) fn whole_bits(&mut self) -> Option<&'a [u8]> {
        self.next(BIT_STRING)?.content.strip_prefix(&[0])
    }

    /// Nothing, if nothing is left.
    pub(super) fn end(self) -> Option<()> {
        self.rest.is_empty().then_some(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_der_passes() {
        let content = |der: &[u8]| Reader::new(der).next(SEQUENCE).map(|element| element.content.len());
        assert_eq!(content(&[0x30, 0]), Some(0));
        assert_eq!(content(&[&[0x30, 0x81, 0x80], &[0; 128][..]].concat()), Some(128));
        assert_eq!(content(&[&[0x30, 0x82, 1, 0], &[0; 256][..]].concat()), Some(256));
        for bad in
            [&[][..], &[0x30], &[0x30, 1], &[0x30, 0x80, 0, 0], &[0x30, 0x81, 0], &[0x30, 0x82, 0, 0], &[0x31, 0], &[0x70, 0], &[0x10, 0]]
        {
            assert_eq!(content(bad), None, "{bad:?}");
        }
        assert_eq!(content(&[&[0x30, 0x82, 0, 0x80], &[0; 128][..]].concat()), None);
        assert_eq!(content(&[&[0x30, 0x83, 0, 1, 0], &[0; 256][..]].concat()), None);
    }

    #[test]
    fn integers_are_short_and_not_negative() {
        let unsigned = |content: &[u8]| {
            let der = [&[INTEGER, u8::try_from(content.len()).unwrap()], content].concat();
            Reader::new(&der).unsigned().map(<[u8]>::to_vec)
        };
        assert_eq!(unsigned(&[0]), Some(vec![0]));
        assert_eq!(unsigned(&[0x7f]), Some(vec![0x7f]));
        assert_eq!(unsigned(&[0, 0x80]), Some(vec![0x80]));
        for bad in [&[][..], &[0x80], &[0, 0x7f], &[0, 0, 0x80], &[0xff, 1]] {
            assert_eq!(unsigned(bad), None, "{bad:?}");
        }
    }
}
