//! Expressions as attributes, and back.

use super::{
    attributes::{Attributes, find, find_text, find_u32, find_u64, read},
    expression::{
        Base, Comparison, Expression, Found, Meta, Refusal, Register, Track, Update, Verdict,
    },
};
use crate::model::Family;

/// `NFT_REG32_00`: the first of the registers of 4 bytes.
const REGISTER: u32 = 8;
/// `NFT_REG_VERDICT`.
const REGISTER_VERDICT: u32 = 0;
/// `NF_NAT_RANGE_PROTO_RANDOM_FULLY`.
const RANDOM_FULLY: u32 = 1 << 4;

/// An attribute that holds one item of a list.
const LIST_ELEM: u16 = 1;
const EXPR_NAME: u16 = 1;
const EXPR_DATA: u16 = 2;
const DATA_VALUE: u16 = 1;
const DATA_VERDICT: u16 = 2;
const VERDICT_CODE: u16 = 1;
const VERDICT_CHAIN: u16 = 2;

impl Meta {
    const ALL: [(Self, u32); 6] = [
        (Self::Mark, 3),
        (Self::InputIndex, 4),
        (Self::OutputIndex, 5),
        (Self::InputName, 6),
        (Self::OutputName, 7),
        (Self::Protocol, 16),
    ];

    /// How many bytes it is long.
    pub const fn width(self) -> usize {
        match self {
            Self::Mark | Self::InputIndex | Self::OutputIndex => 4,
            Self::InputName | Self::OutputName => 16,
            Self::Protocol => 1,
        }
    }
}

const TRACKS: [(Track, u32); 2] = [(Track::State, 0), (Track::Status, 2)];
const BASES: [(Base, u32); 2] = [(Base::Network, 1), (Base::Transport, 2)];
const COMPARISONS: [(Comparison, u32); 2] = [(Comparison::Equal, 0), (Comparison::NotEqual, 1)];
const UPDATES: [(Update, u32); 2] = [(Update::Renew, 1), (Update::Remove, 2)];

fn to_number<T: PartialEq>(table: &[(T, u32)], of: &T) -> u32 {
    table.iter().find(|(word, _)| word == of).map_or(u32::MAX, |(_, number)| *number)
}

fn from_number<T: Copy>(table: &[(T, u32)], number: u32) -> Option<T> {
    table.iter().find(|(_, of)| *of == number).map(|(word, _)| *word)
}

fn register(to: Register) -> u32 {
    REGISTER + u32::from(to.0)
}

/// Registers that begin a block of 16 bytes are told by the block's number.
fn read_register(number: u32) -> Option<Register> {
    let at = if number >= REGISTER { number - REGISTER } else { number.checked_sub(1)? * 4 };
    u8::try_from(at).ok().filter(|at| *at < 16).map(Register)
}

/// Writes a value as `nf_tables` has it everywhere.
pub fn value(attributes: &mut Attributes<'_>, kind: u16, value: &[u8]) {
    attributes.nest(kind, |data| data.bytes(DATA_VALUE, value));
}

/// Writes a verdict as a value.
pub fn verdict(attributes: &mut Attributes<'_>, kind: u16, verdict: &Verdict) {
    let (code, chain): (i32, _) = match verdict {
        Verdict::Drop => (0, None),
        Verdict::Accept => (1, None),
        Verdict::Return => (-5, None),
        Verdict::Jump(chain) => (-3, Some(chain)),
        Verdict::Goto(chain) => (-4, Some(chain)),
    };
    attributes.nest(kind, |data| {
        data.nest(DATA_VERDICT, |data| {
            data.u32(VERDICT_CODE, code.cast_unsigned());
            if let Some(chain) = chain {
                data.text(VERDICT_CHAIN, chain);
            }
        });
    });
}

/// Reads a value.
pub fn read_value(data: &[u8]) -> Option<&[u8]> {
    find(data, DATA_VALUE)
}

