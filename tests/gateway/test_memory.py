"""What an instance knows of revocations by itself: several workers, one file."""

import orjson
import pytest

from gateway.handler import memory
from gateway.handler.memory import Memory


class Clock:
    def __init__(self):
        self.now = 1_800_000_000.0

    def __call__(self):
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


def test_what_one_worker_is_told_all_know_also_those_that_come_later(tmp_path, clock):
    one, other = Memory(tmp_path, clock), Memory(tmp_path, clock)
    one.add([("a", clock.now + 60), ("over", clock.now - 1)])
    other.add([("b", clock.now + 60)])
    one.catch_up()
    later = Memory(tmp_path, clock)
    for worker in (one, other, later):
        assert [jti in worker for jti in ("a", "b", "over", "c")] == [True, True, False, False]


def test_a_writer_that_died_half_way_spoils_nothing(tmp_path, clock):
    one = Memory(tmp_path, clock)
    one.add([("a", clock.now + 60)])
    with (tmp_path / "revoked.jsonl").open("ab") as file:
        file.write(b'["half')
    one.add([("b", clock.now + 60)])
    one.add([("c", clock.now + 60)])
    later = Memory(tmp_path, clock)
    assert "a" in later
    assert "c" in later


def test_the_file_stays_small_and_readers_follow_it(tmp_path, clock, monkeypatch):
    monkeypatch.setattr(memory, "_LARGE", 2000)
    one, other = Memory(tmp_path, clock), Memory(tmp_path, clock)
    for turn in range(100):
        clock.now += 100
        one.add([(f"{turn}-{n}", clock.now + 50) for n in range(5)])
    other.catch_up()
    assert (tmp_path / "revoked.jsonl").stat().st_size < 5000
    assert "99-4" in other
    assert "0-0" not in Memory(tmp_path, clock)


def test_the_memory_of_revocations_is_bounded_and_forgets_the_oldest(tmp_path, clock, monkeypatch):
    monkeypatch.setattr(memory, "_MOST", 10)
    one = Memory(None, clock)
    one.add([(str(n), clock.now + 60) for n in range(25)])
    assert "24" in one
    assert "0" not in one


def test_a_worker_that_is_replaced_earns_no_new_grace(tmp_path, clock):
    first = Memory(tmp_path, clock)
    first.believed()
    clock.now += 300
    assert Memory(tmp_path, clock).doubtful_for_s() == pytest.approx(300, abs=1)
    assert first.doubtful_for_s() == pytest.approx(300, abs=1)


def test_without_a_folder_to_write_to_a_worker_knows_what_it_saw_itself(tmp_path, clock):
    blocked = tmp_path / "file"
    blocked.write_text("")
    one = Memory(blocked / "run", clock)
    one.add([("a", clock.now + 60)])
    assert "a" in one
    assert one.doubtful_for_s() == 0


def test_lines_are_json_and_for_the_user_alone(tmp_path, clock):
    Memory(tmp_path, clock).add([('a"\n', clock.now + 60)])
    path = tmp_path / "revoked.jsonl"
    assert orjson.loads(path.read_bytes()) == ['a"\n', clock.now + 60]
    assert path.stat().st_mode & 0o077 == 0
    assert 'a"\n' in Memory(tmp_path, clock)


def test_an_answer_is_enough_for_tokens_of_an_issuer_without_sessions_alone(tmp_path, clock):
    one = Memory(tmp_path, clock)
    one.believed()
    clock.now += 300
    one.heard()
    for worker in (one, Memory(tmp_path, clock)):
        assert worker.doubtful_for_s() == pytest.approx(300, abs=1)
        assert worker.doubtful_for_s(sessions=False) == pytest.approx(0, abs=1)
