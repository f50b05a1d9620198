"""Every operation through the real application, on real stores."""

from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from typing import Any

import jwt
import pytest

from cloud.clock import utc_now
from cloud.testing import SECRET, token
from tests.contract.client import checked
from tests.identity.conftest import House, jti, sid

USER_KEYS = {
    "id", "username", "email", "status", "roles", "permissions", "lastLoginAt", "createdAt",
    "fullName", "avatarUrl", "phone", "country", "dateOfBirth", "gender", "age", "genres",
}  # fmt: skip
PAIR_KEYS = {
    "accessToken", "refreshToken", "tokenType", "expiresIn", "userId", "username", "email", "roles",
    "permissions", "fullName", "avatarUrl", "phone", "country", "dateOfBirth",
}  # fmt: skip


def test_a_person_signs_up_and_reads_what_was_stored(house: House):
    made = house.register(
        fullName="Ann Lee",
        phone="0123456789",
        country="Việt Nam",
        dateOfBirth="01/02/2000",
        gender="f",
        age="25",
        genres=["Drama", "Comedy", "Drama"],
        avatarUrl="https://example.org/a.png",
    )
    assert made.keys() == USER_KEYS
    assert made["roles"] == ["USER"]
    assert made["permissions"] == []
    assert made["lastLoginAt"] == ""
    assert sorted(made["genres"]) == ["Comedy", "Drama"]
    pair = house.login()
    assert pair.keys() == PAIR_KEYS
    assert pair["country"] == "Việt Nam"
    me = house.get("me", pair["accessToken"]).get_json()["data"]
    assert me == {**made, "lastLoginAt": me["lastLoginAt"]}
    assert me["lastLoginAt"] != ""
    assert house.audit() == [("REGISTER", True), ("LOGIN", True)]


def test_numbers_and_booleans_are_read_as_text(house: House):
    """As Jackson reads them for a JVM neighbour; the document does not promise it."""
    client = checked(house.app, "identity", holds_requests=False)
    body = {"username": 12345, "password": 1234567, "age": 25, "gender": True, "unknown": []}
    data = client.post("/api/auth/register", json=body).get_json()["data"]
    assert (data["username"], data["age"], data["gender"]) == ("12345", "25", "true")
    house.login("12345", "1234567")


def test_the_access_token_holds_the_claims_of_the_contract(house: House):
    made, pair = house.register(), house.login()
    claims = jwt.decode(pair["accessToken"], SECRET, algorithms=["HS512"])
    session = house.rows("SELECT id, is_active FROM user_sessions")
    assert {**claims, "jti": "", "iat": 0, "exp": 0} == {
        "jti": "",
        "sub": str(made["id"]),
        "username": "ann",
        "email": "ann@example.org",
        "roles": ["USER"],
        "permissions": [],
        "type": "ACCESS",
        "sid": str(session[0].id),
        "iat": 0,
        "exp": 0,
    }
    assert session[0].is_active
    assert claims["exp"] - claims["iat"] == pair["expiresIn"] == 900
    assert len(pair["refreshToken"]) == 73


def test_an_account_without_e_mail_has_no_such_claim(house: House):
    assert house.register("bob", email="")["email"] is None
    assert house.register("eve", email=None)["email"] is None
    claims = jwt.decode(house.login("bob")["accessToken"], SECRET, algorithms=["HS512"])
    assert "email" not in claims


@pytest.mark.parametrize(
    "body",
    [
        pytest.param({"username": "ann"}, id="the same name"),
        pytest.param({"username": "ANN", "email": ""}, id="the name in another case"),
        pytest.param({"username": "eve", "email": "Ann@Example.org"}, id="the e-mail in any case"),
        pytest.param({"username": "ANN@example.org"}, id="a name that is somebody's e-mail"),
        pytest.param({"username": "eve", "email": "Nick@nozie.com"}, id="an e-mail as a name"),
    ],
)
def test_a_taken_name_is_refused(house: House, body: dict[str, Any]):
    house.register()
    house.register("nick@nozie.com", email="")
    before = house.rows("SELECT count(*) FROM users")
    answer = house.post("register", {"email": "new@example.org", "password": "right-horse"} | body)
    assert answer.status_code == 400
    assert "already taken" in answer.get_json()["message"]
    assert house.rows("SELECT count(*) FROM users") == before
    assert house.audit()[-1] == ("REGISTER", False)


