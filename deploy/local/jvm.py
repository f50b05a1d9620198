"""The stock JVM servers: class paths from Maven Central, settings from deploy/jvm/."""

import shutil
import subprocess
from pathlib import Path
from typing import Final

import requests

from deploy.local import probes
from deploy.local.program import Program
from deploy.local.site import CHECKOUT, HOST, SHARED, EstateError, Site, locked

SOURCES: Final = CHECKOUT / "deploy" / "jvm"
_TARGET: Final = SHARED / "jvm"
JAVA: Final = {
    "openjdk-17-jdk-headless": "javac",
    "maven": "mvn",
}
# For a quick start on few cores and little memory; never measure a server that runs with these.
_FLAGS: Final = (
    *("-Xss512k", "-XX:TieredStopAtLevel=1", "-XX:+UseSerialGC"),
    # Else each leaves a file in /tmp.
    "-XX:-UsePerfData",
)
_STOPPED_BY_TERM: Final = "0,143"
# Published: it protects nothing but the example in deploy/config/.
_ENCRYPT_KEY: Final = "nozie-development-key"


def eureka(site: Site) -> Program:
    """Describe the registry."""
    return Program(
        name="eureka",
        tier=1,
        command=spring(site, "eureka", "EurekaServer", "application.yml", heap="96m"),
        environment={"SERVER_PORT": str(site.ports["eureka"])},
        ready=lambda: probes.answers(site.url("eureka", "/eureka/apps")),
        ports=("eureka",),
        packages=JAVA,
        prepare=lambda: install("eureka"),
        exit_codes=_STOPPED_BY_TERM,
        shows=site.url("eureka") + "/",
    )


def config(site: Site) -> Program:
    """Describe the Config Server: deploy/config/ by its native backend, and the bus."""
    main = "org.springframework.cloud.config.server.ConfigServerApplication"
    return Program(
        name="config",
        tier=2,
        command=spring(site, "config-server", main, "configserver.yml", heap="128m"),
        environment={
            "SERVER_PORT": str(site.ports["config"]),
            "SPRING_RABBITMQ_PORT": str(site.ports["rabbit"]),
            "EUREKA_CLIENT_SERVICEURL_DEFAULTZONE": eureka_url(site),
            "NOZIE_CONFIG_LOCATION": _locations(site),
            "ENCRYPT_KEY": site.environment.get("ENCRYPT_KEY", _ENCRYPT_KEY),
        },
        ready=lambda: probes.answers(site.url("config", "/actuator/health")),
        ports=("config",),
        packages=JAVA,
        prepare=lambda: install("config-server"),
        exit_codes=_STOPPED_BY_TERM,
        shows=site.url("config", "/identity-service/dev"),
    )


def _locations(site: Site) -> str:
    """Tell where the files are that the Config Server serves; tests write some of their own."""
    own = "" if site.name == "main" else f",file:{site.path('config')}/"
    return f"file:{CHECKOUT}/deploy/config/{own}"


def gateway(site: Site) -> Program:
    """Describe the stock Spring Cloud Gateway; ours is compared with it, nothing else uses it."""
    return Program(
        name="spring-gateway",
        tier=5,
        command=spring(site, "gateway", "SpringGateway", "application.yml", heap="160m"),
        environment={
            "SERVER_PORT": str(site.ports["spring-gateway"]),
            "NOZIE_SPRING_GATEWAY_ROUTES": str(site.path("spring-gateway", "routes.yml")),
        },
        ready=lambda: probes.answers(site.url("spring-gateway", "/actuator/health")),
        ports=("spring-gateway",),
        packages=JAVA,
        prepare=lambda: install("gateway"),
        exit_codes=_STOPPED_BY_TERM,
    )


def admin(site: Site) -> Program:
    """Describe Spring Boot Admin."""
    return Program(
        name="admin",
        tier=5,
        command=spring(site, "admin", "AdminServer", "application.yml", heap="160m"),
        environment={
            "SERVER_PORT": str(site.ports["admin"]),
            "EUREKA_CLIENT_SERVICEURL_DEFAULTZONE": eureka_url(site),
        },
        ready=lambda: probes.answers(site.url("admin", "/actuator/health")),
        ports=("admin",),
        packages=JAVA,
        prepare=lambda: install("admin"),
        exit_codes=_STOPPED_BY_TERM,
        shows=site.url("admin") + "/",
    )


