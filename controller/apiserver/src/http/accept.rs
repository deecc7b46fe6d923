//! Content negotiation: what a client sends and what it wants back.

use http::HeaderMap;
use http::header::{ACCEPT, CONTENT_TYPE};

use crate::error::ApiError;

/// How objects are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Syntax {
    Json,
    Yaml,
}

/// What a client wants to see of objects.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Shape {
    Full,
    /// `as=PartialObjectMetadata`.
    Metadata,
    /// `as=PartialObjectMetadataList`.
    MetadataList,
    Table,
    /// `as=APIGroupDiscoveryList`.
    Discovery,
}

/// The clause of an `Accept` header that this server follows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Accept {
    pub syntax: Syntax,
    pub shape: Shape,
}

/// The media type of a request body.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum ContentType {
    Json,
    Yaml,
    Protobuf,
    JsonPatch,
    MergePatch,
    StrategicMergePatch,
    ApplyPatch,
}

struct Clause<'a> {
    media: &'a str,
    parameters: Vec<(&'a str, &'a str)>,
    quality: f32,
}

const MEDIA_TYPES: &[&str] = &["application/json", "application/yaml"];
const BODY_TYPES: &[&str] = &[
    "application/json",
    "application/yaml",
    "application/vnd.kubernetes.protobuf",
];

// === impl Accept ===

impl Accept {
    /// The best clause among those whose shape `offered` contains; a protobuf-only client gets 406
    /// and falls back to JSON.
    pub(crate) fn negotiate(headers: &HeaderMap, offered: &[Shape]) -> Result<Self, ApiError> {
        let header: Vec<_> = headers
            .get_all(ACCEPT)
            .iter()
            .filter_map(|v| v.to_str().ok())
            .collect();
        let header = header.join(",");
        if header.trim().is_empty() {
            return Ok(Self {
                syntax: Syntax::Json,
                shape: Shape::Full,
            });
        }
        let mut clauses: Vec<_> = header.split(',').map(Clause::parse).collect();
        clauses.sort_by(|a, b| b.quality.total_cmp(&a.quality));
        clauses
            .iter()
            .filter_map(Clause::accept)
            .find(|accept| offered.contains(&accept.shape))
            .ok_or_else(|| ApiError::not_acceptable(MEDIA_TYPES))
    }
}

impl Syntax {
    /// How an error is written to a client with these headers: JSON if nothing fits.
    pub(crate) fn of_error(headers: &HeaderMap) -> Self {
        let shapes = [
            Shape::Full,
            Shape::Metadata,
            Shape::MetadataList,
            Shape::Table,
        ];
        Accept::negotiate(headers, &shapes).map_or(Self::Json, |accept| accept.syntax)
    }
}

impl<'a> Clause<'a> {
    fn parse(text: &'a str) -> Self {
        let mut parts = text.split(';').map(str::trim);
        let media = parts.next().unwrap_or_default();
        let parameters: Vec<_> = parts.filter_map(|part| part.split_once('=')).collect();
        let quality = parameters.iter().find(|(key, _)| *key == "q");
        let quality = quality
            .and_then(|(_, value)| value.parse().ok())
            .unwrap_or(1.0);
        Self {
            media,
            parameters,
            quality,
        }
    }

    fn accept(&self) -> Option<Accept> {
        let syntax = match self.media {
            "application/json" | "*/*" | "application/*" => Syntax::Json,
            "application/yaml" => Syntax::Yaml,
            _ => return None,
        };
        let parameter = |name: &str| {
            self.parameters
                .iter()
                .find(|(key, _)| *key == name)
                .map(|(_, value)| *value)
        };
        let meta = parameter("g") == Some("meta.k8s.io") && parameter("v") == Some("v1");
        let shape = match parameter("as") {
            None => Shape::Full,
            Some("Table") if meta => Shape::Table,
            Some("PartialObjectMetadata") if meta => Shape::Metadata,
            Some("PartialObjectMetadataList") if meta => Shape::MetadataList,
            Some("APIGroupDiscoveryList") if parameter("v") == Some("v2") => Shape::Discovery,
            Some(_) => return None,
        };
        Some(Accept { syntax, shape })
    }
}

