"""What operators see and say of an instance: health, orders, first status, a refused start."""

import json
from typing import Any

import pytest
import requests

from tests.cloud.conftest import QUICK
from tests.cloud.eureka import listed, status
from tests.cloud.house import House
from tests.waiting import eventually

pytestmark = pytest.mark.estate

PATH = "/actuator/serviceregistry"


def order(house: House, word: object) -> requests.Response:
    return house.post("/serviceregistry", {"status": word})


def discovery(house: House) -> dict[str, Any]:
    found = house.get("/actuator/health/discoveryComposite/eureka")
    return dict(found.json()) if found.status_code in {200, 503} else {}


def test_an_instance_is_taken_out_and_back_and_nothing_overrules_the_operator(
    house,
    eureka_url,
    door,
):
    served = house(f"http://127.0.0.1:{door.port}/eureka/")
    eventually(lambda: status(eureka_url, served.name) == "UP")
    eventually(lambda: discovery(served).get("status") == "UP")
    own = served.name.upper()
    eventually(lambda: discovery(served)["details"]["applications"].get(own) == 1)
    assert served.get(PATH).json() == {"status": "UP", "overriddenStatus": "UNKNOWN"}
    assert order(served, "ELSEWHERE").status_code == 400

    answer = order(served, "out_of_service")
    assert (answer.status_code, answer.content) == (200, b"")
    out = {"status": "OUT_OF_SERVICE", "overriddenStatus": "OUT_OF_SERVICE"}
    assert served.get(PATH).json() == out
    eventually(lambda: discovery(served).get("status") == "OUT_OF_SERVICE")
    assert served.get("/actuator/health").status_code == 503
    assert served.get("/actuator/health/readiness").status_code == 200
    # The server forgets everything; a renewal opens the lease anew, and the order with it.
    found = listed(eureka_url, served.name)
    assert found is not None
    id_, said = found["instanceId"], len(door.requests)
    requests.delete(f"{eureka_url}apps/{served.name.upper()}/{id_}", timeout=5).raise_for_status()
    eventually(lambda: any(line.startswith("POST") for line in door.requests[said:]))
    eventually(lambda: status(eureka_url, served.name) == "OUT_OF_SERVICE")

    assert order(served, "CANCEL_OVERRIDE").status_code == 200
    assert served.get(PATH).json() == {"status": "UP", "overriddenStatus": "UNKNOWN"}
    said = len(door.requests)
    eventually(lambda: sum(line.startswith("PUT") for line in door.requests[said:]) >= 2)
    assert status(eureka_url, served.name) == "UP"
    assert served.said("status_ordered")

    # And when Eureka is away: no order is taken, the instance lives on by what it knows.
    door.cut()
    assert order(served, "DOWN").status_code == 503
    eventually(lambda: "failCount" in discovery(served).get("details", {}))
    assert discovery(served)["status"] == "UP"
    door.mend()
    served.end()
    assert status(eureka_url, served.name) is None


def test_a_start_in_the_dark_waits_for_the_operator(house, eureka_url):
    served = house(
        eureka__instance__initial_status="OUT_OF_SERVICE",
        eureka__instance__metadata_map__zone="east",
    )
    eventually(lambda: status(eureka_url, served.name) == "OUT_OF_SERVICE")
    assert order(served, "UP").status_code == 200
    assert status(eureka_url, served.name) == "UP"
    found = listed(eureka_url, served.name)
    assert found is not None
    assert found["metadata"]["zone"] == "east"


def test_orders_are_taken_only_where_they_are_allowed(house, eureka_url):
    served = house(management__endpoint__serviceregistry__access="read-only")
    eventually(lambda: status(eureka_url, served.name) == "UP")
    assert order(served, "DOWN").status_code == 405
    assert served.post("/shutdown").status_code == 404
    assert served.get(PATH).json()["status"] == "UP"


def test_without_contact_the_status_is_unknown_and_nothing_is_listed_before(house, door):
    door.cut()
    served = house(f"http://127.0.0.1:{door.port}/eureka/")
    eventually(lambda: served.answers("/actuator/health/liveness"))
    found = discovery(served)
    assert found["status"] == "UNKNOWN"
    assert found["details"] == {"applications": {}}
    eventually(lambda: served.get("/actuator/health").status_code, 200)
    off = house(eureka__client__register_with_eureka=False)
    eventually(lambda: off.answers("/actuator/health/liveness"))
    assert off.get(PATH).status_code == 404


