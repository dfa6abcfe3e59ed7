//! Logins: signed tokens with an expiry, and tokens that were logged out.

use std::collections::HashSet;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use jsonwebtoken::{DecodingKey, EncodingKey, Header, Validation};
use serde::{Deserialize, Serialize};

/// How many accounts there are: `user0@shop.test` with `pw-0` and so on.
pub(crate) const ACCOUNTS: u64 = 1_000;

/// What a token says.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Claims {
    /// The user's number.
    pub(crate) sub: u64,
    /// Expiry, in seconds since 1970.
    pub(crate) exp: u64,
    /// The token's own number.
    pub(crate) jti: u64,
}

/// Makes and checks tokens.
pub(crate) struct Auth {
    encoding: EncodingKey,
    decoding: DecodingKey,
    ttl: Duration,
    next: AtomicU64,
    /// Numbers of tokens that were logged out.
    ended: Mutex<HashSet<u64>>,
}

impl Auth {
    pub(crate) fn new(ttl: Duration) -> Self {
        // The demo's tokens are worth nothing outside of it, so its key may be known.
        let key = b"loadgrid-demo signs with a key that is no secret";
        Self {
            encoding: EncodingKey::from_secret(key),
            decoding: DecodingKey::from_secret(key),
            ttl,
            next: AtomicU64::new(1),
            ended: Mutex::default(),
        }
    }

    /// The account of an address and password.
    pub(crate) fn account(email: &str, password: &str) -> Option<u64> {
        let number: u64 = email.strip_prefix("user")?.strip_suffix("@shop.test")?.parse().ok()?;
        (number < ACCOUNTS && password.strip_prefix("pw-")?.parse() == Ok(number)).then_some(number)
    }

    /// A fresh token for a user.
    pub(crate) fn issue(&self, user: u64) -> Option<(String, Claims)> {
        let exp = (SystemTime::now() + self.ttl).duration_since(UNIX_EPOCH).ok()?.as_secs();
        let claims = Claims { sub: user, exp, jti: self.next.fetch_add(1, Ordering::Relaxed) };
        Some((jsonwebtoken::encode(&Header::default(), &claims, &self.encoding).ok()?, claims))
    }

    /// What a valid token says.
    pub(crate) fn check(&self, token: &str) -> Option<Claims> {
        // No grace: a token that has expired is refused at once.
        let mut validation = Validation::new(jsonwebtoken::Algorithm::HS256);
        validation.leeway = 0;
        let claims = jsonwebtoken::decode::<Claims>(token, &self.decoding, &validation).ok()?.claims;
        (!self.ended().contains(&claims.jti)).then_some(claims)
    }

    /// Ends a token.
    pub(crate) fn end(&self, claims: &Claims) {
        self.ended().insert(claims.jti);
    }

    fn ended(&self) -> std::sync::MutexGuard<'_, HashSet<u64>> {
        self.ended.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_are_signed_expire_and_end() {
        let auth = Auth::new(Duration::from_secs(60));
        assert_eq!(Auth::account("user7@shop.test", "pw-7"), Some(7));
        assert_eq!(Auth::account("user7@shop.test", "pw-8"), None);
        assert_eq!(Auth::account("user1000@shop.test", "pw-1000"), None);
        let (token, claims) = auth.issue(7).unwrap();
        assert_eq!(auth.check(&token), Some(claims.clone()));
        assert_eq!(auth.check(&format!("{token}x")), None);
        auth.end(&claims);
        assert_eq!(auth.check(&token), None);
        let old = Auth { next: AtomicU64::new(9), ..Auth::new(Duration::from_secs(60)) };
        let expired = Claims { sub: 1, exp: 1, jti: 1 };
        let token = jsonwebtoken::encode(&Header::default(), &expired, &old.encoding).unwrap();
        assert_eq!(old.check(&token), None);
    }
}
