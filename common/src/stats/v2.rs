//! Histograms on the wire: HdrHistogram's V2 format, uncompressed.
//!
//! The reference crate's decoder allocates what the header asks for, before it looks at the data; a
//! hostile sender could ask for gigabytes. This one compares the header and the length with the layout
//! first, and then adds the counts straight into a histogram that exists.

use super::{Histogram, Layout};

const COOKIE: u32 = 0x1c84_9303 | 0x10;
const HEADER: usize = 40;

/// Why bytes are not a histogram of the expected layout.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DecodeError {
    /// Not this format.
    #[error("not an HdrHistogram V2 payload")]
    NotV2,
    /// Another layout than the plan's.
    #[error("another histogram layout than the plan's")]
    WrongLayout,
    /// The header's length is not the length of what follows.
    #[error("the length in the header does not match")]
    WrongLength,
    /// The counts end in the middle or reach past the layout.
    #[error("the counts are damaged")]
    Damaged,
}

/// Appends the V2 form of a histogram.
pub fn encode(histogram: &Histogram, out: &mut Vec<u8>) {
    let begin = out.len();
    out.extend_from_slice(&COOKIE.to_be_bytes());
    out.extend_from_slice(&[0; 8]);
    out.extend_from_slice(&Layout::DIGITS.to_be_bytes());
    out.extend_from_slice(&histogram.layout().lowest().to_be_bytes());
    out.extend_from_slice(&histogram.layout().highest().to_be_bytes());
    out.extend_from_slice(&1.0_f64.to_be_bytes());
    let mut next = 0;
    for (index, count) in histogram.buckets() {
        match index - next {
            0 => {}
            1 => put(out, 0),
            zeros => put(out, -(zeros as i64)),
        }
        put(out, i64::try_from(count).unwrap_or(i64::MAX));
        next = index + 1;
    }
    if next == 0 {
        // The reference writes one zero for an empty histogram.
        put(out, 0);
    }
    let length = u32::try_from(out.len() - begin - HEADER).unwrap_or(u32::MAX);
    out[begin + 4..begin + 8].copy_from_slice(&length.to_be_bytes());
}

/// Adds the counts of a V2 payload to `into`, calling `each(bucket, count)` for every one.
/// Returns the number of values.
///
/// # Errors
/// Where the payload is not one of `into`'s layout; then some of its counts may have been added, so
/// decode into a scratch histogram where the sender is not trusted.
pub fn decode_into(
    bytes: &[u8],
    into: &mut Histogram,
    mut each: impl FnMut(usize, u64),
) -> Result<u64, DecodeError> {
    let (header, mut rest) = bytes.split_at_checked(HEADER).ok_or(DecodeError::NotV2)?;
    let word = |at: usize| u32::from_be_bytes([header[at], header[at + 1], header[at + 2], header[at + 3]]);
    let long = |at: usize| u64::from(word(at)) << 32 | u64::from(word(at + 4));
    if word(0) != COOKIE {
        return Err(DecodeError::NotV2);
    }
    let layout = into.layout();
    if word(8) != 0
        || word(12) != Layout::DIGITS
        || long(16) != layout.lowest()
        || long(24) != layout.highest()
    {
        return Err(DecodeError::WrongLayout);
    }
    if usize::try_from(word(4)) != Ok(rest.len()) {
        return Err(DecodeError::WrongLength);
    }
    let (mut index, mut total) = (0_usize, 0_u64);
    while !rest.is_empty() {
        let value = take(&mut rest).ok_or(DecodeError::Damaged)?;
        if value < 0 {
            let zeros = usize::try_from(value.unsigned_abs()).map_err(|_| DecodeError::Damaged)?;
            index = index
                .checked_add(zeros)
                .filter(|&index| index <= layout.buckets())
                .ok_or(DecodeError::Damaged)?;
            continue;
        }
        if value > 0 {
            if index >= layout.buckets() {
                return Err(DecodeError::Damaged);
            }
            let count = value.unsigned_abs();
            total = total.checked_add(count).ok_or(DecodeError::Damaged)?;
            into.add_at(index, count);
            each(index, count);
        }
        index += 1;
    }
    Ok(total)
}

