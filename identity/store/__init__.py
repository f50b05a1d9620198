"""Tables of identitydb and their live view in Redis; one method is one transaction."""

from identity.store.accounts import SqlAccounts
from identity.store.live import EPOCH, RedisLive, catch_up
from identity.store.memberships import SqlMemberships
from identity.store.purge import purge
from identity.store.seeds import ADMIN, seed, seed_admin
from identity.store.sessions import SqlSessions
from identity.store.tables import outbox
from identity.store.trail import SqlTrail

__all__ = [
    "ADMIN",
    "EPOCH",
    "RedisLive",
    "SqlAccounts",
    "SqlMemberships",
    "SqlSessions",
    "SqlTrail",
    "catch_up",
    "outbox",
    "purge",
    "seed",
    "seed_admin",
]
