"""Admission: bounds, turns by key, and what is freed."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from latentmas_ray.serve.admission.queue import Admission, Ticket
from latentmas_ray.serve.api.errors import ApiError


def run(test: Callable[[], Awaitable[None]]) -> None:
    asyncio.run(test())  # type: ignore[arg-type]


def make(**limits: Any) -> Admission:
    return Admission(**{"max_running": 2, "max_waiting": 4, **limits})


def begun(*tickets: Ticket) -> list[bool]:
    return [ticket.begun is not None for ticket in tickets]


def refused(admission: Admission, key: str = "a", **size: int) -> ApiError:
    with pytest.raises(ApiError) as caught:
        admission.admit(key, **size)
    return caught.value


def test_what_fits_begins_at_once_and_the_rest_in_turn() -> None:
    async def test() -> None:
        admission = make()
        first, second, third = (admission.admit("a") for _ in range(3))
        assert begun(first, second, third) == [True, True, False]
        assert (admission.num_running, admission.num_waiting) == (2, 1)
        first.close()
        assert begun(third) == [True]
        async with third:
            assert admission.num_running == 2
        second.close()
        third.close()
        assert (admission.num_running, admission.num_waiting) == (0, 0)

    run(test)


def test_keys_take_turns() -> None:
    async def test() -> None:
        admission = make(max_running=1, max_waiting=100)
        running = admission.admit("a")
        tickets = {f"a{index}": admission.admit("a") for index in range(5)}
        tickets |= {"b0": admission.admit("b"), "c0": admission.admit("c"), "b1": admission.admit("b")}
        order = []
        while tickets:
            running.close()
            (name,) = [one for one, ticket in tickets.items() if ticket.begun is not None]
            order.append(name)
            running = tickets.pop(name)
        assert order == ["a0", "b0", "c0", "a1", "b1", "a2", "a3", "a4"]

    run(test)


def order_of(tickets: dict[str, Ticket], *running: Ticket) -> list[str]:
    """The order in which these begin, if those that run end one after the other."""
    left, order, ending = dict(tickets), [], [*running]
    while left:
        ending.pop(0).close()
        for name in [one for one, ticket in left.items() if ticket.begun is not None]:
            order.append(name)
            ending.append(left.pop(name))
    return order


def test_keys_take_turns_by_questions() -> None:
    """A key whose requests have many does not get many times what another gets."""

    async def test() -> None:
        admission = make(max_running=4, max_waiting=100)
        running = admission.admit("c", num_questions=4)
        tickets = {f"a{index}": admission.admit("a", num_questions=4) for index in range(2)}
        tickets |= {f"b{index}": admission.admit("b") for index in range(6)}
        assert order_of(tickets, running) == ["a0", "b0", "b1", "b2", "b3", "a1", "b4", "b5"]

    run(test)


def test_a_key_that_comes_later_has_no_turns_to_make_up_for() -> None:
    async def test() -> None:
        admission = make(max_running=1, max_waiting=100)
        running = admission.admit("a")
        tickets = {f"a{index}": admission.admit("a") for index in range(6)}
        for name in ("a0", "a1", "a2"):
            running.close()
            running = tickets.pop(name)
        tickets |= {f"d{index}": admission.admit("d") for index in range(3)}
        assert order_of(tickets, running) == ["d0", "a3", "d1", "a4", "d2", "a5"]

    run(test)


def test_a_key_that_asks_again_later_has_had_its_turns() -> None:
    async def test() -> None:
        admission = make(max_running=4, max_waiting=100)
        running = admission.admit("c", num_questions=4)
        large = admission.admit("a", num_questions=4)
        tickets = {f"b{index}": admission.admit("b") for index in range(8)}
        running.close()
        assert begun(large) == [True]
        tickets |= {"a": admission.admit("a", num_questions=4)}
        assert order_of(tickets, large) == ["b0", "b1", "b2", "b3", "b4", "a", "b5", "b6", "b7"]

    run(test)


def test_samples_count_as_questions_of_which_any_number_can_be_asked() -> None:
    async def test() -> None:
        admission = make(max_running=4, max_waiting=5)
        small, large = admission.admit("a", weight=3), admission.admit("b", weight=16)
        assert (begun(small, large), admission.num_running, admission.num_waiting) == ([True, False], 3, 4)
        assert refused(admission, "b", weight=2).code == "queue_full"
        small.close()
        assert (begun(large), admission.num_running) == ([True], 4)

    run(test)


def test_a_full_queue_is_429_with_the_seconds_to_wait() -> None:
    async def test() -> None:
        admission = make()
        for _ in range(6):
            admission.admit("a")
        error = refused(admission)
        assert (error.status, error.code, error.type) == (429, "queue_full", "rate_limit_error")
        assert int(error.headers["Retry-After"]) >= 1

    run(test)


def test_no_request_loses_its_place_for_one_that_is_refused() -> None:
    async def test() -> None:
        admission = make(max_running=3, max_waiting=6)
        admission.admit("a", num_questions=3)
        tickets = [admission.admit(key) for key in "aaaabb"]
        assert refused(admission, "c", num_questions=3).status == 429
        assert not any(ticket.admitted.done() for ticket in tickets)
        admission.admit("c", num_questions=2)  # in place of two of a
        assert [ticket.admitted.done() for ticket in tickets] == [False, False, True, True, False, False]

    run(test)


def test_no_key_can_fill_the_queue_alone() -> None:
    """The newest request of the key with most makes room for another key's."""

    async def test() -> None:
        admission = make()
        tickets = [admission.admit("a") for _ in range(6)]
        other = admission.admit("b")
        with pytest.raises(ApiError) as caught:
            async with tickets[-1]:
                pass
        assert caught.value.status == 429
        tickets[0].close()
        tickets[1].close()
        assert begun(tickets[2], other) == [True, True]
        more = admission.admit("b")  # both have as many as may be, now
        admission.admit("b")
        assert refused(admission, "b").status == 429
        assert not more.admitted.done()

    run(test)


