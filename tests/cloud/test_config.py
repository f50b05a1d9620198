"""What a property's value is: precedence, names, placeholders, types."""

import base64
import hashlib
import json
import re
from datetime import timedelta
from pathlib import Path

import pytest
import structlog
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import padding, rsa
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.serialization import pkcs12

from cloud.config import Environment, Properties, PropertySource, PropertyValue, load, unheeded
from cloud.config.cipher import encrypt
from cloud.config.sources import from_environment, from_mapping, from_yaml
from cloud.errors import ConfigurationError


def layered(*layers: dict[str, object]) -> Properties:
    """Build from mappings, highest precedence first."""
    return Properties(
        "app", ("default",), [from_mapping(f"layer {i}", x) for i, x in enumerate(layers)]
    )


def with_variables(variables: dict[str, str], **values: object) -> Properties:
    sources = [from_environment(variables), from_mapping("file", values)]
    return Properties("app", ("default",), sources)


@pytest.mark.parametrize(
    ("written", "asked"),
    [
        pytest.param("service-url", "serviceUrl", id="dashes or camel case"),
        pytest.param("a.b_c", "a.bC", id="underscore"),
        pytest.param("Server.Port", "server.port", id="case"),
        pytest.param("a[0].b", "a[0].b", id="index"),
        pytest.param("map[/**].x", "map.[/**].x", id="bracketed key with or without a dot"),
        pytest.param("app.name.app", "app.name.app", id="last segment like the first"),
    ],
)
def test_spellings_of_one_name_meet(written, asked):
    assert Properties.of({written: "here"}).get(asked) == "here"


def test_bracketed_map_keys_keep_their_case():
    properties = Properties.of({"cors.[/Api/**]": "a", "cors.[/api/**]": "b"})
    assert properties.tree("cors") == {"/Api/**": "a", "/api/**": "b"}


@pytest.mark.parametrize(
    ("variable", "key"),
    [
        pytest.param("JWT_SECRET", "jwt.secret", id="dots"),
        pytest.param("SPRING_DATA_REDIS_HOST", "spring.data.redis.host", id="many dots"),
        pytest.param("NOZIE_SERVER_RUNDIR", "nozie.server.run-dir", id="dashes dropped"),
        pytest.param("NOZIE_SERVER_RUN_DIR", "nozie.server.run-dir", id="dashes as underscores"),
        pytest.param("EUREKA_CLIENT_SERVICEURL_Z", "eureka.client.service-url.Z", id="camel case"),
        pytest.param("ROUTES_0_URI", "routes[0].uri", id="index inside"),
        pytest.param("NAMES_1", "names[1]", id="index at the end"),
        pytest.param("MATRIX_0_1", "matrix[0][1]", id="two indexes"),
        pytest.param("jwt.secret", "jwt.secret", id="the property's own name"),
    ],
)
@pytest.mark.parametrize("in_file", [True, False], ids=["over a file", "alone"])
def test_environment_variable_sets_property(variable, key, in_file):
    properties = with_variables({variable: "set"}, **({key: "file"} if in_file else {}))
    assert properties.get(key) == "set"
    assert properties.origin(key) == f"environment variable {variable}"


def test_variable_reaches_tree_and_subset_under_the_files_spelling():
    properties = with_variables(
        {"EUREKA_CLIENT_SERVICEURL_DEFAULTZONE": "http://e", "LOGGING_LEVEL_COM_NOZIE": "WARN"},
        **{"eureka.client.service-url.defaultZone": "x", "logging.level.com.nozie": "INFO"},
    )
    assert properties.tree("eureka.client.service-url") == {"defaultZone": "http://e"}
    assert properties.subset("logging.level") == {"com.nozie": "WARN"}


def test_maps_merge_and_lists_come_whole_from_the_highest_source():
    properties = layered(
        {"a.list": ["one"], "a.map.x": "1", "b": "1,2"},
        {"a.list": ["two", "three"], "a.map.y": "2", "b": ["3", "4", "5"]},
    )
    assert properties.tree("a") == {"list": ["one"], "map": {"x": "1", "y": "2"}}
    assert properties.get("a.list[1]") is None
    assert properties.listing("b") == ("1", "2")


def test_an_indexed_variable_replaces_the_whole_list_as_in_spring():
    properties = with_variables({"NAMES_0": "x"}, names=["a", "b"])
    assert properties.listing("names") == ("x",)


