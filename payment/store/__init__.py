"""Tables of payment; one method is one transaction of the database."""

from payment.store.keys import SqlKeys
from payment.store.library import SqlLibrary
from payment.store.limits import SqlLimits
from payment.store.sandbox import Sandbox
from payment.store.tables import messages
from payment.store.transactions import SqlTransactions

__all__ = [
    "Sandbox",
    "SqlKeys",
    "SqlLibrary",
    "SqlLimits",
    "SqlTransactions",
    "messages",
]