REGISTER = {"username": "ann", "email": "ann@example.org", "password": "right-horse"}


@pytest.mark.parametrize(
    ("change", "field"),
    [
        pytest.param({"username": "ab"}, "username", id="a short name"),
        pytest.param({"username": "   "}, "username", id="a blank name"),
        pytest.param({"username": "a" * 51}, "username", id="a long name"),
        pytest.param({"username": "a\u0000b"}, "username", id="a NUL"),
        pytest.param({"username": None}, "username", id="no name"),
        pytest.param({"username": ["ann"]}, "username", id="a list for a name"),
        pytest.param({"email": "nonsense"}, "email", id="no e-mail address"),
        pytest.param({"email": "a@" + "b." * 130 + "org"}, "email", id="a long e-mail address"),
        pytest.param({"password": "short"}, "password", id="a short password"),
        pytest.param({"password": "x" * 73}, "password", id="73 bytes of password"),
        pytest.param({"password": "ế" * 25}, "password", id="75 bytes in 25 characters"),
        pytest.param({"password": "      "}, "password", id="a blank password"),
        pytest.param({"fullName": "x" * 256}, "fullName", id="a long full name"),
        pytest.param({"age": {"years": 3}}, "age", id="an object for an age"),
        pytest.param({"genres": "Drama"}, "genres", id="text for a list"),
        pytest.param({"genres": ["x" * 256]}, "genres[0]", id="a long genre"),
        pytest.param({"genres": [str(n) for n in range(101)]}, "genres", id="too many genres"),
    ],
)
def test_a_bad_registration_names_the_field(house: House, change: dict[str, Any], field: str):
    answer = house.post("register", REGISTER | change)
    assert answer.status_code == 400
    assert list(answer.get_json()["data"]) == [field]


def test_a_password_of_72_bytes_works_whole(house: House):
    house.register(password="x" * 72)
    house.login(password="x" * 72)
    assert house.post("login", {"username": "ann", "password": "x" * 71}).status_code == 400


@pytest.mark.parametrize(
    ("raw", "kind", "status"),
    [
        pytest.param(b"", "application/json", 400, id="nothing"),
        pytest.param(b"{", "application/json", 400, id="half an object"),
        pytest.param(b"[]", "application/json", 400, id="a list"),
        pytest.param(b"null", "application/json", 400, id="null"),
        pytest.param(b"{}", "application/json", 400, id="no field"),
        pytest.param(b"[" * 100_000, "application/json", 400, id="a deep nest"),
        pytest.param(b'{"username": "\\ud800"}', "application/json", 400, id="half a surrogate"),
        pytest.param(b"\xff", "application/json", 400, id="no UTF-8"),
        pytest.param(b"{}", "text/plain", 415, id="another media type"),
        pytest.param(b'"' + b"x" * 2**20 + b'"', "application/json", 413, id="too much"),
    ],
)
def test_a_bad_body_never_is_an_error_of_ours(house: House, raw: bytes, kind: str, status: int):
    for path in ("register", "login", "refresh", "logout"):
        answer = house.client().post(f"/api/auth/{path}", data=raw, content_type=kind)
        assert answer.status_code == status, path


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/api/auth/login", 405),
        ("DELETE", "/api/auth/me", 405),
        ("GET", "/api/auth/nothing", 404),
        ("GET", "/api/auth", 404),
    ],
)
def test_an_unknown_path_or_method_is_told_in_the_envelope(
    house: House, method: str, path: str, status: int
):
    answer = house.client().open(path, method=method)
    assert answer.status_code == status
    assert answer.get_json().keys() == {"success", "message", "data", "timestamp"}


def test_long_headers_are_cut_and_the_device_is_listed(house: House):
    house.register()
    long = "x" * 400
    body = {"username": "ann", "password": "right-horse"}
    answer = house.post("login", body, User_Agent=long, X_Device_Info=long)
    assert answer.status_code == 200
    access = answer.get_json()["data"]["accessToken"]
    (session,) = house.get("sessions", access).get_json()["data"]
    assert session["deviceInfo"] == "x" * 255
    assert session["ipAddress"] == "127.0.0.1"
    assert session.keys() == {"id", "deviceInfo", "ipAddress", "lastAccessAt", "createdAt"}


