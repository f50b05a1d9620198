"""The stores and the broker: PostgreSQL, Redis, RabbitMQ, a server of MongoDB's protocol."""

import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Final

import psycopg2
from psycopg2 import sql

from deploy.local import probes
from deploy.local.program import Program, as_user, own
from deploy.local.site import CHECKOUT, HOST, SHARED, Site

DATABASES: Final = ("identitydb", "customerdb", "paymentdb")
GUEST: Final = ("guest", "guest")

_POSTGRES: Final = Path("/usr/lib/postgresql/15/bin")
_RABBIT: Final = Path("/usr/lib/rabbitmq/bin/rabbitmq-server")
_MONGO_VENV: Final = SHARED / "secantusdb"


def stores(site: Site) -> list[Program]:
    """Describe the servers of tier 1, which lean on nothing."""
    return [postgres(site), redis(site), epmd(site), rabbit(site), *mongo(site)]


# PostgreSQL


def postgres(site: Site) -> Program:
    """Describe PostgreSQL 15 with the services' databases."""
    folder = site.path("postgres")
    options = {
        "listen_addresses": HOST,
        "port": str(site.ports["postgres"]),
        "unix_socket_directories": "",
        "max_connections": "200",
        "shared_buffers": "64MB",
        "timezone": "UTC",
        "log_timezone": "UTC",
        # A test's data need not survive the machine; they do survive a killed server.
        "fsync": "on" if site.name == "main" else "off",
    }
    words = [word for key, value in options.items() for word in ("-c", f"{key}={value}")]
    command = (*as_user("postgres", site.folder), f"{_POSTGRES}/postgres", "-D", str(folder))
    return Program(
        name="postgres",
        tier=1,
        command=(*command, *words),
        ready=lambda: _connects(site),
        ports=("postgres",),
        packages={"postgresql-15": f"{_POSTGRES}/postgres"},
        prepare=lambda: _create_cluster(site, folder),
        settle=lambda: _create_databases(site),
        stop_signal="INT",
        shows=f"postgresql://nozie@{site.address('postgres')}/",
    )


def connect(site: Site, database: str = "postgres") -> "psycopg2.extensions.connection":
    """Connect as PostgreSQL's superuser."""
    link = psycopg2.connect(
        host=HOST,
        port=site.ports["postgres"],
        user="postgres",
        password=site.secrets["postgres"],
        dbname=database,
        connect_timeout=2,
    )
    link.autocommit = True
    return link


def _connects(site: Site) -> bool:
    connect(site).close()
    return True


def _create_cluster(site: Site, folder: Path) -> None:
    if (folder / "PG_VERSION").exists():
        return
    shutil.rmtree(folder, ignore_errors=True)
    own(folder, "postgres")
    password = site.path("initdb.password")
    password.touch(mode=0o600)
    password.write_text(site.secrets["postgres"])
    if os.geteuid() == 0:
        shutil.chown(password, "postgres")
    words = ("-A", "scram-sha-256", "-E", "UTF8", "--locale=C.UTF-8", f"--pwfile={password}")
    command = (*as_user("postgres", site.folder), f"{_POSTGRES}/initdb", "-D", str(folder), *words)
    try:
        subprocess.run(command, check=True, capture_output=True, cwd=folder)  # noqa: S603
    except BaseException:
        # Half a cluster would be taken for a whole one.
        shutil.rmtree(folder, ignore_errors=True)
        raise
    finally:
        password.unlink()


def _create_databases(site: Site) -> None:
    link = connect(site)
    with link.cursor() as cursor:
        cursor.execute("SELECT 1 FROM pg_roles WHERE rolname = 'nozie'")
        if cursor.fetchone() is None:
            statement = sql.SQL("CREATE ROLE nozie LOGIN PASSWORD {}")
            cursor.execute(statement.format(sql.Literal(site.secrets["datasource"])))
        for name in DATABASES:
            cursor.execute("SELECT 1 FROM pg_database WHERE datname = %s", (name,))
            if cursor.fetchone() is None:
                statement = sql.SQL("CREATE DATABASE {} OWNER nozie")
                cursor.execute(statement.format(sql.Identifier(name)))
    link.close()


# Redis


def redis(site: Site) -> Program:
    """Describe Redis with an append-only file."""
    folder = site.path("redis")
    options = {
        "bind": HOST,
        "port": str(site.ports["redis"]),
        "dir": str(folder),
        "databases": "64",
        "appendonly": "yes",
        "appendfsync": "everysec",
        "save": "",
        "maxmemory": "256mb",
        "maxmemory-policy": "noeviction",
    }
    words = [word for key, value in options.items() for word in (f"--{key}", value)]
    return Program(
        name="redis",
        tier=1,
        command=("redis-server", *words),
        ready=lambda: probes.redis_pings(site.ports["redis"]),
        ports=("redis",),
        packages={"redis-server": "redis-server"},
        prepare=lambda: folder.mkdir(parents=True, exist_ok=True),
        shows=f"redis://{site.address('redis')}/0",
    )


# RabbitMQ