/// Reads a verdict.
pub fn read_verdict(data: &[u8]) -> Option<Verdict> {
    let data = find(data, DATA_VERDICT)?;
    let chain = || find_text(data, VERDICT_CHAIN).map(|name| name.to_owned().into());
    match find_u32(data, VERDICT_CODE)?.cast_signed() {
        0 => Some(Verdict::Drop),
        1 => Some(Verdict::Accept),
        -3 => Some(Verdict::Jump(chain()?)),
        -4 => Some(Verdict::Goto(chain()?)),
        -5 => Some(Verdict::Return),
        _ => None,
    }
}

/// Writes the steps of a rule.
pub fn expressions(
    attributes: &mut Attributes<'_>,
    kind: u16,
    family: Family,
    steps: &[Expression],
) {
    attributes.nest(kind, |list| {
        for step in steps {
            list.nest(LIST_ELEM, |item| {
                item.text(EXPR_NAME, name(step));
                item.nest(EXPR_DATA, |data| write(data, family, step));
            });
        }
    });
}

/// The kernel's name of a step.
pub fn name(step: &Expression) -> &'static str {
    match step {
        Expression::Payload { .. } => "payload",
        Expression::Meta { .. } | Expression::SetMark(_) => "meta",
        Expression::Track { .. } => "ct",
        Expression::Compare { .. } => "cmp",
        Expression::Bitwise { .. } => "bitwise",
        Expression::Immediate { .. } | Expression::Verdict(_) => "immediate",
        Expression::Lookup { .. } => "lookup",
        Expression::Random { .. } => "numgen",
        Expression::Update { .. } => "dynset",
        Expression::Dnat { .. } => "nat",
        Expression::Masquerade => "masq",
        Expression::Refuse(_) => "reject",
        Expression::Counter => "counter",
    }
}

#[expect(clippy::too_many_lines, reason = "one arm per expression")]
fn write(data: &mut Attributes<'_>, family: Family, step: &Expression) {
    match step {
        Expression::Payload { base, offset, len, to } => {
            data.u32(1, register(*to));
            data.u32(2, to_number(&BASES, base));
            data.u32(3, *offset);
            data.u32(4, *len);
        }
        Expression::Meta { key, to } => {
            data.u32(2, to_number(&Meta::ALL, key));
            data.u32(1, register(*to));
        }
        Expression::SetMark(from) => {
            data.u32(2, to_number(&Meta::ALL, &Meta::Mark));
            data.u32(3, register(*from));
        }
        Expression::Track { key, to } => {
            data.u32(2, to_number(&TRACKS, key));
            data.u32(1, register(*to));
        }
        Expression::Compare { from, by, with } => {
            data.u32(1, register(*from));
            data.u32(2, to_number(&COMPARISONS, by));
            value(data, 3, with);
        }
        Expression::Bitwise { from, to, mask, xor } => {
            data.u32(1, register(*from));
            data.u32(2, register(*to));
            data.u32(3, u32::try_from(mask.len()).unwrap_or(0));
            value(data, 4, mask);
            value(data, 5, xor);
        }
        Expression::Immediate { to, value: of } => {
            data.u32(1, register(*to));
            value(data, 2, of);
        }
        Expression::Verdict(of) => {
            data.u32(1, REGISTER_VERDICT);
            verdict(data, 2, of);
        }
        Expression::Lookup { set, key, found } => {
            data.text(1, set);
            data.u32(2, register(*key));
            match found {
                Found::Nothing => {}
                Found::Missing => data.u32(5, 1),
                Found::Data(to) => data.u32(3, register(*to)),
                Found::Verdict => data.u32(3, REGISTER_VERDICT),
            }
        }
        Expression::Random { below, to } => {
            data.u32(1, register(*to));
            data.u32(2, *below);
            data.u32(3, 1);
        }
        Expression::Update { set, update, key, data: from, timeout_ms } => {
            data.text(1, set);
            data.u32(3, to_number(&UPDATES, update));
            data.u32(4, register(*key));
            if let Some(from) = from {
                data.u32(5, register(*from));
            }
            if let Some(timeout_ms) = timeout_ms {
                data.u64(6, *timeout_ms);
            }
        }
        Expression::Dnat { address, port } => {
            data.u32(1, 1);
            data.u32(2, protocol_family(family).into());
            data.u32(3, register(*address));
            if let Some(port) = port {
                data.u32(5, register(*port));
            }
        }
        Expression::Masquerade => data.u32(1, RANDOM_FULLY),
        Expression::Refuse(Refusal::TcpReset) => data.u32(1, 1),
        Expression::Refuse(Refusal::PortUnreachable) => {
            let code = match family {
                Family::V4 => 3,
                Family::V6 => 4,
            };
            data.u32(1, 0);
            data.bytes(2, &[code]);
        }
        Expression::Counter => {}
    }
}

