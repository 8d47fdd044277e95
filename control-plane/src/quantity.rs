//! Amounts of resources as Kubernetes writes them: `500m`, `1Gi`, `1e3`.

use std::{
    cmp::Ordering,
    fmt,
    ops::{Add, AddAssign},
    str::FromStr,
};

use serde_json::Value;

const NANOS: i128 = 1_000_000_000;
const NANOS_IN_MILLI: i128 = 1_000_000;
/// What is more counts as this much; `resource.Quantity` has the same limit.
const MAX: i128 = i64::MAX as i128 * NANOS;
/// Digits behind the point that are looked at; more only say whether to round up.
const FRACTION_DIGITS: usize = 11;
const BINARY: [&str; 6] = ["Ki", "Mi", "Gi", "Ti", "Pi", "Ei"];
const DECIMAL: [(&str, i32); 10] = [
    ("n", -9),
    ("u", -6),
    ("m", -3),
    ("", 0),
    ("k", 3),
    ("M", 6),
    ("G", 9),
    ("T", 12),
    ("P", 15),
    ("E", 18),
];

/// How an amount is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Form {
    /// `500m`, `3k`.
    Decimal,
    /// `3e3`.
    Exponent,
    /// `3Ki`.
    Binary,
}

/// An amount, exact to a billionth; two are equal if they are as much, however they are written.
#[derive(Clone, Copy, Debug)]
pub struct Quantity {
    nanos: i128,
    form: Form,
}

/// Why a text is no amount; the words are those of `resource.ParseQuantity`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// It is not a number with a suffix.
    #[error(
        "quantities must match the regular expression '^([+-]?[0-9.]+)([eEinumkKMGTP]*[-+]?[0-9]*)$'"
    )]
    Form,
    /// Nobody knows the suffix.
    #[error("unable to parse quantity's suffix")]
    Suffix,
}

impl Quantity {
    /// Nothing.
    pub const ZERO: Self = Self { nanos: 0, form: Form::Decimal };

    /// From JSON: a text or a number.
    pub fn of(value: &Value) -> Result<Self, Error> {
        match value {
            Value::String(text) => text.parse(),
            Value::Number(number) => number.to_string().parse(),
            _ => Err(Error::Form),
        }
    }

    /// A whole number.
    pub fn whole(number: i64) -> Self {
        Self { nanos: i128::from(number) * NANOS, form: Form::Decimal }
    }

    /// Whether it is nothing.
    pub fn is_zero(self) -> bool {
        self.nanos == 0
    }

    /// Whether it is less than nothing.
    pub fn is_negative(self) -> bool {
        self.nanos < 0
    }

    /// Whether it has no fraction.
    pub fn is_whole(self) -> bool {
        self.nanos % NANOS == 0
    }

    /// The same, with what is less than a thousandth rounded up.
    #[must_use]
    pub fn up_to_milli(self) -> Self {
        Self { nanos: divide_up(self.nanos, NANOS_IN_MILLI) * NANOS_IN_MILLI, form: self.form }
    }

    /// Thousandths, rounded up.
    pub fn milli(self) -> i64 {
        saturate(divide_up(self.nanos, NANOS_IN_MILLI))
    }

    /// The next whole number.
    pub fn value(self) -> i64 {
        saturate(divide_up(self.nanos, NANOS))
    }
}

impl PartialEq for Quantity {
    fn eq(&self, other: &Self) -> bool {
        self.nanos == other.nanos
    }
}

impl Eq for Quantity {}

impl PartialOrd for Quantity {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Quantity {
    fn cmp(&self, other: &Self) -> Ordering {
        self.nanos.cmp(&other.nanos)
    }
}

impl Add for Quantity {
    type Output = Self;

    fn add(self, other: Self) -> Self {
        let form = if self.is_zero() { other.form } else { self.form };
        Self { nanos: (self.nanos + other.nanos).clamp(-MAX, MAX), form }
    }
}

impl AddAssign for Quantity {
    fn add_assign(&mut self, other: Self) {
        *self = *self + other;
    }
}

impl FromStr for Quantity {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        let text = text.trim();
        let (sign, digits) = match text.as_bytes().first() {
            Some(b'-') => (-1, &text[1..]),
            Some(b'+') => (1, &text[1..]),
            _ => (1, text),
        };
        let end = digits.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(digits.len());
        let (number, suffix) = digits.split_at(end);
        let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
        if whole.len() + fraction.len() == 0 || fraction.contains('.') || !is_suffix(suffix) {
            return Err(Error::Form);
        }
        let (factor, divisor, form) = scale(suffix)?;
        let nanos = amount(whole, factor, divisor)
            .and_then(|nanos| nanos.checked_add(part(fraction, factor, divisor)?))
            .unwrap_or(MAX)
            .min(MAX);
        Ok(Self { nanos: sign * nanos, form })
    }
}