def test_a_value_beside_its_own_subtree_is_kept():
    properties = Properties.of({"c": {"url": "u", "url.timeout": "5s"}})
    assert properties.tree("c") == {"url": {"": "u", "timeout": "5s"}}


def test_nested_lists_and_lists_of_maps():
    properties = Properties.of({"m": [["1", "2"], [{"a": "b"}]]})
    assert properties.tree("m") == [["1", "2"], [{"a": "b"}]]


def test_a_gap_in_a_list_is_an_error_that_names_it():
    with pytest.raises(ConfigurationError, match="app: a is a list with a gap"):
        Properties.of({"a[0]": "x", "a[2]": "y"}).tree("a")


@pytest.mark.parametrize(
    ("text", "value"),
    [
        pytest.param("${a}", "1", id="plain"),
        pytest.param("x${a}y${b}z", "x1y2z", id="text around two"),
        pytest.param("${none:d}", "d", id="default"),
        pytest.param("${none:}", "", id="empty default"),
        pytest.param("${none:${gone:${b}}}", "2", id="nested defaults"),
        pytest.param("${k${b}}", "found", id="nested name"),
        pytest.param("${none:http://h:80/x}", "http://h:80/x", id="colons in the default"),
        pytest.param('${none:{"j":1}}', '{"j":1}', id="braces in the default"),
        pytest.param("${a:unused ${none}}", "1", id="a default that is not needed is not read"),
        pytest.param(r"\${a}", "${a}", id="escaped"),
        pytest.param("${a", "${a", id="never closed"),
        pytest.param("$a {b} #{c}", "$a {b} #{c}", id="no placeholder at all"),
        pytest.param("${chain}", "<1>", id="through another"),
    ],
)
def test_placeholders(text, value):
    properties = Properties.of({"a": "1", "b": "2", "k2": "found", "chain": "<${a}>", "it": text})
    assert properties.get("it") == value


def test_placeholder_finds_the_environment_first():
    properties = with_variables(
        {"DB_HOST": "env", "JWT_SECRET": "s"},
        **{"url": "${DB_HOST:x}/${db.host}", "db.host": "file"},
    )
    assert properties.get("url") == "env/env"


@pytest.mark.parametrize(
    "values",
    [
        pytest.param({"a": "${a}"}, id="itself"),
        pytest.param({"a": "${b}", "b": "x${c:1}", "c": "${a}"}, id="a ring of three"),
    ],
)
def test_a_ring_of_placeholders_names_its_key(values):
    with pytest.raises(ConfigurationError, match="app: a refers to itself"):
        Properties.of(values).get("a")


def test_a_variable_that_feeds_the_key_it_also_overrides_is_no_ring():
    properties = with_variables({"JWT_SECRET": "s"}, **{"jwt.secret": "${JWT_SECRET:default}"})
    assert properties.get("jwt.secret") == "s"


def test_an_unset_placeholder_is_an_error_and_never_literal_text():
    """`${JWT_SECRET}` left as it stands would be a signing key that everybody knows."""
    with pytest.raises(
        ConfigurationError, match=r"app: a needs JWT_SECRET, which is not set \(from inline\)"
    ):
        Properties.of({"a": "${JWT_SECRET}"}).get("a")


@pytest.mark.parametrize(
    ("text", "pattern"),
    [
        pytest.param("${random.value}", r"[0-9a-f]{32}", id="value"),
        pytest.param("${random.uuid}", r"[0-9a-f-]{14}4[0-9a-f-]{21}", id="uuid"),
        pytest.param("${random.int}", r"-?\d{1,10}", id="int"),
        pytest.param("${random.long}", r"-?\d{1,19}", id="long"),
        pytest.param("${random.int(10)}", r"\d", id="int below"),
        pytest.param("${random.int[20,29]}", r"2\d", id="int between"),
    ],
)
def test_random_values_are_stable_per_key_and_differ_between_keys(text, pattern):
    properties = Properties.of({f"k{i}": text for i in range(20)})
    drawn = [properties.text(f"k{i}") for i in range(20)]
    assert all(re.fullmatch(pattern, value) for value in drawn)
    assert drawn == [properties.text(f"k{i}") for i in range(20)]
    assert len(set(drawn)) > 1


def test_symmetric_ciphers_open_with_the_key_and_hide_what_fails():
    hidden = encrypt("pa$$ ${x}é", "k", bytes(range(16)))
    properties = Properties.of({"encrypt.key": "k", "a": "{cipher}" + hidden, "b": "{cipher}00ff"})
    assert properties.get("a") == "pa$$ ${x}é"
    with pytest.raises(ConfigurationError, match="app: b cannot be decrypted"):
        properties.get("b")
    with pytest.raises(ConfigurationError, match=r"encrypt\.key is not set"):
        Properties.of({"a": "{cipher}" + hidden}).get("a")