def test_memory_in_flight_is_bounded_and_large_requests_come_to_their_turn() -> None:
    async def test() -> None:
        admission = make(max_running=10, max_memory_bytes=100)
        first = admission.admit("a", num_bytes=60)
        large = admission.admit("a", num_bytes=80)
        small = admission.admit("b", num_bytes=10)  # would fit, and would keep the large one waiting for ever
        assert begun(first, large, small) == [True, False, False]
        assert admission.running_bytes == 60
        first.close()
        assert begun(large, small) == [True, True]
        error = refused(admission, num_bytes=101)
        assert (error.status, error.code) == (400, "too_much_memory")
        assert "101 B" in error.message
        assert "100 B" in error.message

    run(test)


def test_a_request_with_more_questions_than_are_answered_together_is_400() -> None:
    async def test() -> None:
        assert refused(make(), num_questions=3).status == 400

    run(test)


def test_without_a_queue_a_request_is_taken_while_it_fits() -> None:
    async def test() -> None:
        admission = make(max_running=4, max_waiting=0)
        first = admission.admit("a", num_questions=3)
        assert begun(first) == [True]
        assert refused(admission, num_questions=2).status == 429
        assert begun(admission.admit("b")) == [True]

    run(test)


def test_a_request_that_can_never_wait_costs_no_other_its_place() -> None:
    async def test() -> None:
        admission = make(max_running=4, max_waiting=2)
        admission.admit("a", num_questions=4)
        waiting = admission.admit("a"), admission.admit("a")
        assert refused(admission, "b", num_questions=3).status == 429
        assert admission.num_waiting == 2
        assert not any(ticket.admitted.done() for ticket in waiting)

    run(test)


def test_a_client_that_leaves_gives_its_place_up() -> None:
    async def test() -> None:
        admission = make(max_running=1)
        first = admission.admit("a")

        async def ask() -> None:
            async with admission.admit("a"):
                raise AssertionError("it was cancelled before its turn")

        task = asyncio.create_task(ask())
        await asyncio.sleep(0)
        assert admission.num_waiting == 1
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert (admission.num_running, admission.num_waiting) == (1, 0)
        first.close()
        assert admission.num_running == 0

    run(test)


def test_cancelling_a_task_whose_turn_has_just_come_frees_it() -> None:
    async def test() -> None:
        admission = make(max_running=1)
        first = admission.admit("a")
        second = admission.admit("a")

        async def ask() -> None:
            async with second:
                await asyncio.sleep(10)

        task = asyncio.create_task(ask())
        await asyncio.sleep(0)
        first.close()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert admission.num_running == 0

    run(test)


def test_shutting_down_refuses_those_that_wait() -> None:
    async def test() -> None:
        admission = make(max_running=1)
        first, second = admission.admit("a"), admission.admit("a")
        admission.close()
        with pytest.raises(ApiError) as caught:
            async with second:
                pass
        assert caught.value.status == 503
        assert refused(admission).status == 503
        async with first:
            assert admission.num_running == 1
        assert admission.num_running == 0

    run(test)