/// The canonical form: no fraction, the largest suffix that keeps it exact.
impl fmt::Display for Quantity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.is_zero() {
            return f.write_str("0");
        }
        if self.form == Form::Binary && self.is_whole() && self.nanos.abs() >= 1024 * NANOS {
            let (mut number, mut times) = (self.nanos / NANOS, 0);
            while number % 1024 == 0 && times < BINARY.len() {
                (number, times) = (number / 1024, times + 1);
            }
            let suffix = if times == 0 { "" } else { BINARY[times - 1] };
            return write!(f, "{number}{suffix}");
        }
        let (mut number, mut exponent) = (self.nanos, -9);
        while number % 10 == 0 {
            (number, exponent) = (number / 10, exponent + 1);
        }
        while exponent % 3 != 0 {
            (number, exponent) = (number * 10, exponent - 1);
        }
        match (self.form, exponent) {
            (Form::Exponent, 0) => write!(f, "{number}"),
            (Form::Exponent, exponent) => write!(f, "{number}e{exponent}"),
            (Form::Decimal | Form::Binary, exponent) => {
                let suffix = DECIMAL.iter().find(|(_, known)| *known == exponent);
                write!(f, "{number}{}", suffix.map_or("", |(suffix, _)| suffix))
            }
        }
    }
}

/// Letters of suffixes, then perhaps a sign and digits.
fn is_suffix(text: &str) -> bool {
    let rest = text.trim_start_matches(|c| "eEinumkKMGTP".contains(c));
    let rest = rest.strip_prefix(['-', '+']).unwrap_or(rest);
    rest.bytes().all(|byte| byte.is_ascii_digit())
}

/// What a suffix multiplies with, what it divides by, and the form it makes.
fn scale(suffix: &str) -> Result<(i128, i128, Form), Error> {
    if let Some(at) = BINARY.iter().position(|known| *known == suffix) {
        let shift = 10 * (at + 1);
        return Ok((1 << shift, 1, Form::Binary));
    }
    let power = |exponent: i32| 10_i128.pow(exponent.unsigned_abs().min(27));
    let scaled = |exponent: i32| {
        if exponent < 0 { (1, power(exponent)) } else { (power(exponent), 1) }
    };
    if let Some((_, exponent)) = DECIMAL.iter().find(|(known, _)| *known == suffix) {
        let (factor, divisor) = scaled(*exponent);
        return Ok((factor, divisor, Form::Decimal));
    }
    let exponent = suffix.strip_prefix(['e', 'E']).and_then(|rest| rest.parse().ok());
    let (factor, divisor) = scaled(exponent.ok_or(Error::Suffix)?);
    Ok((factor, divisor, Form::Exponent))
}

/// Billionths of a whole number; nothing if they are too many.
fn amount(digits: &str, factor: i128, divisor: i128) -> Option<i128> {
    let digits = digits.trim_start_matches('0');
    if digits.is_empty() {
        return Some(0);
    }
    let number: i128 = digits.parse().ok()?;
    Some(divide_up(number.checked_mul(factor)?.checked_mul(NANOS)?, divisor))
}

/// Billionths of what stands behind the point.
fn part(digits: &str, factor: i128, divisor: i128) -> Option<i128> {
    let digits = digits.trim_end_matches('0');
    if digits.is_empty() {
        return Some(0);
    }
    let kept = &digits[..digits.len().min(FRACTION_DIGITS)];
    let number: i128 = kept.parse().ok()?;
    let below = 10_i128.pow(u32::try_from(kept.len()).ok()?).checked_mul(divisor)?;
    let exact = number.checked_mul(factor)?.checked_mul(NANOS)?;
    let rest = i128::from(kept.len() < digits.len() && exact % below == 0);
    Some(divide_up(exact, below) + rest)
}

