"""Spring Cloud Bus: messages as captured from JVM members, and a real Config Server beside us."""

from collections.abc import Callable, Iterator
from typing import Any

import pika
import pytest
import requests

from cloud.bus import events
from cloud.bus.events import Event
from cloud.config import Properties
from tests.cloud.house import ConfiguredHouse
from tests.waiting import eventually
from tests.wire import Wire

# Written by Spring Cloud Bus 4.1: a Config Server's /monitor, a service's ack, its busenv.
CAPTURED = {
    "refresh": b'{"type":"RefreshRemoteApplicationEvent","timestamp":1795376030545,'
    b'"originService":"configserver:native:18788:d22e4cf3a4d34ff0a1d6ec77a3dd2e5c",'
    b'"destinationService":"identity:**","id":"b6e1a7a4-6b3f-4a0e-9c4e-0c0d6f0a2b11"}',
    "ack": b'{"type":"AckRemoteApplicationEvent","timestamp":1795376033821,'
    b'"originService":"configserver:native:18788:d22e4cf3a4d34ff0a1d6ec77a3dd2e5c",'
    b'"destinationService":"**","id":"0d1c8a8e-5a7e-4d8e-9f5d-1f2f3a4b5c6d",'
    b'"ackId":"b6e1a7a4-6b3f-4a0e-9c4e-0c0d6f0a2b11","ackDestinationService":"**",'
    b'"event":"org.springframework.cloud.bus.event.RefreshRemoteApplicationEvent"}',
    "environment": b'{"type":"EnvironmentChangeRemoteApplicationEvent","timestamp":1795376040001,'
    b'"originService":"shop:dev:8080:aa","destinationService":"**",'
    b'"id":"5f0d9d9e-7d7d-4b43-8d5e-b2f8e6a8c001","values":{"logging.level.root":"DEBUG"}}',
    "unknown": b'{"type":"ShutdownRemoteApplicationEvent","timestamp":1,"originService":"a",'
    b'"destinationService":null,"id":"x"}',
}


@pytest.mark.parametrize("body", CAPTURED.values(), ids=CAPTURED)
def test_a_captured_message_is_written_as_it_was_read(body):
    assert Event.load(body).dump() == body


@pytest.mark.parametrize("body", [b"\xa0", b"[]", b"{}", b'"refresh"', b"not json"])
def test_what_is_no_event_is_refused(body):
    with pytest.raises(ValueError):  # noqa: PT011 - of any kind
        Event.load(body)


@pytest.mark.parametrize(
    ("destination", "own", "meant"),
    [
        ("**", "svc:8080:a", True),
        ("", "svc:8080:a", True),
        (None, "svc:8080:a", True),
        ("svc:**", "svc:8080:a", True),
        ("svc:**", "svc", True),
        ("svc", "svc:8080:a", False),
        ("other:**", "svc:8080:a", False),
        ("svc:dev:**", "svc:dev:8080:a", True),
        ("svc:dev:8080:**", "svc:dev:8080:a", True),
        ("svc:prod:**", "svc:dev:8080:a", False),
        ("svc:prod:**", "svc:dev,prod:8080:a", True),
        ("svc:dev,prod:**", "svc:dev,prod:8080:a", True),
        ("*:8080:**", "svc:8080:a", True),
        ("s?c:**", "svc:8080:a", True),
        ("**:a", "svc:dev:8080:a", True),
        ("shop:**", "svc:8080:a", True),
    ],
)
def test_destinations_are_matched_as_springs_path_matcher_does(destination, own, meant):
    assert events.is_meant(destination, own, ["shop"]) is meant


@pytest.mark.parametrize(
    ("path", "destination"),
    [
        (None, "**"),
        ("**", "**"),
        ("svc", "svc:**"),
        ("svc:8080", "svc:8080:**"),
        ("svc:**", "svc:**"),
        ("svc:dev:8080", "svc:dev:8080"),
    ],
)
def test_destinations_are_completed_as_springs_factory_does(path, destination):
    assert events.destination_of(path) == destination


