"""How a Lambda function is named: bare, in part, or by its ARN, with or without a version.

    reward            123456789012:function:reward            function:reward:PROD
    arn:aws:lambda:us-east-1:123456789012:function:reward:$LATEST

Here every version and alias means the function's present code: there are no others.
"""

import re
from dataclasses import dataclass

_NAME = re.compile(
    r"(?:arn:aws[a-z-]*:lambda:)?(?:(?P<region>[a-z]{2}(?:-[a-z]+)+-\d):)?(?:(?P<account>\d{12}):)?"
    r"(?:function:)?(?P<name>[A-Za-z0-9_-]+)(?::(?P<qualifier>\$LATEST|[A-Za-z0-9_-]+))?"
)


@dataclass(frozen=True, slots=True)
class FunctionName:
    """A function's name, taken apart."""

    region: str
    account: str
    name: str
    qualifier: str = ""
    """A version or alias; empty for none."""

    @property
    def arn(self) -> str:
        """Without a version."""
        return f"arn:aws:lambda:{self.region}:{self.account}:function:{self.name}"


def parse_name(text: str, *, region: str, account: str) -> FunctionName | None:
    """Any of the forms; what is not said is `region` and `account`. None when it is no name."""
    found = _NAME.fullmatch(text)
    if found is None:
        return None
    return FunctionName(
        found["region"] or region,
        found["account"] or account,
        found["name"],
        found["qualifier"] or "",
    )