@pytest.mark.parametrize("strong", [False, True], ids=["CBC", "GCM"])
@pytest.mark.parametrize("algorithm", ["DEFAULT", "OAEP"])
@pytest.mark.parametrize("kept_as", ["PEM", "PKCS12"])
def test_rsa_ciphers_open_with_the_private_key(tmp_path: Path, strong, algorithm, kept_as):
    """Built by Spring's recipe: length, the secret under RSA, the text under AES by that secret."""
    private, secret, iv = rsa.generate_private_key(65537, 2048), b"sixteen bytes ok", bytes(16)
    sha1 = hashes.SHA1()  # noqa: S303 - what Java calls OAEPPadding
    oaep = padding.OAEP(padding.MGF1(sha1), sha1, None)
    head = private.public_key().encrypt(secret, oaep if algorithm == "OAEP" else padding.PKCS1v15())
    if strong:
        key = hashlib.pbkdf2_hmac(
            "sha1", secret.hex().encode(), bytes.fromhex("deadbeef"), 1024, 32
        )
        body = iv + AESGCM(key).encrypt(iv, b"plain", None)
    else:
        body = bytes.fromhex(encrypt("plain", secret.hex(), iv))
    hidden = base64.b64encode(len(head).to_bytes(2) + head + body).decode()
    if kept_as == "PEM":
        pem = serialization.PrivateFormat.TraditionalOpenSSL
        text = private.private_bytes(serialization.Encoding.PEM, pem, serialization.NoEncryption())
        given = {"encrypt.key": text.decode()}
    else:
        lock = serialization.BestAvailableEncryption(b"pass")
        (tmp_path / "s.p12").write_bytes(
            pkcs12.serialize_key_and_certificates(b"k", private, None, None, lock)
        )
        given = {
            "encrypt.key-store.location": f"file:{tmp_path}/s.p12",
            "encrypt.key-store.password": "pass",
        }
    options = {"encrypt.rsa.algorithm": algorithm, "encrypt.rsa.strong": str(strong)}
    assert Properties.of({**given, **options, "a": "{cipher}" + hidden}).get("a") == "plain"


@pytest.mark.parametrize(
    ("given", "fault"),
    [
        pytest.param({"encrypt.key": "-----BEGIN RSA PRIVATE KEY-----"}, "no readable", id="PEM"),
        pytest.param({"encrypt.key-store.location": "/none"}, "No such file", id="store"),
        pytest.param({"encrypt.key": "k", "encrypt.salt": "xyz"}, "not hexadecimal", id="salt"),
    ],
)
def test_a_key_that_cannot_be_used_is_told(given, fault):
    with pytest.raises(ConfigurationError, match=f"app: a cannot be decrypted: .*{fault}"):
        Properties.of({**given, "a": "{cipher}00"}).get("a")


@pytest.mark.parametrize(
    ("text", "unit", "span"),
    [
        pytest.param("500ms", "ms", timedelta(milliseconds=500), id="ms"),
        pytest.param("10s", "ms", timedelta(seconds=10), id="s"),
        pytest.param("2m", "ms", timedelta(minutes=2), id="m"),
        pytest.param("1h", "s", timedelta(hours=1), id="h"),
        pytest.param("7d", "ms", timedelta(days=7), id="d"),
        pytest.param("1500us", "ms", timedelta(microseconds=1500), id="us"),
        pytest.param("5000ns", "ms", timedelta(microseconds=5), id="ns"),
        pytest.param("900000", "ms", timedelta(minutes=15), id="bare in ms"),
        pytest.param("30", "s", timedelta(seconds=30), id="bare in s"),
        pytest.param("-1s", "ms", timedelta(seconds=-1), id="negative"),
        pytest.param("PT1M", "ms", timedelta(minutes=1), id="iso"),
        pytest.param("P1DT2H3M4.5S", "ms", timedelta(1, 7384.5), id="iso in full"),
        pytest.param("-PT10S", "ms", timedelta(seconds=-10), id="iso negative"),
    ],
)
def test_durations(text, unit, span):
    assert Properties.of({"d": text}).duration("d", unit=unit) == span


