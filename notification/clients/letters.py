"""Letters on their way: our own queues, one a channel, and the templates they are written by."""

import tomllib
from collections.abc import Callable, Collection, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, Final

from cloud.messaging import Event, RabbitSettings, rabbit
from cloud.messaging.publisher import publish_all
from cloud.messaging.rabbit import Declaration
from notification.domain import EMAIL, PUSH, Letter, RefusedLetterError

EXCHANGE: Final = "notification.exchange"
_FOLDER: Final = Path(__file__).parent / "templates"
_SUFFIXES: Final = {EMAIL: ("subject", "text", "html"), PUSH: ("title", "body")}


def queue(channel: str) -> str:
    """Name the queue in which a channel's letters wait."""
    return f"notification.{channel}.queue"


def bindings(channel: str) -> tuple[tuple[str, str], ...]:
    """Say by which routing key a channel's letters come."""
    return ((EXCHANGE, f"notification.letter.{channel}"),)


def declarations() -> list[Declaration]:
    """Declare every channel's queue: a letter is never sent to nobody."""
    return [
        each
        for channel in (EMAIL, PUSH)
        for each in rabbit.work_queue(queue(channel), bindings(channel))
    ]


class RabbitPost:
    """Answers service.ports.Post: each channel has a queue, so that none waits for another.

    Args:
        channels: those that are configured; letters for others are not sent.
    """

    def __init__(
        self, settings: RabbitSettings, channels: Collection[str], dump: Callable[[Letter], bytes]
    ) -> None:
        self._settings = settings
        self._channels = frozenset(channels)
        self._dump = dump

    def send(self, letters: Sequence[Letter]) -> None:
        """Return once the broker has all of them.

        Raises:
            UnavailableError: it may have some.
        """
        events = [
            Event(EXCHANGE, f"notification.letter.{each.channel}", self._dump(each), each.key)
            for each in letters
            if each.channel in self._channels
        ]
        if events:
            publish_all(self._settings, self._settings.application, events)


class Templates:
    """Answers service.ports.Templates: Jinja2, with what people wrote escaped in HTML.

    `words.toml` has the short texts of each template; `<template>.html` is the mail's body.
    """

    def __init__(self) -> None:
        with (_FOLDER / "words.toml").open("rb") as file:
            self._words: Mapping[str, Mapping[str, str]] = tomllib.load(file)

    def knows(self, template: str, channel: str) -> bool:
        return _SUFFIXES[channel][0] in self._words.get(template, {})

    def fill(self, letter: Letter) -> Mapping[str, str]:
        """Return the channel's texts with the letter's params in their blanks.

        Raises:
            RefusedLetterError: no such template, or a blank without its param.
        """
        if not self.knows(letter.template, letter.channel):
            raise RefusedLetterError(f"no template {letter.template!r} for {letter.channel}")
        plain, html = self._engines
        words = self._words[letter.template]
        filled = {}
        try:
            for name in _SUFFIXES[letter.channel]:
                if name == "html":
                    template = html.get_template(f"{letter.template}.html")
                else:
                    template = plain.from_string(words[name])
                filled[name] = str(template.render(letter.params)).strip()
        except Exception as error:
            # A param of the wrong kind is the sender's fault, whatever Jinja2 makes of it.
            raise RefusedLetterError(f"template {letter.template!r}: {error}") from error
        return filled

    @cached_property
    def _engines(self) -> tuple[Any, Any]:
        # Only the process that delivers letters holds the library.
        import jinja2  # noqa: PLC0415
        from jinja2.sandbox import SandboxedEnvironment  # noqa: PLC0415

        rules: dict[str, Any] = {
            "undefined": jinja2.StrictUndefined,
            "loader": jinja2.FileSystemLoader(_FOLDER),
        }
        return (
            SandboxedEnvironment(autoescape=False, **rules),
            SandboxedEnvironment(autoescape=True, **rules),
        )