// === impl ContentType ===

impl ContentType {
    /// The type of a body that holds an object; none means JSON.
    pub(crate) fn of_object(headers: &HeaderMap) -> Result<Self, ApiError> {
        match media_type(headers) {
            "" | "application/json" => Ok(Self::Json),
            "application/yaml" => Ok(Self::Yaml),
            "application/vnd.kubernetes.protobuf" => Ok(Self::Protobuf),
            _ => Err(ApiError::unsupported_media_type(BODY_TYPES)),
        }
    }

    pub(crate) fn of_patch(headers: &HeaderMap) -> Result<Self, ApiError> {
        match media_type(headers) {
            "application/json-patch+json" => Ok(Self::JsonPatch),
            "application/merge-patch+json" => Ok(Self::MergePatch),
            "application/strategic-merge-patch+json" => Ok(Self::StrategicMergePatch),
            "application/apply-patch+yaml" => Ok(Self::ApplyPatch),
            _ => Err(ApiError::unsupported_patch_type()),
        }
    }
}

fn media_type(headers: &HeaderMap) -> &str {
    let header = headers
        .get(CONTENT_TYPE)
        .and_then(|value| value.to_str().ok());
    header
        .unwrap_or_default()
        .split(';')
        .next()
        .unwrap_or_default()
        .trim()
}

#[cfg(test)]
mod tests {
    use super::*;
    use http::HeaderValue;

    const OBJECTS: &[Shape] = &[
        Shape::Full,
        Shape::Metadata,
        Shape::MetadataList,
        Shape::Table,
    ];

    fn negotiate(accept: &'static str) -> Result<Accept, u16> {
        let mut headers = HeaderMap::new();
        headers.insert(ACCEPT, HeaderValue::from_static(accept));
        Accept::negotiate(&headers, OBJECTS).map_err(|error| error.code())
    }

    #[test]
    fn the_first_known_clause_wins() {
        let json = Accept {
            syntax: Syntax::Json,
            shape: Shape::Full,
        };
        assert_eq!(
            negotiate(
                "application/json;as=Table;v=v1;g=meta.k8s.io,\
                 application/json;as=Table;v=v1beta1;g=meta.k8s.io,application/json"
            ),
            Ok(Accept {
                shape: Shape::Table,
                ..json
            })
        );
        assert_eq!(
            negotiate("application/vnd.kubernetes.protobuf,application/json"),
            Ok(json)
        );
        assert_eq!(negotiate("application/vnd.kubernetes.protobuf"), Err(406));
        assert_eq!(negotiate("*/*"), Ok(json));
        assert_eq!(
            negotiate("application/json;q=0.5, application/yaml"),
            Ok(Accept {
                syntax: Syntax::Yaml,
                ..json
            })
        );
        assert_eq!(
            negotiate("application/json;as=PartialObjectMetadataList;g=meta.k8s.io;v=v1"),
            Ok(Accept {
                shape: Shape::MetadataList,
                ..json
            })
        );
    }

    #[test]
    fn bodies_of_other_types_are_refused() {
        let mut headers = HeaderMap::new();
        assert_eq!(ContentType::of_object(&headers), Ok(ContentType::Json));
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/cbor"));
        assert_eq!(ContentType::of_object(&headers).unwrap_err().code(), 415);
        headers.insert(
            CONTENT_TYPE,
            HeaderValue::from_static("application/json; charset=utf-8"),
        );
        assert_eq!(ContentType::of_object(&headers), Ok(ContentType::Json));
        assert_eq!(ContentType::of_patch(&headers).unwrap_err().code(), 415);
    }
}