def test_sessions_are_listed_newest_first_without_those_that_are_over(house: House):
    house.register()
    first, second, third = house.login(), house.login(), house.login()
    house.post("logout", {"refreshToken": second["refreshToken"]})
    listed = house.get("sessions", third["accessToken"]).get_json()["data"]
    assert [one["id"] for one in listed] == [sid(third), sid(first)]


# --- sign-in


def test_both_names_sign_in_as_typed_and_the_username_comes_first(house: House):
    ann = house.register()
    # Only a JVM service lets two accounts share a name like this.
    house.run(
        "INSERT INTO users (username, password, status, failed_login_attempts)"
        " SELECT email, password, 'ACTIVE', 0 FROM users WHERE username = 'ann'"
    )
    assert house.login("ann")["userId"] == ann["id"]
    assert house.login("ann@example.org")["userId"] != ann["id"]
    answer = house.post("login", {"username": "ANN", "password": "right-horse"})
    assert answer.status_code == 400


def refusal(house: House, name: str, password: str) -> tuple[int, str]:
    answer = house.post("login", {"username": name, "password": password})
    return answer.status_code, answer.get_json()["message"]


def test_unknown_wrong_and_locked_are_answered_alike(house: House):
    house.register()
    wrong = refusal(house, "ann", "wrong")
    assert wrong[0] == 400
    assert refusal(house, "nobody", "wrong") == wrong
    for _ in range(4):
        assert refusal(house, "ann", "wrong") == wrong
    (row,) = house.rows("SELECT * FROM users WHERE username = 'ann'")
    assert (row.status, row.failed_login_attempts) == ("LOCKED", 5)
    assert row.locked_until > utc_now().replace(tzinfo=None) + timedelta(minutes=14)
    assert refusal(house, "ann", "right-horse") == wrong
    assert house.audit()[-1] == ("LOGIN_FAILED", False)
    assert len(house.audit()) == 8


def test_a_lock_opens_by_itself_with_a_count_from_nothing(house: House):
    house.register()
    for _ in range(5):
        refusal(house, "ann", "wrong")
    house.run("UPDATE users SET locked_until = now() - interval '1 second' WHERE username = 'ann'")
    refusal(house, "ann", "wrong")
    (row,) = house.rows("SELECT * FROM users WHERE username = 'ann'")
    assert (row.status, row.failed_login_attempts) == ("ACTIVE", 1)
    house.login()
    (row,) = house.rows("SELECT * FROM users WHERE username = 'ann'")
    assert (row.failed_login_attempts, row.last_login_ip) == (0, "127.0.0.1")


@pytest.mark.parametrize("status", ["LOCKED", "DISABLED"])
def test_what_an_administrator_closed_is_told_to_the_right_password_only(house: House, status: str):
    house.register()
    house.run("UPDATE users SET status = :s, locked_until = NULL WHERE username = 'ann'", s=status)
    assert refusal(house, "ann", "right-horse") == (400, f"Account is {status.lower()}")
    wrong = refusal(house, "nobody", "wrong")
    for _ in range(5):
        assert refusal(house, "ann", "wrong") == wrong
    assert refusal(house, "ann", "right-horse") == wrong
    (row,) = house.rows("SELECT status FROM users WHERE username = 'ann'")
    assert row.status == status


def test_every_guess_at_once_counts(house: House):
    """Twenty guesses at the same moment are as many failures as twenty in a row: the lock."""
    house.register()
    with ThreadPoolExecutor(10) as pool:
        passwords = ["wrong"] * 20
        answers = list(pool.map(lambda given: refusal(house, "ann", given), passwords))
    assert {status for status, _ in answers} == {400}
    (row,) = house.rows("SELECT * FROM users WHERE username = 'ann'")
    assert (row.status, row.failed_login_attempts) == ("LOCKED", 5)
    assert house.audit().count(("LOGIN_FAILED", False)) == 20


@pytest.mark.parametrize("prefix", ["$2a$", "$2b$", "$2y$"])
def test_hashes_of_other_writers_are_read(house: House, prefix: str):
    house.register()
    house.run("UPDATE users SET password = :p || substr(password, 5)", p=prefix)
    house.login()


