//! What a virtual user makes of an answer: checks and captures.

use std::time::Duration;

use loadgrid_common::expression::{EvalError, Value, from_json, text_of};
use loadgrid_common::plan::CapturePick;
use loadgrid_common::random::Draws;
use loadgrid_common::stats::ErrorKind;
use serde_json::Value as Json;

use super::step::{
    BodyCondition, Capture, CaptureFrom, HeaderCondition, HttpOp, JsonCheck, JsonCondition, contains,
};
use super::template::Template;
use super::user::{Last, State, VirtualUser};

impl VirtualUser {
    /// Checks and captures on the newest answer. Gives the gravest failure: a status, a check, a capture.
    pub(super) fn judge(
        &mut self,
        op: &HttpOp,
        response: Duration,
        keys: &[u64],
    ) -> Result<Option<ErrorKind>, EvalError> {
        let Some(mut last) = self.state.last.take() else { return Ok(None) };
        let status_is_good = self.check_status(op, last.answer.status);
        if op.reads_json {
            let _parsed = last.json();
        }
        let checked = self.check_answer(op, &last, response);
        let captured = self.capture(op, &last, keys);
        self.state.last = Some(last);
        let (checks_are_good, captures_are_good) = (checked?, captured);
        Ok(match (status_is_good, checks_are_good, captures_are_good) {
            (false, _, _) => Some(ErrorKind::Status),
            (true, false, _) => Some(ErrorKind::Check),
            (true, true, false) => Some(ErrorKind::Capture),
            (true, true, true) => None,
        })
    }

    fn check_status(&self, op: &HttpOp, status: u16) -> bool {
        let recorder = &self.thread.recorder;
        let mut good = match (&op.expect.status, &op.expect.not_status) {
            (None, None) => status < 400,
            _ => true,
        };
        if let Some((ranges, check)) = &op.expect.status {
            let passed = contains(ranges, status);
            recorder.check(*check, passed);
            good &= passed;
        }
        if let Some((ranges, check)) = &op.expect.not_status {
            let passed = !contains(ranges, status);
            recorder.check(*check, passed);
            good &= passed;
        }
        good
    }

    fn check_answer(&self, op: &HttpOp, last: &Last, response: Duration) -> Result<bool, EvalError> {
        let recorder = &self.thread.recorder;
        let mut good = true;
        let mut note = |check: u32, passed: bool| {
            recorder.check(check, passed);
            good &= passed;
        };
        if let Some((limit, check)) = op.expect.within {
            note(check, response <= limit);
        }
        for check in &op.expect.headers {
            let value = last.answer.headers.get(&check.name);
            let value = value.map(|value| String::from_utf8_lossy(value.as_bytes()));
            let passed = match (&check.condition, value) {
                (HeaderCondition::Exists(exists), value) => value.is_some() == *exists,
                (HeaderCondition::Matches(pattern), Some(value)) => pattern.is_match(&value),
                (HeaderCondition::Equals(template), Some(value)) => value == render(template, &self.state)?,
                (HeaderCondition::Contains(template), Some(value)) => {
                    value.contains(&render(template, &self.state)?)
                }
                (_, None) => false,
            };
            note(check.check, passed);
        }
        let body = &last.answer.body;
        for check in &op.expect.body {
            let passed = match &check.condition {
                BodyCondition::Contains(template) => {
                    let wanted = render(template, &self.state)?;
                    memchr::memmem::find(body, wanted.as_bytes()).is_some()
                }
                BodyCondition::Matches(pattern) => pattern.is_match(body),
                BodyCondition::Length(range) => (range.min..=range.max).contains(&(body.len() as u64)),
            };
            note(check.check, passed);
        }
        let json = last.json.as_ref().and_then(Option::as_ref);
        for check in &op.expect.json {
            note(check.check, check_json(check, json, &self.state)?);
        }
        Ok(good)
    }

    /// Captures into variables. Returns whether everything that must be there was there.
    fn capture(&mut self, op: &HttpOp, last: &Last, keys: &[u64]) -> bool {
        let mut good = true;
        let mut captured = Vec::with_capacity(op.captures.len());
        for (number, capture) in op.captures.iter().enumerate() {
            let value = match &capture.from {
                CaptureFrom::Header(name) => last
                    .answer
                    .headers
                    .get(name)
                    .map(|value| Value::from(String::from_utf8_lossy(value.as_bytes()).into_owned())),
                CaptureFrom::Cookie(name) => self.cookie(name).map(Value::from),
                CaptureFrom::Body => {
                    Some(Value::from(String::from_utf8_lossy(&last.answer.body).into_owned()))
                }
                CaptureFrom::Json(_) | CaptureFrom::Regex(_) | CaptureFrom::Css { .. } => {
                    let mut keys = keys.to_vec();
                    keys.push(number as u64 + 1);
                    pick(found(capture, last), capture.pick, &keys)
                }
            };
            good &= value.is_some() || capture.optional;
            captured.push((capture.slot, value.unwrap_or(Value::UNDEFINED)));
        }
        for (slot, value) in captured {
            self.state.set(slot, value);
        }
        good
    }

