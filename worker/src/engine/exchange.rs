//! One request of a virtual user: built, sent under its caps, redirects followed, repeated where it should be.

use std::rc::Rc;
use std::time::Duration;

use base64::Engine as _;
use bytes::Bytes;
use cookie_store::CookieStore;
use loadgrid_common::expression::EvalError;
use loadgrid_common::plan;
use loadgrid_common::process::now;
use loadgrid_common::stats::ErrorKind;
use loadgrid_common::time::Moment;

use super::cap::{Slot, Slots};
use super::program::address;
use super::step::{Auth, Body, FormPart, HttpOp, PartContent, Retry, Url};
use super::template::Template;
use super::user::{Last, VirtualUser};
use crate::client::{Answer, HttpClient as _, Request};
use crate::record::ExchangeRecord;

/// What separates the parts of a multipart body; followed by the run's hash, so that no content holds it.
const BOUNDARY: &str = "loadgrid-part-";

/// How an attempt ended.
struct Attempt {
    error: Option<ErrorKind>,
    status: Option<u16>,
}

/// Where an answer sends its client.
enum Redirect {
    /// Nowhere: it is the answer.
    No,
    To(url::Url, http::Method),
    /// It should, and does not say where.
    Broken,
}

impl VirtualUser {
    /// Sends a request, again where it failed and should be repeated; every attempt and every redirect is an
    /// exchange. Returns whether all was well in the end.
    pub(super) async fn exchange(
        &mut self,
        op: &HttpOp,
        mut due: Moment,
        keys: &[u64],
    ) -> Result<bool, EvalError> {
        // Built once: a repetition is the same request, with the same idempotency key.
        let mut request = self.request(op)?;
        let mut repeated = 0;
        loop {
            let again = op.retry.as_ref().filter(|retry| repeated < retry.max);
            let again = again.map(|retry| (retry, request.clone()));
            let attempt = self.attempt(op, request, due, keys).await?;
            let Some(error) = attempt.error else { return Ok(true) };
            let applies = |retry: &Retry| retry.applies(error, attempt.status);
            let Some((retry, same)) = again.filter(|(retry, _)| applies(retry)) else {
                self.note_failure(op, error, attempt.status);
                return Ok(false);
            };
            self.thread.recorder.retry(op.step);
            due = now() + retry.pause(repeated);
            repeated += 1;
            self.thread.timer.sleep_until(due).await;
            request = same;
        }
    }

    fn note_failure(&mut self, op: &HttpOp, error: ErrorKind, status: Option<u16>) {
        if self.failure.is_none() {
            let step = self.thread.program.plan.steps.get(op.step as usize).cloned().unwrap_or_default();
            let what = match (error, status) {
                (ErrorKind::Status, Some(status)) => format!("status {status}"),
                (kind, Some(status)) => format!("{kind} (status {status})"),
                (kind, None) => kind.to_string(),
            };
            self.failure = Some(format!("step `{step}`: {what}"));
        }
    }

    /// Waits until every cap lets the request pass; gives what it holds meanwhile, and how long it waited.
    async fn take_slots(&mut self, op: &HttpOp) -> (Vec<Slot>, Option<Duration>) {
        let thread = self.thread.clone();
        let mut caps: Vec<Rc<Slots>> = Vec::new();
        // The narrow one first, so that nobody who waits for it keeps a slot that all others need.
        for (cap, own) in [(op.cap.as_ref(), true), (thread.program.cap.as_ref(), false)] {
            let Some(cap) = cap else { continue };
            caps.push(match cap.per {
                plan::CapPer::User => self.caps.borrow_mut().slots(cap, own, op.step),
                plan::CapPer::Grid | plan::CapPer::Step => thread.caps.slots(cap, own, op.step),
            });
        }
        if caps.is_empty() {
            return (Vec::new(), None);
        }
        let (began, mut slots) = (now(), Vec::with_capacity(caps.len()));
        for cap in caps {
            slots.push(cap.take(&thread.timer).await);
        }
        slots.iter_mut().for_each(Slot::begin);
        (slots, Some(now().since(began)))
    }

