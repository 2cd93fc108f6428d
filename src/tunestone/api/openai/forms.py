"""What an answer must be: tools that may or must be called, JSON of a schema."""

from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Literal

from pydantic import Field

from tunestone.api.inference.calls import call_grammar
from tunestone.api.openai.asking import Part
from tunestone.api.openai.wording import invalid, missing, unsupported, unsupported_value

ToolName = Annotated[str, Field(pattern=r"^[a-zA-Z0-9_-]{1,64}$")]


class FunctionDefinition(Part):
    """A function the model may call."""

    name: ToolName
    description: str | None = None
    parameters: dict[str, Any] | None = None
    strict: bool | None = None


class Tool(Part):
    """A tool on offer."""

    type: Literal["function"]
    function: FunctionDefinition


class NamedFunction(Part):
    """The function that must be called."""

    name: str


class NamedTool(Part):
    """The tool that must be called."""

    type: Literal["function"]
    function: NamedFunction


class Schema(Part):
    """What the answer must be."""

    name: ToolName
    description: str | None = None
    schema_: dict[str, Any] | None = Field(default=None, alias="schema")
    strict: bool | None = None


class ResponseFormat(Part):
    """The form of the answer."""

    type: Literal["text", "json_object", "json_schema"]
    json_schema: Schema | None = None


def read_choice(choice: Any) -> str:
    """`none`, `auto`, `required`, or `=` and the name of the function that must be called."""
    if choice is None:
        return "auto"
    if isinstance(choice, str):
        if choice not in {"none", "auto", "required"}:
            raise unsupported_value(choice, "tool_choice", ["none", "auto", "required"])
        return choice
    if isinstance(choice, Mapping) and choice.get("type") == "function":
        function = choice.get("function", choice)  # Responses has it flat
        if isinstance(function, Mapping) and isinstance(function.get("name"), str):
            return f"={function['name']}"
        raise missing("tool_choice.function.name")
    raise unsupported("tool_choice", "Use 'none', 'auto', 'required', or a function by its name.")


def tools_and_grammar(
    tools: Sequence[Mapping[str, Any]],
    choice: str,
    schema: Mapping[str, Any] | None,
    *,
    several: bool,
) -> tuple[Sequence[Mapping[str, Any]], dict[str, Any] | None]:
    """The tools the model is shown, and the grammar its answer is held to, if any.

    Raises OpenAIError when the function that must be called is none of the tools.
    """
    free = None if schema is None else {"type": "json_schema", "schema": schema}
    if choice == "none" or not tools:
        return [], free
    if choice == "auto" and schema is None:
        return tools, None
    if choice == "auto":
        return tools, call_grammar(tools, several=several, answer=schema)
    if choice == "required":
        return tools, call_grammar(tools, several=several)
    name = choice.removeprefix("=")
    if name not in {tool["function"]["name"] for tool in tools}:
        message = f"Tool choice '{name}' not found in 'tools' parameter."
        raise invalid(message, "tool_choice", None)
    return tools, call_grammar(tools, name=name)


def answer_schema(form: ResponseFormat | None) -> dict[str, Any] | None:
    """The JSON schema of an answer; None for plain text."""
    if form is None or form.type == "text":
        return None
    if form.type == "json_object":
        return {"type": "object"}
    if form.json_schema is None:
        param = "response_format.json_schema"
        raise missing(param)
    return form.json_schema.schema_ or {"type": "object"}
