//! Impersonation headers: acting as somebody else, with the right to.

use super::authenticate::{AUTHENTICATED, add_group};
use super::rbac::{Action, SERVICE_ACCOUNT_PREFIX, forbidden_message};
use super::{Attributes, Authorizer, Decision, User};
use crate::error::ApiError;
use http::HeaderMap;

/// The user to go on as; `None` when no header asks for another.
///
/// # Errors
/// 403 when `user` may not impersonate what the headers name; 400 when they name no user.
pub fn impersonate(
    user: &User,
    headers: &HeaderMap,
    authorizer: &dyn Authorizer,
) -> Result<Option<User>, ApiError> {
    // Nearly every request: no allocation, one pass over the names.
    if !headers
        .keys()
        .any(|name| name.as_str().starts_with("impersonate-"))
    {
        return Ok(None);
    }
    let text = |name: &str| {
        headers
            .get(name)
            .and_then(|value| value.to_str().ok())
            .filter(|text| !text.is_empty())
    };
    let groups: Vec<String> = headers
        .get_all("impersonate-group")
        .iter()
        .filter_map(|value| value.to_str().ok().map(str::to_owned))
        .collect();
    let extra = extra(headers);
    let uid = text("impersonate-uid");
    let Some(name) = text("impersonate-user") else {
        if groups.is_empty() && extra.is_empty() && uid.is_none() {
            return Ok(None);
        }
        let groups = if groups.is_empty() {
            "[]string(nil)".to_owned()
        } else {
            format!("[]string{{{}}}", quoted(&groups))
        };
        return Err(ApiError::bad_request(format!(
            "requested &user.DefaultInfo{{Name:\"\", UID:{:?}, Groups:{groups}, \
             Extra:map[string][]string(nil)}} without impersonating a user name",
            uid.unwrap_or_default()
        )));
    };
    let check = |group: &str, resource: &str, subresource: &str, namespace: &str, name: &str| {
        let attributes = Attributes {
            user,
            verb: "impersonate",
            group,
            resource,
            subresource,
            namespace,
            name,
            path: "",
        };
        confirm(&attributes, authorizer)
    };
    let mut acting = User {
        name: name.to_owned(),
        groups: groups.clone(),
        ..User::default()
    };
    if let Some((namespace, account)) = name
        .strip_prefix(SERVICE_ACCOUNT_PREFIX)
        .and_then(|rest| rest.split_once(':'))
    {
        check("", "serviceaccounts", "", namespace, account)?;
        if groups.is_empty() {
            acting.groups = super::authenticate::account(namespace, account, "").groups;
        }
    } else {
        check("", "users", "", "", name)?;
    }
    for group in &groups {
        check("", "groups", "", "", group)?;
    }
    for (key, value) in extra {
        check("authentication.k8s.io", "userextras", &key, "", &value)?;
        acting.extra.entry(key).or_default().push(value);
    }
    if let Some(uid) = uid {
        check("authentication.k8s.io", "uids", "", "", uid)?;
        acting.uid = uid.to_owned();
    }
    complete_groups(&mut acting);
    Ok(Some(acting))
}

fn confirm(attributes: &Attributes<'_>, authorizer: &dyn Authorizer) -> Result<(), ApiError> {
    let reason = match authorizer.authorize(attributes) {
        Decision::Allow => return Ok(()),
        Decision::Deny(reason) | Decision::NoOpinion(reason) => reason,
    };
    let action: Action<'_> = attributes.action();
    let mut why = forbidden_message(&attributes.user.name, &action);
    if !reason.is_empty() {
        why = format!("{why}: {reason}");
    }
    Err(ApiError::forbidden(
        attributes.group,
        attributes.resource,
        attributes.name,
        &why,
    ))
}

/// A user is authenticated or not; whoever asks may say which.
fn complete_groups(user: &mut User) {
    if user.name == ANONYMOUS {
        add_group(user, UNAUTHENTICATED);
    } else if !user.groups.iter().any(|group| group == UNAUTHENTICATED) {
        add_group(user, AUTHENTICATED);
    }
}

fn quoted(texts: &[String]) -> String {
    let texts: Vec<String> = texts.iter().map(|text| format!("{text:?}")).collect();
    texts.join(", ")
}

fn extra(headers: &HeaderMap) -> Vec<(String, String)> {
    headers
        .iter()
        .filter_map(|(name, value)| {
            let key = name.as_str().strip_prefix("impersonate-extra-")?;
            Some((unescape(key), value.to_str().ok()?.to_owned()))
        })
        .collect()
}

/// Decodes `%2f` and the like; a malformed key stays as it is.
fn unescape(key: &str) -> String {
    let mut bytes = Vec::with_capacity(key.len());
    let mut rest = key.as_bytes();
    while let [first, tail @ ..] = rest {
        let digit = |at: usize| tail.get(at).and_then(|b| char::from(*b).to_digit(16));
        match (first, digit(0), digit(1)) {
            (b'%', Some(high), Some(low)) => {
                bytes.push((high * 16 + low) as u8);
                rest = &tail[2..];
            }
            _ => {
                bytes.push(*first);
                rest = tail;
            }
        }
    }
    String::from_utf8(bytes).unwrap_or_else(|_| key.to_owned())
}

const ANONYMOUS: &str = "system:anonymous";
const UNAUTHENTICATED: &str = "system:unauthenticated";