    fn cookie(&self, name: &str) -> Option<String> {
        let store = self.cookies.as_ref()?;
        store.iter_unexpired().find(|cookie| cookie.name() == name).map(|cookie| cookie.value().to_owned())
    }
}

fn render(template: &Template, state: &State) -> Result<String, EvalError> {
    let mut text = String::new();
    template.render(state, &mut text)?;
    Ok(text)
}

fn check_json(check: &JsonCheck, json: Option<&Json>, state: &State) -> Result<bool, EvalError> {
    let Some(json) = json else {
        // No JSON has no values; that may be what is expected.
        return Ok(match &check.condition {
            JsonCondition::Exists(exists) => !exists,
            JsonCondition::Count(range) => range.min == 0,
            JsonCondition::Matches(_) | JsonCondition::Equals(_) | JsonCondition::Type(_) => false,
        });
    };
    let nodes = check.path.query(json);
    let found = nodes.clone().first();
    Ok(match &check.condition {
        JsonCondition::Exists(exists) => found.is_some() == *exists,
        JsonCondition::Matches(pattern) => {
            found.is_some_and(|value| pattern.is_match(&text_of(&from_json(value))))
        }
        JsonCondition::Equals(template) => {
            let text = render(template, state)?;
            let expected: Json = serde_json::from_str(&text).unwrap_or(Json::String(text));
            found.is_some_and(|value| same(value, &expected))
        }
        JsonCondition::Count(range) => {
            let count = match (nodes.len(), found) {
                (1, Some(Json::Array(items))) => items.len(),
                (count, _) => count,
            };
            (range.min..=range.max).contains(&(count as u64))
        }
        JsonCondition::Type(name) => found.is_some_and(|value| type_of(value) == name),
    })
}

const fn type_of(value: &Json) -> &'static str {
    match value {
        Json::Null => "null",
        Json::Bool(_) => "boolean",
        Json::Number(_) => "number",
        Json::String(_) => "string",
        Json::Array(_) => "array",
        Json::Object(_) => "object",
    }
}

/// Equal, where 1 and 1.0 are the same number.
fn same(a: &Json, b: &Json) -> bool {
    match (a.as_f64(), b.as_f64()) {
        (Some(a), Some(b)) => a == b,
        _ => a == b,
    }
}

/// Everything that a capture finds; no more than the first where only that is wanted.
fn found(capture: &Capture, last: &Last) -> Vec<Value> {
    let most = if capture.pick == CapturePick::First { 1 } else { usize::MAX };
    match &capture.from {
        CaptureFrom::Json(path) => {
            let json = last.json.as_ref().and_then(Option::as_ref);
            json.map(|json| path.query(json).iter().take(most).map(|value| from_json(value)).collect())
                .unwrap_or_default()
        }
        CaptureFrom::Regex(pattern) => {
            let text = String::from_utf8_lossy(&last.answer.body);
            let group = usize::from(pattern.captures_len() > 1);
            let matches = pattern.captures_iter(&text).filter_map(|found| found.get(group));
            matches.take(most).map(|found| Value::from(found.as_str())).collect()
        }
        CaptureFrom::Css { selector, attribute } => {
            let page = scraper::Html::parse_document(&String::from_utf8_lossy(&last.answer.body));
            let value = |element: scraper::ElementRef<'_>| match attribute.as_str() {
                "" => Some(Value::from(element.text().collect::<String>().trim().to_owned())),
                name => element.attr(name).map(Value::from),
            };
            page.select(selector).filter_map(value).take(most).collect()
        }
        CaptureFrom::Header(_) | CaptureFrom::Cookie(_) | CaptureFrom::Body => Vec::new(),
    }
}

fn pick(mut found: Vec<Value>, pick: CapturePick, keys: &[u64]) -> Option<Value> {
    if found.is_empty() {
        return None;
    }
    match pick {
        CapturePick::First => Some(found.swap_remove(0)),
        CapturePick::Random => {
            let place = Draws::keyed(keys).below(found.len() as u64);
            Some(found.swap_remove(usize::try_from(place).unwrap_or(0)))
        }
        CapturePick::All => Some(Value::from(found)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn equal_is_by_value_and_types_have_their_names() {
        assert!(same(&serde_json::json!(1), &serde_json::json!(1.0)));
        assert!(!same(&serde_json::json!("1"), &serde_json::json!(1)));
        assert_eq!(type_of(&serde_json::json!([1])), "array");
        let values = || vec![Value::from(1), Value::from(2), Value::from(3)];
        assert_eq!(pick(values(), CapturePick::First, &[]), Some(Value::from(1)));
        assert_eq!(pick(values(), CapturePick::All, &[]).and_then(|list| list.len()), Some(3));
        assert_eq!(pick(values(), CapturePick::Random, &[5]), pick(values(), CapturePick::Random, &[5]));
        assert_eq!(pick(Vec::new(), CapturePick::All, &[]), None);
    }
}