    /// One attempt, with the redirects it leads to.
    async fn attempt(
        &mut self,
        op: &HttpOp,
        mut request: Request,
        mut due: Moment,
        keys: &[u64],
    ) -> Result<Attempt, EvalError> {
        let mut hops = 0;
        loop {
            let (slots, waited) = self.take_slots(op).await;
            if let Some(waited) = waited {
                self.thread.recorder.cap_wait(op.step, waited);
                due = due + waited;
            }
            let guard = self.thread.recorder.exchange(op.step);
            let (url, method) = (request.url.clone(), request.method.clone());
            let max_body = self.thread.program.settings.max_body;
            let exchange = self.client.exchange(request.clone(), op.timeout, max_body).await;
            drop(slots);
            let response = exchange.done.since(due);
            let mut record = ExchangeRecord {
                response,
                service: exchange.done.since(exchange.sent),
                connect: exchange.connect,
                tls: exchange.tls,
                first_byte: exchange.first_byte.map(|first| first.since(exchange.sent)),
                status: None,
                bytes_sent: exchange.bytes_sent,
                bytes_received: exchange.bytes_received,
                error: None,
            };
            let answer = match exchange.outcome {
                Ok(answer) => answer,
                Err(kind) => {
                    record.error = Some(kind);
                    guard.end(&record);
                    self.state.last = None;
                    return Ok(Attempt { error: Some(kind), status: None });
                }
            };
            let status = Some(answer.status);
            record.status = status;
            if let Some(cookies) = &mut self.cookies {
                keep_cookies(cookies, &answer, &url);
            }
            let next = if op.redirects > 0 { redirect(&answer, &url, &method) } else { Redirect::No };
            record.error = match next {
                Redirect::To(next_url, next_method) if hops < op.redirects => {
                    guard.end(&record);
                    hops += 1;
                    due = exchange.done;
                    request = self.follow(request, next_url, next_method, &url);
                    continue;
                }
                Redirect::To(..) => {
                    self.state.last = Some(Last { answer, json: None });
                    Some(ErrorKind::Redirects)
                }
                Redirect::Broken => {
                    self.state.last = Some(Last { answer, json: None });
                    Some(ErrorKind::RedirectAddress)
                }
                Redirect::No => {
                    self.state.last = Some(Last { answer, json: None });
                    match self.judge(op, response, keys) {
                        Ok(error) => error,
                        Err(error) => {
                            // The answer came; that it cannot be judged is told apart from it.
                            record.error = Some(ErrorKind::Check);
                            guard.end(&record);
                            return Err(error);
                        }
                    }
                }
            };
            guard.end(&record);
            return Ok(Attempt { error: record.error, status });
        }
    }

    fn request(&self, op: &HttpOp) -> Result<Request, EvalError> {
        let url = match &op.url {
            Url::Fixed(url) => url.clone(),
            Url::Template(template) => {
                let text = self.text(template)?;
                address(&self.state.constants().target, &text).ok_or_else(|| {
                    let step =
                        self.thread.program.plan.steps.get(op.step as usize).cloned().unwrap_or_default();
                    EvalError { expression: step, message: "its url is not an address".to_owned() }
                })?
            }
        };
        let mut headers = self.thread.default_headers.clone();
        for (name, template) in &self.state.program().headers {
            headers.insert(name.clone(), self.header_value(name, template)?);
        }
        if let (Some(auth), None) = (&self.state.program().auth, &op.auth) {
            // Credentials of all requests are left out until there are some: before a login, say.
            if let Ok(Some(value)) = self.credentials(auth) {
                headers.insert(http::header::AUTHORIZATION, value);
            }
        }
        headers.extend(
            self.headers.iter().map(|(name, value)| (Some(name.clone()), value.clone())).collect::<Vec<_>>(),
        );
        match op.auth.as_ref().map(|auth| self.credentials(auth)).transpose()? {
            Some(Some(value)) => drop(headers.insert(http::header::AUTHORIZATION, value)),
            Some(None) => drop(headers.remove(http::header::AUTHORIZATION)),
            None => {}
        }
        let body = self.body(&op.body, &mut headers)?;
        for (name, template) in &op.headers {
            headers.insert(name.clone(), self.header_value(name, template)?);
        }
        let mut request = Request { method: op.method.clone(), url, headers, body };
        self.add_cookies(&mut request);
        Ok(request)
    }

    fn text(&self, template: &Template) -> Result<String, EvalError> {
        let mut text = String::new();
        template.render(&self.state, &mut text)?;
        Ok(text)
    }

    /// The header of credentials; `None` for `none`.
    fn credentials(&self, auth: &Auth) -> Result<Option<http::HeaderValue>, EvalError> {
        let text = match auth {
            Auth::None => return Ok(None),
            Auth::Bearer(token) => format!("Bearer {}", self.text(token)?),
            Auth::Basic(user, password) => {
                let pair = format!("{}:{}", self.text(user)?, self.text(password)?);
                format!("Basic {}", base64::engine::general_purpose::STANDARD.encode(pair))
            }
        };
        let mut value = http::HeaderValue::from_str(&text).map_err(|_| EvalError {
            expression: "auth".to_owned(),
            message: "has a value that no header can have (a line end, perhaps)".to_owned(),
        })?;
        value.set_sensitive(true);
        Ok(Some(value))
    }