/// Zig-zag, then LEB128 of at most nine bytes, the ninth with all eight bits.
fn put(out: &mut Vec<u8>, value: i64) {
    let mut bits = ((value << 1) ^ (value >> 63)).cast_unsigned();
    for _ in 0..8 {
        if bits < 0x80 {
            out.push(bits as u8);
            return;
        }
        out.push((bits & 0x7F) as u8 | 0x80);
        bits >>= 7;
    }
    out.push(bits as u8);
}

fn take(rest: &mut &[u8]) -> Option<i64> {
    let mut bits = 0_u64;
    for place in 0..9 {
        let (&byte, after) = rest.split_first()?;
        *rest = after;
        if place == 8 {
            bits |= u64::from(byte) << 56;
            break;
        }
        bits |= u64::from(byte & 0x7F) << (7 * place);
        if byte < 0x80 {
            break;
        }
    }
    Some((bits >> 1).cast_signed() ^ -(bits & 1).cast_signed())
}

#[cfg(test)]
mod tests {
    use hdrhistogram::serialization::{Deserializer, Serializer, V2Serializer};
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn the_reference_crate_reads_and_writes_the_same_bytes(values in prop::collection::vec(0_u64..600_000_000, 0..200)) {
            let mut ours = Histogram::new(Layout::Times);
            let mut theirs = hdrhistogram::Histogram::<u64>::new_with_bounds(1, Layout::Times.highest(), 3).unwrap();
            for &value in &values {
                ours.record(value);
                theirs.record(value).unwrap();
            }
            let (mut a, mut b) = (Vec::new(), Vec::new());
            encode(&ours, &mut a);
            V2Serializer::new().serialize(&theirs, &mut b).unwrap();
            prop_assert_eq!(&a, &b);
            let read: hdrhistogram::Histogram<u64> = Deserializer::new().deserialize(&mut &a[..]).unwrap();
            prop_assert_eq!(read.len(), values.len() as u64);
            let mut back = Histogram::new(Layout::Times);
            prop_assert_eq!(decode_into(&b, &mut back, |_, _| ()), Ok(values.len() as u64));
            prop_assert_eq!(back, ours);
        }

        #[test]
        fn damaged_bytes_never_panic(mut bytes in prop::collection::vec(any::<u8>(), 0..120), keep_header: bool) {
            if keep_header {
                let mut good = Vec::new();
                encode(&Histogram::new(Layout::Times), &mut good);
                good.truncate(HEADER);
                let length = u32::try_from(bytes.len()).unwrap();
                good[4..8].copy_from_slice(&length.to_be_bytes());
                good.append(&mut bytes);
                bytes = good;
            }
            let mut scratch = Histogram::new(Layout::Times);
            let _outcome = decode_into(&bytes, &mut scratch, |_, _| ());
        }
    }

    #[test]
    fn a_header_that_asks_for_gigabytes_is_refused() {
        let mut bytes = Vec::new();
        encode(&Histogram::new(Layout::Times), &mut bytes);
        let refused = |at: usize, word: u32| {
            let mut bytes = bytes.clone();
            bytes[at..at + 4].copy_from_slice(&word.to_be_bytes());
            decode_into(&bytes, &mut Histogram::new(Layout::Times), |_, _| ()).unwrap_err()
        };
        assert_eq!(refused(4, u32::MAX), DecodeError::WrongLength);
        assert_eq!(refused(12, 5), DecodeError::WrongLayout);
        assert_eq!(refused(24, u32::MAX), DecodeError::WrongLayout);
        assert_eq!(refused(0, 0), DecodeError::NotV2);
    }
}