def epmd(site: Site) -> Program:
    """Describe Erlang's port mapper, which would outlive the broker that starts its own."""
    port = str(site.ports["epmd"])
    return Program(
        name="epmd",
        tier=1,
        command=("epmd", "-address", HOST, "-port", port),
        ready=lambda: probes.listens(site.ports["epmd"]),
        ports=("epmd",),
        packages={"rabbitmq-server": str(_RABBIT)},
        exit_codes="0,1",
    )


def rabbit(site: Site) -> Program:
    """Describe RabbitMQ with its management plugin; it is not reachable from outside."""
    folder = site.path("rabbit")
    check = f"/api/health/checks/port-listener/{site.ports['rabbit']}"
    return Program(
        name="rabbit",
        tier=1,
        command=(*as_user("rabbitmq", site.folder), str(_RABBIT)),
        ready=lambda: probes.answers(site.url("rabbit-api", check), GUEST),
        ports=("rabbit", "rabbit-api", "rabbit-dist"),
        environment={
            "HOME": str(folder),
            "RABBITMQ_NODENAME": f"nozie-{site.name}@localhost",
            "RABBITMQ_DIST_PORT": str(site.ports["rabbit-dist"]),
            "ERL_EPMD_ADDRESS": HOST,
            "ERL_EPMD_PORT": str(site.ports["epmd"]),
            "RABBITMQ_MNESIA_BASE": str(folder / "mnesia"),
            "RABBITMQ_LOG_BASE": str(folder / "log"),
            "RABBITMQ_CONFIG_FILE": str(folder / "rabbitmq.conf"),
            "RABBITMQ_ENABLED_PLUGINS_FILE": str(folder / "enabled_plugins"),
            "RABBITMQ_PID_FILE": str(folder / "pid"),
            "RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS": (
                "+sbwt none +S 2:2 -kernel inet_dist_use_interface {127,0,0,1}"
            ),
            # The start script then becomes the broker, instead of standing in between.
            "RUNNING_UNDER_SYSTEMD": "true",
        },
        packages={"rabbitmq-server": str(_RABBIT)},
        prepare=lambda: _write_rabbit(site, folder),
        stop_seconds=30,
        shows=f"{site.url('rabbit-api')}/  guest / guest",
    )


def _write_rabbit(site: Site, folder: Path) -> None:
    own(folder, "rabbitmq")
    settings = {
        "listeners.tcp.default": site.address("rabbit"),
        "management.tcp.ip": HOST,
        "management.tcp.port": str(site.ports["rabbit-api"]),
        "disk_free_limit.absolute": "200MB",
        "vm_memory_high_watermark.absolute": "512MB",
        "log.console": "true",
        "log.file": "false",
    }
    lines = [f"{key} = {value}\n" for key, value in settings.items()]
    (folder / "rabbitmq.conf").write_text("".join(lines))
    (folder / "enabled_plugins").write_text("[rabbitmq_management].\n")
    if os.geteuid() == 0:
        for file in ("rabbitmq.conf", "enabled_plugins"):
            shutil.chown(folder / file, "rabbitmq", "rabbitmq")


# MongoDB's protocol


def mongo_uri(site: Site, database: str = "") -> str:
    """Give the address of a database: the user's own server, or the estate's."""
    own_server = site.environment.get("NOZIE_MONGO_ADDRESS")
    address = own_server or site.address("mongo")
    return f"mongodb://{address}/{database}?directConnection=true&w=1&journal=true"


def mongo(site: Site) -> list[Program]:
    """Describe the document store: a real mongod, or SecantusDB, a beta that speaks its protocol.

    With NOZIE_MONGO_ADDRESS set there is a server already, and none is started.
    """
    if site.environment.get("NOZIE_MONGO_ADDRESS"):
        return []
    folder, port = site.path("mongo"), str(site.ports["mongo"])
    real = shutil.which("mongod")
    command: tuple[str, ...] = (
        f"{_MONGO_VENV}/bin/secantusd-py",
        *("--host", HOST, "--port", port),
        *("--storage-path", str(folder), "--log-level", "WARNING"),
    )
    if real:
        command = (real, "--dbpath", str(folder), "--bind_ip", HOST, "--port", port)
    name = "mongod" if real else "SecantusDB, a beta: for development only"
    return [
        Program(
            name="mongo",
            tier=1,
            command=command,
            ready=lambda: probes.mongo_pings(f"mongodb://{site.address('mongo')}/"),
            ports=("mongo",),
            prepare=lambda: _prepare_mongo(folder, install=not real),
            shows=f"mongodb://{site.address('mongo')}/  ({name})",
        )
    ]


def _prepare_mongo(folder: Path, *, install: bool) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    if not install:
        return
    wanted = CHECKOUT / "deploy" / "mongo" / "requirements.txt"
    stamp = _MONGO_VENV / "installed.txt"
    if stamp.exists() and stamp.read_text() == wanted.read_text():
        return
    shutil.rmtree(_MONGO_VENV, ignore_errors=True)
    python = str(_MONGO_VENV / "bin" / "python")
    subprocess.run((sys.executable, "-m", "venv", str(_MONGO_VENV)), check=True)  # noqa: S603
    words = ("-m", "pip", "install", "-q", "--require-hashes", "-r", str(wanted))
    subprocess.run((python, *words), check=True, stdout=sys.stderr)  # noqa: S603
    stamp.write_text(wanted.read_text())
