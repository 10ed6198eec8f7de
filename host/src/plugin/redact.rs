//! Takes the values of secrets out of what leaves a plugin as text: its log, what it prints, its failures, its denials.
//!
//! Only values that the guest was given are known here, for it cannot say others. This catches accidents (a URL or a header
//! in an error message, a panic that prints its settings), not intent: a guest that wants to tell a secret can spell it
//! backwards, and answers themselves are not touched. What a plugin may reach is bounded by its grants.

use std::borrow::Cow;

use parking_lot::RwLock;
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};

/// Shorter values are not taken out: they occur in ordinary text, and what is missing there would tell them.
const SECRET_BYTES_MIN: usize = 6;
/// What is known at once, in bytes (law 12). A rotated secret is another value; the ones learned longest ago are forgotten.
const KNOWN_BYTES_MAX: usize = 1024 * 1024;

/// The secrets that one version of a plugin was given.
#[derive(Default)]
pub struct Redactor {
    known: RwLock<Known>,
}

#[derive(Default)]
struct Known {
    /// In the order in which they were learned.
    forms: Vec<Form>,
    bytes: usize,
    longest: usize,
}

/// A text that must not be told, and what is told instead.
struct Form {
    text: String,
    instead: String,
}

impl Redactor {
    /// The guest was given this value of the secret `name`. Each line of a longer text is a secret of its own, for logs
    /// are made of lines; and so are the value as Rust's `{:?}` and as a URL write it.
    pub(super) fn learn(&self, name: &str, value: &str) {
        let instead = format!("[secret {name}]");
        if self.knows(value, &instead) {
            return;
        }
        let mut known = self.known.write();
        for line in std::iter::once(value).chain(value.lines()) {
            known.add(line.to_owned(), &instead);
            known.add(line.escape_debug().to_string(), &instead);
            known.add(
                utf8_percent_encode(line, NON_ALPHANUMERIC).to_string(),
                &instead,
            );
            known.add(utf8_percent_encode(line, UNRESERVED).to_string(), &instead);
        }
    }

    fn knows(&self, value: &str, instead: &str) -> bool {
        let known = self.known.read();
        value.len() < SECRET_BYTES_MIN
            || known
                .forms
                .iter()
                .any(|form| form.text == value && form.instead == instead)
    }

    /// The longest text that is known: how much more than what is told has to be looked at.
    pub(super) fn longest(&self) -> usize {
        self.known.read().longest
    }

    /// The text without secrets.
    pub(super) fn redact<'t>(&self, text: &'t str) -> Cow<'t, str> {
        let known = self.known.read();
        let mut text = Cow::Borrowed(text);
        let mut found: Vec<&Form> = known
            .forms
            .iter()
            .filter(|form| text.contains(&form.text))
            .collect();
        // A secret that holds another goes as a whole.
        found.sort_by_key(|form| std::cmp::Reverse(form.text.len()));
        for form in found {
            text = Cow::Owned(text.replace(&form.text, &form.instead));
        }
        text
    }

    /// As [`Redactor::redact`], for a text that may have been cut off: the beginning of a secret at its end goes too.
    pub(super) fn redact_cut<'t>(&self, text: &'t str) -> Cow<'t, str> {
        let text = self.redact(text);
        let known = self.known.read();
        let end = known
            .forms
            .iter()
            .filter_map(|form| begins_at(&text, form))
            .min_by_key(|(at, _)| *at);
        match end {
            None => text,
            Some((at, form)) => Cow::Owned(format!("{}{}", &text[..at], form.instead)),
        }
    }
}

/// Where in `text` a secret begins that the text's end cuts off.
fn begins_at<'f>(text: &str, form: &'f Form) -> Option<(usize, &'f Form)> {
    let most = form.text.len().saturating_sub(1).min(text.len());
    (SECRET_BYTES_MIN..=most)
        .rev()
        .filter(|&length| form.text.is_char_boundary(length))
        .find(|&length| text.ends_with(&form.text[..length]))
        .map(|length| (text.len() - length, form))
}

/// What a URL leaves as it is (RFC 3986, section 2.3).
const UNRESERVED: &percent_encoding::AsciiSet = &NON_ALPHANUMERIC
    .remove(b'-')
    .remove(b'.')
    .remove(b'_')
    .remove(b'~');

impl Known {
    fn add(&mut self, text: String, instead: &str) {
        if text.len() < SECRET_BYTES_MIN || self.forms.iter().any(|form| form.text == text) {
            return;
        }
        self.bytes += text.len();
        self.longest = self.longest.max(text.len());
        self.forms.push(Form {
            text,
            instead: instead.to_owned(),
        });
        while self.bytes > KNOWN_BYTES_MAX && self.forms.len() > 1 {
            self.bytes -= self.forms.remove(0).text.len();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn knowing(secrets: &[(&str, &str)]) -> Redactor {
        let redactor = Redactor::default();
        for (name, value) in secrets {
            redactor.learn(name, value);
        }
        redactor
    }

    #[test]
    fn a_secret_is_taken_out_wherever_and_however_it_is_written() {
        let redactor = knowing(&[
            ("token", "sword\"fish/7"),
            ("longer", "a sword\"fish/7 and more"),
        ]);
        for (text, expect) in [
            ("nothing", "nothing"),
            ("sword\"fish/7", "[secret token]"),
            (
                "a=sword\"fish/7&b=sword\"fish/7",
                "a=[secret token]&b=[secret token]",
            ),
            (
                "Config { t: \"sword\\\"fish/7\" }",
                "Config { t: \"[secret token]\" }",
            ),
            ("/?t=sword%22fish%2F7", "/?t=[secret token]"),
            ("a sword\"fish/7 and more", "[secret longer]"),
        ] {
            assert_eq!(redactor.redact(text), expect);
        }
    }

    #[test]
    fn each_line_of_a_key_is_a_secret() {
        let redactor = knowing(&[("key", "-----BEGIN-----\nMIIabc\nxy\n")]);
        assert_eq!(
            redactor.redact("line: MIIabc, xy"),
            "line: [secret key], xy"
        );
    }

    #[test]
    fn the_beginning_of_a_secret_at_a_cut_is_taken_out() {
        let redactor = knowing(&[("token", "swordfish")]);
        assert_eq!(
            redactor.redact_cut("the token is swordfi"),
            "the token is [secret token]"
        );
        assert_eq!(
            redactor.redact_cut("the token is sword"),
            "the token is sword"
        );
        assert_eq!(
            redactor.redact("the token is swordfi"),
            "the token is swordfi"
        );
    }

    #[test]
    fn what_is_too_short_to_be_a_secret_is_left() {
        let redactor = knowing(&[("pin", "12345")]);
        assert_eq!(redactor.redact("12345 items"), "12345 items");
    }

    #[test]
    fn law_12_what_is_known_is_bounded() {
        let redactor = Redactor::default();
        for n in 0..100 {
            redactor.learn("rotated", &format!("{}_{n}", "x".repeat(60_000)));
        }
        let known = redactor.known.read();
        assert!(known.bytes <= KNOWN_BYTES_MAX, "{}", known.bytes);
        assert!(known.forms.iter().any(|form| form.text.ends_with("_99")));
    }
}