@pytest.mark.parametrize(
    ("text", "size"), [("1MB", 1 << 20), ("16KB", 16384), ("512", 512), ("3B", 3), ("1GB", 1 << 30)]
)
def test_data_sizes(text, size):
    assert Properties.of({"d": text}).data_size("d") == size


@pytest.mark.parametrize(
    ("read", "text", "fault"),
    [
        pytest.param("integer", "12x", "is not a whole number", id="integer"),
        pytest.param("integer", "1.5", "is not a whole number", id="fraction"),
        pytest.param("number", "lots", "is not a number", id="number"),
        pytest.param("boolean", "maybe", "is neither true nor false", id="boolean"),
        pytest.param("duration", "10 parsecs", "is not a duration", id="duration"),
        pytest.param("duration", "P", "is not a duration", id="empty iso"),
        pytest.param("duration", "5x", "is not a duration", id="unknown unit"),
        pytest.param("duration", "PT99999999999999H", "is not a duration", id="beyond all time"),
        pytest.param("data_size", "5XB", "is not a data size", id="size"),
    ],
)
def test_a_bad_value_names_key_and_source_but_never_itself(read, text, fault):
    source = PropertySource("f", {"jwt.x": PropertyValue(text, "application.yml:3:9")})
    properties = Properties("identity", ("dev",), [source])
    with pytest.raises(ConfigurationError) as caught:
        getattr(properties, read)("jwt.x")
    assert str(caught.value) == f"identity: jwt.x {fault} (from application.yml:3:9)"


def test_bounds_and_absence():
    properties = Properties.of({"n": "5", "empty": ""}, "app")
    with pytest.raises(ConfigurationError, match="app: n is below 6"):
        properties.integer("n", minimum=6)
    with pytest.raises(ConfigurationError, match="app: n is above 4"):
        properties.integer("n", maximum=4)
    with pytest.raises(ConfigurationError, match="app: gone is not set"):
        properties.text("gone")
    with pytest.raises(ConfigurationError, match="app: empty is not set"):
        properties.text("empty")
    assert properties.integer("empty", 7) == 7
    assert properties.text("gone", "") == ""
    assert properties.listing("gone", ("a",)) == ("a",)
    assert properties.tree("gone") == {}


YAML = """
spring: {application: {name: identity-service}}
base: &base {x: 1, y: two}
merged: {<<: *base, y: three}
version: 1.10
time: 12:30
on: off
nothing: null
empty: []
---
spring.config.activate.on-profile: dev & !cloud
x: for dev
---
spring.config.activate.on-profile: prod, staging
x: for prod
"""


@pytest.mark.parametrize(
    ("profiles", "x"), [(("dev",), "for dev"), (("dev", "cloud"), None), (("staging",), "for prod")]
)
def test_yaml_documents_apply_by_profile(profiles, x):
    assert Properties("a", profiles, from_yaml(YAML, "f.yml", profiles)).get("x") == x


def test_yaml_scalars_stay_as_written_and_know_their_line():
    properties = Properties("a", (), from_yaml(YAML, "f.yml", ()))
    values = ["version", "time", "on", "nothing", "empty", "merged.x", "merged.y"]
    assert [properties.get(key) for key in values] == [
        "1.10",
        "12:30",
        "false",
        "",
        "",
        "1",
        "three",
    ]
    assert properties.origin("version") == "f.yml:5:10"


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        pytest.param("a: [1", "f.yml:1:6 is not YAML", id="broken"),
        pytest.param("a: 1\nb: 2\na: 3", "a stands twice in f.yml", id="twice"),
        pytest.param("- 1", "f.yml is not a mapping", id="a list"),
        pytest.param("just text", "f.yml is not a mapping", id="a text"),
        pytest.param("a: !!python/object:os.system {}", None, id="tags build nothing"),
    ],
)
def test_bad_yaml_names_the_file(text, fault):
    if fault is None:
        assert Properties("a", (), from_yaml(text, "f.yml", ())).get("a") is None
        return
    with pytest.raises(ConfigurationError, match=fault):
        from_yaml(text, "f.yml", ())


def test_profiles_come_from_environment_json_and_file(tmp_path: Path):
    (tmp_path / "application.yml").write_text(
        "spring.application.name: a\nspring.profiles.active: x"
    )
    (tmp_path / "application-y.yml").write_text("it: of y")
    assert load(tmp_path, {}).profiles == ("x",)
    assert load(tmp_path, {"SPRING_PROFILES_ACTIVE": "y"}).text("it") == "of y"
    given = {"SPRING_APPLICATION_JSON": '{"spring.profiles": {"active": "z"}, "n": 1.10}'}
    assert load(tmp_path, {**given, "SPRING_PROFILES_ACTIVE": "y"}).profiles == ("z",)
    assert load(tmp_path, given).get("n") == "1.10"


