"""The description of the API as OpenAPI 3.1, made from the table of routes.

Bodies of OpenAI's operations come from the routes' own pydantic models, Bedrock's and Lambda's from
botocore's service models, the authority on them. Answers are described by their status only.
"""

import re
from collections.abc import Mapping, Sequence
from typing import Any

import tunestone
from tunestone.api.http import Route

Json = dict[str, Any]
_SERVICES = {"bedrock": ("bedrock", "bedrock-runtime"), "lambda": ("lambda",)}
_SCALARS: dict[str, Json] = {
    "string": {"type": "string"},
    "integer": {"type": "integer"},
    "long": {"type": "integer"},
    "float": {"type": "number"},
    "double": {"type": "number"},
    "boolean": {"type": "boolean"},
    "timestamp": {"type": "string", "format": "date-time"},
    "blob": {"type": "string", "contentEncoding": "base64"},
}


def describe(routes: Sequence[Route]) -> Json:
    """The document of all `routes`."""
    paths: Json = {}
    schemas: Json = {}
    models = _Models(schemas)
    for route in routes:
        path = re.sub(r"\{(\w+)\+?\}", r"{\1}", route.path)
        paths.setdefault(path, {})[route.method.lower()] = _operation(route, models)
    return {
        "openapi": "3.1.0",
        "info": {"title": "Tunestone", "version": tunestone.__version__},
        "paths": paths,
        "components": {
            "schemas": schemas,
            "securitySchemes": {"key": {"type": "http", "scheme": "bearer"}},
        },
        "security": [{}, {"key": []}],
    }


def _operation(route: Route, models: "_Models") -> Json:
    names = re.findall(r"\{(\w+)\}", route.path)
    parameters: list[Json] = [
        {"name": name, "in": "path", "required": True, "schema": {"type": "string"}}
        for name in names
    ]
    found: Json = {
        "operationId": f"{route.dialect}.{route.operation}",
        "tags": [route.dialect],
        "parameters": parameters,
        "responses": {"default": {"description": "The answer, or an error of the dialect."}},
    }
    if route.streams_upload:
        found["requestBody"] = {"content": {"multipart/form-data": {"schema": _upload()}}}
    elif route.body is not None:
        schema = models.of_pydantic(route.body)
        found["requestBody"] = {"content": {"application/json": {"schema": schema}}}
    elif route.dialect in _SERVICES and (shape := models.input_of(route)) is not None:
        query, body = models.split(shape)
        parameters += query
        if body["properties"]:
            found["requestBody"] = {"content": {"application/json": {"schema": body}}}
    return found


def _upload() -> Json:
    return {
        "type": "object",
        "required": ["file", "purpose"],
        "properties": {
            "file": {"type": "string", "contentMediaType": "application/octet-stream"},
            "purpose": {"type": "string"},
        },
    }


class _Models:
    """Schemas of bodies, each put once below `components`."""

    def __init__(self, schemas: Json) -> None:
        self._schemas = schemas
        self._services: dict[str, Any] = {}

    def of_pydantic(self, model: Any) -> Json:
        """Of a pydantic model, or of any type that pydantic knows."""
        from pydantic import TypeAdapter

        schema = TypeAdapter(model).json_schema(ref_template="#/components/schemas/{model}")
        self._schemas.update(schema.pop("$defs", {}))
        return dict(schema)

    def input_of(self, route: Route) -> Any:
        """botocore's shape of what an operation takes; None when it takes nothing."""
        for service in _SERVICES[route.dialect]:
            model = self._service(service)
            if route.operation in model.operation_names:
                return model.operation_model(route.operation).input_shape
        return None

    def split(self, shape: Any) -> tuple[list[Json], Json]:
        """(parameters in the query, schema of the body)."""
        query: list[Json] = []
        properties: Json = {}
        for name, member in shape.members.items():
            place = member.serialization.get("location")
            known = member.serialization.get("name", name)
            if place == "querystring":
                schema = self.of_shape(member)
                query.append({"name": known, "in": "query", "schema": schema})
            elif place is None and shape.serialization.get("payload") != name:
                properties[known] = self.of_shape(member)
        required = [name for name in shape.required_members if name in properties]
        return query, {"type": "object", "properties": properties, "required": required}

    def of_shape(self, shape: Any) -> Json:
        """A reference for a structure or union, else the schema itself."""
        if shape.type_name == "structure":
            name = (
                f"{shape.service_name}.{shape.name}"
                if hasattr(shape, "service_name")
                else shape.name
            )
            if name not in self._schemas:
                self._schemas[name] = {}  # shapes may hold themselves
                self._schemas[name] = self._structure(shape)
            return {"$ref": f"#/components/schemas/{name}"}
        if shape.type_name == "list":
            return {"type": "array", "items": self.of_shape(shape.member), **_range(shape, "Items")}
        if shape.type_name == "map":
            return {"type": "object", "additionalProperties": self.of_shape(shape.value)}
        schema = {**_SCALARS[shape.type_name]}
        if shape.type_name == "string":
            schema |= _range(shape, "Length")
            if enum := getattr(shape, "enum", None):
                schema["enum"] = list(enum)
            elif pattern := shape.metadata.get("pattern"):
                schema["pattern"] = f"^(?:{pattern})$"
        elif schema["type"] in ("integer", "number"):
            schema |= _range(shape, "imum")
        return schema

    def _structure(self, shape: Any) -> Json:
        if shape.metadata.get("document"):
            return {}
        members = {
            member.serialization.get("name", name): self.of_shape(member)
            for name, member in shape.members.items()
        }
        if shape.is_tagged_union:
            return {"type": "object", "properties": members, "minProperties": 1, "maxProperties": 1}
        return {"type": "object", "properties": members, "required": list(shape.required_members)}

    def _service(self, name: str) -> Any:
        if name not in self._services:
            from botocore.loaders import Loader
            from botocore.model import ServiceModel

            data: Mapping[str, Any] = Loader().load_service_model(name, "service-2")
            self._services[name] = ServiceModel(data, name)
        return self._services[name]


def _range(shape: Any, what: str) -> Json:
    """min and max of a shape as JSON Schema names them: minLength, minItems, minimum."""
    bounds = {"min": shape.metadata.get("min"), "max": shape.metadata.get("max")}
    return {f"{side}{what}": value for side, value in bounds.items() if value is not None}
