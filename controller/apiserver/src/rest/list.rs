//! Reading objects: one, a list, a page of a list.

use std::collections::BTreeMap;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use http::Response;
use serde_json::{Value, json};

use super::Request;
use super::print::{ListMeta, Outcome};
use crate::error::{ApiError, Cause};
use crate::http::{Body, FieldSelector, LabelSelector, options_invalid};
use crate::store::{Key, Listing, Lost, Object, Range};

/// Which objects of a table a list or watch is about.
#[derive(Debug, Clone, Default)]
pub(super) struct Selection {
    pub labels: LabelSelector,
    pub fields: FieldSelector,
    /// The one name that the selector or the path allows.
    pub name: Option<String>,
}

/// Which state a list may come from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Latest,
    /// Any state not older than this one; the present one always is.
    AtLeast(u64),
    Exactly(u64),
}

/// Where a page ended.
#[derive(Debug, PartialEq, Eq)]
struct Continue {
    /// Zero: at the present state, after the pinned one expired.
    revision: u64,
    after: Key,
}

const EXPIRED_CONTINUE: &str = "The provided continue parameter is too old to display a consistent \
     list result. You can start a new list without the continue parameter, or use the continue \
     token in this response to retrieve the remainder of the results. Continuing with the provided \
     token results in an inconsistent list - objects that were created, modified, or deleted \
     between the time the first chunk was returned and now may show up in the list.";

// === impl Selection ===

impl Selection {
    pub(super) fn matches(&self, object: &Object) -> bool {
        (self.labels.is_empty() || self.labels.matches(|key| object.label(key)))
            && (self.fields.is_empty() || self.fields.matches(|field| object.field(field)))
    }

    fn is_everything(&self) -> bool {
        self.labels.is_empty() && self.fields.is_empty()
    }
}

// === impl Request ===

