#!/usr/bin/env python3
"""Reduces Kubernetes' published OpenAPI v3 to `builtin.tsv`: names, types, formats, required fields, defaults, list types
and keys, map types and strategic merge keys. Descriptions and every other text are left out.

    dir=$(go mod download -json k8s.io/kubernetes@v1.37.2 | python3 -c 'import json,sys; print(json.load(sys.stdin)["Dir"])')
    python3 generate.py "$dir/api/openapi-spec/v3" > builtin.tsv          # write
    python3 generate.py "$dir/api/openapi-spec/v3" | cmp - builtin.tsv    # drift check

A line per definition: name, tab, its kinds as group/version/Kind separated by commas, tab, the node as JSON. The keys of
a node are explained in `src/schema/builtin.rs`, which reads the file.
"""

import json
import pathlib
import sys

TYPES = {"object": "o", "array": "a", "string": "s", "integer": "i", "number": "n", "boolean": "b"}
# Held and merged as one opaque value, whatever its content.
OPAQUE = {"io.k8s.apimachinery.pkg.runtime.RawExtension"}


def name_of(reference):
    return reference.rsplit("/", 1)[1]


def constraints(source):
    """What the node says about merging and defaults, apart from its shape."""
    out = {}
    if "default" in source:
        out["d"] = source["default"]
    list_type = source.get("x-kubernetes-list-type")
    if list_type in ("set", "map"):
        out["l"] = list_type
    if "x-kubernetes-list-map-keys" in source:
        out["k"] = source["x-kubernetes-list-map-keys"]
    if source.get("x-kubernetes-map-type") == "atomic":
        out["m"] = "atomic"
    if "x-kubernetes-patch-strategy" in source:
        out["s"] = source["x-kubernetes-patch-strategy"]
    if "x-kubernetes-patch-merge-key" in source:
        out["y"] = source["x-kubernetes-patch-merge-key"]
    return out


def reduce(source):
    out = {}
    reference = source.get("$ref") or next((x["$ref"] for x in source.get("allOf", []) if "$ref" in x), None)
    if reference:
        out["r"] = name_of(reference)
    elif "oneOf" in source:
        kinds = sorted(x["type"] for x in source["oneOf"])
        out["t"] = {"integer,string": "I", "number,string": "Q"}[",".join(kinds)]
    elif "type" in source:
        out["t"] = TYPES[source["type"]]
    if source.get("format") and "oneOf" not in source:
        out["f"] = source["format"]
    if source.get("required"):
        out["q"] = sorted(source["required"])
    if "properties" in source:
        out["p"] = {name: reduce(node) for name, node in sorted(source["properties"].items())}
    if isinstance(source.get("additionalProperties"), dict):
        out["a"] = reduce(source["additionalProperties"])
    if "items" in source:
        out["e"] = reduce(source["items"])
    out.update(constraints(source))
    return out


def main(folder):
    definitions = {}
    for path in sorted(pathlib.Path(folder).glob("*.json")):
        for name, source in json.loads(path.read_text()).get("components", {}).get("schemas", {}).items():
            definitions.setdefault(name, source)
    for name, source in sorted(definitions.items()):
        kinds = [
            f"{k['group']}/{k['version']}/{k['kind']}" for k in source.get("x-kubernetes-group-version-kind", [])
        ]
        node = reduce(source)
        if name in OPAQUE:
            node["m"] = "atomic"
        print(name, ",".join(sorted(kinds)), json.dumps(node, separators=(",", ":")), sep="\t")


if __name__ == "__main__":
    main(sys.argv[1])