def test_the_last_profile_wins(tmp_path: Path):
    (tmp_path / "application.yml").write_text("spring.application.name: a")
    for profile in "xy":
        (tmp_path / f"application-{profile}.yml").write_text(f"it: {profile}")
    assert load(tmp_path, {"SPRING_PROFILES_ACTIVE": "x,y"}).get("it") == "y"


def test_broken_json_in_the_environment_stops_the_start(tmp_path: Path):
    with pytest.raises(ConfigurationError, match="SPRING_APPLICATION_JSON is not JSON"):
        load(tmp_path, {"SPRING_APPLICATION_JSON": "{"})


def test_replace_tells_subscribers_what_changed_and_survives_a_failing_one():
    def fail(_fresh: Properties, _keys: frozenset[str]) -> None:
        raise RuntimeError("not ready")

    live = Environment(Properties.of({"a": "1", "b": "${a}", "c": "3", "gone": "x"}))
    heard: list[frozenset[str]] = []
    live.subscribe(fail)
    live.subscribe(lambda fresh, keys: heard.append(keys))
    changed = live.replace(Properties.of({"a": "2", "b": "${a}", "c": "3", "new": "y"}))
    assert changed == {"a", "b", "gone", "new"}
    assert heard == [changed]
    assert live.properties.get("b") == "2"
    assert live.replace(live.properties) == frozenset()


def test_no_value_shows_in_a_repr():
    source = from_mapping("s", {"jwt.secret": "hunter2"})
    assert "hunter2" not in repr(source) + repr(Properties("a", (), [source])) + repr(source.values)


def test_another_process_gets_the_same_properties_with_their_origins():
    file = from_yaml("jwt.secret: ${JWT_SECRET}\nl: [a, b]", "f.yml", ())
    held = Properties("app", ("dev", "x"), [from_environment({"JWT_SECRET": "s"}), *file])
    twin = Properties.load(json.loads(json.dumps(held.dump())))
    assert (twin.application, twin.profiles) == ("app", ("dev", "x"))
    assert (twin.get("jwt.secret"), twin.listing("l")) == ("s", ("a", "b"))
    assert twin.origin("l[1]") == "f.yml:2:8"
    assert twin.sources == held.sources


def test_reload_gives_what_is_new_and_leaves_in_force_what_holds(tmp_path: Path):
    (tmp_path / "application.yml").write_text("k: old")
    live = Environment(load(tmp_path, {}), lambda held: load(tmp_path, {}, held=held))
    (tmp_path / "application.yml").write_text("k: new")
    fresh = live.reload()
    assert (live.properties.get("k"), fresh.get("k")) == ("old", "new")
    assert live.replace(fresh) == {"k"}


def test_what_means_nothing_here_is_named_once_and_nothing_else_is():
    given = {
        "eureka.client.transport.retryable-client-quarantine-refresh-percentage": "0.5",
        "eureka.client.initialInstanceInfoReplicationIntervalSeconds": "5",
        "eureka.client.registry-fetch-interval-seconds": "5",
        "spring.cloud.loadbalancer.cache.ttl": "1s",
        "spring.cloud.loadbalancer.eager-load.clients[0]": "movie-service",
        "spring.cloud.loadbalancer.clients.movie-service.cache.enabled": "false",
        "spring.cloud.loadbalancer.clients.cache.zone": "east",
        "spring.cloud.loadbalancer.health-check.interval": "5s",
    }
    variables = {"EUREKA_INSTANCE_ASGNAME": "a"}
    sources = [from_environment(variables), from_mapping("file", given)]
    with structlog.testing.capture_logs() as lines:
        unheeded.tell(Properties("app", ("default",), sources))
        unheeded.tell(Properties.of({"eureka.client.enabled": "false"}))
    (line,) = lines
    assert (line["event"], line["keys"]) == (
        "settings_ignored",
        [
            "eureka.client.initialInstanceInfoReplicationIntervalSeconds",
            "eureka.client.transport.retryable-client-quarantine-refresh-percentage",
            "eureka.instance.asg-name",
            "spring.cloud.loadbalancer.cache.ttl",
            "spring.cloud.loadbalancer.clients.movie-service.cache.enabled",
            "spring.cloud.loadbalancer.eager-load.clients[0]",
        ],
    )