    fn body(&self, body: &Body, headers: &mut http::HeaderMap) -> Result<Option<Bytes>, EvalError> {
        let (media, content) = match body {
            Body::None => return Ok(None),
            Body::Text(media, template) => (media.clone(), Bytes::from(self.text(template)?)),
            Body::Blob(media, content) => (media.clone(), content.clone()),
            Body::Multipart(parts) => {
                let boundary = format!("{BOUNDARY}{:016x}", self.thread.run_hash);
                let media = format!("multipart/form-data; boundary={boundary}");
                let media = http::HeaderValue::from_str(&media).map_err(|_| EvalError {
                    expression: "multipart".to_owned(),
                    message: "its boundary cannot be written".to_owned(),
                })?;
                (media, self.multipart(parts, &boundary)?)
            }
        };
        headers.insert(http::header::CONTENT_TYPE, media);
        Ok(Some(content))
    }

    /// A multipart/form-data body (RFC 7578).
    fn multipart(&self, parts: &[FormPart], boundary: &str) -> Result<Bytes, EvalError> {
        let mut out = Vec::new();
        for part in parts {
            let name = &part.name;
            out.extend_from_slice(
                format!("--{boundary}\r\ncontent-disposition: form-data; name=\"{name}\"").as_bytes(),
            );
            match &part.content {
                PartContent::Text(template) => {
                    out.extend_from_slice(b"\r\n\r\n");
                    out.extend_from_slice(self.text(template)?.as_bytes());
                }
                PartContent::File { name, media, content } => {
                    let head = format!("; filename=\"{name}\"\r\ncontent-type: {media}\r\n\r\n");
                    out.extend_from_slice(head.as_bytes());
                    out.extend_from_slice(content);
                }
            }
            out.extend_from_slice(b"\r\n");
        }
        out.extend_from_slice(format!("--{boundary}--\r\n").as_bytes());
        Ok(Bytes::from(out))
    }

    fn add_cookies(&self, request: &mut Request) {
        let Some(store) = &self.cookies else { return };
        let mut pairs: Vec<String> =
            store.get_request_values(&request.url).map(|(name, value)| format!("{name}={value}")).collect();
        if pairs.is_empty() {
            return;
        }
        if let Some(own) = request.headers.get(http::header::COOKIE).and_then(|value| value.to_str().ok()) {
            pairs.push(own.to_owned());
        }
        if let Ok(value) = http::HeaderValue::from_str(&pairs.join("; ")) {
            request.headers.insert(http::header::COOKIE, value);
        }
    }

    fn follow(&self, mut request: Request, url: url::Url, method: http::Method, from: &url::Url) -> Request {
        if method != request.method {
            request.body = None;
            request.headers.remove(http::header::CONTENT_TYPE);
        }
        let same_origin = url.origin() == from.origin();
        request.headers.remove(http::header::COOKIE);
        if !same_origin {
            // Credentials are for the host they were given for.
            request.headers.remove(http::header::AUTHORIZATION);
        }
        request.method = method;
        request.url = url;
        self.add_cookies(&mut request);
        request
    }
}

fn keep_cookies(store: &mut CookieStore, answer: &Answer, url: &url::Url) {
    for value in answer.headers.get_all(http::header::SET_COOKIE) {
        // A cookie that cannot be read is the target's affair; a browser would drop it, too.
        if let Ok(Err(error)) = value.to_str().map(|text| store.parse(text, url).map(|_| ())) {
            tracing::trace!(%error, "a cookie was not kept");
        }
    }
}

/// Where an answer sends its client, and with which method (RFC 9110, section 15.4).
fn redirect(answer: &Answer, url: &url::Url, method: &http::Method) -> Redirect {
    let method = match answer.status {
        301 | 302 if *method == http::Method::POST => http::Method::GET,
        303 if *method != http::Method::HEAD => http::Method::GET,
        301 | 302 | 303 | 307 | 308 => method.clone(),
        _ => return Redirect::No,
    };
    let location = answer.headers.get(http::header::LOCATION).and_then(|location| location.to_str().ok());
    let next = location.and_then(|location| url.join(location).ok());
    match next.filter(|next| matches!(next.scheme(), "http" | "https")) {
        Some(next) => Redirect::To(next, method),
        None => Redirect::Broken,
    }
}