/// Rounds away from zero: who asks for something gets something.
fn divide_up(number: i128, divisor: i128) -> i128 {
    let away = i128::from(number % divisor != 0) * number.signum();
    number / divisor + away
}

fn saturate(number: i128) -> i64 {
    i64::try_from(number).unwrap_or(if number < 0 { i64::MIN } else { i64::MAX })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn canonical_forms_are_those_of_upstream() {
        for (text, expected) in [
            ("0", "0"),
            ("0.0", "0"),
            ("1", "1"),
            ("+1", "1"),
            ("-1", "-1"),
            (".5", "500m"),
            ("1.", "1"),
            ("0.1", "100m"),
            ("100m", "100m"),
            ("1000m", "1"),
            ("1500m", "1500m"),
            ("1.5", "1500m"),
            ("1500", "1500"),
            ("1000000", "1M"),
            ("1k", "1k"),
            ("1000k", "1M"),
            ("1024", "1024"),
            ("1024Ki", "1Mi"),
            ("1024Mi", "1Gi"),
            ("1536Mi", "1536Mi"),
            ("0.5Gi", "512Mi"),
            ("0.5Ki", "512"),
            ("1.1Ki", "1126400m"),
            ("1Ei", "1Ei"),
            ("1E", "1E"),
            ("1e3", "1e3"),
            ("1E3", "1e3"),
            ("1500e0", "1500"),
            ("1e-3", "1e-3"),
            ("1n", "1n"),
            ("0.1n", "1n"),
            ("1u", "1u"),
            ("100000n", "100u"),
            ("007", "7"),
            ("9223372036854775808", "9223372036854775807"),
            ("99999999999999999999999999999999999999999999", "9223372036854775807"),
        ] {
            assert_eq!(text.parse::<Quantity>().unwrap().to_string(), expected, "{text}");
        }
    }

    #[test]
    fn what_is_no_amount_is_refused_in_the_words_of_upstream() {
        for text in ["", " ", ".", "-", "1.2.3", "m", "1Mi1x", "1 Gi", "1,5", "0x10", "１"] {
            assert_eq!(text.parse::<Quantity>(), Err(Error::Form), "{text:?}");
        }
        for text in ["1Kii", "1mm", "1ee3", "1KM", "1e", "1Mi3", "1i", "1K"] {
            assert_eq!(text.parse::<Quantity>(), Err(Error::Suffix), "{text:?}");
        }
    }

    #[test]
    fn amounts_are_compared_and_added_whatever_their_form() {
        let of = |text: &str| text.parse::<Quantity>().unwrap();
        assert_eq!(of("1Ki"), of("1024"));
        assert!(of("1G") < of("1Gi"));
        assert!(of("-1") < Quantity::ZERO);
        assert_eq!((of("1Gi") + of("512Mi")).to_string(), "1536Mi");
        assert_eq!((Quantity::ZERO + of("512Mi") + of("512Mi")).to_string(), "1Gi");
        assert_eq!(of("100u").up_to_milli().to_string(), "1m");
        assert_eq!((of("0.0011").milli(), of("1.1").value(), of("-1.1").value()), (2, 2, -2));
        assert_eq!(Quantity::of(&serde_json::json!(0.5)), Ok(of("500m")));
        assert_eq!(Quantity::of(&serde_json::json!(2)), Ok(of("2")));
        assert_eq!(Quantity::of(&serde_json::json!(null)), Err(Error::Form));
    }

    proptest! {
        #[test]
        fn a_canonical_form_is_as_much_and_stays(
            number in 0_u64..1_000_000_000_000, point in 0_usize..6, at in 0_usize..18,
        ) {
            let suffixes = ["", "n", "u", "m", "k", "M", "G", "T", "Ki", "Mi", "Gi", "Ti", "e3", "e-3", "E2", "P", "e0", "Pi"];
            let mut digits = number.to_string();
            if point < digits.len() {
                digits.insert(digits.len() - point, '.');
            }
            let amount: Quantity = format!("{digits}{}", suffixes[at]).parse().unwrap();
            let again: Quantity = amount.to_string().parse().unwrap();
            prop_assert_eq!(again, amount);
            prop_assert_eq!(again.to_string(), amount.to_string());
        }

        #[test]
        fn no_text_makes_it_fail_otherwise(text in "\\PC{0,40}") {
            let _either = text.parse::<Quantity>();
        }
    }
}
