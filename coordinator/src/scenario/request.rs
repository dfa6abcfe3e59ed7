//! Requests as written to requests of the plan: address, body, credentials, what a good answer is, captures.

use loadgrid_common::plan::{self as plan, Template};
use loadgrid_common::stats::{Blame, ErrorKind};
use loadgrid_common::time::nanos;

use super::decode::{Mapped, Text};
use super::document::{self as doc, CaptureFrom, JsonExpect};
use super::flow::{Flows, intern};
use super::problem::suggest;
use super::template::fixed;

/// The most attempts that repeat one.
const MOST_RETRIES: u64 = 100;

/// A body of the plan, and its media type.
#[derive(Default)]
struct Body {
    text: Option<Template>,
    blob: String,
    parts: Vec<plan::FormPart>,
    content_type: String,
}

impl Flows<'_> {
    pub(super) fn request(&mut self, method: &str, request: &doc::Request) -> Option<plan::HttpStep> {
        let name = request
            .name
            .as_ref()
            .map_or_else(|| format!("{method} {}", request.url.value), |name| name.0.value.clone());
        let url = self.url(&request.url, request.query.as_ref());
        let headers = self.request_headers(request);
        let body = self.body(request);
        let expect = self.expect(&name, request.expect.as_ref());
        let captures = request.capture.as_ref().map_or(Some(Vec::new()), |captures| self.captures(captures));
        let redirects = request.redirects.as_ref().map(|count| self.constants.quantity(count, self.sink));
        let timeout = request.timeout.as_ref().map(|timeout| self.ns(timeout));
        let auth = request.auth.as_ref().map(|auth| self.auth(auth));
        let retry = request.retry.as_ref().map(|retry| self.retry(retry));
        let cap = request.cap.as_ref().map(|cap| self.cap(cap));
        let labels = request.labels.as_ref().map_or(Some(Vec::new()), |labels| self.labels(labels));
        let place = plan::StepPlace { group: self.group, labels: labels? };
        let step = self.names.step(&name, place);
        let body = body?;
        Some(plan::HttpStep {
            step,
            method: method.to_owned(),
            url: Some(url?),
            headers: headers?,
            has_body: body.text.is_some() || !body.blob.is_empty() || !body.parts.is_empty(),
            body: body.text,
            body_blob: body.blob,
            multipart: body.parts,
            content_type: body.content_type,
            expect: Some(expect?),
            captures: captures?,
            required: request.required.unwrap_or(false),
            redirects: match redirects {
                Some(redirects) => Some(u32::try_from(redirects?).unwrap_or(u32::MAX)),
                None => None,
            },
            timeout_ns: match timeout {
                Some(timeout) => Some(timeout?),
                None => None,
            },
            auth: match auth {
                Some(auth) => Some(auth?),
                None => None,
            },
            retry: match retry {
                Some(retry) => Some(retry?),
                None => None,
            },
            cap: match cap {
                Some(cap) => Some(cap?),
                None => None,
            },
        })
    }

    fn request_headers(&mut self, request: &doc::Request) -> Option<Vec<plan::Header>> {
        let mut headers =
            request.headers.as_ref().map_or(Some(Vec::new()), |headers| self.headers(headers))?;
        if let Some(cookies) = &request.cookies {
            let mut value = Template::default();
            for (place, (name, cookie)) in cookies.entries.iter().enumerate() {
                let begin = format!("{}{}=", if place > 0 { "; " } else { "" }, name.0.value);
                value.parts.extend(fixed(&begin).parts);
                value.parts.extend(self.templates().text(cookie, self.sink)?.parts);
            }
            headers.push(plan::Header { name: "cookie".to_owned(), value: Some(value) });
        }
        Some(headers)
    }

    /// Labels, whose values are constants.
    fn labels(&mut self, labels: &Mapped<Text>) -> Option<Vec<plan::Pair>> {
        let read: Vec<_> = labels
            .entries
            .iter()
            .map(|(name, value)| {
                let value = self.constants.text(value, self.sink)?;
                Some(plan::Pair { name: name.0.value.clone(), value })
            })
            .collect();
        read.into_iter().collect()
    }

    fn url(&mut self, url: &Text, query: Option<&Mapped<Text>>) -> Option<Template> {
        let text = url.value.trim();
        let mut prefix = None;
        if let Some((scheme, rest)) = text.split_once("://") {
            if !matches!(scheme, "http" | "https") && !scheme.contains("${") {
                self.sink.add_with_hint(
                    url.span,
                    format!("`{scheme}://` is not supported"),
                    "use http:// or https://",
                );
                return None;
            }
            let host = rest.split(['/', '?', '#']).next().unwrap_or_default();
            if !host.contains("${") {
                self.names.hosts.insert(super::host_of(host));
            }
        } else if let Some((target, path)) = text
            .split_once(':')
            .filter(|(target, path)| !target.contains(['/', '?', '$']) && path.starts_with(['/', '?']))
        {
            let Some((_, address)) = self.targets.iter().find(|(name, _)| name == target) else {
                if self.perhaps.contains(target) {
                    return None;
                }
                let hint = suggest(target, self.targets.iter().map(|(name, _)| name.as_str()))
                    .unwrap_or_else(|| format!("declare it under `targets`, or write only `{path}`"));
                let message = format!("there is no target `{target}`");
                self.sink.add_with_hint(url.at(0, target.len()), message, hint);
                return None;
            };
            prefix = Some((target.len() + 1, address.clone()));
        } else if !text.starts_with(['/', '?']) && !text.starts_with("${") {
            self.sink.add_with_hint(
                url.span,
                format!("`{text}` is neither a path nor an address"),
                format!("a path begins with `/`: `/{text}`"),
            );
            return None;
        }
        let mut template = self.templates().text(url, self.sink)?;
        if let Some((skip, address)) = prefix
            && let Some(plan::Part { part: Some(plan::part::Part::Literal(first)) }) =
                template.parts.first_mut()
        {
            let path = first.trim_start().get(skip..).unwrap_or_default();
            *first = format!("{address}{path}");
        }
        if let Some(query) = query {
            let pairs = self.templates().pairs(query, self.sink)?;
            template.parts.extend(fixed(if text.contains('?') { "&" } else { "?" }).parts);
            template.parts.extend(pairs.parts);
        }
        Some(template)
    }

    fn body(&mut self, request: &doc::Request) -> Option<Body> {
        let templates = self.templates();
        let bodies = [
            request.json.is_some(),
            request.form.is_some(),
            request.body.is_some(),
            request.multipart.is_some(),
        ];
        if bodies.iter().filter(|&&there| there).count() > 1 {
            let message = "a request has at most one of `json`, `form`, `body` and `multipart`";
            self.sink.add_with_hint(request.span, message, "keep one of them");
            return None;
        }
        let text = |text: Option<Template>, media: &str| {
            Some(Body { text: Some(text?), content_type: media.to_owned(), ..Body::default() })
        };
        if let Some(json) = &request.json {
            text(templates.json(&json.0, self.sink), "application/json")
        } else if let Some(form) = &request.form {
            text(templates.pairs(form, self.sink), "application/x-www-form-urlencoded")
        } else if let Some(doc::Body::Text(body)) = &request.body {
            text(templates.text(body, self.sink), "text/plain; charset=utf-8")
        } else if let Some(doc::Body::File(file)) = &request.body {
            let content_type = self.media_type(file.r#type.as_ref());
            let blob = self.blobs.borrow_mut().read(self.resolver, &file.file, self.sink)?;
            Some(Body { blob, content_type: content_type?, ..Body::default() })
        } else if let Some(parts) = &request.multipart {
            let parts: Vec<_> =
                parts.entries.iter().map(|(name, part)| self.form_part(&name.0, part)).collect();
            let parts = parts.into_iter().collect::<Option<Vec<_>>>()?;
            Some(Body { parts, content_type: "multipart/form-data".to_owned(), ..Body::default() })
        } else {
            Some(Body::default())
        }
    }

    fn form_part(&mut self, name: &Text, part: &doc::FormPart) -> Option<plan::FormPart> {
        let mut out = plan::FormPart { name: name.value.clone(), ..plan::FormPart::default() };
        if name.value.contains(['"', '\r', '\n']) {
            self.sink.add(name.span, format!("`{}` cannot name a part", name.value));
            return None;
        }
        match part {
            doc::FormPart::Text(text) => out.text = Some(self.templates().text(text, self.sink)?),
            doc::FormPart::File(file) => {
                let own = file.from.value.rsplit('/').next().unwrap_or_default().to_owned();
                out.file_name = file.name.as_ref().map_or(own, |name| name.value.clone());
                out.content_type = self.media_type(file.r#type.as_ref())?;
                if out.file_name.contains(['"', '\r', '\n']) {
                    self.sink.add(file.span, format!("`{}` cannot name a file", out.file_name));
                    return None;
                }
                out.blob = self.blobs.borrow_mut().read(self.resolver, &file.from, self.sink)?;
            }
        }
        Some(out)
    }

    fn media_type(&mut self, media: Option<&Text>) -> Option<String> {
        let Some(media) = media else { return Some("application/octet-stream".to_owned()) };
        let good = media.value.contains('/') && media.value.bytes().all(|byte| (0x20..0x7F).contains(&byte));
        if !good {
            let message = format!("`{}` is not a media type", media.value);
            self.sink.add_with_hint(media.span, message, "write for example image/jpeg");
            return None;
        }
        Some(media.value.clone())
    }

    pub(super) fn auth(&mut self, auth: &doc::Auth) -> Option<plan::Auth> {
        use plan::auth::Kind;
        let kind = match auth {
            doc::Auth::None => Kind::None(true),
            doc::Auth::Given(doc::Credentials::Bearer(token)) => {
                Kind::Bearer(self.templates().text(token, self.sink)?)
            }
            doc::Auth::Given(doc::Credentials::Basic(basic)) => {
                let user = self.templates().text(&basic.user, self.sink);
                let password = self.templates().text(&basic.password, self.sink);
                Kind::Basic(plan::Basic { user: Some(user?), password: Some(password?) })
            }
        };
        Some(plan::Auth { kind: Some(kind) })
    }

    fn retry(&mut self, retry: &doc::Retry) -> Option<plan::Retry> {
        let (mut statuses, mut kinds, mut good) = (Vec::new(), Vec::new(), true);
        for when in &retry.when {
            if let Some((first, last)) = doc::status_range(&when.value) {
                statuses.push(plan::StatusRange { first: first.into(), last: last.into() });
                continue;
            }
            let matches = |kind: &ErrorKind| match when.value.as_str() {
                "connect" => kind.is_connect(),
                "timeout" => matches!(kind, ErrorKind::Timeout | ErrorKind::BodyTimeout),
                name => kind.name() == name,
            };
            let found: Vec<u32> =
                ErrorKind::ALL.iter().filter(|kind| matches(kind)).map(|kind| *kind as u32).collect();
            if found.is_empty() {
                let known = ErrorKind::ALL
                    .iter()
                    .filter(|kind| kind.blame() == Blame::Target)
                    .map(|kind| kind.name());
                let hint = suggest(&when.value, known).unwrap_or_default();
                let message = format!("`{}` is neither a status nor a kind of failure", when.value);
                self.sink.add_with_hint(when.span, message, hint);
                good = false;
            }
            kinds.extend(found);
        }
        if retry.when.is_empty() && good {
            self.sink.add_with_hint(retry.span, "`when` is empty", "write for example [503, connect]");
            return None;
        }
        let max = self.constants.quantity(&retry.max, self.sink)?;
        if max > MOST_RETRIES {
            self.sink.add(retry.max.text.span, "at most 100 attempts repeat one");
            return None;
        }
        let backoff_ns = match &retry.backoff {
            Some(backoff) => self.ns(backoff)?,
            None => 0,
        };
        good.then_some(plan::Retry { statuses, kinds, max: u32::try_from(max).unwrap_or(0), backoff_ns })
    }

    pub(super) fn cap(&mut self, cap: &doc::Cap) -> Option<plan::Cap> {
        let (count, window) = self.constants.quantity(&cap.rate, self.sink)?;
        let per = match cap.per {
            Some(doc::CapPer::User) => plan::CapPer::User,
            Some(doc::CapPer::Step) => plan::CapPer::Step,
            Some(doc::CapPer::Grid) | None => plan::CapPer::Grid,
        };
        Some(plan::Cap { count, window_ns: nanos(window), per: per.into() })
    }

    fn check(&mut self, step: &str, words: &str) -> u32 {
        intern(&mut self.names.checks, &format!("{step}: {words}"))
    }

    fn expect(&mut self, step: &str, expect: Option<&doc::Expect>) -> Option<plan::Expect> {
        let Some(expect) = expect else { return Some(plan::Expect::default()) };
        let mut out = plan::Expect::default();
        if let Some(statuses) = &expect.status {
            out.status = ranges(statuses);
            out.status_check = self.check(step, &format!("status {}", show_statuses(statuses)));
        }
        if let Some(statuses) = &expect.not_status {
            out.not_status = ranges(statuses);
            out.not_status_check = self.check(step, &format!("status not {}", show_statuses(statuses)));
        }
        if let Some(within) = &expect.within {
            let limit = self.constants.quantity(within, self.sink)?;
            out.within_ns = Some(nanos(limit));
            let words = format!("within {}", loadgrid_common::units::show_duration(limit));
            out.within_check = self.check(step, &words);
        }
        let mut good = true;
        for (name, condition) in expect.headers.iter().flat_map(|headers| &headers.entries) {
            match self.header_check(step, &name.0, condition) {
                Some(check) => out.headers.push(check),
                None => good = false,
            }
        }
        if let Some(body) = &expect.body {
            match self.body_checks(step, body) {
                Some(checks) => out.body = checks,
                None => good = false,
            }
        }
        for (path, condition) in expect.json.iter().flat_map(|json| &json.entries) {
            match self.json_check(step, &path.0, condition) {
                Some(check) => out.json.push(check),
                None => good = false,
            }
        }
        good.then_some(out)
    }

    fn header_check(
        &mut self,
        step: &str,
        name: &Text,
        condition: &doc::HeaderExpect,
    ) -> Option<plan::HeaderCheck> {
        use plan::header_check::Condition;
        if !is_header_name(&name.value) {
            self.sink.add(name.span, format!("`{}` is not a header name", name.value));
            return None;
        }
        let (words, condition) = match condition {
            doc::HeaderExpect::Equals(text)
            | doc::HeaderExpect::Condition(doc::HeaderCondition::Equals(text)) => {
                (format!("is {}", text.value), Condition::Equals(self.templates().text(text, self.sink)?))
            }
            doc::HeaderExpect::Condition(doc::HeaderCondition::Contains(text)) => (
                format!("contains {}", text.value),
                Condition::Contains(self.templates().text(text, self.sink)?),
            ),
            doc::HeaderExpect::Condition(doc::HeaderCondition::Exists(exists)) => {
                (existence(*exists).to_owned(), Condition::Exists(*exists))
            }
            doc::HeaderExpect::Condition(doc::HeaderCondition::Matches(pattern)) => {
                self.pattern(pattern)?;
                (format!("matches {}", pattern.value), Condition::Matches(pattern.value.clone()))
            }
        };
        let check = self.check(step, &format!("header {} {words}", name.value));
        Some(plan::HeaderCheck { name: name.value.to_ascii_lowercase(), check, condition: Some(condition) })
    }

    fn body_checks(&mut self, step: &str, body: &doc::BodyExpect) -> Option<Vec<plan::BodyCheck>> {
        use plan::body_check::Condition;
        let mut checks = Vec::new();
        let mut add = |flows: &mut Self, words: String, condition| {
            let check = flows.check(step, &format!("body {words}"));
            checks.push(plan::BodyCheck { check, condition: Some(condition) });
        };
        if let Some(text) = &body.contains {
            let template = self.templates().text(text, self.sink)?;
            add(self, format!("contains {}", text.value), Condition::Contains(template));
        }
        if let Some(pattern) = &body.matches {
            self.pattern(pattern)?;
            add(self, format!("matches {}", pattern.value), Condition::Matches(pattern.value.clone()));
        }
        if let Some(length) = &body.length {
            let range = self.amount(length)?;
            add(self, format!("length {}", show_range(&range)), Condition::Length(range));
        }
        Some(checks)
    }

    fn json_check(&mut self, step: &str, path: &Text, condition: &JsonExpect) -> Option<plan::JsonCheck> {
        use plan::json_check::Condition;
        let path = self.json_path(path)?;
        let (words, condition) = match condition {
            JsonExpect::Equals(value) | JsonExpect::Condition(doc::JsonCondition::Equals(value)) => {
                let template = self.templates().json(&value.0, self.sink)?;
                ("is as expected".to_owned(), Condition::EqualsJson(template))
            }
            JsonExpect::Condition(doc::JsonCondition::Exists(exists)) => {
                (existence(*exists).to_owned(), Condition::Exists(*exists))
            }
            JsonExpect::Condition(doc::JsonCondition::Matches(pattern)) => {
                self.pattern(pattern)?;
                (format!("matches {}", pattern.value), Condition::Matches(pattern.value.clone()))
            }
            JsonExpect::Condition(doc::JsonCondition::Count(amount)) => {
                let range = self.amount(amount)?;
                (format!("count {}", show_range(&range)), Condition::Count(range))
            }
            JsonExpect::Condition(doc::JsonCondition::Type(kind)) => {
                let name = match kind {
                    doc::JsonType::String => "string",
                    doc::JsonType::Number => "number",
                    doc::JsonType::Boolean => "boolean",
                    doc::JsonType::Null => "null",
                    doc::JsonType::Array => "array",
                    doc::JsonType::Object => "object",
                };
                (format!("is of type {name}"), Condition::Type(name.to_owned()))
            }
        };
        let check = self.check(step, &format!("{path} {words}"));
        Some(plan::JsonCheck { path, check, condition: Some(condition) })
    }

    fn amount(&mut self, amount: &doc::Amount) -> Option<plan::Range> {
        let mut read = |quantity: &Option<super::decode::Quantity<super::decode::Count>>, otherwise| {
            quantity.as_ref().map_or(Some(otherwise), |quantity| self.constants.quantity(quantity, self.sink))
        };
        let (exactly, min, max) =
            (read(&amount.exactly, u64::MAX), read(&amount.min, 0), read(&amount.max, u64::MAX));
        let (exactly, min, max) = (exactly?, min?, max?);
        let both = amount.exactly.is_some() && (amount.min.is_some() || amount.max.is_some());
        let none = amount.exactly.is_none() && amount.min.is_none() && amount.max.is_none();
        if both || none || min > max {
            let hint = "write a number, or { min: 1, max: 5 }";
            self.sink.add_with_hint(amount.span, "this says no number that can be held", hint);
            return None;
        }
        Some(match amount.exactly {
            Some(_) => plan::Range { min: exactly, max: exactly },
            None => plan::Range { min, max },
        })
    }

    fn pattern(&mut self, pattern: &Text) -> Option<regex::Regex> {
        match regex::Regex::new(&pattern.value) {
            Ok(regex) => Some(regex),
            Err(error) => {
                let reason = error.to_string();
                let reason =
                    reason.lines().last().unwrap_or_default().trim_start_matches("error: ").to_owned();
                self.sink.add_with_hint(
                    pattern.span,
                    format!("this is not a regular expression: {reason}"),
                    "in YAML, put it into single quotes: then `\\` stays as it is",
                );
                None
            }
        }
    }

    fn json_path(&mut self, path: &Text) -> Option<String> {
        if let Err(error) = serde_json_path::JsonPath::parse(&path.value) {
            let hint = "write for example $.token or $.items[0].id";
            self.sink.add_with_hint(path.span, format!("`{}` is not a JSONPath: {error}", path.value), hint);
            return None;
        }
        Some(path.value.clone())
    }

    fn captures(&mut self, captures: &Mapped<doc::Capture>) -> Option<Vec<plan::Capture>> {
        let read: Vec<_> =
            captures.entries.iter().map(|(name, capture)| self.capture(&name.0, capture)).collect();
        read.into_iter().collect()
    }

    fn capture(&mut self, name: &Text, capture: &doc::Capture) -> Option<plan::Capture> {
        use plan::capture::From;
        let named = self.is_variable_name(name);
        let many =
            matches!(&capture.from, CaptureFrom::Json(_) | CaptureFrom::Regex(_) | CaptureFrom::Css(..));
        if capture.pick.is_some() && !many {
            let hint = "it goes with `json`, `regex` and `css`, which may find several";
            self.sink.add_with_hint(name.span, "`pick` does not fit here", hint);
            return None;
        }
        let from = match &capture.from {
            CaptureFrom::Json(path) => From::JsonPath(self.json_path(path)?),
            CaptureFrom::Header(header) if !is_header_name(&header.value) => {
                self.sink.add(header.span, format!("`{}` is not a header name", header.value));
                return None;
            }
            CaptureFrom::Header(header) => From::Header(header.value.to_ascii_lowercase()),
            CaptureFrom::Cookie(cookie) => From::Cookie(cookie.value.clone()),
            CaptureFrom::Regex(pattern) => {
                self.pattern(pattern)?;
                From::Regex(pattern.value.clone())
            }
            CaptureFrom::Css(selector, attribute) => {
                if let Err(error) = scraper::Selector::parse(&selector.value) {
                    let message = format!("`{}` is not a CSS selector: {error}", selector.value);
                    self.sink.add_with_hint(
                        selector.span,
                        message,
                        "write for example form input[name=csrf]",
                    );
                    return None;
                }
                let attribute = attribute.as_ref().map(|attribute| attribute.value.clone());
                From::Css(plan::Css {
                    selector: selector.value.clone(),
                    attribute: attribute.unwrap_or_default(),
                })
            }
            CaptureFrom::Body => From::Body(true),
        };
        let pick = match capture.pick {
            Some(doc::CapturePick::Random) => plan::CapturePick::Random,
            Some(doc::CapturePick::All) => plan::CapturePick::All,
            Some(doc::CapturePick::First) | None => plan::CapturePick::First,
        };
        named?;
        Some(plan::Capture {
            slot: self.slot(&name.value),
            optional: capture.optional,
            from: Some(from),
            pick: pick.into(),
        })
    }
}

/// Whether a text is a header's name (RFC 9110, section 5.1).
pub(super) fn is_header_name(name: &str) -> bool {
    !name.is_empty() && name.bytes().all(|b| b.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&b))
}

fn ranges(statuses: &doc::Statuses) -> Vec<plan::StatusRange> {
    let range = |&(first, last): &(u16, u16)| plan::StatusRange { first: first.into(), last: last.into() };
    statuses.0.iter().map(range).collect()
}

fn show_statuses(statuses: &doc::Statuses) -> String {
    let show = |&(first, last): &(u16, u16)| {
        if first == last { first.to_string() } else { format!("{}xx", first / 100) }
    };
    statuses.0.iter().map(show).collect::<Vec<_>>().join(" or ")
}

const fn existence(exists: bool) -> &'static str {
    if exists { "exists" } else { "is absent" }
}

fn show_range(range: &plan::Range) -> String {
    match (range.min, range.max) {
        (min, max) if min == max => min.to_string(),
        (min, u64::MAX) => format!("at least {min}"),
        (0, max) => format!("at most {max}"),
        (min, max) => format!("{min} to {max}"),
    }
}
