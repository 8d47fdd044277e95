//! Rust without its comments and strings, so that rules about code do not stumble over prose.

/// `text` with everything inside comments, strings and characters replaced by spaces.
///
/// Line breaks stay where they are, so a line's number is the same in both.
pub(super) fn only(text: &str) -> String {
    let mut code = String::with_capacity(text.len());
    let mut rest = text;
    while !rest.is_empty() {
        let skipped = prose(rest, &code);
        if skipped > 0 {
            code.extend(rest[..skipped].chars().map(|c| if c == '\n' { '\n' } else { ' ' }));
            rest = &rest[skipped..];
        } else if let Some(first) = rest.chars().next() {
            code.push(first);
            rest = &rest[first.len_utf8()..];
        }
    }
    code
}

/// Length of the comment, string or character that `rest` begins with, or 0.
fn prose(rest: &str, before: &str) -> usize {
    if rest.starts_with("//") {
        return rest.find('\n').unwrap_or(rest.len());
    }
    if rest.starts_with("/*") {
        return block_comment(rest);
    }
    if rest.starts_with('"') {
        return quoted(rest);
    }
    if rest.starts_with('\'') {
        return character(rest);
    }
    // `r` begins a raw string only where no word goes on, but for the `b` or `c` before it.
    let word = before.chars().next_back().is_some_and(|c| c.is_alphanumeric() || c == '_');
    let prefixed = before.ends_with(['b', 'c']);
    if rest.starts_with('r') && (!word || prefixed) { raw(rest) } else { 0 }
}

fn block_comment(rest: &str) -> usize {
    let mut depth = 0_usize;
    let mut at = 0;
    while at < rest.len() {
        let here = &rest.as_bytes()[at..];
        if here.starts_with(b"/*") {
            (depth, at) = (depth + 1, at + 2);
        } else if here.starts_with(b"*/") {
            (depth, at) = (depth - 1, at + 2);
            if depth == 0 {
                return at;
            }
        } else {
            at += 1;
        }
    }
    rest.len()
}

fn quoted(rest: &str) -> usize {
    let mut escaped = false;
    for (at, c) in rest.char_indices().skip(1) {
        match c {
            '"' if !escaped => return at + 1,
            '\\' => escaped = !escaped,
            _ => escaped = false,
        }
    }
    rest.len()
}

/// A character such as `'a'` or `'\n'`; 0 for a lifetime.
fn character(rest: &str) -> usize {
    let mut chars = rest.char_indices().skip(1);
    let (Some((_, first)), Some((at, second))) = (chars.next(), chars.next()) else { return 0 };
    if first != '\\' {
        return if second == '\'' { at + 1 } else { 0 };
    }
    let after = at + second.len_utf8();
    rest[after..].find('\'').map_or(0, |end| after + end + 1)
}

fn raw(rest: &str) -> usize {
    let hashes = rest[1..].bytes().take_while(|byte| *byte == b'#').count();
    let opened = 1 + hashes;
    if !rest[opened..].starts_with('"') {
        return 0;
    }
    let end = format!("\"{}", "#".repeat(hashes));
    rest[opened + 1..].find(&end).map_or(rest.len(), |at| opened + 1 + at + end.len())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(text: &str) -> Vec<String> {
        only(text).split_whitespace().map(str::to_owned).collect()
    }

    #[test]
    fn comments_and_strings_are_blanked() {
        assert_eq!(words("a // b\nc /* d /* e */ f */ g"), ["a", "c", "g"]);
        assert_eq!(words(r#"a "b \" // c" d"#), ["a", "d"]);
        assert_eq!(words(r##"a r#"b " c"# d for"e" f"##), ["a", "d", "for", "f"]);
    }

    #[test]
    fn a_lifetime_is_not_a_character() {
        assert_eq!(words("f<'a>(x) '\"' '\\'' 'b' y"), ["f<'a>(x)", "y"]);
    }

    #[test]
    fn lines_keep_their_numbers() {
        assert_eq!(only("a\n\"b\nc\"\nd"), "a\n  \n  \nd");
    }
}
