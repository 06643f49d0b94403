#!/usr/bin/env python3
"""Makes tests/testdata/constraint/: which texts Python's `re` and the jsonschema package take.

Needs (PyPI): jsonschema==4.26.0. Usage: make_constraint_golden.py OUTPUT_FOLDER

regex.jsonl holds lines [pattern, {text: whether re.fullmatch takes it}], schema.jsonl lines [schema, {text: whether the
value satisfies it}]. Texts of values are written as a constraint writes them: members in the order of the schema, ", " and
": " between parts. The result is the same on every run.
"""
import json
import pathlib
import random
import re
import sys

import jsonschema

PATTERNS = [
    "", "a", "abc", "a|b", "a|", "|", "(a|b)*", "(?:ab)+c?", "a{3}", "a{2,}", "a{1,3}b", "(ab){0,2}", "[a-c]", "[^a-c]", "[^\\n]",
    ".", ".*", "a.c", "\\d+", "\\D", "\\w+", "\\W", "\\s", "\\S+", "[\\d_]+", "[^\\w]", "\\.", "\\\\", "\\[\\]", "[]a]", "[^]a]",
    "[a\\]]", "[-a]", "[a-]", "[a\\-c]", "\\x41", "\\u00e9", "é", "[à-ö]+", "[€-₯]", "😀", "[😀-😃]+", "[^é]", "a*?b", "a+?", "a??b",
    "(a|ab)(c|bcd)", "(a*)*", "(a*)+b", "((a|b)(c|d))*", "(?P<year>\\d{4})-(?P<month>\\d\\d)", "^abc$", "^a|b$", "^(a|b)$",
    "\\Aab\\Z", "a{0}", "(a{0})b", "(a|b){2}(c|d){1,2}", "(|a)b", "(a||b)c", "[a-zA-Z_][a-zA-Z0-9_]*", "-?(0|[1-9]\\d*)(\\.\\d+)?",
    "\"[^\"]*\"", "(true|false|null)", "\\{\\}", "a\\{2\\}", "[.*+?]", "[\\^a]", "\\t\\r\\n\\f\\v", "[\\t-\\r]", "\\0",
    "(x(y(z)?)?)?", "(a|b|c|d|e){3}", "[^\\S ]", "\\/", "\\-", "\\~", "[\\b]", "[a-c-e]", "(ab|a)*",
]
ALPHABET = ["a", "b", "c", "d", "e", "x", "y", "z", "A", "0", "1", "9", "_", "-", ".", " ", "\n", "\t", "é", "€", "😀", '"', "\\", "]", "{", "2", "}"]

STRING = {"type": "string"}
SCHEMAS = [
    {"type": "object", "properties": {"b": {"type": "integer"}, "a": STRING}, "required": ["b"], "additionalProperties": False},
    {"type": "object", "properties": {"b": {"type": "integer"}, "a": STRING}, "required": ["b", "a"], "additionalProperties": False},
    {"type": "object", "properties": {"x": {"type": "boolean"}, "y": {"type": "null"}, "z": STRING}, "additionalProperties": False},
    {"type": "object", "properties": {"x": {"type": "integer"}, "xy": STRING}, "required": ["xy"], "additionalProperties": True},
    {"type": "object", "properties": {"x": {"type": "integer"}}, "additionalProperties": STRING},
    {"type": "object", "additionalProperties": {"type": "integer"}},
    {"type": "object", "additionalProperties": False}, {"type": "object"}, {"type": "array"}, {}, True,
    {"type": "array", "items": {"type": "integer"}}, {"type": "array", "items": {"type": "integer"}, "minItems": 2},
    {"type": "array", "items": STRING, "maxItems": 2}, {"type": "array", "items": STRING, "minItems": 1, "maxItems": 3},
    {"type": "array", "prefixItems": [STRING, {"type": "integer"}], "items": False},
    {"type": "array", "prefixItems": [STRING, {"type": "integer"}], "items": {"type": "null"}, "minItems": 1},
    {"type": "array", "prefixItems": [STRING], "minItems": 2}, {"type": "array", "items": False}, {"type": "array", "maxItems": 0},
    STRING, {"type": "string", "minLength": 2}, {"type": "string", "maxLength": 3}, {"type": "string", "minLength": 1, "maxLength": 2},
    {"type": "string", "pattern": "^[a-c]+$"}, {"type": "string", "pattern": "b"}, {"type": "string", "pattern": "^a|c$"},
    {"type": "string", "pattern": "^.\\\\\"$"}, {"type": "string", "pattern": "é"}, {"type": "string", "pattern": "^\\n?\\t$"},
    {"type": "integer"}, {"type": "number"}, {"type": "boolean"}, {"type": "null"}, {"type": ["string", "null"]},
    {"type": ["integer", "object", "array"]},
    {"type": "integer", "minimum": 0}, {"type": "integer", "maximum": 0}, {"type": "integer", "minimum": -12, "maximum": 345},
    {"type": "integer", "exclusiveMinimum": 9, "exclusiveMaximum": 101}, {"type": "integer", "minimum": 100, "maximum": 100},
    {"type": "integer", "minimum": 7}, {"type": "integer", "maximum": -7}, {"type": "integer", "minimum": 1995, "maximum": 2026},
    {"enum": ["a", 1, None, True, [1, 2], {"k": "v"}]}, {"const": "x"}, {"const": 3}, {"type": "string", "enum": ["a", "b", 3]},
    {"anyOf": [{"type": "integer"}, STRING]}, {"oneOf": [{"type": "integer"}, {"type": "array", "items": STRING}]}, {"allOf": [STRING]},
    {"$ref": "#/$defs/t", "$defs": {"t": {"type": "array", "items": {"$ref": "#/$defs/t"}}}},
    {"type": "object", "properties": {"v": {"type": "integer"}, "next": {"anyOf": [{"$ref": "#"}, {"type": "null"}]}},
     "required": ["v", "next"], "additionalProperties": False},
    {"type": "object", "properties": {"kind": {"const": "a"}, "n": {"$ref": "#/definitions/n"}}, "required": ["kind"],
     "additionalProperties": False, "definitions": {"n": {"type": "integer", "minimum": 3}}},
    {"title": "T", "description": "d", "type": "object", "properties": {"é": STRING, "a\"b": {"type": "integer"}}, "additionalProperties": False},
]