impl Request<'_> {
    pub(super) fn get(&self) -> Result<Response<Body>, ApiError> {
        if let Some(wanted) = self.revision_option()? {
            self.reached(wanted)?;
        }
        let key = Key::new(&self.place.namespace, &self.place.name);
        let found = self.core.store.read(&self.resource.table, &key);
        let object = found.ok_or_else(|| self.not_found())?;
        if self.place.subresource == "scale" {
            return self.print_scale(&object);
        }
        self.print_one(200, &Outcome::Stored(object))
    }

    pub(super) fn list(&self) -> Result<Response<Body>, ApiError> {
        let (listing, meta) = self.page()?;
        self.print_list(&listing.objects, &meta)
    }

    /// What the request's options select, and where the next page starts.
    pub(super) fn page(&self) -> Result<(Listing, ListMeta), ApiError> {
        let selection = self.selection()?;
        let (range, state) = self.list_range(&selection)?;
        let listing = self
            .core
            .store
            .list(&self.resource.table, &range, &|object| {
                selection.matches(object)
            })
            .map_err(|lost| self.expired(lost, &range, state))?;
        let meta = page_meta(&listing, &range, selection.is_everything());
        Ok((listing, meta))
    }

    pub(super) fn selection(&self) -> Result<Selection, ApiError> {
        let labels = LabelSelector::parse(self.query.text("labelSelector"))?;
        let fields = FieldSelector::parse(self.query.text("fieldSelector"))?;
        for field in fields.fields() {
            if !self.is_selectable(field) {
                return Err(ApiError::bad_request(self.unselectable(field)));
            }
        }
        let by_selector = fields.exactly("metadata.name").map(str::to_owned);
        let by_path = (!self.place.name.is_empty()).then(|| self.place.name.clone());
        Ok(Selection {
            labels,
            fields,
            name: by_path.or(by_selector),
        })
    }

    fn unselectable(&self, field: &str) -> String {
        let own = self.strategy().selectable_fields();
        if own.is_empty() && self.resource.custom.is_none() {
            return format!(
                "{field:?} is not a known field selector: only \"metadata.name\", \
                 \"metadata.namespace\""
            );
        }
        format!("field label not supported: {field}")
    }

    fn is_selectable(&self, field: &str) -> bool {
        if matches!(field, "metadata.name" | "metadata.namespace") {
            return true;
        }
        let custom = |custom: &crate::crd::Custom| {
            custom
                .selectable_fields
                .iter()
                .any(|path| path.trim_start_matches('.') == field)
        };
        self.strategy().selectable_fields().contains(&field)
            || self.resource.custom.as_deref().is_some_and(custom)
    }

    /// The keys to list: by name where the selection allows only one.
    pub(super) fn range(&self, selection: &Selection) -> Range {
        let namespaced = self.resource.namespaced;
        let namespace = (!self.place.namespace.is_empty()).then(|| self.place.namespace.clone());
        // Without a namespace, one name may stand in many.
        let name = selection
            .name
            .clone()
            .filter(|_| !namespaced || namespace.is_some());
        Range {
            namespace,
            name,
            ..Range::default()
        }
    }

    fn list_range(&self, selection: &Selection) -> Result<(Range, State), ApiError> {
        // Nothing here takes that long, but a bad number is told.
        self.query.integer("timeoutSeconds")?;
        let limit = self.query.integer("limit")?.unwrap_or_default();
        let limit = usize::try_from(limit).ok().filter(|limit| *limit > 0);
        let mut range = Range {
            limit,
            ..self.range(selection)
        };
        let state = self.list_state(limit.is_some())?;
        if let State::AtLeast(wanted) | State::Exactly(wanted) = state {
            self.reached(wanted)?;
        }
        if let State::Exactly(wanted) = state {
            range.at = Some(wanted);
        }
        if state == State::AtLeast(0) {
            // Such a list comes from the watch cache, which has no pages.
            range.limit = None;
        }
        if let Some(token) = self.query.text("continue") {
            let from = Continue::parse(token)?;
            range.at = (from.revision > 0).then_some(from.revision);
            range.after = Some(from.after);
        }
        Ok((range, state))
    }

    /// The rules of `resourceVersion` and `resourceVersionMatch` for lists.
    fn list_state(&self, limited: bool) -> Result<State, ApiError> {
        let wanted = self.revision_option()?;
        let matching = self.query.text("resourceVersionMatch");
        let forbidden = |detail: &str| {
            Err(options_invalid(
                "ListOptions",
                vec![Cause::forbidden("resourceVersionMatch", detail)],
            ))
        };
        let continued = self.query.text("continue").is_some();
        if continued && matching.is_none() && wanted.is_some_and(|wanted| wanted > 0) {
            return Err(ApiError::bad_request(
                "specifying resource version is not allowed when using continue",
            ));
        }
        if self.query.flag("sendInitialEvents").is_some() {
            let detail = "sendInitialEvents is forbidden for list";
            return Err(options_invalid(
                "ListOptions",
                vec![Cause::forbidden("sendInitialEvents", detail)],
            ));
        }
        match (wanted, matching) {
            (None, Some(_)) => {
                let cause = |detail| Cause::forbidden("resourceVersionMatch", detail);
                let mut causes = vec![cause(
                    "resourceVersionMatch is forbidden unless resourceVersion is provided",
                )];
                if continued {
                    causes.push(cause(
                        "resourceVersionMatch is forbidden when continue is provided",
                    ));
                }
                Err(options_invalid("ListOptions", causes))
            }
            (Some(_), Some(_)) if continued => {
                forbidden("resourceVersionMatch is forbidden when continue is provided")
            }
            (Some(0), Some("Exact")) => {
                forbidden("resourceVersionMatch \"exact\" is forbidden for resourceVersion \"0\"")
            }
            (None, None) => Ok(State::Latest),
            (Some(wanted), Some("Exact")) => Ok(State::Exactly(wanted)),
            (Some(wanted), Some("NotOlderThan")) => Ok(State::AtLeast(wanted)),
            (Some(_), Some(other)) => Err(options_invalid(
                "ListOptions",
                vec![Cause::not_supported(
                    "resourceVersionMatch",
                    &json!(other),
                    &["Exact", "NotOlderThan", ""],
                )],
            )),
            (Some(wanted), None) if limited && wanted > 0 => Ok(State::Exactly(wanted)),
            (Some(wanted), None) => Ok(State::AtLeast(wanted)),
        }
    }

    pub(super) fn revision_option(&self) -> Result<Option<u64>, ApiError> {
        let Some(text) = self.query.text("resourceVersion") else {
            return Ok(None);
        };
        text.parse().map(Some).map_err(|_| {
            // Only a list has a reason for this; a get and a watch hand the storage's error on.
            let why = format!(
                "resourceVersion: Invalid value: {text:?}: strconv.ParseUint: parsing {text:?}: \
                 invalid syntax"
            );
            let named = !self.place.name.is_empty();
            if named || self.place.watch || self.query.flag("watch") == Some(true) {
                return ApiError::unknown(why);
            }
            ApiError::bad_request(format!("invalid resource version: {why}"))
        })
    }

    /// A revision that this server has not given out yet can't be waited for.
    pub(super) fn reached(&self, wanted: u64) -> Result<(), ApiError> {
        let current = self.core.store.revision();
        if wanted <= current {
            return Ok(());
        }
        Err(ApiError::too_large_resource_version(wanted, current))
    }

    fn expired(&self, lost: Lost, range: &Range, state: State) -> ApiError {
        match (&range.after, state) {
            (Some(after), State::Latest | State::AtLeast(_)) => {
                let token = Continue {
                    revision: 0,
                    after: after.clone(),
                };
                ApiError::expired(EXPIRED_CONTINUE).with_continue(token.print())
            }
            _ => ApiError::expired(format!(
                "The resourceVersion for the provided list is too old: {} ({})",
                lost.asked, lost.floor
            )),
        }
    }
}