@pytest.mark.parametrize(
    ("given", "start"),
    [
        ({}, "svc:8080:"),
        ({"server.port": 9001}, "svc:9001:"),
        ({"server.port": 9001, "spring.profiles.active": "dev,eu"}, "svc:dev,eu:9001:"),
        ({"spring.application.index": 3, "server.port": 9001}, "svc:3:"),
        ({"vcap.application.name": "cf", "spring.profiles.active": "dev"}, "cf:8080:"),
    ],
)
def test_bus_ids_are_made_as_spring_makes_them(given, start):
    properties = Properties.of(given, "svc")
    own = events.bus_id(properties)
    assert own.startswith(start)
    assert len(own.removeprefix(start)) == 32
    assert own == events.bus_id(Properties.of(given, "svc"))
    assert events.bus_id(Properties.of({"spring.cloud.bus.id": "mine"}, "svc")) == "mine"


class Listener:
    """A member that only listens, and says what a test wants said."""

    def __init__(self, address: str) -> None:
        host, port = address.split(":")
        self.connection = pika.BlockingConnection(pika.ConnectionParameters(host, int(port)))
        self.channel = self.connection.channel()
        self.channel.exchange_declare("springCloudBus", "topic", durable=True)
        queue = self.channel.queue_declare("", exclusive=True).method.queue
        self.channel.queue_bind(queue, "springCloudBus", "#")
        self.heard: list[tuple[Event, pika.BasicProperties, str]] = []
        self.channel.basic_consume(queue, self.hear, auto_ack=True)

    def hear(self, _: object, method: Any, properties: pika.BasicProperties, body: bytes) -> None:
        self.heard.append((Event.load(body), properties, method.routing_key))

    def say(self, body: bytes) -> None:
        properties = pika.BasicProperties(content_type="application/json")
        self.channel.basic_publish("springCloudBus", "springCloudBus", body, properties)

    def events(self, kind: str, **wanted: object) -> list[Event]:
        self.connection.process_data_events(0.05)
        return [
            event
            for event, _, _ in self.heard
            if event.type == kind
            and all(event.more.get(key, getattr(event, key, None)) == wanted[key] for key in wanted)
        ]


@pytest.fixture
def bus(server) -> Iterator[Listener]:
    listener = Listener(server("NOZIE_TEST_RABBIT", "rabbit"))
    yield listener
    listener.connection.close()


@pytest.fixture
def member(start, server) -> Callable[..., ConfiguredHouse]:
    host, port = server("NOZIE_TEST_RABBIT", "rabbit").split(":")

    def run(**more: object) -> ConfiguredHouse:
        rabbit = {"spring.rabbitmq.host": host, "spring.rabbitmq.port": port}
        settings = {"spring.cloud.bus.enabled": True, "logging.level.cloud": "INFO"}
        house: ConfiguredHouse = start(**{**rabbit, **settings, **more})
        return house

    return run


@pytest.mark.estate
def test_an_edit_and_the_config_servers_monitor_reach_every_worker(
    member,
    served,
    bus,
):
    house = member()
    eventually(lambda: house.said("bus_joined"))
    (joined,) = house.said("bus_joined")
    own = joined["nozie.id"]
    house.write({**house.settings, "fresh.greeting": "two"})
    told = requests.post(f"{served[1]}/monitor", data={"path": house.name}, timeout=10)
    assert told.json() == [house.name]
    eventually(lambda: house.everywhere("greeting", "two"))
    # The server also watches its files, and may have spoken before the house was there.
    (ack, *_) = eventually(lambda: bus.events(events.ACK, origin=own))
    (event,) = bus.events(events.REFRESH, id=ack.more["ackId"])
    assert event.origin.startswith("config-server:native:")
    assert ack.more == {
        "ackId": event.id,
        "ackDestinationService": f"{house.name}:**",
        "event": "org.springframework.cloud.bus.event.RefreshRemoteApplicationEvent",
    }
    assert ack.destination == "**"
    _, properties, key = next(heard for heard in bus.heard if heard[0].id == ack.id)
    assert (properties.content_type, properties.delivery_mode, key) == (
        "application/json",
        2,
        "springCloudBus",
    )
    # A worker that comes later has it, too.
    assert house.post("/refresh").json() == []


