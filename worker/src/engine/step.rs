//! A request compiled: address, headers, body, credentials, what a good answer is, what is captured.

use std::time::Duration;

use bytes::Bytes;
use loadgrid_common::plan;
use loadgrid_common::stats::ErrorKind;

use super::cap::CapOp;
use super::program::{Blobs, CompileError, Settings, address, part, template};
use super::template::Template;

/// A request and what is done with its answer.
#[derive(Debug)]
pub(super) struct HttpOp {
    pub(super) step: u32,
    pub(super) method: http::Method,
    pub(super) url: Url,
    pub(super) headers: Vec<(http::HeaderName, Template)>,
    pub(super) body: Body,
    pub(super) auth: Option<Auth>,
    pub(super) expect: Expect,
    pub(super) captures: Vec<Capture>,
    pub(super) required: bool,
    pub(super) redirects: u32,
    pub(super) timeout: Duration,
    pub(super) retry: Option<Retry>,
    pub(super) cap: Option<CapOp>,
    /// Whether a check or a capture reads the body as JSON.
    pub(super) reads_json: bool,
}

/// An address, parsed already where it has no holes.
#[derive(Debug)]
pub(super) enum Url {
    Fixed(url::Url),
    Template(Template),
}

/// What a request carries.
#[derive(Debug)]
pub(super) enum Body {
    None,
    Text(http::HeaderValue, Template),
    Blob(http::HeaderValue, Bytes),
    Multipart(Vec<FormPart>),
}

/// A part of a multipart body.
#[derive(Debug)]
pub(super) struct FormPart {
    pub(super) name: String,
    pub(super) content: PartContent,
}

/// What a part holds.
#[derive(Debug)]
pub(super) enum PartContent {
    Text(Template),
    File { name: String, media: String, content: Bytes },
}

/// Credentials.
#[derive(Debug)]
pub(super) enum Auth {
    None,
    Bearer(Template),
    Basic(Template, Template),
}

/// When and how often an attempt is repeated.
#[derive(Debug)]
pub(super) struct Retry {
    statuses: Vec<(u16, u16)>,
    kinds: Vec<ErrorKind>,
    pub(super) max: u32,
    backoff: Duration,
}

impl Retry {
    /// Whether an attempt that ended so is repeated.
    pub(super) fn applies(&self, error: ErrorKind, status: Option<u16>) -> bool {
        self.kinds.contains(&error) || status.is_some_and(|status| contains(&self.statuses, status))
    }

    /// How long before repetition `number`, from 0.
    pub(super) fn pause(&self, number: u32) -> Duration {
        self.backoff.saturating_mul(1 << number.min(16))
    }
}

/// What a good answer is.
#[derive(Debug)]
pub(super) struct Expect {
    pub(super) status: Option<(Vec<(u16, u16)>, u32)>,
    pub(super) not_status: Option<(Vec<(u16, u16)>, u32)>,
    pub(super) within: Option<(Duration, u32)>,
    pub(super) headers: Vec<HeaderCheck>,
    pub(super) body: Vec<BodyCheck>,
    pub(super) json: Vec<JsonCheck>,
}

#[derive(Debug)]
pub(super) struct HeaderCheck {
    pub(super) name: http::HeaderName,
    pub(super) check: u32,
    pub(super) condition: HeaderCondition,
}

#[derive(Debug)]
pub(super) enum HeaderCondition {
    Exists(bool),
    Matches(regex::Regex),
    Equals(Template),
    Contains(Template),
}

#[derive(Debug)]
pub(super) struct BodyCheck {
    pub(super) check: u32,
    pub(super) condition: BodyCondition,
}

#[derive(Debug)]
pub(super) enum BodyCondition {
    Contains(Template),
    Matches(regex::bytes::Regex),
    Length(plan::Range),
}

#[derive(Debug)]
pub(super) struct JsonCheck {
    pub(super) path: serde_json_path::JsonPath,
    pub(super) check: u32,
    pub(super) condition: JsonCondition,
}

#[derive(Debug)]
pub(super) enum JsonCondition {
    Exists(bool),
    Matches(regex::Regex),
    Equals(Template),
    Count(plan::Range),
    Type(String),
}

/// A value of an answer that becomes a variable.
#[derive(Debug)]
pub(super) struct Capture {
    pub(super) slot: usize,
    pub(super) optional: bool,
    pub(super) from: CaptureFrom,
    pub(super) pick: plan::CapturePick,
}

