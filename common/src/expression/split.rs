//! Finds the `${…}` in a text.

/// A piece of a text.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Piece {
    /// As it stands; `$${` has become `${`.
    Literal(String),
    /// What stands between `${` and `}`, trimmed, and its byte offset in the text.
    Hole {
        /// The expression.
        expression: String,
        /// Byte offset of the expression in the text.
        offset: usize,
    },
}

/// A `${` that is not closed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`${{` is not closed by `}}`; for a literal `${{` write `$${{`")]
pub struct SplitError {
    /// Byte offset of the `${`.
    pub offset: usize,
}

/// Splits a text into literals and holes. Braces and quotes inside a hole nest.
///
/// # Errors
/// Where a hole is not closed.
pub fn split(text: &str) -> Result<Vec<Piece>, SplitError> {
    let mut pieces = Vec::new();
    let mut literal = String::new();
    let mut rest = 0;
    while let Some(found) = text[rest..].find("${") {
        let at = rest + found;
        if text[..at].ends_with('$') && at > rest {
            literal.push_str(&text[rest..at - 1]);
            literal.push_str("${");
            rest = at + 2;
            continue;
        }
        literal.push_str(&text[rest..at]);
        let begin = at + 2;
        let length = hole_length(&text[begin..]).ok_or(SplitError { offset: at })?;
        if !literal.is_empty() {
            pieces.push(Piece::Literal(std::mem::take(&mut literal)));
        }
        let inner = &text[begin..begin + length];
        let offset = begin + inner.len() - inner.trim_start().len();
        pieces.push(Piece::Hole { expression: inner.trim().to_owned(), offset });
        rest = begin + length + 1;
    }
    literal.push_str(&text[rest..]);
    if !literal.is_empty() {
        pieces.push(Piece::Literal(literal));
    }
    Ok(pieces)
}

fn hole_length(text: &str) -> Option<usize> {
    let mut depth = 0_u32;
    let mut quote = None;
    let mut chars = text.char_indices();
    while let Some((at, c)) = chars.next() {
        match (quote, c) {
            (Some(_), '\\') => drop(chars.next()),
            (Some(open), c) if open == c => quote = None,
            (Some(_), _) => {}
            (None, '"' | '\'') => quote = Some(c),
            (None, '{') => depth += 1,
            (None, '}') if depth == 0 => return Some(at),
            (None, '}') => depth -= 1,
            (None, _) => {}
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn literal(text: &str) -> Piece {
        Piece::Literal(text.to_owned())
    }

    fn hole(expression: &str, offset: usize) -> Piece {
        Piece::Hole { expression: expression.to_owned(), offset }
    }

    #[test]
    fn holes_literals_and_escapes() {
        assert_eq!(
            split("/x/${ id }?a=${b}"),
            Ok(vec![literal("/x/"), hole("id", 6), literal("?a="), hole("b", 15)])
        );
        assert_eq!(split("$${id} costs $5"), Ok(vec![literal("${id} costs $5")]));
        assert_eq!(split("${ {'a': '}'}['a'] }"), Ok(vec![hole("{'a': '}'}['a']", 3)]));
        assert_eq!(split(""), Ok(vec![]));
        assert_eq!(split("a ${b"), Err(SplitError { offset: 2 }));
        assert_eq!(split("${'"), Err(SplitError { offset: 0 }));
    }

    proptest! {
        #[test]
        fn never_panics(text in "[${}'\"a\\\\ é]{0,40}") {
            let _pieces = split(&text);
        }
    }
}
