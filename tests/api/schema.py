"""Checks answers of a daemon against its own /openapi.json: the part of JSON Schema that it uses, and
stricter in one point: a member that an object's schema does not name is a fault, unless the schema allows it.
"""
import re

TYPES = {"object": dict, "array": list, "string": str, "boolean": bool, "null": type(None)}


def is_type(value, name):
    if name in ("integer", "number"):
        ok = isinstance(value, int) or (name == "number" and isinstance(value, float))
        return ok and not isinstance(value, bool)
    return isinstance(value, TYPES[name])


def faults(doc, schema, value, at="$"):
    """What is wrong with value, as sentences."""
    if "$ref" in schema:
        for name in schema["$ref"].removeprefix("#/").split("/"):
            doc_part = doc[name] if name == "components" else doc_part[name]
        schema = doc_part
    if "oneOf" in schema:
        tried = [faults(doc, s, value, at) for s in schema["oneOf"]]
        return [] if any(not t for t in tried) else min(tried, key=len)
    names = schema.get("type", [])
    names = [names] if isinstance(names, str) else names
    if names and not any(is_type(value, n) for n in names):
        return [f"{at} is {value!r:.80}, not of type {' or '.join(names)}"]
    found = []
    if "enum" in schema and value is not None and value not in schema["enum"]:
        found.append(f"{at} is {value!r}, not one of {schema['enum']}")
    for word, wrong in [("minimum", lambda low: value < low), ("maximum", lambda high: value > high),
                        ("maxLength", lambda n: len(value.encode()) > n), ("pattern", lambda p: not re.search(p, value))]:
        if word in schema and value is not None and wrong(schema[word]):
            found.append(f"{at} is {value!r:.80}: {word} {schema[word]}")
    if isinstance(value, list):
        for i, item in enumerate(value[:200]):
            found += faults(doc, schema.get("items", {}), item, f"{at}[{i}]")
    if isinstance(value, dict):
        known, others = schema.get("properties", {}), schema.get("additionalProperties", "properties" not in schema)
        found += [f"{at}.{name} is missing" for name in schema.get("required", []) if name not in value]
        for name, item in value.items():
            if name in known:
                found += faults(doc, known[name], item, f"{at}.{name}")
            elif isinstance(others, dict):
                found += faults(doc, others, item, f"{at}.{name}")
            elif not others:
                found.append(f"{at}.{name} is not in the schema")
    return found


def operation(doc, method, path):
    """What the document says of a request, or None. An exact path comes before one with {id}."""
    path = path.split("?")[0]
    for template in sorted(doc["paths"], key=lambda p: "{" in p):
        pattern = re.sub(r"\\\{\w+\\\}", "[^/]+", re.escape(template))
        if re.fullmatch(pattern, path) and method.lower() in doc["paths"][template]:
            return doc["paths"][template][method.lower()]
    return None


def check(doc, method, path, status, content_type, value):
    """The JSON of an answer against the schema of its route."""
    op = operation(doc, method, path)
    if op is None:
        return
    good = next(said for code, said in op["responses"].items() if code != "default")
    said = op["responses"]["default"] if status >= 400 else op["responses"].get(str(status), good)
    if said and "$ref" in said:
        said = doc["components"]["responses"][said["$ref"].split("/")[-1]]
    assert said, f"{method} {path}: {status} is not in the document"
    schema = said["content"].get(content_type.split(";")[0])
    if status >= 400 and content_type == "application/json":
        return  # /health
    assert schema and schema.get("schema"), f"{method} {path}: no schema of {content_type} for {status}"
    wrong = faults(doc, schema["schema"], value)
    assert not wrong, f"{method} {path} {status}: " + "; ".join(wrong[:8])
