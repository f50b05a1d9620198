"""`/api/notifications`: what JVM callers know, and the live stream."""

from dataclasses import replace

from flask import Blueprint, Response, request

from cloud import web
from cloud.web.answers import failed
from notification import service
from notification.deps import Deps
from notification.domain import CustomerId, NotificationId, UserId
from notification.routes.stream import Stream
from notification.schema import NotificationRequest, dump, dump_push

bp = Blueprint("notifications", __name__, url_prefix="/api/notifications")

_MOST = 100
_RETRY_AFTER = {"Retry-After": "5"}


def limit() -> int:
    """Read how many are wanted, 1 to 100."""
    return web.query_int("limit", _MOST, 1, _MOST)


@bp.get("/<int:customer_id>")
@web.authenticated
def of_customer(customer_id: int) -> Response:
    """Answer with the newest of a customer record."""
    deps, most = web.current(Deps), limit()
    service.ensure_owns(web.principal(), CustomerId(customer_id), deps.customers)
    found = deps.notifications.of_customer(CustomerId(customer_id), most)
    return web.ok([dump(each) for each in found])


@bp.get("/<int:customer_id>/unread")
@web.authenticated
def unread(customer_id: int) -> Response:
    """Answer with the newest that are not read."""
    deps, most = web.current(Deps), limit()
    service.ensure_owns(web.principal(), CustomerId(customer_id), deps.customers)
    found = deps.notifications.of_customer(CustomerId(customer_id), most, unread=True)
    return web.ok([dump(each) for each in found])


@bp.get("/<int:customer_id>/count")
@web.authenticated
def count(customer_id: int) -> Response:
    """Answer with how many are not read."""
    deps = web.current(Deps)
    service.ensure_owns(web.principal(), CustomerId(customer_id), deps.customers)
    return web.ok({"unreadCount": deps.notifications.count_unread(CustomerId(customer_id))})


@bp.get("")
@web.authenticated
def own() -> Response:
    """Answer with the caller's newest."""
    deps, caller, most = web.current(Deps), web.principal(), limit()
    audience = service.audience(caller, UserId(caller.user_id), deps.customers)
    return web.ok([dump(each) for each in deps.notifications.of_audience(audience, most)])


@bp.post("")
@web.roles(service.ADMIN)
def create() -> Response:
    """Answer 201 with what was stored; it is pushed as any other."""
    deps = web.current(Deps)
    body = NotificationRequest.parse(web.json_body())
    told = service.tell(
        body.draft(),
        notifications=deps.notifications,
        announcements=deps.announcements,
        dump=dump_push,
        now=deps.now(),
    )
    return web.created(dump(told))


@bp.patch("/<notification_id>/read")
@web.authenticated
def mark_read(notification_id: str) -> Response:
    """Answer with the notification, read."""
    deps, key = web.current(Deps), NotificationId(notification_id)
    found = service.get_own(
        key, web.principal(), notifications=deps.notifications, customers=deps.customers
    )
    deps.notifications.mark_read(found.id, now=deps.now())
    return web.ok(dump(replace(found, read=True)))


@bp.delete("/<notification_id>")
@web.authenticated
def delete(notification_id: str) -> Response:
    """Answer 200 whatever the id; only the caller's own is gone, any for an ADMIN."""
    deps = web.current(Deps)
    service.delete_own(
        NotificationId(notification_id),
        web.principal(),
        notifications=deps.notifications,
        customers=deps.customers,
    )
    return web.ok()


@bp.get("/stream")
@web.authenticated
def stream() -> Response:
    """Answer with the caller's notifications as they come (Server-Sent Events).

    `Last-Event-ID` resumes after that notification. It ends with the token, which an open
    connection must not outlive.
    """
    deps, caller = web.current(Deps), web.principal()
    audience = service.audience(caller, UserId(caller.user_id), deps.customers)
    if not deps.hub.reserve():
        return failed(503, "Too many streams are open", headers=_RETRY_AFTER)
    opened = Stream(deps, caller, audience, last=request.headers.get("Last-Event-ID"))
    return web.event_stream(opened.opening(), opened.out)
