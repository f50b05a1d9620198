"""Keys of Spring's that mean nothing here: ignored in one line of the log, or refused.

A file that JVM services share may hold any of them. What tunes the inside of a Java client is
ignored. What would change where settings or addresses come from is refused: an instance that went
on without it would not be what its operator has ordered.
"""

from typing import Final

import structlog

from cloud.config import names
from cloud.config.properties import Properties

log = structlog.get_logger()

_BALANCER: Final = "spring.cloud.loadbalancer"
_IGNORED: Final = (
    "spring.cloud.config.watch.initial-delay",
    "spring.cloud.refresh.additional-property-sources-to-retain",
    "spring.cloud.refresh.enable-restart",
    "spring.cloud.refresh.extra-refreshable",
    "spring.cloud.refresh.never-refreshable",
    "spring.cloud.refresh.refreshable",
    "health.config.time-to-live",
    f"{_BALANCER}.cache",
    f"{_BALANCER}.eager-load",
    f"{_BALANCER}.health-check.refetch-instances",
    f"{_BALANCER}.health-check.refetch-instances-interval",
    f"{_BALANCER}.health-check.update-results-list",
    f"{_BALANCER}.call-get-with-request-on-delegates",
    f"{_BALANCER}.api-version.required",
    f"{_BALANCER}.stats.include-path",
    f"{_BALANCER}.x-forwarded",
    "eureka.client.allow-redirects",
    "eureka.client.backup-registry-impl",
    "eureka.client.cache-refresh-executor-exponential-back-off-bound",
    "eureka.client.cache-refresh-executor-thread-pool-size",
    "eureka.client.client-data-accept",
    "eureka.client.decoder-name",
    "eureka.client.dollar-replacement",
    "eureka.client.encoder-name",
    "eureka.client.escape-char-replacement",
    "eureka.client.eureka-connection-idle-timeout-seconds",
    "eureka.client.eureka-server-total-connections",
    "eureka.client.eureka-server-total-connections-per-host",
    "eureka.client.eureka-service-url-poll-interval-seconds",
    "eureka.client.fetch-remote-regions-registry",
    "eureka.client.heartbeat-executor-exponential-back-off-bound",
    "eureka.client.heartbeat-executor-thread-pool-size",
    "eureka.client.initial-instance-info-replication-interval-seconds",
    "eureka.client.instance-info-replication-interval-seconds",
    "eureka.client.jersey",
    "eureka.client.log-delta-diff",
    "eureka.client.on-demand-update-status-change",
    "eureka.client.registry-refresh-single-vip-address",
    "eureka.client.rest-template-timeout",
    "eureka.client.restclient",
    "eureka.client.transport",
    "eureka.client.webclient",
    "eureka.instance.app-group-name",
    "eureka.instance.asg-name",
    "eureka.instance.data-center-info",
    "eureka.instance.default-address-resolution-order",
    "eureka.instance.environment",
    "eureka.instance.instance-enabled-onit",
    "eureka.instance.namespace",
)
_NAMES: Final = frozenset(map(names.uniform, _IGNORED))
_CLIENTS: Final = ("spring", "cloud", "loadbalancer", "clients")
_REFUSED: Final = {
    "spring.cloud.bootstrap.enabled": "is not offered: name the server in spring.config.import",
    "spring.config.use-legacy-processing": "is not offered: use spring.config.activate.on-profile",
    "eureka.client.use-dns-for-fetching-service-urls": "is not offered: name the servers",
}


def ensure_none(properties: Properties) -> None:
    """Refuse what an instance must not go on without.

    Raises:
        ConfigurationError: one of these is on.
    """
    for key, fault in _REFUSED.items():
        if properties.boolean(key, default=False):
            raise properties.wrong(key, fault)


def tell(properties: Properties) -> None:
    """Name in one line of the log what is ignored, if anything is."""
    found = list(filter(_ignored, properties.keys()))
    spelled = set(map(names.uniform, found))
    # What only the process environment has is no key of its own.
    found += [k for k in _IGNORED if names.uniform(k) not in spelled and properties.origin(k)]
    if found:
        log.warning("settings_ignored", keys=sorted(found))


def _ignored(key: str) -> bool:
    elements = names.elements(key)
    if elements[:4] == _CLIENTS:
        # `clients.<id>.cache` is as good as `cache`.
        elements = (*elements[:3], *elements[5:])
    depths = range(3, len(elements) + 1)
    return any(names.uniform(".".join(map(str, elements[:depth]))) in _NAMES for depth in depths)