#[derive(Debug)]
pub(super) enum CaptureFrom {
    Json(serde_json_path::JsonPath),
    Header(http::HeaderName),
    Cookie(String),
    Regex(regex::Regex),
    Css { selector: scraper::Selector, attribute: String },
    Body,
}

/// Whether a status lies in one of these ranges.
pub(super) fn contains(ranges: &[(u16, u16)], status: u16) -> bool {
    ranges.iter().any(|&(first, last)| (first..=last).contains(&status))
}

/// Compiles headers; `slots` are a user's, where they name its variables.
pub(super) fn headers(
    headers: &[plan::Header],
    slots: &[String],
) -> Result<Vec<(http::HeaderName, Template)>, CompileError> {
    let compile = |header: &plan::Header| {
        let value = header.value.as_ref().ok_or(part("template"))?;
        Ok((header_name(&header.name)?, Template::compile_for(value, slots)?))
    };
    headers.iter().map(compile).collect()
}

fn header_name(name: &str) -> Result<http::HeaderName, CompileError> {
    http::HeaderName::from_bytes(name.as_bytes()).map_err(|_| part("header name"))
}

/// Compiles credentials; `slots` are a user's, where they name its variables.
pub(super) fn auth(auth: &plan::Auth, slots: &[String]) -> Result<Auth, CompileError> {
    let compile = |template: Option<&plan::Template>| -> Result<Template, CompileError> {
        Ok(Template::compile_for(template.ok_or(part("template"))?, slots)?)
    };
    Ok(match auth.kind.as_ref().ok_or(part("credentials"))? {
        plan::auth::Kind::None(_) => Auth::None,
        plan::auth::Kind::Bearer(token) => Auth::Bearer(compile(Some(token))?),
        plan::auth::Kind::Basic(basic) => {
            Auth::Basic(compile(basic.user.as_ref())?, compile(basic.password.as_ref())?)
        }
    })
}

/// Compiles a request.
pub(super) fn http_step(
    step: &plan::HttpStep,
    target: &url::Url,
    settings: &Settings,
    blobs: &Blobs,
) -> Result<HttpOp, CompileError> {
    let url = template(step.url.as_ref())?;
    let url = match url.constant() {
        Some(text) => Url::Fixed(address(target, text).ok_or(part("url"))?),
        None => Url::Template(url),
    };
    let expect = expect(step.expect.as_ref())?;
    let captures = step.captures.iter().map(capture).collect::<Result<Vec<_>, _>>()?;
    let reads_json = !expect.json.is_empty()
        || captures.iter().any(|capture| matches!(capture.from, CaptureFrom::Json(_)));
    Ok(HttpOp {
        step: step.step,
        method: http::Method::from_bytes(step.method.as_bytes()).map_err(|_| part("method"))?,
        url,
        headers: headers(&step.headers, &[])?,
        body: body(step, blobs)?,
        auth: step.auth.as_ref().map(|own| auth(own, &[])).transpose()?,
        expect,
        captures,
        required: step.required,
        redirects: step.redirects.unwrap_or(settings.redirects),
        timeout: step.timeout_ns.map_or(settings.response_timeout, Duration::from_nanos),
        retry: step.retry.as_ref().map(retry).transpose()?,
        cap: step.cap.as_ref().map(CapOp::of),
        reads_json,
    })
}

fn body(step: &plan::HttpStep, blobs: &Blobs) -> Result<Body, CompileError> {
    if !step.has_body {
        return Ok(Body::None);
    }
    let blob = |hash: &String| blobs.get(hash).cloned().ok_or(part("file"));
    if !step.multipart.is_empty() {
        let parts = step.multipart.iter().map(|form_part| {
            let content = match &form_part.text {
                Some(text) => PartContent::Text(Template::compile(text)?),
                None => PartContent::File {
                    name: form_part.file_name.clone(),
                    media: form_part.content_type.clone(),
                    content: blob(&form_part.blob)?,
                },
            };
            Ok(FormPart { name: form_part.name.clone(), content })
        });
        return parts.collect::<Result<_, CompileError>>().map(Body::Multipart);
    }
    let media = http::HeaderValue::from_str(&step.content_type).map_err(|_| part("content type"))?;
    if step.body_blob.is_empty() {
        Ok(Body::Text(media, template(step.body.as_ref())?))
    } else {
        Ok(Body::Blob(media, blob(&step.body_blob)?))
    }
}

