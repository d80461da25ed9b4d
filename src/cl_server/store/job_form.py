"""What a request for a job says: its options, its parameters, the entities that it reads.

A task's parameters come as one field each, or all in `params` as JSON. In a form everything is
text; the task's JSON Schema says what it stands for.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from pydantic import ValidationError

from cl_server.http.errors import listed_problems

from .multipart import MAX_PARTS, Fields
from .plain_json import parse_json
from .problems import Finding, finding
from .schemas import MAX_ID, JobOptionFields

__all__ = ["PATH_PARAMS", "JobForm", "parse_job_form"]

FILE_FIELD = "file"
OPTION_FIELDS = frozenset(JobOptionFields.model_fields)

# Fields that are the request's own; a parameter of such a name can be given in `params` only.
OWN_FIELDS = OPTION_FIELDS | {FILE_FIELD, "params", "entity_ids"}

MAX_ENTITIES = 1000

# No job has more files: the parts of a form and the entities together.
MAX_PATHS = MAX_PARTS + MAX_ENTITIES
PATH_PARAMS = ("input_paths", "output_paths")
ID_DIGITS = re.compile(r"[0-9]{1,30}")


@dataclass
class JobForm:
    """A request for a job.

    Attributes:
        options: How it is run.
        entity_ids: Whose files it reads, beside those that are uploaded.
        params: The task's parameters, not yet checked by the task.
        problems: What is wrong so far: `loc`, `msg`, `type` each.
    """

    options: JobOptionFields = field(default_factory=lambda: JobOptionFields.model_validate({}))
    entity_ids: list[int] = field(default_factory=list)
    params: dict[str, Any] = field(default_factory=dict)
    problems: list[Finding] = field(default_factory=list)


def parse_job_form(fields: Fields, schema: Mapping[str, Any]) -> JobForm:
    """Return what the fields of a request stand for.

    Args:
        fields: As read from the body.
        schema: The JSON Schema of the task's parameters.
    """
    form = JobForm()
    _parse_options(form, fields)
    _parse_entity_ids(form, fields.get("entity_ids", []))
    if FILE_FIELD in fields:
        form.problems.append(finding(FILE_FIELD, "this is text, not a file"))
    named = {name: values for name, values in fields.items() if name not in OWN_FIELDS}
    if "params" in fields:
        _parse_params(form, fields["params"])
        for name in named:
            form.problems.append(finding(name, "give either params or a field per parameter"))
    else:
        for name, values in named.items():
            form.params[name] = _decode(values, _resolve(schema, _properties(schema).get(name)))
    _refuse_unknown(form, schema)
    _refuse_too_many_paths(form)
    return form


def _parse_options(form: JobForm, fields: Fields) -> None:
    given: dict[str, Any] = {}
    for name in OPTION_FIELDS & fields.keys():
        if len(fields[name]) > 1:
            form.problems.append(finding(name, "this is given more than once"))
        given[name] = fields[name][0]
    try:
        form.options = JobOptionFields.model_validate(given)
    except ValidationError as error:
        form.problems += listed_problems(error, within=("body",))


def _parse_entity_ids(form: JobForm, values: list[Any]) -> None:
    """Read `entity_ids`: a JSON list, a list with commas, or the field repeated."""
    items = [item for value in values for item in _split(value)]
    if len(items) > MAX_ENTITIES:  # looked at no further: nobody waits for a million to be found
        form.problems.append(finding("entity_ids", f"at most {MAX_ENTITIES} can be given"))
        return
    for item in items:
        entity_id = _entity_id(item)
        if entity_id is None:
            form.problems.append(finding("entity_ids", f"{item!r:.50} is no entity's id"))
        elif entity_id not in form.entity_ids:
            form.entity_ids.append(entity_id)


def _entity_id(item: Any) -> int | None:
    """Return an id from a JSON number or a text of digits, and no other of Python's spellings."""
    if isinstance(item, str) and ID_DIGITS.fullmatch(item):
        item = int(item)
    is_id = isinstance(item, int) and not isinstance(item, bool) and 1 <= item <= MAX_ID
    return item if is_id else None


def _parse_params(form: JobForm, values: list[Any]) -> None:
    value = values[0]
    if isinstance(value, str):
        try:
            value = parse_json(value)
        except ValueError as error:
            form.problems.append(
                finding("params", f"this JSON cannot be taken: {error}", "json_invalid")
            )
            return
    if len(values) > 1 or not isinstance(value, dict):
        form.problems.append(finding("params", "expected one JSON object", "dict_type"))
        return
    form.params = value


def _refuse_unknown(form: JobForm, schema: Mapping[str, Any]) -> None:
    """Take out what the task does not have: most likely a parameter that is misspelt.

    One that is listed already, since it came beside `params` too, is not listed again.
    """
    known = _properties(schema)
    if not known or schema.get("additionalProperties"):
        return
    message = f"there is no such parameter; there are: {', '.join(sorted(known))}"
    listed = {problem["loc"][-1] for problem in form.problems}
    for name in sorted(form.params.keys() - known.keys()):
        del form.params[name]
        if name not in listed:
            form.problems.append(finding(name, message, "extra_forbidden"))


def _refuse_too_many_paths(form: JobForm) -> None:
    """Take out lists of paths that no job can have, before each path is looked at."""
    for name in PATH_PARAMS:
        paths = form.params.get(name)
        if isinstance(paths, list) and len(paths) > MAX_PATHS:
            del form.params[name]
            form.problems.append(finding(name, f"at most {MAX_PATHS} can be given"))


def _properties(schema: Mapping[str, Any]) -> Mapping[str, Any]:
    properties: Mapping[str, Any] = schema.get("properties", {})
    return properties


def _resolve(schema: Mapping[str, Any], part: Mapping[str, Any] | None) -> set[str]:
    """Return the JSON types that a part of a schema allows; none where it does not say."""
    if part is None:
        return set()
    if "$ref" in part:
        name = str(part["$ref"]).rpartition("/")[2]
        return _resolve({**schema, "$defs": {}}, schema.get("$defs", {}).get(name))
    found = part.get("type", [])
    types = {found} if isinstance(found, str) else set(found)
    if "enum" in part or "const" in part:
        values = part.get("enum", [part.get("const")])
        types |= {"string"} if any(isinstance(value, str) for value in values) else set()
    for choice in (*part.get("anyOf", ()), *part.get("oneOf", ())):
        types |= _resolve(schema, choice)
    return types


def _decode(values: list[Any], types: set[str]) -> Any:
    """Return the value that a parameter's fields stand for.

    Args:
        values: The field as often as it was given; JSON values are taken as they are.
        types: What the parameter may be.
    """
    if "array" in types:
        if len(values) > 1:
            return values
        return _split(values[0]) if isinstance(values[0], str) else values[0]
    value = values[-1] if len(values) == 1 else values
    if not isinstance(value, str) or "string" in types:
        return value
    try:
        return parse_json(value)
    except ValueError:
        return value  # the task says what is wrong with it


def _split(value: Any) -> list[Any]:
    """Return a list that was given as JSON, or with commas."""
    if not isinstance(value, str):
        return value if isinstance(value, list) else [value]
    try:
        parsed = parse_json(value)
    except ValueError:
        parsed = None
    if isinstance(parsed, list):
        return parsed
    return [part.strip() for part in value.split(",") if part.strip()]
