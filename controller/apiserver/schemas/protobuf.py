#!/usr/bin/env python3
"""Reduces the protobuf definitions of the built-in kinds to `wire.tsv`: message names, field numbers and types, and how Go
writes each field as JSON (inlined, a pointer, left out when empty). Comments and every other text are left out.

    for m in api apimachinery apiextensions-apiserver kube-aggregator; do go mod download k8s.io/$m@v0.37.2; done
    python3 protobuf.py "$(go env GOMODCACHE)/k8s.io" v0.37.2 > wire.tsv          # write
    python3 protobuf.py "$(go env GOMODCACHE)/k8s.io" v0.37.2 | cmp - wire.tsv    # drift check

A line per message: its name, a tab, its kinds as group/version/Kind separated by commas, a tab, fields as
`number name type flags` separated by `;`. A type is `s`tring, `b`ool, `i`nteger, `d`ouble, b`y`tes or a message's name;
`*` before it: repeated; `%`: a map from string. Flags: `~` inlined, `?` left out of JSON when zero.
"""

import pathlib
import re
import sys

SCALARS = {"string": "s", "bool": "b", "int32": "i", "int64": "i", "uint32": "i", "uint64": "i", "double": "d", "bytes": "y"}
MODULES = ["api", "apimachinery", "apiextensions-apiserver", "kube-aggregator"]
FIELD = re.compile(r"^  (optional|repeated|required) (\S+) (\w+) = (\d+);")
MAP = re.compile(r"^  map<string, (\S+)> (\w+) = (\d+);")
GO_FIELD = re.compile(r"^\t(?:(\w+)\s+)?(\S+)\s+`(.*)`")
VERSION = re.compile(r"^v\d+$")


def qualified(name, package):
    return name.lstrip(".") if "." in name else f"{package}.{name}"


def go_flags(folder):
    """(struct, wire name) -> inlined, pointer, omitempty."""
    flags = {}
    for path in sorted(folder.glob("*.go")):
        if path.name.endswith("_test.go") or path.name.startswith("zz_"):
            continue
        struct = None
        for line in path.read_text().splitlines():
            if match := re.match(r"^type (\w+) struct {", line):
                struct = match[1]
            elif line == "}":
                struct = None
            elif struct and (match := GO_FIELD.match(line)):
                tag = match[3]
                wire = re.search(r'protobuf:"[^"]*name=(\w+)', tag)
                json = re.search(r'json:"([^"]*)"', tag)
                if wire and json:
                    parts = json[1].split(",")
                    embedded = match[1] is None and not parts[0]
                    flags[struct, wire[1]] = (embedded or "inline" in parts[1:], match[2].startswith("*"), "omitempty" in parts[1:] or "omitzero" in parts[1:], parts[0])
    return flags


def messages(root, release):
    out = {}
    for module in MODULES:
        base = root / f"{module}@{release}"
        for path in sorted(base.rglob("generated.proto")):
            text = path.read_text().splitlines()
            package = next(line.split()[1].rstrip(";") for line in text if line.startswith("package "))
            flags = go_flags(path.parent)
            name = None
            for line in text:
                if line.startswith("message "):
                    name = line.split()[1]
                    out[f"{package}.{name}"] = []
                    continue
                if line == "}":
                    name = None
                if not name:
                    continue
                if match := FIELD.match(line):
                    rule, kind, field, number = match.groups()
                    mark = "*" if rule == "repeated" else ""
                elif match := MAP.match(line):
                    kind, field, number = match.groups()
                    mark = "%"
                else:
                    continue
                kind = SCALARS.get(kind) or qualified(kind, package)
                inline, pointer, omit, json = flags.get((name, field), (False, False, True, field))
                drop = omit and not pointer
                out[f"{package}.{name}"].append((int(number), json or field, mark + kind, ("~" if inline else "") + ("?" if drop else "")))
    return out


def kinds():
    """Definition name -> kinds, from the table of schemas."""
    table = pathlib.Path(__file__).parent / "builtin.tsv"
    out = {}
    for line in table.read_text().splitlines():
        name, kinds, _ = line.split("\t", 2)
        if kinds and not kinds.endswith("List"):
            out[name] = kinds
    return out


def main():
    root, release = pathlib.Path(sys.argv[1]), sys.argv[2]
    known = messages(root, release)
    roots = {}
    for name, names in kinds().items():
        message = name.replace("io.k8s.", "k8s.io.", 1).replace("apiextensions-apiserver", "apiextensions_apiserver").replace("kube-aggregator", "kube_aggregator")
        if message in known and VERSION.match(message.split(".")[-2]):
            roots[message] = names
    wanted, todo = set(), list(roots)
    while todo:
        name = todo.pop()
        if name in wanted:
            continue
        wanted.add(name)
        todo += [kind.lstrip("*%") for _, _, kind, _ in known[name] if "." in kind]
    for name in sorted(wanted):
        fields = ";".join(" ".join(filter(None, [str(number), field, kind, flags])) for number, field, kind, flags in sorted(known[name]))
        print(f"{name}\t{roots.get(name, '')}\t{fields}")


main()