fn retry(retry: &plan::Retry) -> Result<Retry, CompileError> {
    let kind = |&index: &u32| ErrorKind::ALL.get(index as usize).copied().ok_or(part("kind of failure"));
    Ok(Retry {
        statuses: ranges(&retry.statuses)?,
        kinds: retry.kinds.iter().map(kind).collect::<Result<_, _>>()?,
        max: retry.max,
        backoff: Duration::from_nanos(retry.backoff_ns),
    })
}

fn ranges(ranges: &[plan::StatusRange]) -> Result<Vec<(u16, u16)>, CompileError> {
    let status = |status: u32| u16::try_from(status).map_err(|_| part("status"));
    ranges.iter().map(|range| Ok((status(range.first)?, status(range.last)?))).collect()
}

fn pattern(text: &str) -> Result<regex::Regex, CompileError> {
    regex::Regex::new(text).map_err(|_| part("pattern"))
}

fn expect(expect: Option<&plan::Expect>) -> Result<Expect, CompileError> {
    let expect = expect.ok_or(part("expectation"))?;
    let statuses = |list: &[plan::StatusRange], check| match list.is_empty() {
        true => Ok(None),
        false => ranges(list).map(|ranges| Some((ranges, check))),
    };
    Ok(Expect {
        status: statuses(&expect.status, expect.status_check)?,
        not_status: statuses(&expect.not_status, expect.not_status_check)?,
        within: expect.within_ns.map(|ns| (Duration::from_nanos(ns), expect.within_check)),
        headers: expect.headers.iter().map(header_check).collect::<Result<_, _>>()?,
        body: expect.body.iter().map(body_check).collect::<Result<_, _>>()?,
        json: expect.json.iter().map(json_check).collect::<Result<_, _>>()?,
    })
}

fn header_check(check: &plan::HeaderCheck) -> Result<HeaderCheck, CompileError> {
    use plan::header_check::Condition;
    let condition = match check.condition.as_ref().ok_or(part("condition"))? {
        Condition::Exists(exists) => HeaderCondition::Exists(*exists),
        Condition::Matches(text) => HeaderCondition::Matches(pattern(text)?),
        Condition::Equals(value) => HeaderCondition::Equals(Template::compile(value)?),
        Condition::Contains(value) => HeaderCondition::Contains(Template::compile(value)?),
    };
    Ok(HeaderCheck { name: header_name(&check.name)?, check: check.check, condition })
}

fn body_check(check: &plan::BodyCheck) -> Result<BodyCheck, CompileError> {
    use plan::body_check::Condition;
    let condition = match check.condition.as_ref().ok_or(part("condition"))? {
        Condition::Contains(text) => BodyCondition::Contains(Template::compile(text)?),
        Condition::Matches(text) => {
            BodyCondition::Matches(regex::bytes::Regex::new(text).map_err(|_| part("pattern"))?)
        }
        Condition::Length(range) => BodyCondition::Length(*range),
    };
    Ok(BodyCheck { check: check.check, condition })
}

fn json_check(check: &plan::JsonCheck) -> Result<JsonCheck, CompileError> {
    use plan::json_check::Condition;
    let condition = match check.condition.as_ref().ok_or(part("condition"))? {
        Condition::Exists(exists) => JsonCondition::Exists(*exists),
        Condition::Matches(text) => JsonCondition::Matches(pattern(text)?),
        Condition::EqualsJson(value) => JsonCondition::Equals(Template::compile(value)?),
        Condition::Count(range) => JsonCondition::Count(*range),
        Condition::Type(name) => JsonCondition::Type(name.clone()),
    };
    Ok(JsonCheck { path: json_path(&check.path)?, check: check.check, condition })
}

fn json_path(text: &str) -> Result<serde_json_path::JsonPath, CompileError> {
    serde_json_path::JsonPath::parse(text).map_err(|_| part("JSONPath"))
}

fn capture(capture: &plan::Capture) -> Result<Capture, CompileError> {
    use plan::capture::From;
    let from = match capture.from.as_ref().ok_or(part("capture"))? {
        From::JsonPath(path) => CaptureFrom::Json(json_path(path)?),
        From::Header(name) => CaptureFrom::Header(header_name(name)?),
        From::Cookie(name) => CaptureFrom::Cookie(name.clone()),
        From::Regex(text) => CaptureFrom::Regex(pattern(text)?),
        From::Css(css) => CaptureFrom::Css {
            selector: scraper::Selector::parse(&css.selector).map_err(|_| part("CSS selector"))?,
            attribute: css.attribute.clone(),
        },
        From::Body(_) => CaptureFrom::Body,
    };
    Ok(Capture { slot: capture.slot as usize, optional: capture.optional, from, pick: capture.pick() })
}
