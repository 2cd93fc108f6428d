"""What the names that clients use for base models stand for here."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from tunestone.errors import ModelError
from tunestone.jobs.settings import BaseAlias

EMBEDDED = "smollm2-135m"
KNOWN = (
    "amazon.nova-2-lite-v1:0:256k",
    "openai.gpt-oss-20b",
    "qwen.qwen3-32b",
    "o4-mini-2025-04-16",
)
"""Names of the services' own base models."""
_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]{0,95}/[A-Za-z0-9][\w.-]{0,95}")
_ALIAS = re.compile(r"[A-Za-z0-9][\w.:-]{0,127}")
_ARN_PART = re.compile(r"[a-z0-9-]{1,63}\.[a-z0-9-]{2,63}(:[a-z0-9-]{1,63}){0,2}")
_OURS = "tunestone."


@dataclass(frozen=True, slots=True)
class BaseName:
    """A client's name for a base model, resolved."""

    name: str
    """As the client wrote it, without an ARN around it."""
    source: str
    """What is really trained and asked."""
    settings: Mapping[str, Any]
    """Settings of a run that this base needs."""
    note: str
    """Says plainly that something else is trained than the name says; empty where it is not."""


class BaseNames:
    """The table of the server's settings."""

    def __init__(self, aliases: Mapping[str, BaseAlias]) -> None:
        self._aliases = aliases

    def resolve(self, name: str) -> BaseName:
        """What `name` stands for: an id, a foundation-model ARN, or a hub id.

        Raises ModelError when it is no name of a base model, or there is a table without it. A path
        of a folder is none: only the server's own table may point into the file system.
        """
        bare = self._from_arn_part(name.rpartition("foundation-model/")[2])
        alias = self._aliases.get(bare) or self._aliases.get(_plain(bare))
        if alias is not None:
            note = "" if alias.source == bare else f"{bare} stands for {alias.source} here."
            return BaseName(bare, alias.source, alias.settings, note)
        if bare == EMBEDDED:
            return BaseName(bare, EMBEDDED, {}, "")
        if self._aliases:
            known = ", ".join(self.listed())
            raise ModelError(
                f"There is no base model '{bare}' here.", remedy=f"Use one of: {known}."
            )
        if _HUB_ID.fullmatch(bare):
            return BaseName(bare, bare, {}, "")
        if not _ALIAS.fullmatch(bare):
            raise ModelError(
                f"'{bare}' is no name of a base model.", remedy=f"Use {EMBEDDED} or a hub id."
            )
        note = (
            f"This server has no table of base models, so {bare} stands for the embedded model "
            f"{EMBEDDED}: that is what is trained and what answers."
        )
        return BaseName(bare, EMBEDDED, {}, note)

    def _from_arn_part(self, bare: str) -> str:
        if not bare.startswith(_OURS):
            return bare
        return next((name for name in self.listed() if arn_part(name) == bare), bare)

    def listed(self) -> list[str]:
        """Names to show in lists of models."""
        return sorted({*(self._aliases or KNOWN), EMBEDDED})


def arn_part(name: str) -> str:
    """A base model's name as Bedrock's ARNs take it: `provider.model`, with versions behind it.

    One that does not look so, such as the embedded model's, gets `tunestone` as its provider.
    """
    if _ARN_PART.fullmatch(name):
        return name
    return _OURS + re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")[:63].ljust(2, "-")


def _plain(name: str) -> str:
    """Without what is said about context and version: `qwen.qwen3-32b-v1:0` -> `qwen.qwen3-32b`."""
    return re.sub(r"(-v\d+)?(:\d+)?(:\d+k)?$", "", name)
