//! What a request path names.

use percent_encoding::percent_decode_str;

/// A path, taken apart.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Target {
    /// `/api`: the versions of the core group.
    CoreVersions,
    /// `/apis`: the groups.
    Groups,
    /// `/apis/GROUP`.
    Group(String),
    /// `/api/v1` or `/apis/GROUP/VERSION`: the resources.
    Version {
        group: String,
        version: String,
    },
    Resource(Place),
    /// `/version`, `/healthz`, `/openapi/…` and whatever else names no resource.
    Other(String),
}

/// A resource, an object or a subresource.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct Place {
    pub group: String,
    pub version: String,
    pub resource: String,
    /// Empty for all namespaces and for resources without.
    pub namespace: String,
    /// Empty for the collection.
    pub name: String,
    /// Empty for the object itself.
    pub subresource: String,
    /// What follows the subresource (`proxy` paths); such requests are not served.
    pub rest: bool,
    /// The old form of a watch, `/api/v1/watch/…`.
    pub watch: bool,
}

impl Target {
    pub(crate) fn parse(path: &str) -> Self {
        let path = path.strip_prefix('/').unwrap_or(path);
        let path = path.strip_suffix('/').unwrap_or(path);
        // An empty part is one: `namespaces//pods` are those of all namespaces, other such places don't exist.
        let parts: Vec<String> = path
            .split('/')
            .map(|part| percent_decode_str(part).decode_utf8_lossy().into_owned())
            .collect();
        let parts: Vec<&str> = parts.iter().map(String::as_str).collect();
        match parts.as_slice() {
            ["api"] => Self::CoreVersions,
            ["apis"] => Self::Groups,
            ["api", version] => Self::Version {
                group: String::new(),
                version: (*version).to_owned(),
            },
            ["apis", group] => Self::Group((*group).to_owned()),
            ["apis", group, version] => Self::Version {
                group: (*group).to_owned(),
                version: (*version).to_owned(),
            },
            ["api", version, rest @ ..] => Self::Resource(Place::parse("", version, rest)),
            ["apis", group, version, rest @ ..] => {
                Self::Resource(Place::parse(group, version, rest))
            }
            _ => Self::Other(format!("/{}", parts.join("/"))),
        }
    }
}

impl Place {
    fn parse(group: &str, version: &str, rest: &[&str]) -> Self {
        let mut place = Self {
            group: group.to_owned(),
            version: version.to_owned(),
            ..Self::default()
        };
        let rest = match rest {
            ["watch", rest @ ..] if !rest.is_empty() => {
                place.watch = true;
                rest
            }
            rest => rest,
        };
        let rest = match rest {
            // `namespaces/NAME` and its subresources are about the namespace itself.
            ["namespaces", _] | ["namespaces", _, "status" | "finalize"] => rest,
            ["namespaces", namespace, rest @ ..] => {
                (*namespace).clone_into(&mut place.namespace);
                rest
            }
            rest => rest,
        };
        let mut rest = rest.iter().map(|part| (*part).to_owned());
        place.resource = rest.next().unwrap_or_default();
        place.name = rest.next().unwrap_or_default();
        place.subresource = rest.next().unwrap_or_default();
        place.rest = rest.next().is_some();
        place
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn place(path: &str) -> Place {
        match Target::parse(path) {
            Target::Resource(place) => place,
            other => panic!("{path} is not a resource but {other:?}"),
        }
    }

    #[test]
    fn a_namespace_in_the_path_is_scope_or_object() {
        let object = place("/api/v1/namespaces/blue");
        assert_eq!(
            (object.resource.as_str(), object.name.as_str()),
            ("namespaces", "blue")
        );
        assert_eq!(object.namespace, "");
        let status = place("/api/v1/namespaces/blue/status");
        assert_eq!(status.subresource, "status");
        let scoped = place("/api/v1/namespaces/blue/configmaps/one");
        assert_eq!(scoped.namespace, "blue");
        assert_eq!(
            (scoped.resource.as_str(), scoped.name.as_str()),
            ("configmaps", "one")
        );
    }

    #[test]
    fn groups_versions_and_subresources_are_told_apart() {
        assert_eq!(Target::parse("/api"), Target::CoreVersions);
        assert_eq!(Target::parse("/apis/"), Target::Groups);
        assert_eq!(
            Target::parse("/apis/apps"),
            Target::Group("apps".to_owned())
        );
        assert_eq!(
            Target::parse("/api/v1"),
            Target::Version {
                group: String::new(),
                version: "v1".to_owned()
            }
        );
        let scale = place("/apis/apps/v1/namespaces/a/deployments/b/scale");
        assert_eq!(scale.subresource, "scale");
        assert_eq!(scale.group, "apps");
        assert_eq!(
            Target::parse("/healthz"),
            Target::Other("/healthz".to_owned())
        );
    }

    #[test]
    fn empty_parts_count() {
        let everywhere = place("/api/v1/namespaces//secrets");
        assert_eq!(everywhere.resource, "secrets");
        assert_eq!(everywhere.namespace, "");
        assert_eq!(place("/api/v1/namespaces/a/secrets/").name, "");
        assert_eq!(place("/api/v1//secrets").resource, "");
        assert_eq!(place("/api/v1/namespaces/a//secrets").resource, "");
        assert!(matches!(
            Target::parse("//api/v1/secrets"),
            Target::Other(_)
        ));
        assert_eq!(Target::parse("/"), Target::Other("/".to_owned()));
    }

    #[test]
    fn names_are_percent_decoded() {
        let role = place("/apis/rbac.authorization.k8s.io/v1/clusterroles/system%3Anode");
        assert_eq!(role.name, "system:node");
    }
}