def test_a_column_that_holds_no_hash_lets_nobody_in(house: House):
    house.register()
    house.run("UPDATE users SET password = 'plain'")
    assert refusal(house, "ann", "plain")[0] == 400


def test_one_of_many_registrations_of_one_name_wins(house: House):
    def register(number: int) -> int:
        body = {"username": "Ann" if number % 2 else "ann", "password": "right-horse"}
        return house.post("register", body).status_code

    with ThreadPoolExecutor(10) as pool:
        answers = sorted(pool.map(register, range(10)))
    assert answers == [201, *[400] * 9]


# --- going on


def test_a_refresh_rotates_and_keeps_the_session(house: House):
    house.register()
    first = house.login()
    answer = house.post("refresh", {"refreshToken": first["refreshToken"]})
    assert answer.status_code == 200
    second = answer.get_json()["data"]
    assert second.keys() == PAIR_KEYS
    assert second["refreshToken"] != first["refreshToken"]
    assert sid(second) == sid(first)
    (session,) = house.rows("SELECT * FROM user_sessions")
    (newest,) = house.rows("SELECT * FROM refresh_tokens WHERE revoked_at IS NULL")
    assert session.refresh_token_id == newest.id
    assert newest.token == second["refreshToken"]
    assert house.get("me", second["accessToken"]).status_code == 200
    assert house.audit()[-1] == ("TOKEN_REFRESH", True)


def test_a_token_used_twice_ends_its_session_and_no_other(house: House):
    house.register()
    other, first = house.login(), house.login()
    second = house.post("refresh", {"refreshToken": first["refreshToken"]}).get_json()["data"]
    for _ in range(2):
        answer = house.post("refresh", {"refreshToken": first["refreshToken"]})
        assert answer.status_code == 400
    assert house.post("refresh", {"refreshToken": second["refreshToken"]}).status_code == 400
    for pair in (first, second):
        assert house.get("me", pair["accessToken"]).status_code == 401
        assert house.redis.exists(f"token:blacklist:{jti(pair)}")
    assert house.get("me", other["accessToken"]).status_code == 200
    assert house.post("refresh", {"refreshToken": other["refreshToken"]}).status_code == 200
    revoked = house.rows("SELECT details FROM audit_logs WHERE action = 'TOKEN_REVOKE'")
    assert str(sid(first)) in revoked[0].details
    notices = house.rows("SELECT 1 FROM outbox WHERE routing_key = 'notification.requested'")
    assert len(notices) == 1


def test_of_ten_refreshes_at_once_one_wins(house: House):
    house.register()
    pair = house.login()

    def refresh(_: int) -> int:
        return house.post("refresh", {"refreshToken": pair["refreshToken"]}).status_code

    with ThreadPoolExecutor(10) as pool:
        assert sorted(pool.map(refresh, range(10))) == [200, *[400] * 9]


@pytest.mark.parametrize(
    "change",
    [
        pytest.param("UPDATE refresh_tokens SET expires_at = now() - interval '1 s'", id="expired"),
        pytest.param(
            "UPDATE refresh_tokens SET revoked_at = now(), revoked_reason = 'forced'", id="revoked"
        ),
        pytest.param("UPDATE users SET status = 'DISABLED'", id="of a disabled account"),
        pytest.param("UPDATE users SET status = 'LOCKED'", id="of a locked account"),
        pytest.param("UPDATE user_sessions SET is_active = false", id="of a closed session"),
        pytest.param("DELETE FROM refresh_tokens", id="unknown"),
    ],
)
def test_a_token_without_use_is_refused(house: House, change: str):
    house.register()
    pair = house.login()
    house.run(change)
    answer = house.post("refresh", {"refreshToken": pair["refreshToken"]})
    assert answer.status_code == 400
    assert answer.get_json()["data"] is None
    assert house.audit()[-1] == ("TOKEN_REFRESH", False)


def test_a_session_that_a_jvm_service_opened_goes_on(house: House):
    """It writes no `session_id`, and marks its sessions inactive from the start (ID-03)."""
    house.register()
    pair = house.login()
    house.run("UPDATE refresh_tokens SET session_id = NULL")
    house.run("UPDATE user_sessions SET is_active = false")
    second = house.post("refresh", {"refreshToken": pair["refreshToken"]}).get_json()["data"]
    assert sid(second) == sid(pair)
    assert len(house.get("sessions", second["accessToken"]).get_json()["data"]) == 1


