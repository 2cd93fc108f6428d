"""Functions are created, shown, changed and deleted: Lambda's operations on rows of `functions`."""

from typing import Any

from sqlalchemy import select
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session

from tunestone.api.bedrock.errors import ResourceNotFoundException
from tunestone.api.http import Call
from tunestone.api.local_aws import functions
from tunestone.api.local_aws.errors import (
    InvalidParameterValueException,
    PreconditionFailedException,
    ResourceConflictException,
)
from tunestone.api.local_aws.names import FunctionName, parse_name
from tunestone.errors import RewardError
from tunestone.jobs.tables import Function

Json = dict[str, Any]

_KEPT = ("Runtime", "Role", "Handler", "Description", "Timeout", "MemorySize")
_MOST_SECONDS, _MOST_MIB = 900, 10_240
_PAGE = 50
_UNUSED = ("Layers", "FileSystemConfigs", "ImageConfig", "CodeSigningConfigArn", "ImageUri")


def create_function(call: Call, given: Json) -> Json:
    """CreateFunction."""
    name = function_name(call, given["FunctionName"])
    if name.qualifier not in ("", "$LATEST"):
        raise InvalidParameterValueException(f"A new function has no version {name.qualifier}.")
    for member in ("Runtime", "Handler"):
        if member not in given:
            raise InvalidParameterValueException(f"{member} is required when PackageType is Zip.")
    package = _package(call, given["Code"])
    row = functions.new_row(name, _settings(given), package)
    row.settings = {**row.settings, "Tags": given.get("Tags", {})}
    taken = ResourceConflictException(f"Function already exist: {name.name}")
    with call.services.store.session() as session:
        if session.get(Function, name.arn) is not None:
            raise taken
        session.add(row)
        try:
            session.flush()
        except IntegrityError as error:
            raise taken from error
    return functions.configuration(row)


def get_function(call: Call, given: Json) -> Json:
    """GetFunction. The code's address is a link to nothing: packages are not handed out."""
    row = find_function(call, given)
    return {
        "Configuration": functions.configuration(row),
        "Code": {"RepositoryType": "S3", "Location": f"file:{row.path}"},
        "Tags": row.settings.get("Tags") or None,
    }


def get_function_configuration(call: Call, given: Json) -> Json:
    """GetFunctionConfiguration."""
    return functions.configuration(find_function(call, given))


def list_functions(call: Call, given: Json) -> Json:
    """ListFunctions, of the caller's region, by name."""
    most = min(given.get("MaxItems", _PAGE), _PAGE)
    region = FunctionName(call.caller.region, call.services.settings.account, "").arn
    chosen = select(Function).where(Function.name.startswith(region, autoescape=True))
    after = given.get("Marker")
    if after:
        chosen = chosen.where(Function.name > f"{region}{after}")
    with call.services.store.session() as session:
        rows = session.scalars(chosen.order_by(Function.name).limit(most + 1)).all()
    shown = rows[:most]
    more = shown[-1].name.rpartition(":")[2] if len(rows) > most else None
    return {"Functions": [functions.configuration(row) for row in shown], "NextMarker": more}


def update_function_code(call: Call, given: Json) -> Json:
    """UpdateFunctionCode."""
    find_function(call, given)  # before the package is looked at
    package = _package(call, given)
    with call.services.store.session() as session:
        row = find_row(session, call, given)
        _check_revision(row, given)
        if given.get("DryRun"):
            session.expunge(row)
        functions.put_package(row, package)
    return functions.configuration(row)


def update_function_configuration(call: Call, given: Json) -> Json:
    """UpdateFunctionConfiguration: the members that are given."""
    settings = _settings(given)
    with call.services.store.session() as session:
        row = find_row(session, call, given)
        _check_revision(row, given)
        row.settings = {**row.settings, **settings}
        functions.touch(row)
    return functions.configuration(row)


def delete_function(call: Call, given: Json) -> Json:
    """DeleteFunction. Its package stays, for jobs that use it."""
    with call.services.store.session() as session:
        session.delete(find_row(session, call, given))
    return {}


def function_name(call: Call, text: str) -> FunctionName:
    """A function's name as it was written, with the caller's region where it names none.

    Raises InvalidParameterValueException.
    """
    account = call.services.settings.account
    name = parse_name(text, region=call.caller.region, account=account)
    if name is None:
        raise InvalidParameterValueException(f"{text!r} is no name of a function.")
    return name


def find_function(call: Call, given: Json) -> Function:
    """The function that a request names. Raises ResourceNotFoundException."""
    with call.services.store.session() as session:
        return find_row(session, call, given)


def find_row(session: Session, call: Call, given: Json) -> Function:
    """The same, within a transaction."""
    name = function_name(call, given["FunctionName"])
    row = session.get(Function, name.arn)
    if row is None:
        raise ResourceNotFoundException(f"Function not found: {name.arn}")
    return row


def _settings(given: Json) -> Json:
    """The members of a request that are kept. Raises InvalidParameterValueException."""
    for name in _UNUSED:
        if given.get(name):
            raise InvalidParameterValueException(
                f"{name} is not offered by Tunestone's Lambda: deploy a zip with all it needs."
            )
    if given.get("PackageType", "Zip") != "Zip":
        raise InvalidParameterValueException("Tunestone's Lambda runs packages of type Zip only.")
    runtime = given.get("Runtime", "python")
    if not runtime.startswith("python"):
        raise InvalidParameterValueException(
            f"The runtime parameter of {runtime} is not supported: Tunestone runs Python handlers."
        )
    if "." not in given.get("Handler", "."):
        raise InvalidParameterValueException(
            f"The handler {given['Handler']!r} is not of the form module.function."
        )
    for member, most in (("Timeout", _MOST_SECONDS), ("MemorySize", _MOST_MIB)):
        if given.get(member, 1) > most:
            raise InvalidParameterValueException(
                f"{member} {given[member]} is more than the limit of {most}."
            )
    kept = {name: given[name] for name in _KEPT if name in given}
    if "Environment" in given:
        kept["Environment"] = given["Environment"].get("Variables", {})
    if "Architectures" in given:
        kept["Architectures"] = given["Architectures"]
    if "EphemeralStorage" in given:
        kept["EphemeralStorage"] = given["EphemeralStorage"]["Size"]
    return kept


def _package(call: Call, code: Json) -> Json:
    """The package that was sent along or lies in S3, stored. Raises InvalidParameterValue..."""
    data = code.get("ZipFile")
    if data is None and "S3Bucket" in code and "S3Key" in code:
        data = _from_s3(call, f"s3://{code['S3Bucket']}/{code['S3Key']}")
    if not data:
        raise InvalidParameterValueException("Please provide a source for function code.")
    try:
        return functions.keep_package(call.services.folder, data)
    except RewardError as error:
        raise InvalidParameterValueException(
            f"Could not unzip uploaded file. Please check your file, then try to upload again. "
            f"({error})"
        ) from error


def _from_s3(call: Call, url: str) -> bytes:
    import tempfile
    from pathlib import Path

    with tempfile.TemporaryDirectory(prefix="tunestone-lambda-") as folder:
        path = Path(folder) / "package.zip"
        call.services.objects.download(url, path)
        return path.read_bytes()


def _check_revision(row: Function, given: Json) -> None:
    wanted = given.get("RevisionId")
    if wanted is not None and wanted != row.settings["RevisionId"]:
        raise PreconditionFailedException(
            "The RevisionId provided does not match the latest RevisionId. Call the GetFunction or "
            "the GetAlias API to retrieve the latest RevisionId"
        )
