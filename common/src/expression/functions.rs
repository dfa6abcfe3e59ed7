//! The functions of expressions, beside `int` and `uuid`.

use base64::Engine as _;
use hmac::{Hmac, Mac as _};
use minijinja::value::Value;
use minijinja::{Environment, Error, ErrorKind, State};
use sha2::{Digest as _, Sha256};

use super::engine::{draws, json_of, text_of};
use crate::random::Draws;

pub(super) fn wrong(message: impl Into<std::borrow::Cow<'static, str>>) -> Error {
    Error::new(ErrorKind::InvalidOperation, message)
}

/// Adds them to the engine.
pub(super) fn add(engine: &mut Environment<'static>) {
    engine.add_function("pick", |state: &State<'_, '_>, list: &Value| {
        let length = list.len().filter(|length| *length > 0);
        let length = length.ok_or_else(|| wrong("pick(list): there is nothing to pick from"))?;
        let place = draws(state)?.with(|draws| draws.below(length as u64))?;
        list.get_item(&Value::from(place))
    });
    engine.add_function("zipf", |state: &State<'_, '_>, ranks: u64, exponent: Option<f64>| {
        let exponent = exponent.unwrap_or(1.0);
        if ranks == 0 || !(exponent > 0.0 && exponent.is_finite()) {
            return Err(wrong("zipf(n, s): there must be a rank, and s lies above 0"));
        }
        draws(state)?.with(|draws| zipf(draws, ranks, exponent))
    });
    engine.add_function("now_ms", super::clock::now_ms);
    engine.add_function("date", super::clock::date);
    engine.add_function("base64", |text: &Value| {
        base64::engine::general_purpose::STANDARD.encode(text_of(text).as_bytes())
    });
    engine.add_function("sha256", |text: &Value| hex(&Sha256::digest(text_of(text).as_bytes())));
    engine.add_function("hmac_sha256", |key: &Value, text: &Value| {
        // A key may have any length (RFC 2104).
        let mac = Hmac::<Sha256>::new_from_slice(text_of(key).as_bytes());
        let mut mac = mac.map_err(|_| wrong("hmac_sha256(key, text): this key cannot be used"))?;
        mac.update(text_of(text).as_bytes());
        Ok::<_, Error>(hex(&mac.finalize().into_bytes()))
    });
    engine.add_function("json", |value: &Value| json_of(value));
    engine.add_function("urlencode", |text: &Value| {
        url::form_urlencoded::byte_serialize(text_of(text).as_bytes()).collect::<String>()
    });
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// A rank from 1 to `ranks`, rank `k` with a probability in proportion to `1 / k^exponent`.
///
/// Inverts the integral of the density and rejects what the steps between whole ranks cover too much
/// (Hörmann and Derflinger, "Rejection-inversion to generate variates from monotone discrete distributions",
/// 1996), so it takes no table and on average few draws, for any number of ranks.
fn zipf(draws: &mut Draws, ranks: u64, exponent: f64) -> u64 {
    let density = |x: f64| (-exponent * x.ln()).exp();
    // The integral of the density from 1 to x, and its inverse; both have a limit where the exponent is 1.
    let rest = 1.0 - exponent;
    let integral = |x: f64| if rest.abs() < 1e-9 { x.ln() } else { (x.powf(rest) - 1.0) / rest };
    let inverse = |area: f64| {
        if rest.abs() < 1e-9 { area.exp() } else { (area * rest + 1.0).max(0.0).powf(1.0 / rest) }
    };
    let (first, last) = (integral(1.5) - 1.0, integral(ranks as f64 + 0.5));
    let always = 2.0 - inverse(integral(2.5) - density(2.0));
    loop {
        let area = first + draws.unit() * (last - first);
        let x = inverse(area);
        let rank = x.round().clamp(1.0, ranks as f64);
        if rank - x <= always || area >= integral(rank + 0.5) - density(rank) {
            return rank as u64;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::super::engine::{DrawsObject, Expression, text_of};
    use super::*;

    fn evaluate(text: &str) -> Result<String, String> {
        let draws = Arc::new(DrawsObject::default());
        draws.begin(&[4, 2], 1);
        let expression = Expression::compile(text).map_err(|error| error.to_string())?;
        let value = expression.evaluate(|_| None, &draws).map_err(|error| error.to_string())?;
        Ok(text_of(&value).into_owned())
    }

    #[test]
    fn digests_and_encodings_are_the_published_ones() {
        // FIPS 180-2, RFC 4231 test case 2, RFC 4648.
        assert_eq!(
            evaluate("sha256('abc')").unwrap(),
            "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
        );
        assert_eq!(
            evaluate("hmac_sha256('Jefe', 'what do ya want for nothing?')").unwrap(),
            "5bdcc146bf60754e6a042426089575c75a003f089d2739839dec58b964ec3843"
        );
        assert_eq!(evaluate("base64('foob')").unwrap(), "Zm9vYg==");
        assert_eq!(evaluate("urlencode('a b&ä')").unwrap(), "a+b%26%C3%A4");
        assert_eq!(evaluate("json({'a': [1, true, 'x']})").unwrap(), r#"{"a":[1,true,"x"]}"#);
    }

    #[test]
    fn picks_and_ranks_repeat_and_keep_their_shares() {
        assert_eq!(evaluate("pick(['a', 'b', 'c'])"), evaluate("pick(['a', 'b', 'c'])"));
        assert!(evaluate("pick([])").unwrap_err().contains("nothing to pick"));
        assert!(evaluate("zipf(0)").is_err() && evaluate("zipf(5, -1)").is_err());
        for exponent in [0.5, 1.0, 1.7] {
            let mut draws = Draws::keyed(&[7]);
            let mut counts = [0_u32; 20];
            (0..200_000).for_each(|_| counts[zipf(&mut draws, 20, exponent) as usize - 1] += 1);
            let weights: Vec<f64> = (1..=20).map(|k| f64::from(k).powf(-exponent)).collect();
            let all: f64 = weights.iter().sum();
            for (count, weight) in counts.iter().zip(weights) {
                let expected = 200_000.0 * weight / all;
                assert!((f64::from(*count) - expected).abs() < 5.0 * expected.sqrt(), "{counts:?}");
            }
        }
    }
}