# --- signing out


def test_a_logout_ends_the_session_with_all_its_tokens(house: House):
    house.register()
    first = house.login()
    second = house.post("refresh", {"refreshToken": first["refreshToken"]}).get_json()["data"]
    body = {"refreshToken": second["refreshToken"]}
    answer = house.post("logout", body, second["accessToken"])
    assert answer.status_code == 200
    assert answer.get_json()["data"] is None
    for pair in (first, second):
        key = f"token:blacklist:{jti(pair)}"
        assert house.redis.get(key) == "1"
        assert 0 < house.redis.ttl(key) <= 900
        told = house.get("me", pair["accessToken"])
        assert (told.status_code, told.get_json()["message"]) == (401, "Token has been revoked")
    assert not house.redis.exists(f"nozie:identity:session:{sid(first)}")
    assert house.post("refresh", body).status_code == 400
    assert house.post("logout", body).status_code == 400
    assert house.audit()[-1] == ("LOGOUT", False)


def test_a_logout_needs_no_access_token_but_takes_no_bad_one(house: House):
    house.register()
    pair = house.login()
    body = {"refreshToken": pair["refreshToken"]}
    assert house.post("logout", body, "nonsense").status_code == 401
    assert house.post("logout", body).status_code == 200
    assert house.get("me", pair["accessToken"]).status_code == 401


def test_a_logout_takes_nobody_elses_refresh_token(house: House):
    house.register("ann")
    house.register("bob")
    ann, bob = house.login("ann"), house.login("bob")
    body = {"refreshToken": bob["refreshToken"]}
    assert house.post("logout", body, ann["accessToken"]).status_code == 400
    assert house.post("refresh", body).status_code == 200


def test_a_logout_everywhere_ends_every_session_of_the_caller(house: House):
    house.register("ann")
    house.register("bob")
    pairs, bob = [house.login("ann") for _ in range(3)], house.login("bob")
    assert house.post("logout-all", token=pairs[0]["accessToken"]).status_code == 200
    for pair in pairs:
        assert house.get("me", pair["accessToken"]).status_code == 401
        assert house.redis.exists(f"token:blacklist:{jti(pair)}")
        assert house.post("refresh", {"refreshToken": pair["refreshToken"]}).status_code == 400
    assert house.get("me", bob["accessToken"]).status_code == 200
    assert house.audit()[-4] == ("LOGOUT_ALL", True)


def test_no_session_slips_through_a_logout_everywhere(house: House):
    """Refreshes race with the sign-out: whatever they issue is revoked, or not issued at all."""
    house.register()
    last = house.login()
    pairs = [house.login() for _ in range(6)]

    def refresh(pair: dict[str, Any]) -> Any:
        answer = house.post("refresh", {"refreshToken": pair["refreshToken"]})
        return answer.get_json()["data"]

    with ThreadPoolExecutor(8) as pool:
        going = [pool.submit(refresh, pair) for pair in pairs]
        out = pool.submit(house.post, "logout-all", None, last["accessToken"])
        fresh = [one.result() for one in going]
    assert out.result().status_code == 200
    for pair in filter(None, fresh):
        assert house.get("me", pair["accessToken"]).status_code == 401
        assert house.post("refresh", {"refreshToken": pair["refreshToken"]}).status_code == 400


# --- who calls

OWN = [
    ("GET", "me"),
    ("GET", "validate"),
    ("GET", "sessions"),
    ("PUT", "profile"),
    ("POST", "logout-all"),
]


def past() -> str:
    return token(1, exp=int(utc_now().timestamp()) - 1)


@pytest.mark.parametrize(
    "header",
    [
        pytest.param(None, id="no header"),
        pytest.param("Basic YTpi", id="another scheme"),
        pytest.param("Bearer", id="a scheme alone"),
        pytest.param("Bearer  ", id="blanks for a token"),
        pytest.param("Bearer nonsense", id="no token"),
        pytest.param(f"Bearer {'x.' * 3000}", id="many dots"),
        pytest.param(f"Bearer {past()}", id="an expired one"),
        pytest.param(f"Bearer {token(1, type='REFRESH')}", id="another type"),
        pytest.param(f"Bearer {token(1, sub='1; DROP TABLE users')}", id="an odd subject"),
        pytest.param(
            "Bearer " + jwt.encode({"sub": "1", "type": "ACCESS"}, "", "none"), id="algorithm none"
        ),
        pytest.param(
            "Bearer " + jwt.encode({"sub": "1", "type": "ACCESS"}, "k" * 64, "HS512"),
            id="another key",
        ),
    ],
)
def test_a_token_that_is_no_good_is_a_401(house: House, header: str | None):
    headers = {} if header is None else {"Authorization": header}
    for method, path in OWN:
        answer = house.client().open(f"/api/auth/{path}", method=method, headers=headers, json={})
        assert answer.status_code == 401, path


