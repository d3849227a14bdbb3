"""The cache that visitors share, and their computations."""

import threading
import time
from types import SimpleNamespace
from unittest.mock import MagicMock

import pytest
from cache import Cache
from messages import UserError
from microscope import Microscope
from runs_root import RunsRoot
from wiring import Wiring
from work import Desk, Stopped, Work


def test_the_cache_is_bounded_and_keeps_the_latest():
    cache = Cache(2)
    for key in "abc":
        cache.put(key, key)
    assert (cache.get("a"), cache.get("b"), cache.get("c")) == (None, "b", "c")
    cache.get("b")
    cache.put("d", "d")
    assert cache.get("c") is None


def test_the_cache_counts_what_it_is_told_to():
    cache = Cache(10, len)
    cache.put("a", "12345")
    cache.put("a", "123")
    cache.put("b", "1234567")
    assert cache.get("a") == "123"
    cache.put("c", "12")
    assert (cache.get("a"), cache.get("b")) == ("123", None)
    assert cache.put("d", "x" * 11) == "x" * 11
    assert cache.get("d") is None


def test_a_value_that_grows_after_it_came_upsets_no_count():
    cache = Cache(10, len)
    grown = [1, 2]
    cache.put("a", grown)
    grown += range(20)
    for key in "bcd":
        cache.put(key, [1, 2, 3])
    assert cache.get("a") is None
    cache.put("e", [1, 2, 3, 4])
    assert [cache.get(key) is not None for key in "bcde"] == [False, True, True, True]


def test_a_value_is_made_once_however_many_ask():
    cache, made, go = Cache(4), [], threading.Event()

    def make():
        go.wait(30)
        made.append(1)
        return "value"

    found = []
    threads = [threading.Thread(target=lambda: found.append(cache.get_or("key", make))) for _ in range(8)]
    for thread in threads:
        thread.start()
    go.set()
    for thread in threads:
        thread.join(30)
    assert (made, found) == ([1], ["value"] * 8)


def test_who_waits_for_one_that_fails_makes_it_anew():
    cache = Cache(4)
    with pytest.raises(ZeroDivisionError):
        cache.get_or("key", lambda: 1 // 0)
    assert cache.get_or("key", lambda: 1) == 1


def test_the_wait_for_another_can_be_given_up():
    cache, begun, go = Cache(4), threading.Event(), threading.Event()

    def make():
        begun.set()
        go.wait(30)
        return "value"

    maker = threading.Thread(target=lambda: cache.get_or("key", make))
    maker.start()
    begun.wait(30)
    work = Work()
    work.stop()
    with pytest.raises(Stopped):
        cache.get_or("key", make, work.go_on)
    go.set()
    maker.join(30)
    assert cache.get("key") == "value"


def test_a_visitor_has_one_computation_and_nobody_else_s():
    desk, begun, go = Desk(), threading.Event(), threading.Event()

    def long(work):
        work.at("Counting", 0.5)
        begun.set()
        go.wait(30)
        work.at("Counting", 0.9)
        return "first"

    first = desk.begin("ada", long)
    begun.wait(30)
    assert (first.work.words, first.work.share, first.done(0)) == ("Counting", 0.5, False)
    assert desk.task("ada", first.ticket) is first
    assert desk.task("bob", first.ticket) is None
    second = desk.begin("ada", lambda _: "second")
    go.set()
    with pytest.raises(Stopped):
        first.result()
    assert second.result() == "second"
    assert desk.task("ada", first.ticket) is None


def test_what_was_asked_for_earlier_does_not_replace_what_was_asked_for_later():
    desk = Desk()
    later = desk.begin("ada", lambda _: "later", at=20.0)
    earlier = desk.begin("ada", lambda _: "earlier", at=10.0)
    with pytest.raises(Stopped):
        earlier.result()
    assert later.result() == "later"
    assert desk.task("ada", later.ticket) is later
    assert desk.begin("bob", lambda _: "other", at=10.0).result() == "other"


def test_what_is_overtaken_stops():
    desk, begun, go = Desk(), threading.Event(), threading.Event()

    def long(work):
        begun.set()
        go.wait(30)
        work.at("on")

    task = desk.begin("ada", long, at=10.0)
    begun.wait(30)
    desk.overtake("ada", 5.0)
    assert desk.busy("ada")
    desk.overtake("ada", 11.0)
    go.set()
    with pytest.raises(Stopped):
        task.result()
    assert not desk.busy("ada")


def test_leaving_stops():
    desk, begun, go = Desk(), threading.Event(), threading.Event()

    def long(work):
        begun.set()
        go.wait(30)
        work.at("on")

    task = desk.begin("ada", long)
    begun.wait(30)
    desk.leave("ada")
    go.set()
    with pytest.raises(Stopped):
        task.result()


def test_the_wait_for_a_turn_can_be_stopped():
    lock, work = threading.Lock(), Work()
    with lock:
        work.stop()
        with pytest.raises(Stopped), work.turn(lock):
            pass
    other = Work()
    with other.turn(lock):
        assert lock.locked()
    assert not lock.locked()


def test_a_mistake_of_ours_is_told_in_words():
    with pytest.raises(UserError, match="the terminal that runs the app"):
        Desk().begin("ada", lambda _: {}["missing"]).result()


def test_the_progress_of_what_was_stopped_is_taken_away_last(tmp_path):
    """What `follow` said before the stop may reach the page after the stop's own answer."""
    microscope = Microscope(RunsRoot(tmp_path), tmp_path)
    wiring = Wiring(microscope, MagicMock())
    visitor = SimpleNamespace(session_hash="visitor")

    def long(work):
        work.at("Halfway", 0.5)
        while True:
            work.go_on()
            time.sleep(0.01)

    task = microscope.desk.begin("visitor", long)
    said = wiring.follow(task.ticket, visitor)
    assert next(said) is wiring.nothing
    assert "Halfway" in str(next(said)[wiring.page.progress])
    wiring.stop(visitor)
    assert list(said)[-1] == {wiring.page.progress: None}


def test_a_stopped_computation_leaves_the_progress_of_the_next(tmp_path):
    microscope, go = Microscope(RunsRoot(tmp_path), tmp_path), threading.Event()
    wiring = Wiring(microscope, MagicMock())
    first = microscope.desk.begin("visitor", lambda work: go.wait(30))
    said = wiring.follow(first.ticket, SimpleNamespace(session_hash="visitor"))
    next(said)
    microscope.desk.begin("visitor", lambda work: go.wait(30))
    assert {wiring.page.progress: None} not in list(said)
    go.set()
