"""`keymill topics`: create, check, configure, show, adopt."""

from typing import TYPE_CHECKING, Annotated, Any, Final

import typer

from keymill.config import Settings, load
from keymill.ops.access import prepare_keys
from keymill.ops.address import bootstrap_of
from keymill.ops.listing import print_json, print_listing
from keymill.ops.options import Bootstrap, Data, File, Json
from keymill.ops.sign import sign
from schemas.topics import ADOPTIONS, BY_NAME, CATALOGUE

if TYPE_CHECKING:
    from keymill.kafka.adoption import Takeover

app = typer.Typer(
    help="Kafka topics: create them as the catalogue wants them, compare them with it, take new ones over.",
    no_args_is_help=True,
)
Replicas = Annotated[int | None, typer.Option("--replicas", help="replication factor: 3 beyond one machine")]
app.command("sign")(sign)
COLUMNS: Final = ("topic", "cleanup", "partitions", "replicas", "topic_id", "generation")
DIFFERENT: Final = 1
"""Exit code."""


@app.command("create")
def create_command(
    settings: File = None,
    data: Data = None,
    bootstrap: Bootstrap = None,
    partitions: Annotated[int | None, typer.Option(help="partitions of every topic; frozen afterwards")] = None,
    replicas: Replicas = None,
    as_json: Json = False,
) -> int:
    """Create the topics that are missing and adopt them; what exists is left as it is. Repeatable."""
    from keymill.kafka.admin import check_topics, create_topics

    given = load(Settings, file=settings, data=data, bootstrap=bootstrap, partitions=partitions, replicas=replicas)
    brokers = bootstrap_of(given)
    prepare_keys(brokers, given.keys_path)
    created = create_topics(brokers, given.partitions, given.replicas)
    fatal = [difference for difference in check_topics(brokers) if difference.fatal]
    if as_json:
        print_json({"created": created, "differences": fatal})
    else:
        typer.echo(f"created {len(created)} of {len(CATALOGUE)} topics{': ' if created else ''}{', '.join(created)}")
        for difference in fatal:
            typer.echo(f"fatal: {difference}", err=True)
    return DIFFERENT if fatal else 0


@app.command("check")
def check_command(
    settings: File = None,
    data: Data = None,
    bootstrap: Bootstrap = None,
    replicas: Replicas = None,
    as_json: Json = False,
) -> int:
    """Compare every topic with the catalogue and its adoption."""
    from keymill.kafka.admin import check_topics

    brokers = bootstrap_of(load(Settings, file=settings, data=data, bootstrap=bootstrap))
    found = check_topics(brokers, replicas=replicas)
    if as_json:
        print_json({"differences": found})
    elif not found:
        typer.echo(f"all {len(CATALOGUE)} topics are as the catalogue wants them")
    else:
        for difference in found:
            typer.echo(f"{'fatal' if difference.fatal else 'warning'}: {difference}")
    return DIFFERENT if found else 0


@app.command("configure")
def configure_command(
    topics: Annotated[list[str] | None, typer.Argument(help="names; all topics if none is given")] = None,
    settings: File = None,
    data: Data = None,
    bootstrap: Bootstrap = None,
    replicas: Replicas = None,
    apply: Annotated[bool, typer.Option("--apply", help="do it; without it the plan is shown")] = False,
    as_json: Json = False,
) -> int:
    """
    Set the configs of topics that are not what the catalogue wants, while everything runs.

    What else differs (ids, partitions, replication factor) is `check`'s to tell; nothing of it is touched.
    """
    from keymill.kafka.admin import configure, plan_configs

    brokers = bootstrap_of(load(Settings, file=settings, data=data, bootstrap=bootstrap))
    plan = plan_configs(brokers, topics or [], replicas=replicas)
    if apply and plan:
        configure(brokers, plan)
    if as_json:
        print_json({"configs": plan, "applied": apply})
    else:
        for each in plan:
            typer.echo(f"{each.topic}: {each.what} {each.found} -> {each.expected}")
        done = "set" if apply else "nothing is written yet: repeat with --apply"
        typer.echo(done if plan else "nothing to set: every config is as the catalogue wants it")
    return DIFFERENT if plan and not apply else 0


@app.command("show")
def show_command(settings: File = None, data: Data = None, bootstrap: Bootstrap = None, as_json: Json = False) -> None:
    """List the topics with what they hold, their ids and generations."""
    brokers = bootstrap_of(load(Settings, file=settings, data=data, bootstrap=bootstrap))
    print_listing(COLUMNS, _rows(brokers), as_json=as_json)


@app.command("adopt")
def adopt_command(
    topics: Annotated[list[str] | None, typer.Argument(help="names; all topics if none is given")] = None,
    settings: File = None,
    data: Data = None,
    bootstrap: Bootstrap = None,
    generation: Annotated[
        int | None, typer.Option(min=0, help="for topics whose adoptions were lost with their topic, drm.adoptions.v1")
    ] = None,
    apply: Annotated[bool, typer.Option("--apply", help="do it; without it the plan is shown")] = False,
    as_json: Json = False,
) -> int:
    """
    Take over topics that were created again: their ids are recorded with one generation more.

    Do this when the loss of the former topic is understood: offsets start over, and programs refuse the topic until
    then.
    """
    from keymill.kafka.admin import adopt, plan_adoption

    brokers = bootstrap_of(load(Settings, file=settings, data=data, bootstrap=bootstrap))
    plan = plan_adoption(brokers, topics or [], generation=generation)
    if apply and plan:
        adopt(brokers, plan)
    if as_json:
        print_json({"adoptions": plan, "applied": apply})
    else:
        _print_plan(plan, apply)
    return DIFFERENT if plan and not apply else 0


def _rows(bootstrap: str) -> list[dict[str, Any]]:
    from keymill.kafka.admin import describe, load_adoptions

    states = describe(bootstrap, BY_NAME)
    adoptions = load_adoptions(bootstrap) if ADOPTIONS.name in states else {}
    rows = []
    for topic in CATALOGUE:
        state, adopted = states.get(topic.name), adoptions.get(topic.name)
        rows.append(
            {
                "topic": topic.name,
                "cleanup": topic.cleanup.value,
                "partitions": state.partitions if state else None,
                "replicas": state.replicas if state else None,
                "topic_id": state.topic_id if state else None,
                "generation": adopted.generation if adopted else None,
                "adopted_id": adopted.topic_id if adopted else None,
                "record_key": topic.record_key,
                "records": [kind.__name__ for kind in topic.records],
                "writers": [program.value for program in topic.writers],
                "readers": [program.value for program in topic.readers],
            }
        )
    return rows


def _print_plan(plan: "list[Takeover]", applied: bool) -> None:
    if not plan:
        typer.echo("nothing to adopt: every topic id is the adopted one")
    for takeover in plan:
        before, after = takeover.before, takeover.after
        former = f"id {before.topic_id}, generation {before.generation}" if before else "not adopted"
        again = ", written again" if before == after else ""
        typer.echo(f"{after.topic}: {former} -> id {after.topic_id}, generation {after.generation}{again}")
    if plan:
        typer.echo("adopted: start the programs again" if applied else "nothing is written yet: repeat with --apply")