def test_a_token_of_an_account_that_is_gone_is_a_400(house: House):
    headers = {"Authorization": f"Bearer {token(2**40)}"}
    for method, path in (("GET", "me"), ("PUT", "profile"), ("POST", "logout-all")):
        answer = house.client().open(f"/api/auth/{path}", method=method, headers=headers, json={})
        assert answer.status_code == 400, path


def test_a_subject_beyond_any_id_is_no_error_of_ours(house: House):
    headers = {"Authorization": f"Bearer {token(2**80)}"}
    for method, path in OWN:
        answer = house.client().open(f"/api/auth/{path}", method=method, headers=headers, json={})
        assert answer.status_code < 500, path


def test_validate_tells_what_the_token_says(house: House):
    made, pair = house.register(), house.login()
    data = house.get("validate", pair["accessToken"]).get_json()["data"]
    assert data == {
        "userId": str(made["id"]),
        "username": "ann",
        "roles": ["USER"],
        "permissions": [],
        "valid": True,
    }


# --- the profile


def test_a_profile_takes_what_is_given_and_keeps_the_rest(house: House):
    made = house.register(fullName="Ann", country="Chile", genres=["Drama"])
    pair = house.login()
    put = house.client().put
    headers = {"Authorization": f"Bearer {pair['accessToken']}"}
    body: dict[str, Any] = {
        "fullName": "",
        "phone": "1",
        "country": None,
        "genres": [],
        "username": "eve",
    }
    answer = put("/api/auth/profile", json=body, headers=headers)
    assert answer.status_code == 200
    data = answer.get_json()["data"]
    changed = {"fullName": "", "phone": "1", "genres": [], "lastLoginAt": data["lastLoginAt"]}
    assert data == made | changed
    assert house.audit()[-1] == ("PROFILE_UPDATE", True)


def test_the_first_profile_of_an_account_without_one_is_returned(house: House):
    pair = house.login("admin", "admin123")
    assert house.get("me", pair["accessToken"]).get_json()["data"]["genres"] is None
    headers = {"Authorization": f"Bearer {pair['accessToken']}"}
    answer = house.client().put("/api/auth/profile", json={"age": "40"}, headers=headers)
    assert (answer.get_json()["data"]["age"], answer.get_json()["data"]["genres"]) == ("40", [])


@pytest.mark.parametrize(
    ("body", "field"), [({"fullName": "x" * 256}, "fullName"), ({"genres": {"a": 1}}, "genres")]
)
def test_a_bad_profile_names_the_field(house: House, body: dict[str, Any], field: str):
    house.register()
    headers = {"Authorization": f"Bearer {house.login()['accessToken']}"}
    answer = house.client().put("/api/auth/profile", json=body, headers=headers)
    assert (answer.status_code, list(answer.get_json()["data"])) == (400, [field])


@pytest.mark.parametrize(
    ("peer", "forwarded", "kept"),
    [
        pytest.param("9.9.9.9", "6.6.6.6", "9.9.9.9", id="a stranger's word counts for nothing"),
        pytest.param("127.0.0.1", "6.6.6.6, 7.7.7.7", "7.7.7.7", id="our proxy's last word counts"),
    ],
)
def test_the_address_in_the_audit_trail(house: House, peer: str, forwarded: str, kept: str):
    answer = house.client().post(
        "/api/auth/register",
        json={"username": "ann", "password": "right-horse"},
        headers={"X-Forwarded-For": forwarded, "X-Real-IP": "5.5.5.5"},
        environ_overrides={"REMOTE_ADDR": peer},
    )
    assert answer.status_code == 201
    assert [row.ip_address for row in house.rows("SELECT ip_address FROM audit_logs")] == [kept]
