"""A server that answers as a test wants, where a Config Server is expected."""

import json
from collections.abc import Callable, Mapping

from tests.serving import Handler, Serving

Reply = Callable[[str, dict[str, str]], tuple[int, object]]
NOWHERE = "http://127.0.0.1:1"


class Server(Serving):
    """Answers as `reply` says and remembers what was asked."""

    def __init__(self, port: int = 0) -> None:
        self.reply: Reply = lambda _path, _headers: (200, answer())
        self.asked: list[tuple[str, dict[str, str]]] = []
        self.bodies: list[str] = []
        outer = self

        class Replies(Handler):
            def reply(self) -> None:
                headers = {name.lower(): value for name, value in self.headers.items()}
                outer.bodies.append(self.body().decode())
                outer.asked.append((self.path, headers))
                status, body = outer.reply(self.path, headers)
                elsewhere = {"Location": "http://elsewhere.invalid/"} if status == 302 else {}
                content = body if isinstance(body, bytes) else json.dumps(body).encode()
                self.answer(status, content, elsewhere)

        super().__init__(Replies, port)

    @property
    def paths(self) -> list[str]:
        return [path for path, _ in self.asked]


def answer(*sources: tuple[str, Mapping[str, object]], **more: object) -> dict[str, object]:
    listed = [{"name": name, "source": values} for name, values in sources]
    return {"name": "app", "profiles": ["dev"], "propertySources": listed, **more}
