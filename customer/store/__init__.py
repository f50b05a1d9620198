"""Tables of customerdb; one method is one transaction."""

from customer.store.memberships import SqlMemberships
from customer.store.records import SqlCustomers
from customer.store.tables import customers, outbox, plan_payments

__all__ = ["SqlCustomers", "SqlMemberships", "customers", "outbox", "plan_payments"]
