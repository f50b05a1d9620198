"""What the routes of movie lean on."""

from dataclasses import dataclass
from typing import Protocol

from cloud.clock import Clock
from movie.domain import Movie, NamedRef, Page, Window
from movie.service import Catalogue, Changes, Paywall, Views
from movie.settings import Settings


class Shelves(Catalogue, Protocol):  # answered by movie.store.MongoCatalogue
    """The catalogue, with the lists that need no rule."""

    def latest(self, window: Window) -> Page: ...
    def free(self, window: Window) -> tuple[Movie, ...]: ...
    def trending(self, count: int) -> tuple[Movie, ...]: ...
    def genres(self) -> tuple[NamedRef, ...]: ...
    def countries(self) -> tuple[NamedRef, ...]: ...
    def years(self) -> tuple[int, ...]: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Deps:
    """One frozen list, made by `app.create_app`, or by a test."""

    settings: Settings
    catalogue: Shelves
    views: Views
    changes: Changes
    paywall: Paywall
    now: Clock