@pytest.mark.estate
def test_what_we_say_a_jvm_member_follows_and_acknowledges(member, bus):
    house = member()
    eventually(lambda: house.said("bus_joined"))
    house.write({**house.settings, "fresh.greeting": "two"})
    answer = house.post("/busrefresh")
    assert (answer.status_code, answer.content) == (204, b"")
    # Who was asked has refreshed before it answers.
    assert house.everywhere("greeting", "two")
    own = house.said("bus_joined")[0]["nozie.id"]
    (event,) = eventually(lambda: bus.events(events.REFRESH, origin=own))
    assert event.destination == "**"
    acks = eventually(
        lambda: [
            ack
            for ack in bus.events(events.ACK, ackId=event.id)
            if ack.origin.startswith("config-server:native:")
        ]
    )
    assert acks[0].more["event"].endswith(".RefreshRemoteApplicationEvent")

    assert house.post("/busrefresh/nobody").status_code == 204
    assert house.post(f"/busrefresh/{house.name}/{house.port}").status_code == 204
    (last,) = eventually(
        lambda: bus.events(events.REFRESH, destination=f"{house.name}:{house.port}:**")
    )
    eventually(lambda: bus.events(events.ACK, ackId=last.id, origin=own))
    (nobodys,) = bus.events(events.REFRESH, destination="nobody:**")
    assert not bus.events(events.ACK, ackId=nobodys.id)


@pytest.mark.estate
def test_values_over_the_bus_stand_above_the_configuration(member, bus):
    house = member()
    eventually(lambda: house.said("bus_joined"))
    body = {"name": "logging.level.nozie.fresh", "value": "DEBUG"}
    assert house.post(f"/busenv/{house.name}", body).status_code == 204
    assert house.everywhere("level", "DEBUG")
    (sent,) = eventually(lambda: bus.events(events.ENVIRONMENT, destination=f"{house.name}:**"))
    assert sent.more == {"values": {"logging.level.nozie.fresh": "DEBUG"}}

    theirs = Event.new(
        events.ENVIRONMENT, "shop:8080:1", f"{house.name}:**", values={"fresh.greeting": "theirs"}
    )
    bus.say(theirs.dump())
    eventually(lambda: house.everywhere("greeting", "theirs"))
    eventually(lambda: bus.events(events.ACK, ackId=theirs.id))
    assert house.post("/refresh").json() == []
    # A value that cannot be used is neither taken nor acknowledged.
    wrong = Event.new(
        events.ENVIRONMENT, "shop:8080:1", f"{house.name}:**", values={"fresh.limit": "0"}
    )
    bus.say(wrong.dump())
    eventually(lambda: house.said("bus_event_failed"))
    assert house.everywhere("limit", 1)
    assert not bus.events(events.ACK, ackId=wrong.id)
    assert house.post("/busenv", {"name": "x"}).status_code == 400


@pytest.mark.estate
def test_a_broker_that_is_away_is_waited_for_and_costs_nothing_else(member, server):
    with Wire(server("NOZIE_TEST_RABBIT", "rabbit")) as door:
        house = member(**{"spring.rabbitmq.port": door.port})
        eventually(lambda: house.said("bus_joined"))
        door.cut()
        eventually(lambda: house.said("waiting_for"))
        answer = house.post("/busrefresh")
        assert answer.status_code == 503
        assert "not told" in answer.json()["message"]
        house.write({**house.settings, "fresh.greeting": "two"})
        assert house.post("/refresh").json() == ["fresh.greeting"]
        assert len(house.said("waiting_for")) == 1
        door.mend()
        eventually(lambda: len(house.said("bus_joined")) == 2)
        assert house.post("/busrefresh").status_code == 204
