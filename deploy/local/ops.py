"""What an operator looks through: Prometheus, and rsyslog that ships logs to Elasticsearch."""

from typing import Final

from deploy.local import jvm, probes
from deploy.local.program import Program
from deploy.local.services import SERVICES
from deploy.local.site import CHECKOUT, Site

_DEPLOY: Final = CHECKOUT / "deploy"


def ops(site: Site) -> list[Program]:
    """Describe the operator's servers; the estate runs the same without them."""
    return [
        jvm.zipkin(site),
        jvm.elasticsearch(site),
        jvm.admin(site),
        prometheus(site),
        rsyslog(site),
    ]


def prometheus(site: Site) -> Program:
    """Describe Prometheus, which finds its targets through Eureka."""
    folder = site.path("prometheus")
    settings = folder / "prometheus.yml"

    def prepare() -> None:
        folder.mkdir(parents=True, exist_ok=True)
        text = (_DEPLOY / "prometheus" / "prometheus.yml").read_text()
        settings.write_text(text.replace("discovery-server:8761", site.address("eureka")))

    words = (
        f"--config.file={settings}",
        f"--storage.tsdb.path={folder}/data",
        f"--web.listen-address={site.address('prometheus')}",
        "--storage.tsdb.retention.time=2d",
        "--log.level=warn",
    )
    return Program(
        name="prometheus",
        tier=5,
        command=("prometheus", *words),
        ready=lambda: probes.answers(site.url("prometheus", "/-/ready")),
        ports=("prometheus",),
        packages={"prometheus": "prometheus"},
        prepare=prepare,
        shows=site.url("prometheus", "/targets"),
    )


def rsyslog(site: Site) -> Program:
    """Describe rsyslog, which reads the services' log files and loses or doubles no line."""
    folder = site.path("rsyslog")
    return Program(
        name="rsyslog",
        tier=6,
        command=(
            *("rsyslogd", "-n", "-f", str(_DEPLOY / "rsyslog" / "rsyslog.conf")),
            *("-i", str(folder / "pid")),
        ),
        environment={
            "NOZIE_LOGS": str(site.path("log")),
            "NOZIE_RSYSLOG": str(folder),
            "NOZIE_ELASTICSEARCH_PORT": str(site.ports["elasticsearch"]),
        },
        ready=(folder / "pid").exists,
        packages={
            "rsyslog": "rsyslogd",
            "rsyslog-elasticsearch": "/usr/lib/*/rsyslog/omelasticsearch.so",
        },
        prepare=lambda: folder.mkdir(parents=True, exist_ok=True),
        shows=f"{len(SERVICES)} log files to {site.url('elasticsearch')}/nozie-logs-*",
    )
