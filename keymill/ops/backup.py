"""`keymill backup`: what no log gives back, sealed to recipients in one file."""

import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer
from typer.core import TyperGroup

from keymill.config import Settings, load
from keymill.ops.address import bootstrap_of
from keymill.ops.listing import print_json, print_result
from keymill.ops.options import Bootstrap, Data, File, Json, KeyFileOption

if TYPE_CHECKING:
    from keymill.ops.backup_file import Header, Saved

WRONG: Final = 1
"""Exit code: what was saved does not belong together."""


class SaveUnlessNamed(TyperGroup):
    """`keymill backup FILE` is `keymill backup save FILE`."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Put the command in that was left out; a file of a command's name is spelt `./verify`."""
        if args and args[0] not in self.commands and args[0] not in ctx.help_option_names:
            args = ["save", *args]
        return super().parse_args(ctx, args)


app = typer.Typer(
    cls=SaveUnlessNamed,
    help="Save keys, credentials, services and entitlements, sealed: `keymill backup FILE --recipient kmpub1…`.",
    no_args_is_help=True,
)
BackupFile = Annotated[Path, typer.Argument(help="backup file")]
Identities = Annotated[
    list[Path], typer.Option("--identity", help="file with a recipient's private half; as often as the quorum says")
]
Sha256 = Annotated[str | None, typer.Option("--sha256", help="what the file must have, as noted when it was made")]


@app.command("save")
def save(
    file: Annotated[Path, typer.Argument(help="new file")],
    recipient: Annotated[
        list[str], typer.Option("--recipient", help="who can open it, kmpub1…, or a file that says so; repeatable")
    ],
    quorum: Annotated[int, typer.Option("--quorum", help="how many recipients it takes to open it")] = 1,
    settings: File = None,
    data: Data = None,
    bootstrap: Bootstrap = None,
    key_file: KeyFileOption = None,
    as_json: Json = False,
) -> int:
    """
    Save the key file, the generations of the topics, and the topics of credentials, services and entitlements.

    Programs may go on.
    """
    from keymill.ops.backup_file import taken, write_backup
    from keymill.ops.checking import problems
    from keymill.ops.recipients import find_recipient
    from keymill.ops.saving import gather
    from keymill.ops.sealing import check_group

    recipients = [find_recipient(each) for each in recipient]
    check_group(recipients, quorum)
    if file.exists():
        raise taken(file)  # now, and not after everything was read
    loaded = load(Settings, file=settings, data=data, bootstrap=bootstrap, key_file=key_file)
    gathered = gather(bootstrap_of(loaded), loaded.keys_path, recipients, quorum)
    found = list(problems(gathered.content, gathered.saved.records))
    sha256 = write_backup(file, gathered.header, gathered.saved)
    line = {"file": str(file), "sha256": sha256, "left_out": gathered.left_out, "problems": found}
    _tell(gathered.header, line, as_json=as_json)
    return WRONG if found else 0


@app.command("verify")
def verify(
    file: BackupFile, identity: Identities, sha256: Sha256 = None, settings: File = None, as_json: Json = False
) -> int:
    """Open a backup and look whether all of it is there and belongs together; writes nothing, needs no brokers."""
    from keymill.ops.backup_file import read_backup
    from keymill.ops.checking import problems
    from keymill.ops.recipients import read_identity

    load(Settings, file=settings)
    sealed = read_backup(file, sha256)
    saved, content = opened(sealed, [read_identity(each) for each in identity])
    found = list(problems(content, saved.records))
    _tell(sealed.header, {"file": str(file), "sha256": sealed.sha256, "problems": found}, as_json=as_json)
    return WRONG if found else 0


@app.command("show")
def show(file: BackupFile, settings: File = None, as_json: Json = False) -> None:
    """Say what is in a backup; needs no identity, so nothing vouches for it."""
    from keymill.ops.backup_file import read_backup

    load(Settings, file=settings)
    sealed = read_backup(file)
    _tell(sealed.header, {"file": str(file), "sha256": sealed.sha256}, as_json=as_json)


@app.command("recipient")
def recipient_command(
    file: Annotated[Path, typer.Argument(help="new file for the private half, mode 0600")],
    settings: File = None,
    as_json: Json = False,
) -> None:
    """Make a key pair: the private half, an identity, goes into the file, the public half is printed."""
    from keymill.ops.recipients import make_identity

    load(Settings, file=settings)
    identity = make_identity(file)
    told = {"recipient": identity.recipient, "identity": str(file)}
    print_result(told, text=identity.recipient, as_json=as_json)


def opened(sealed: Any, identities: list[Any]) -> "tuple[Saved, Any]":
    """The content of a backup, and of the key file in it."""
    from keymill.errors import Corrupt, Misconfigured
    from keymill.kms.keyfile_format import decode_content
    from keymill.ops.backup_file import open_backup

    saved = open_backup(sealed, identities)
    try:
        return saved, decode_content(saved.key_file, "the key file of the backup")
    except Misconfigured as error:
        raise Corrupt(str(error)) from None


def _tell(header: "Header", line: dict[str, Any], *, as_json: bool) -> None:
    if as_json:
        print_json({**line, "header": header})
        return
    made = time.strftime("%Y-%m-%d %H:%M:%S", time.gmtime(header.created / 1000))
    typer.echo(f"{line['file']}: made {made} UTC by keymill {header.keymill}")
    opens = "any one" if header.quorum == 1 else f"any {header.quorum} together"
    typer.echo(f"{opens} of {len(header.recipients)} recipients: {', '.join(header.recipients)}")
    for each in header.organizations:
        typer.echo(
            f"organization {each.organization}: roots {_listed(each.root_versions)}, KEKs {_listed(each.kek_epochs)}"
        )
    typer.echo(f"intake KEKs {_listed(header.intake_epochs)}")
    for topic in header.topics:
        records = f", {topic.records} records up to {sum(topic.ends)}" if topic.ends else ""
        typer.echo(f"{topic.topic}: id {topic.topic_id}, generation {topic.generation}{records}")
    if line.get("left_out"):
        typer.echo(f"{line['left_out']} records were left out that no view takes")
    for problem in line.get("problems", ()):
        typer.echo(f"problem: {problem}", err=True)
    typer.echo(f"SHA-256 {line['sha256']}")


def _listed(numbers: tuple[int, ...]) -> str:
    return ", ".join(map(str, numbers)) or "none"
