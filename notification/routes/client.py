"""`/notifications/users/{userId}`: what the mobile app calls."""

from flask import Blueprint, Response

from cloud import web
from notification import service
from notification.deps import Deps
from notification.domain import Audience, NotificationId, UserId
from notification.routes.api import limit
from notification.schema import ClientNotificationRequest, dump_client, dump_push

bp = Blueprint("client", __name__, url_prefix="/notifications/users/<int:user_id>/notifications")


@bp.get("")
def listed(user_id: int) -> Response:
    """Answer with the user's newest."""
    caller = web.owner_or_admin(user_id)
    deps = web.current(Deps)
    audience = service.audience(caller, UserId(user_id), deps.customers)
    found = deps.notifications.of_audience(audience, limit())
    return web.ok([dump_client(each) for each in found])


@bp.post("")
def create(user_id: int) -> Response:
    """Answer 201 with what the user noted for himself."""
    web.owner(user_id)
    deps = web.current(Deps)
    body = ClientNotificationRequest.parse(web.json_body())
    told = service.tell(
        body.draft(UserId(user_id)),
        notifications=deps.notifications,
        announcements=deps.announcements,
        dump=dump_push,
        now=deps.now(),
    )
    return web.created(dump_client(told))


@bp.patch("/<notification_id>/read")
def mark_read(user_id: int, notification_id: str) -> Response:
    """Answer 200 when it is the user's, 404 otherwise."""
    deps, audience = web.current(Deps), _own(user_id)
    found = service.get_of(
        NotificationId(notification_id), audience, notifications=deps.notifications
    )
    deps.notifications.mark_read(found.id, now=deps.now())
    return web.ok()


@bp.patch("/read-all")
def mark_all_read(user_id: int) -> Response:
    """Answer 200; nothing of the user's is unread then."""
    deps = web.current(Deps)
    deps.notifications.mark_all_read(_own(user_id), now=deps.now())
    return web.ok()


@bp.delete("/read")
def delete_read(user_id: int) -> Response:
    """Answer 200; nothing of the user's is read then."""
    deps, caller = web.current(Deps), web.owner_or_admin(user_id)
    audience = service.audience(caller, UserId(user_id), deps.customers)
    deps.notifications.delete_read(audience)
    return web.ok()


@bp.delete("/<notification_id>")
def delete(user_id: int, notification_id: str) -> Response:
    """Answer 200 whatever the id; only the user's own is gone."""
    deps, caller = web.current(Deps), web.owner_or_admin(user_id)
    audience = service.audience(caller, UserId(user_id), deps.customers)
    service.delete_of(NotificationId(notification_id), audience, notifications=deps.notifications)
    return web.ok()


def _own(user_id: int) -> Audience:
    caller = web.owner(user_id)
    return service.audience(caller, UserId(user_id), web.current(Deps).customers)
