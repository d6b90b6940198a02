"""The gateway as a program."""

from collections.abc import Mapping
from typing import Final

from keymill import telemetry
from keymill.config import GatewaySettings
from keymill.disk import DiskSpace
from keymill.errors import Misconfigured
from keymill.gateway.app import VIEW, CaughtUp, application
from keymill.gateway.asking import PROGRAM
from keymill.gateway.deadletters import DeadLetters
from keymill.gateway.intake import Intake
from keymill.gateway.service import Service
from keymill.gateway.waiting import Waiter
from keymill.http.admin import listen_admin, port_of
from keymill.http.health import Readiness
from keymill.http.server import listen, serve
from keymill.kafka.admin import require_topics
from keymill.kafka.authentication import install
from keymill.kafka.producer import Publisher
from keymill.kafka.reporting import Observation, Reporter, held_keks, reporter_of
from keymill.kms.keyfile import KeyFile
from keymill.kms.keyring import Keyring
from keymill.kms.record_keys import RecordKeys
from keymill.snapshot.confirmation import Confirmation
from keymill.snapshot.follower import Follower
from keymill.snapshot.observed import Observed
from keymill.snapshot.reader import SnapshotReader
from keymill.trail.recorder import Recorder
from keymill.trail.whole import Trail
from schemas import topics
from schemas.records import TopicAdopted
from schemas.topics import Topic

GIB: Final = 1 << 30
WRITTEN: Final = (topics.ASSETS, topics.POLICY_CHANGES)
"""Besides entitlements, which are in the view."""


def run(settings: GatewaySettings) -> int:
    """
    Serve until SIGTERM; returns the exit code.

    Raises:
        Misconfigured: settings, topics or key file are not what they must be.
        Unavailable: no broker answers.
    """
    telemetry.configure("gateway", settings.log_level)
    settings.require_tls()
    if not settings.bootstrap:
        raise Misconfigured("bootstrap (KEYMILL_BOOTSTRAP) is empty: name the Kafka brokers, or run `keymill up`")
    keyring = Keyring(KeyFile(settings.keys_path))
    install(RecordKeys(lambda: keyring))
    adopted = require_topics(settings.bootstrap, [*VIEW, *(topic.name for topic in WRITTEN), topics.DEAD_LETTERS.name])
    bound = listen(settings.host, settings.gateway_port)
    admin = listen_admin(settings, settings.gateway_admin_port, bound)
    folder = settings.data / "views" / "gateway"
    client = {"bootstrap.servers": settings.bootstrap}
    follower = Follower(
        folder, VIEW, client, key_file=settings.keys_path, map_size=settings.map_size_gib * GIB,
        log_level=settings.log_level,
    )  # fmt: skip
    reader = SnapshotReader(folder)
    waiter = Waiter(reader, settings.max_waiting)
    letters = DeadLetters(settings.bootstrap, waiter.wake)
    view = CaughtUp(reader, follower, DiskSpace(settings.data, settings.min_free_mib))
    readiness = Readiness(
        view, lambda: None if letters.alive() else "the dead letters are not followed", degraded=view.degraded
    )
    publisher = Publisher(settings.bootstrap, {name: topic.partitions for name, topic in adopted.items()})
    publisher.start()
    with Trail(settings.data, PROGRAM, settings.bootstrap, limit=settings.audit_spool_mib << 20) as audit:
        intake, changes = (_intake(publisher, topic, adopted, audit) for topic in WRITTEN)
        service = Service(
            settings, reader, intake, changes, publisher, letters, waiter, keyring, readiness, audit,
            adopted[topics.ENTITLEMENTS.name], Confirmation(reader),
        )  # fmt: skip
        app = application(
            service, follower, main_port=port_of(bound), admin_port=port_of(admin) if admin else None
        )  # fmt: skip
        with _reporter(service):
            return serve(
                app, settings=settings, bound=bound, readiness=readiness, on_stop=waiter.stop, admin=admin
            )  # fmt: skip


def _reporter(service: Service) -> Reporter:
    view, keyring = Observed(SnapshotReader(service.reader.folder)), service.keyring

    def observe() -> Observation:
        return view.look(service.readiness.said, held_keks(keyring.hold_all()))

    return reporter_of(service.settings, PROGRAM, observe)


def _intake(publisher: Publisher, topic: Topic, adopted: Mapping[str, TopicAdopted], audit: Recorder) -> Intake:
    taken = adopted[topic.name]
    return Intake(publisher, topic=topic, partitions=taken.partitions, generation=taken.generation, audit=audit)