fn page_meta(listing: &Listing, range: &Range, all: bool) -> ListMeta {
    let mut meta = ListMeta {
        revision: listing.revision,
        ..ListMeta::default()
    };
    if range.limit.is_some()
        && listing.remaining > 0
        && let Some(last) = listing.objects.last()
    {
        // After an expired token the rest of the list stays unpinned only for its first page.
        let revision = range.at.unwrap_or(listing.revision);
        meta.continue_token = Continue {
            revision,
            after: last.key().clone(),
        }
        .print();
        meta.remaining = all.then_some(listing.remaining);
    }
    meta
}

// === impl Continue ===

impl Continue {
    /// The form of Kubernetes (`meta.k8s.io/v1`), which clients must take as opaque.
    fn print(&self) -> String {
        let revision = if self.revision == 0 {
            json!(-1)
        } else {
            json!(self.revision)
        };
        let token = json!({
            "v": "meta.k8s.io/v1", "rv": revision, "start": format!("{}\0", self.after.as_str()),
        });
        URL_SAFE_NO_PAD.encode(token.to_string())
    }

    fn parse(token: &str) -> Result<Self, ApiError> {
        let fault = |why: &str| {
            ApiError::bad_request(format!(
                "invalid continue token: continue key is not valid: {why}"
            ))
        };
        let bytes = URL_SAFE_NO_PAD
            .decode(token)
            .map_err(|_| fault("not base64"))?;
        let fields: BTreeMap<String, Value> =
            serde_json::from_slice(&bytes).map_err(|_| fault("not a token of this server"))?;
        if fields.get("v").and_then(Value::as_str) != Some("meta.k8s.io/v1") {
            return Err(fault("server does not recognize this encoded version"));
        }
        let start = fields
            .get("start")
            .and_then(Value::as_str)
            .unwrap_or_default();
        let start = start.trim_end_matches('\0');
        let revision = fields.get("rv").and_then(Value::as_i64).unwrap_or_default();
        if start.is_empty() || revision == 0 {
            return Err(fault("incorrect encoded start resourceVersion or key"));
        }
        Ok(Self {
            revision: u64::try_from(revision).unwrap_or_default(),
            after: Key::from_text(start),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_continue_token_survives_the_round_trip() {
        let token = Continue {
            revision: 7,
            after: Key::new("a", "b"),
        };
        assert_eq!(Continue::parse(&token.print()).unwrap(), token);
        let unpinned = Continue {
            revision: 0,
            after: Key::new("", "b"),
        };
        assert_eq!(Continue::parse(&unpinned.print()).unwrap(), unpinned);
        assert_eq!(Continue::parse("%%%").unwrap_err().code(), 400);
        assert_eq!(Continue::parse("e30").unwrap_err().code(), 400);
    }
}
