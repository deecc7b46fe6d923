//! Impersonation headers: acting as somebody else, with the right to.

use super::authenticate::{AUTHENTICATED, add_group};
use super::rbac::{Action, SERVICE_ACCOUNT_PREFIX, forbidden_message};
use super::{Attributes, Authorizer, Decision, User};
use crate::error::ApiError;
use http::HeaderMap;

/// What the headers ask for.
#[derive(Debug, Default)]
struct Wish {
    user: String,
    groups: Vec<String>,
    extra: Vec<(String, String)>,
    uid: String,
}

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
    let wish = Wish::parse(headers);
    if wish.user.is_empty() {
        return wish.without_user();
    }
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
    let mut groups = wish.groups.clone();
    let account = wish
        .user
        .strip_prefix(SERVICE_ACCOUNT_PREFIX)
        .and_then(|rest| rest.split_once(':'));
    if let Some((namespace, account)) = account {
        check("", "serviceaccounts", "", namespace, account)?;
        if groups.is_empty() {
            groups = super::authenticate::account(namespace, account, "").groups;
        }
    } else {
        check("", "users", "", "", &wish.user)?;
    }
    for group in &wish.groups {
        check("", "groups", "", "", group)?;
    }
    for (key, value) in &wish.extra {
        check("authentication.k8s.io", "userextras", key, "", value)?;
    }
    if !wish.uid.is_empty() {
        check("authentication.k8s.io", "uids", "", "", &wish.uid)?;
    }
    Ok(Some(wish.granted(groups)))
}

// === impl Wish ===

impl Wish {
    fn parse(headers: &HeaderMap) -> Self {
        let text = |name: &str| {
            let value = headers.get(name).and_then(|value| value.to_str().ok());
            value.unwrap_or_default().to_owned()
        };
        let groups = headers.get_all("impersonate-group").iter();
        Self {
            user: text("impersonate-user"),
            groups: groups
                .filter_map(|value| value.to_str().ok().map(str::to_owned))
                .collect(),
            extra: extra(headers),
            uid: text("impersonate-uid"),
        }
    }

    /// Groups, extra or uid of nobody, in the words of the real server.
    fn without_user(&self) -> Result<Option<User>, ApiError> {
        if self.groups.is_empty() && self.extra.is_empty() && self.uid.is_empty() {
            return Ok(None);
        }
        let groups = if self.groups.is_empty() {
            "[]string(nil)".to_owned()
        } else {
            let quoted: Vec<String> = self
                .groups
                .iter()
                .map(|group| format!("{group:?}"))
                .collect();
            format!("[]string{{{}}}", quoted.join(", "))
        };
        Err(ApiError::bad_request(format!(
            "requested &user.DefaultInfo{{Name:\"\", UID:{:?}, Groups:{groups}, \
             Extra:map[string][]string(nil)}} without impersonating a user name",
            self.uid
        )))
    }

    fn granted(self, groups: Vec<String>) -> User {
        let mut user = User {
            name: self.user,
            uid: self.uid,
            groups,
            ..User::default()
        };
        for (key, value) in self.extra {
            user.extra.entry(key).or_default().push(value);
        }
        complete_groups(&mut user);
        user
    }
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