def zipkin(site: Site) -> Program:
    """Describe Zipkin with its spans in memory."""
    jar = _TARGET / "zipkin" / "lib" / "zipkin-server-3.6.1-exec.jar"
    port = site.ports["zipkin"]
    words = (
        f"--server.port={port}",
        # The server's address alone is not heeded: it would listen on every interface.
        f"--armeria.ports[0].ip={HOST}",
        f"--armeria.ports[0].port={port}",
        "--armeria.ports[0].protocols=http",
    )
    return Program(
        name="zipkin",
        tier=5,
        command=("java", "-Xmx256m", *_FLAGS, "-jar", str(jar), *words),
        ready=lambda: probes.answers(site.url("zipkin", "/health")),
        ports=("zipkin",),
        packages=JAVA,
        prepare=lambda: install("zipkin"),
        exit_codes=_STOPPED_BY_TERM,
        shows=site.url("zipkin", "/zipkin/"),
    )


def elasticsearch(site: Site) -> Program:
    """Describe Elasticsearch: one node on loopback."""
    home = site.path("elasticsearch")
    words = (
        f"-Des.path.home={home}",
        f"-Des.http.port={site.ports['elasticsearch']}",
        f"-Des.transport.port={site.ports['elasticsearch-transport']}",
        f"-Djava.io.tmpdir={home / 'tmp'}",
    )

    def prepare() -> None:
        install("elasticsearch")
        for folder in ("modules", "plugins", "config", "tmp"):
            (home / folder).mkdir(parents=True, exist_ok=True)

    path = class_path("elasticsearch")
    return Program(
        name="elasticsearch",
        tier=5,
        command=("java", "-Xmx256m", *_FLAGS, *words, "-cp", path, "ElasticsearchNode"),
        ready=lambda: probes.answers(site.url("elasticsearch", "/_cluster/health")),
        ports=("elasticsearch", "elasticsearch-transport"),
        packages=JAVA,
        prepare=prepare,
        settle=lambda: _put_template(site),
        exit_codes=_STOPPED_BY_TERM,
        shows=site.url("elasticsearch", "/nozie-logs-*/_search?q=log.level:error"),
    )


def _put_template(site: Site) -> None:
    """Tell Elasticsearch that the words of a log line are keywords."""
    template = (CHECKOUT / "deploy" / "elasticsearch" / "logs.json").read_bytes()
    url = site.url("elasticsearch", "/_index_template/nozie-logs")
    headers = {"Content-Type": "application/json"}
    with requests.Session() as session:
        session.trust_env = False
        session.put(url, data=template, headers=headers, timeout=10).raise_for_status()


def eureka_url(site: Site) -> str:
    """Give the registry's service URL."""
    return site.url("eureka", "/eureka/")


def class_path(module: str) -> str:
    """Give the class path of a server; `install` makes it."""
    return f"{_TARGET}/{module}/classes:{_TARGET}/{module}/lib/*"


def spring(
    site: Site, module: str, main: str, settings: str, heap: str, home: Path = SOURCES
) -> tuple[str, ...]:
    """Build the command of a Spring Boot server; `settings` is a file, or a folder with a slash."""
    location = f"--spring.config.location=file:{home / module}/{settings}"
    temporary = f"-Djava.io.tmpdir={site.path('run', 'tmp')}"
    flags = (f"-Xmx{heap}", "-XX:ReservedCodeCacheSize=48m", *_FLAGS, temporary)
    return ("java", *flags, "-cp", class_path(module), main, location)


def install(module: str, home: Path = SOURCES) -> None:
    """Fetch the class path of a server and compile the little that is ours, if that changed."""
    pom = home / module / "pom.xml"
    sources = sorted(pom.parent.rglob("*.java"))
    wanted = "".join(file.read_text() for file in (SOURCES / "pom.xml", pom, *sources))
    stamp = _TARGET / module / "installed.txt"
    if stamp.exists() and stamp.read_text() == wanted:
        return
    shutil.rmtree(_TARGET / module, ignore_errors=True)
    # Two Mavens at once may spoil each other's repository.
    with locked(SHARED / "locks" / "maven"):
        _run(
            *("mvn", "-q", "-B", "-f", str(pom), f"-Dnozie.jvm={_TARGET}"),
            "dependency:copy-dependencies",
        )
    if sources:
        classes = str(_TARGET / module / "classes")
        path = f"{_TARGET}/{module}/lib/*"
        _run("javac", "-cp", path, "-d", classes, *map(str, sources))
    stamp.write_text(wanted)


def _run(*command: str) -> None:
    done = subprocess.run(command, capture_output=True, text=True, check=False)  # noqa: S603
    if done.returncode:
        words = (done.stdout + done.stderr).strip()[-2000:]
        raise EstateError(f"{command[0]} failed:\n{words}")
