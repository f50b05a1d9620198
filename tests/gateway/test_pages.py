"""/docs and /ops in a real browser, before a real gateway, Redis and a service that speaks HTTP."""

import json
import time
from base64 import urlsafe_b64decode
from collections.abc import Iterator
from contextlib import closing

import pytest
from playwright.sync_api import Page

from cloud.security import DEFAULT_SECRET, sign
from tests.gateway.conftest import ROUTES, Gateway, bearer, settings
from tests.serving import Handler, Serving

SIMPLE = "spring.cloud.discovery.client.simple.instances"
DOCUMENT = {
    "openapi": "3.1.0",
    "info": {"title": "Movies of the test", "version": "1"},
    "servers": [{"url": "http://10.0.0.1:8081"}],
    "paths": {
        "/search/{text}": {
            "get": {
                "operationId": "searchMovies",
                "summary": "Search the catalogue",
                "parameters": [
                    {"name": "text", "in": "path", "required": True, "schema": {"type": "string"}}
                ],
                "responses": {"200": {"description": "Found"}},
            }
        }
    },
}
PASSWORDS = {"admin": ("correct horse", ["ADMIN"]), "ann": ("staple", ["USER"])}


class House(Serving):
    """identity-service and movie-service in one socket, as the wire contract has them."""

    def __init__(self) -> None:
        self.ended: list[str] = []
        self.logins: list[dict[str, str]] = []
        house = self

        class Doors(Handler):
            protocol_version = "HTTP/1.1"

            def reply(self):
                if self.command == "GET":
                    found = DOCUMENT if self.path == "/openapi.json" else {"found": self.path}
                    return self.say(200, found)
                body = self.body()
                if self.path == "/api/auth/logout":
                    house.ended.append(self.headers["Authorization"])
                    return self.say(200, {})
                asked = json.loads(body)
                house.logins.append(
                    {"for": self.headers["X-Forwarded-For"], "name": asked["username"]}
                )
                password, roles = PASSWORDS.get(asked["username"], (None, []))
                if asked["password"] != password:
                    return self.say(400, {"success": False, "message": "Wrong name or password"})
                now = int(time.time())
                claims = {
                    "jti": f"page-{now}", "sub": "1", "username": asked["username"],
                    "roles": roles, "permissions": [], "type": "ACCESS", "iat": now,
                    "exp": now + 600,
                }  # fmt: skip
                return self.say(200, {"data": {"accessToken": sign(claims, DEFAULT_SECRET)}})

            def say(self, status, found):
                headers = {"Content-Type": "application/json", "Cache-Control": "max-age=60"}
                self.answer(status, json.dumps(found).encode(), headers)

        super().__init__(Doors)


@pytest.fixture(scope="module")
def house() -> Iterator[House]:
    with closing(House()) as service:
        yield service


@pytest.fixture(scope="module")
def gateway(store, house) -> Iterator[Gateway]:
    at = house.url
    running = Gateway(
        {
            **settings(store),
            f"{SIMPLE}.movie-service[0].uri": at,
            f"{SIMPLE}.identity-service[0].uri": at,
            f"{SIMPLE}.secret-service[0].uri": at,
            ROUTES: [
                {
                    "id": "movie-service",
                    "uri": "lb://movie-service",
                    "predicates": ["Path=/api/movies/**,/search/**"],
                    "filters": ["MetadataCache"],
                },
                {
                    "id": "identity-service",
                    "uri": "lb://identity-service",
                    "predicates": ["Path=/api/auth/**"],
                },
            ],
        }
    )
    yield running
    running.stop()


@pytest.fixture
def page(browser, gateway) -> Iterator[Page]:
    context = browser.new_context(base_url=f"http://127.0.0.1:{gateway.port}")
    opened = context.new_page()
    opened.set_default_timeout(30_000)
    opened.faults = []
    opened.on("pageerror", lambda error: opened.faults.append(str(error)))
    opened.on("console", lambda said: said.type == "error" and opened.faults.append(said.text))
    yield opened
    context.close()


@pytest.fixture(autouse=True)
def fresh(store, house) -> None:
    store.flushdb()
    house.ended.clear()
    house.logins.clear()


def enter(page: Page, name: str = "admin", password: str = PASSWORDS["admin"][0]) -> None:
    page.goto("/ops")
    page.get_by_label("User name").fill(name)
    page.get_by_label("Password").fill(password)
    page.get_by_role("button", name="Sign in").click()


def test_the_documents_of_all_services_are_shown(page):
    page.goto("/docs")
    page.get_by_role("heading", name="API gateway").wait_for()
    names = page.locator("#select option").all_inner_texts()
    assert names == ["api-gateway", "identity-service", "movie-service"]
    page.locator("#select").select_option(label="movie-service")
    page.get_by_role("heading", name="Movies of the test").wait_for()
    assert page.get_by_text("Search the catalogue").is_visible()
    assert page.faults == []


def test_a_request_from_the_documents_goes_through_the_gateway(page):
    page.goto("/docs?urls.primaryName=movie-service")
    page.get_by_text("Search the catalogue").click()
    page.get_by_role("button", name="Try it out").click()
    page.get_by_placeholder("text").fill("film")
    page.get_by_role("button", name="Execute").click()
    page.locator(".responses-table.live-responses-table").wait_for()
    shown = page.locator(".request-url").inner_text()
    assert "/search/film" in shown
    assert "10.0.0.1" not in shown


