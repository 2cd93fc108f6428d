"""The commands that serve Bedrock's and OpenAI's clients, and the keys of those who may ask."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from tunestone.cli.app import ConfigFile, app, say

if TYPE_CHECKING:
    from tunestone.api.access.keys import KeyRing
    from tunestone.api.services import Services
    from tunestone.jobs.settings import ServerSettings

DataFolder = Annotated[
    Path | None, typer.Option("--data", help="Folder of everything the server keeps.")
]
Database = Annotated[
    str | None, typer.Option(help="URL of a PostgreSQL database; else SQLite in the folder.")
]
keys = typer.Typer(help="Keys of those who may use the server.", no_args_is_help=True)
app.add_typer(keys, name="keys")


@app.command()
def serve(
    host: Annotated[str | None, typer.Option(help="Address to listen on.")] = None,
    port: Annotated[int | None, typer.Option(help="Port; 0 takes a free one.")] = None,
    data: DataFolder = None,
    config: ConfigFile = None,
    database: Database = None,
    local_aws: Annotated[
        bool | None, typer.Option("--local-aws", help="Answer S3, STS, IAM and Lambda too.")
    ] = None,
    require_keys: Annotated[
        bool | None, typer.Option("--require-keys", help="Ask for a key on a loopback address too.")
    ] = None,
    log_format: Annotated[
        Literal["json", "text"] | None, typer.Option(help="Form of the log: json or text.")
    ] = None,
) -> None:
    """Answer unmodified Bedrock and OpenAI clients: jobs, models and questions."""
    settings = _settings(
        config,
        host=host,
        port=port,
        data=data,
        database=database,
        local_aws=local_aws,
        require_keys=require_keys,
        log_format=log_format,
    )
    from tunestone.api import logs, server

    logs.configure(settings.log_format)
    server.serve(settings, _say_ready)


@keys.command("create")
def create_key(
    name: Annotated[str, typer.Option(help="Whose it is; for lists and the log.")] = "default",
    scope: Annotated[
        Literal["read", "write", "admin"], typer.Option(help="write may also change, admin all.")
    ] = "write",
    data: DataFolder = None,
    config: ConfigFile = None,
    database: Database = None,
) -> None:
    """Make a key: a bearer key and a pair to sign with. Its secrets are shown only now."""
    made = _ring(config, data, database).create(name, scope)
    say(f"Key {made.id} '{made.name}' may {scope}. Its secrets are shown this once:")
    say("")
    say(f"OPENAI_API_KEY={made.bearer}")
    say(f"AWS_BEARER_TOKEN_BEDROCK={made.bearer}")
    say("")
    say("or, to sign with instead of the bearer token:")
    say(f"AWS_ACCESS_KEY_ID={made.id}")
    say(f"AWS_SECRET_ACCESS_KEY={made.secret}")


@keys.command("list")
def list_keys(
    data: DataFolder = None, config: ConfigFile = None, database: Database = None
) -> None:
    """Show the keys, without their secrets."""
    rows = _ring(config, data, database).listed()
    for row in rows:
        used = f"last used {row.last_used_at:%Y-%m-%d %H:%M}" if row.last_used_at else "never used"
        ended = f", revoked {row.revoked_at:%Y-%m-%d %H:%M}" if row.revoked_at else ""
        made = f"made {row.created_at:%Y-%m-%d %H:%M}"
        say(f"{row.id}  {row.scopes[-1]:5}  {row.name}  {made}, {used}{ended}")
    if not rows:
        say("There are no keys. On a loopback address none is needed.")


@keys.command("revoke")
def revoke_key(
    key: Annotated[str, typer.Argument(help="Id or name of a key.")],
    data: DataFolder = None,
    config: ConfigFile = None,
    database: Database = None,
) -> None:
    """End a key; a running server refuses it within a second."""
    ended = _ring(config, data, database).revoke(key)
    say(f"Key {ended.id} '{ended.name}' is revoked.")


def _settings(config: Path | None, **options: Any) -> "ServerSettings":
    from tunestone.jobs.settings import read_settings

    return read_settings(
        config, {key: value for key, value in options.items() if value is not None}
    )


def _ring(config: Path | None, data: Path | None, database: str | None) -> "KeyRing":
    from tunestone.api.access.keys import KeyRing
    from tunestone.jobs.data_folder import open_folder, open_store

    settings = _settings(config, data=data, database=database)
    folder = open_folder(settings.data)
    return KeyRing(open_store(settings, folder), folder)


def _say_ready(address: str, services: "Services") -> None:
    from tunestone.api.access.keys import KeyRing
    from tunestone.api.server import creating_a_key

    settings = services.settings
    say(f"Tunestone is ready at {address}  (data in {services.folder})")
    say(f"  pages:   {address}/ui")
    if settings.local_aws:
        say(f"  boto3:   export AWS_ENDPOINT_URL={address}")
    else:
        say(f"  boto3:   export AWS_ENDPOINT_URL_BEDROCK={address}")
        say(f"           export AWS_ENDPOINT_URL_BEDROCK_RUNTIME={address}")
    say(f"  openai:  export OPENAI_BASE_URL={address}/v1")
    if settings.require_keys or KeyRing(services.store, services.folder).listed():
        say(f"  A key is needed: `{creating_a_key(settings)}` makes one.")
    else:
        say("  No key is needed here; give the clients any, such as OPENAI_API_KEY=local.")
    if not settings.base_models:
        say("  There is no table of base models: the services' names stand for the embedded")
        say("  smollm2-135m, hub ids for themselves.")