def texts_for(pattern, random_source):
    texts = {"", "a", "b", "ab", "abc", "aab", "aaa", "ba", "2024-07", "a{2}", "-1.50", "true", '"a"', "{}", "abcd", "xyz", "aacc", "\t\r\n\f\v"}
    for _ in range(120):
        texts.add("".join(random_source.choice(ALPHABET) for _ in range(random_source.randint(1, 5))))
    small = sorted(set(pattern) - set("\\")) or ["a"]
    for _ in range(60):
        texts.add("".join(random_source.choice(small) for _ in range(random_source.randint(1, 6))))
    return sorted(texts)


def value_for(source, schema, root, depth=0):
    """A value that may satisfy the schema, or nearly."""
    if depth > 5 or schema is True or source.random() < 0.08:
        return source.choice([0, 1, -3, 7, 12, 99, 100, 345, 346, 2000, "", "a", "b", "abc", "x\ny", "é\"\\", None, True, False, [], {},
                              [1], ["a"], ["a", 1], {"x": 1}, {"k": "v"}, [1, 2], 1.5, -0.25])
    if "$ref" in schema:
        target = root
        for part in schema["$ref"].split("/")[1:]:
            target = target[part]
        return value_for(source, target, root, depth + 1)
    for key in ("anyOf", "oneOf", "allOf"):
        if key in schema:
            return value_for(source, source.choice(schema[key]), root, depth + 1)
    if "const" in schema:
        return schema["const"]
    if "enum" in schema:
        return source.choice(schema["enum"])
    kinds = schema.get("type", "object")
    kind = source.choice(kinds) if isinstance(kinds, list) else kinds
    if kind == "object":
        value = {}
        for name, inner in schema.get("properties", {}).items():
            if source.random() < 0.8:
                value[name] = value_for(source, inner, root, depth + 1)
        if source.random() < 0.5:
            extra = schema.get("additionalProperties", True)
            for _ in range(source.randint(1, 2)):
                name = source.choice(["", "w", "xyz", "xx", "é", "q\"", "kind2"])
                if name not in schema.get("properties", {}):
                    value[name] = value_for(source, extra if isinstance(extra, dict) else True, root, depth + 1)
        return value
    if kind == "array":
        first = schema.get("prefixItems", [])
        rest = schema.get("items", True)
        count = source.randint(0, 4)
        return [value_for(source, first[i] if i < len(first) else rest if isinstance(rest, dict) else True, root, depth + 1)
                for i in range(count)]
    if kind == "string":
        return "".join(source.choice(["a", "b", "c", "é", "\"", "\\", "\n", "\t", "😀"]) for _ in range(source.randint(0, 4)))
    if kind == "integer":
        low, high = schema.get("minimum", -50), schema.get("maximum", 400)
        return source.choice([source.randint(-1000, 3000), source.randint(low - 5, max(low, high) + 5), low, high, low - 1, high + 1])
    return {"number": source.choice([0, 1.5, -2, 1e10, 12345.678]), "boolean": source.random() < 0.5, "null": None}[kind]


def exact_ends(schema):
    """The same schema with patterns whose $ does not match before a last line feed, as Python's does and others' do not."""
    if not isinstance(schema, dict) or "pattern" not in schema:
        return schema
    return {**schema, "pattern": re.sub(r"\$$", r"\\Z", schema["pattern"])}


def main():
    folder = pathlib.Path(sys.argv[1])
    folder.mkdir(parents=True, exist_ok=True)
    source = random.Random(11)
    with open(folder / "regex.jsonl", "w", encoding="utf-8") as out:
        for pattern in PATTERNS:
            compiled = re.compile(pattern, re.ASCII)
            taken = {text: bool(compiled.fullmatch(text)) for text in texts_for(pattern, source)}
            out.write(json.dumps([pattern, taken], ensure_ascii=False) + "\n")
    with open(folder / "schema.jsonl", "w", encoding="utf-8") as out:
        for schema in SCHEMAS:
            validator = jsonschema.Draft202012Validator(exact_ends(schema))
            taken = {}
            for _ in range(400):
                value = value_for(source, schema, schema)
                taken[json.dumps(value, ensure_ascii=False)] = validator.is_valid(value)
                if len(taken) >= 80:
                    break
            out.write(json.dumps([schema, taken], ensure_ascii=False) + "\n")


if __name__ == "__main__":
    main()
