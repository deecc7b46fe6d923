//! Scalars: numbers, switches, durations, percents, decimals, CIDRs.

use std::{net::IpAddr, ops::RangeInclusive, str::FromStr, time::Duration};

use ipnet::IpNet;

use super::{field::At, report::Report};
use crate::rule;

/// A whole number in `range`.
pub(super) fn number<T>(range: RangeInclusive<T>) -> impl Fn(At<'_>, &mut Report) -> Option<T>
where
    T: FromStr + PartialOrd + std::fmt::Display,
{
    move |at, report| {
        let wanted = || format!("a whole number, {} to {}", range.start(), range.end());
        let text = at.text(report, &wanted())?;
        let parsed = whole(text).ok_or_else(|| format!("is no number; use {}", wanted()));
        at.check(
            report,
            parsed.and_then(|value| rule::in_range(value, &range)),
        )
    }
}

/// `off`, or a whole number in `range`.
pub(super) fn number_or_off<T>(
    range: RangeInclusive<T>,
) -> impl Fn(At<'_>, &mut Report) -> Option<Option<T>>
where
    T: FromStr + PartialOrd + std::fmt::Display,
{
    let number = number(range);
    move |at, report| match at.raw() {
        Some("off") => Some(None),
        _ => number(at, report).map(Some),
    }
}

/// A whole number of percent, with or without the sign.
pub(super) fn percent(at: At<'_>, report: &mut Report) -> Option<u8> {
    let text = at.text(report, "a percentage, 0 to 100")?;
    let digits = text.strip_suffix('%').unwrap_or(text).trim_end();
    let parsed = whole(digits).ok_or_else(|| "is no whole percentage, 0 to 100".to_owned());
    at.check(
        report,
        parsed.and_then(|value| rule::in_range(value, &rule::PERCENT)),
    )
}

/// A decimal with at most three places, in thousandths.
pub(super) fn thousandths(
    range: RangeInclusive<u32>,
) -> impl Fn(At<'_>, &mut Report) -> Option<u32> {
    move |at, report| {
        let wanted = || {
            let (low, high) = (range.start() / 1000, range.end() / 1000);
            format!("a number, {low} to {high}, with at most three decimals")
        };
        let text = at.text(report, &wanted())?;
        let parsed = parse_thousandths(text)
            .filter(|value| range.contains(value))
            .ok_or_else(|| format!("is not {}", wanted()));
        at.check(report, parsed)
    }
}

/// `true` or `false`.
pub(super) fn switch(at: At<'_>, report: &mut Report) -> Option<bool> {
    at.choice(report, &[("true", true), ("false", false)])
}

/// `on` or `off`; `true` and `false` too, as YAML 1.1 had it.
pub(super) fn on_off(at: At<'_>, report: &mut Report) -> Option<bool> {
    match at.raw() {
        Some("true") => Some(true),
        Some("false") => Some(false),
        _ => at.choice(report, &[("on", true), ("off", false)]),
    }
}

/// A duration in `range`.
pub(super) fn duration(
    range: RangeInclusive<Duration>,
) -> impl Fn(At<'_>, &mut Report) -> Option<Duration> {
    move |at, report| {
        let text = at.text(report, DURATION)?;
        let parsed =
            rule::parse_duration(text).ok_or_else(|| format!("is no duration; use {DURATION}"));
        at.check(
            report,
            parsed.and_then(|value| rule::duration_in(value, &range)),
        )
    }
}

/// `off`, or a duration in `range`.
pub(super) fn duration_or_off(
    range: RangeInclusive<Duration>,
) -> impl Fn(At<'_>, &mut Report) -> Option<Option<Duration>> {
    let duration = duration(range);
    move |at, report| match at.raw() {
        Some("off") => Some(None),
        _ => duration(at, report).map(Some),
    }
}

/// A duration that may be zero, also written `off`.
pub(super) fn wait(at: At<'_>, report: &mut Report) -> Option<Duration> {
    duration_or_off(rule::WAIT)(at, report).map(Option::unwrap_or_default)
}

/// CIDRs; a bare address is itself alone. Never empty.
pub(super) fn networks(at: At<'_>, report: &mut Report) -> Option<Vec<IpNet>> {
    let networks = at.list(report, network)?;
    if at.is_empty_list() {
        at.fault(report, "is empty; name networks, or leave the key out");
    }
    Some(networks)
}

fn network(at: At<'_>, report: &mut Report) -> Option<IpNet> {
    let wanted = "a network such as 10.0.0.0/8 or fd00::/8";
    let text = at.text(report, wanted)?;
    let parsed = text
        .parse::<IpNet>()
        .or_else(|_| text.parse::<IpAddr>().map(IpNet::from))
        .map_err(|_| format!("is no {}", &wanted[2..]));
    let network = at.check(report, parsed)?;
    if network.trunc() != network {
        let message = format!(
            "{network} has bits beyond its prefix; use {}",
            network.trunc()
        );
        at.fault(report, message);
    }
    Some(network)
}

/// Digits only: no sign, no spaces.
fn whole<T: FromStr>(text: &str) -> Option<T> {
    let digits = text.bytes().all(|byte| byte.is_ascii_digit());
    digits.then(|| text.parse().ok()).flatten()
}

fn parse_thousandths(text: &str) -> Option<u32> {
    let (points, decimals) = text.split_once('.').unwrap_or((text, "0"));
    if !(1..=3).contains(&decimals.len()) {
        return None;
    }
    let scale = 10_u32.pow(3 - u32::try_from(decimals.len()).ok()?);
    let points: u32 = whole(points)?;
    let decimals: u32 = whole(decimals)?;
    points.checked_mul(1000)?.checked_add(decimals * scale)
}

const DURATION: &str = "a number with a unit, such as 500ms, 1s, 5m or 1h";