@pytest.mark.parametrize(
    ("setting", "told"),
    [
        pytest.param(
            {"eureka__client__should_enforce_registration_at_init": True},
            "eureka.client.should-enforce-registration-at-init",
            id="registration is enforced and Eureka is away",
        ),
        pytest.param(
            {"spring__cloud__loadbalancer__clients__x__configurations": "secret"},
            "spring.cloud.loadbalancer.clients.x.configurations",
            id="a load balancer nobody knows",
        ),
    ],
)
def test_the_start_stops_with_one_line(house, door, setting, told):
    door.cut()
    served = house(f"http://127.0.0.1:{door.port}/eureka/", **setting)
    assert served.process.wait(20) == 1
    log = served.log.read_text()
    assert [line for line in log.splitlines() if line.startswith("Error: ") and told in line]
    assert "Traceback" not in log
    assert "secret" not in next(line for line in log.splitlines() if line.startswith("Error: "))


def test_workers_come_and_go_and_the_lease_does_not_notice(house, eureka_url, door):
    served = house(f"http://127.0.0.1:{door.port}/eureka/", nozie__server__max_requests=4)
    eventually(lambda: status(eureka_url, served.name) == "UP")
    eventually(lambda: len(served.pids("worker")) == 2)
    first, said = served.pids("worker"), len(door.requests)
    seen: set[str | None] = set()

    def all_replaced() -> bool:
        served.get("/settings")
        seen.add(status(eureka_url, served.name))
        return not served.pids("worker") & first

    eventually(all_replaced)
    path = f"/eureka/apps/{served.name.upper()}"
    eventually(lambda: any(line.startswith(f"PUT {path}") for line in door.requests[said:]))
    assert seen == {"UP"}
    assert not any(line.startswith(("POST", "DELETE")) for line in door.requests[said:])


def test_a_refresh_over_http_reaches_the_registrar(start, eureka_url):
    """The worker that hears POST /actuator/refresh is not the process that talks to Eureka."""
    given = QUICK | {"eureka.client.service-url.defaultZone": eureka_url}
    served = start(**given)
    eventually(lambda: status(eureka_url, served.name) == "UP")
    before = listed(eureka_url, served.name)
    served.write(given | {"eureka.instance.metadata-map.zone": "west"})
    assert "eureka.instance.metadata-map.zone" in served.post("/refresh").json()

    def told() -> bool:
        after = listed(eureka_url, served.name)
        assert before is not None
        assert after is not None
        # The same lease, and the same life to callers.
        assert after["status"] == "UP"
        assert after["leaseInfo"]["serviceUpTimestamp"] == before["leaseInfo"]["serviceUpTimestamp"]
        return bool(after["metadata"] == {**before["metadata"], "zone": "west"})

    eventually(told)


def test_an_operator_reads_tasks_and_log_and_ends_the_instance(house, eureka_url, tmp_path):
    served = house(
        logging__level__root="INFO",
        logging__file__name=str(tmp_path / "logs" / "fresh.log"),
        management__endpoint__shutdown__enabled=True,
    )
    eventually(lambda: status(eureka_url, served.name), "UP")
    tasks = served.get("/actuator/scheduledtasks").json()
    assert tasks["cron"] == tasks["fixedRate"] == tasks["custom"] == []
    told = {one["runnable"]["target"].rpartition(".")[2]: one for one in tasks["fixedDelay"]}
    assert {name: one["interval"] for name, one in told.items()} == dict.fromkeys(
        ("_fetch", "_renew", "_watch_readiness"), 1000
    )
    log = "/actuator/logfile"
    part = served.get(log, headers={"Range": "bytes=0-14"})
    assert (part.status_code, part.text) == (206, '{"@timestamp":"')
    assert part.headers["Content-Type"] == "text/plain; charset=utf-8"
    assert served.get(log, headers={"Range": "bytes=-2"}).content == b"}\n"
    assert served.get(log, headers={"Range": "bytes=-9999999"}).status_code == 206
    assert served.get(log, headers={"Range": "bytes=99999999-"}).status_code == 416
    worker = served.get("/settings").json()["pid"]
    lines = [json.loads(line) for line in served.get(log).text.splitlines()]
    assert {"arbiter", "registrar"} <= {line["process.name"] for line in lines}
    assert [line for line in lines if (line["process.pid"], line["message"]) == (worker, "request")]
    answer = served.post("/shutdown")
    assert answer.json() == {"message": "Shutting down, bye..."}
    assert served.process.wait(20) == 0
    assert status(eureka_url, served.name) is None