@pytest.mark.parametrize(
    "path",
    [
        pytest.param("/docs/openapi/secret-service.json", id="a service that no route leads to"),
        pytest.param("/docs/openapi/nobody.json", id="an unknown service"),
        pytest.param("/docs/ui/0/swagger-ui.css", id="another version"),
        pytest.param("/docs/ui/0/..%2fVERSION", id="a way out"),
    ],
)
def test_nothing_else_is_handed_out(gateway, path):
    assert gateway.ask(path).status in {400, 404}


def test_a_stranger_is_asked_to_sign_in(page):
    page.goto("/ops")
    assert page.url.endswith("/ops/sign-in")


def test_an_operator_sees_the_platform(page, gateway):
    for _ in range(3):
        gateway.ask("/search/film")
    enter(page)
    page.get_by_role("heading", name="Circuit breakers").wait_for()
    assert "lb://movie-service" in page.locator("#routes").inner_text()
    instances = page.locator("#instances").inner_text()
    assert "movie-service" in instances
    assert "UP" in instances
    assert "/api/auth/login" in page.locator("#limits").inner_text()
    assert page.faults == []


def test_the_page_is_live(page, gateway):
    """It loads itself again; nobody has to."""
    enter(page)
    page.get_by_role("heading", name="Cache", exact=True).wait_for()
    gateway.ask("/search/live")
    breaker = page.locator("#breakers", has_text="movieServiceCircuitBreaker")
    breaker.wait_for(timeout=30_000)
    assert "closed" in breaker.inner_text()


def test_the_token_is_out_of_reach_of_scripts_and_of_other_paths(page):
    enter(page)
    page.locator("#routes").wait_for()
    (cookie,) = page.context.cookies()
    assert (cookie["name"], cookie["path"]) == ("nozie-ops", "/ops")
    assert (cookie["httpOnly"], cookie["sameSite"]) == (True, "Strict")
    assert page.evaluate("document.cookie") == ""


def test_a_wrong_password_says_what_identity_says(page, house):
    enter(page, password="wrong")
    assert page.get_by_role("alert").inner_text() == "Wrong name or password"
    assert house.logins == [{"for": "127.0.0.1", "name": "admin"}]
    assert page.context.cookies() == []


def test_who_is_no_operator_stays_outside_and_leaves_no_session(page, house):
    enter(page, "ann", "staple")
    assert page.get_by_role("alert").inner_text() == "This page needs the role ADMIN"
    assert page.context.cookies() == []
    assert len(house.ended) == 1


def test_signing_out_ends_the_session(page, house):
    enter(page)
    page.get_by_role("button", name="Sign out").click()
    page.wait_for_url("**/ops/sign-in")
    assert page.context.cookies() == []
    assert len(house.ended) == 1


def test_a_revoked_token_opens_nothing(page, store):
    enter(page)
    page.locator("#routes").wait_for()
    token = page.context.cookies()[0]["value"]
    claims = json.loads(urlsafe_b64decode(token.split(".")[1] + "=="))
    store.set(f"token:blacklist:{claims['jti']}", "1")
    page.goto("/ops")
    assert page.url.endswith("/ops/sign-in")


FORM = {"Content_Type": "application/x-www-form-urlencoded"}
BODY = b"username=admin&password=correct+horse"


@pytest.mark.parametrize(
    "headers",
    [
        pytest.param({}, id="no origin"),
        pytest.param({"Origin": "https://evil.example"}, id="another site"),
        pytest.param({"Origin": "null"}, id="nobody"),
    ],
)
@pytest.mark.parametrize("path", ["/ops/session", "/ops/sign-out"])
def test_a_form_of_another_site_is_refused(gateway, house, path, headers):
    answer = gateway.ask(path, "POST", BODY, **FORM, **headers)
    assert answer.status == 403
    assert "set-cookie" not in answer.headers
    assert house.logins == []


def test_guessing_here_counts_as_guessing_there(gateway):
    """One limit for both ways to sign in, so that neither leads around the other."""
    answers = [
        gateway.ask(
            "/ops/session", "POST", b"username=admin&password=x", Origin="http://api", **FORM
        )
        for _ in range(7)
    ]
    assert [answer.status for answer in answers] == [400] * 5 + [429] * 2


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        pytest.param({"Authorization": bearer(1, "ADMIN")}, 200, id="an operator"),
        pytest.param({"Authorization": bearer(1, "USER")}, 403, id="a user"),
        pytest.param({"Authorization": "Bearer nonsense"}, 401, id="a bad token"),
        pytest.param({"Cookie": "nozie-ops=nonsense"}, 303, id="a bad cookie"),
        pytest.param({"Cookie": f"nozie-ops={bearer(1, 'USER')[7:]}"}, 403, id="a user's cookie"),
    ],
)
def test_a_program_may_bring_a_token(gateway, headers, status):
    assert gateway.ask("/ops", **headers).status == status


def test_the_cookie_opens_nothing_else(gateway):
    cookie = f"nozie-ops={bearer(1, 'ADMIN')[7:]}"
    assert gateway.ask("/api/movies/1", Cookie=cookie).status == 401


def test_a_form_may_not_be_large(gateway):
    body = b"username=" + b"x" * 300_000
    answer = gateway.ask("/ops/session", "POST", body, Origin="http://api", **FORM)
    assert answer.status == 413