/// `NFPROTO_IPV4` and `NFPROTO_IPV6`.
pub const fn protocol_family(family: Family) -> u8 {
    match family {
        Family::V4 => 2,
        Family::V6 => 10,
    }
}

/// The steps of a rule as a dump tells them; `None` for those that we do not write.
pub fn read_expressions(list: &[u8]) -> Vec<Option<Expression>> {
    read(list).filter(|(kind, _)| *kind == LIST_ELEM).map(|(_, item)| read_one(item)).collect()
}

fn read_one(item: &[u8]) -> Option<Expression> {
    let name = find_text(item, EXPR_NAME)?;
    let data = find(item, EXPR_DATA).unwrap_or(&[]);
    let number = |kind| find_u32(data, kind);
    let register = |kind| read_register(number(kind)?);
    let value = |kind| find(data, kind).and_then(read_value).map(<[u8]>::to_vec);
    let set = || find_text(data, 1).map(|name| name.to_owned().into());
    let step = match name {
        "payload" => Expression::Payload {
            base: from_number(&BASES, number(2)?)?,
            offset: number(3)?,
            len: number(4)?,
            to: register(1)?,
        },
        "meta" if number(3).is_some() => {
            from_number(&Meta::ALL, number(2)?).filter(|key| *key == Meta::Mark)?;
            Expression::SetMark(register(3)?)
        }
        "meta" => Expression::Meta { key: from_number(&Meta::ALL, number(2)?)?, to: register(1)? },
        "ct" => Expression::Track { key: from_number(&TRACKS, number(2)?)?, to: register(1)? },
        "cmp" => Expression::Compare {
            from: register(1)?,
            by: from_number(&COMPARISONS, number(2)?)?,
            with: value(3)?,
        },
        "bitwise" => Expression::Bitwise {
            from: register(1)?,
            to: register(2)?,
            mask: value(4)?,
            xor: value(5)?,
        },
        "immediate" if number(1)? == REGISTER_VERDICT => {
            Expression::Verdict(read_verdict(find(data, 2)?)?)
        }
        "immediate" => Expression::Immediate { to: register(1)?, value: value(2)? },
        "lookup" => Expression::Lookup {
            set: set()?,
            key: register(2)?,
            found: match (number(3), number(5).unwrap_or(0)) {
                (None, 0) => Found::Nothing,
                (None, _) => Found::Missing,
                (Some(REGISTER_VERDICT), _) => Found::Verdict,
                (Some(to), _) => Found::Data(read_register(to)?),
            },
        },
        "numgen" if number(3)? == 1 && number(4).unwrap_or(0) == 0 => {
            Expression::Random { below: number(2)?, to: register(1)? }
        }
        "dynset" => Expression::Update {
            set: set()?,
            update: from_number(&UPDATES, number(3)?)?,
            key: register(4)?,
            data: register(5),
            timeout_ms: find_u64(data, 6).filter(|timeout_ms| *timeout_ms > 0),
        },
        "nat" if number(1)? == 1 => {
            let port = register(5);
            Expression::Dnat { address: register(3)?, port }
        }
        "masq" if number(1)? == RANDOM_FULLY => Expression::Masquerade,
        "reject" => Expression::Refuse(match number(1)? {
            0 => Refusal::PortUnreachable,
            1 => Refusal::TcpReset,
            _ => return None,
        }),
        "counter" => Expression::Counter,
        _ => return None,
    };
    Some(step)
}
