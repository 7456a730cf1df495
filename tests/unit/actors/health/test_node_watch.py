"""Which nodes are gone or silent: by a clock that the test sets, and lines that read what it says."""

import logging

import pytest
from hypothesis import given
from hypothesis import strategies as st

from latentmas_ray.actors.health.node_line import LineReading, LineState
from latentmas_ray.actors.health.node_watch import LOOK_SECONDS, SILENT_SECONDS, NodeState
from tests.cases.node_lines import OPEN, Network

REFUSED, ENDED = LineReading(LineState.REFUSED), LineReading(LineState.ENDED)
UNREACHABLE, OPENING = LineReading(LineState.UNREACHABLE), LineReading(LineState.OPENING)
PROBE_SECONDS = 2.0


def quiet(seconds: float) -> LineReading:
    """An open line whose other end answered so long ago, though it was asked every `PROBE_SECONDS`."""
    return LineReading(LineState.OPEN, seconds, int(seconds / PROBE_SECONDS))


@given(st.lists(st.tuples(st.floats(0.0, 3600.0), st.floats(0.0, SILENT_SECONDS, exclude_max=True)), max_size=30))
def test_no_alarm_while_answers_come_in_time(looks: list[tuple[float, float]]) -> None:
    """However long the driver pauses between two looks, an hour too: what counts is what its kernel heard."""
    network = Network()
    watch = network.watch("far")
    for pause, silence in looks:
        network.now += pause
        network.readings["far"] = quiet(silence)
        assert watch.look() == []
        assert not watch.silent | watch.gone


@given(st.floats(0.0, 30.0), st.lists(st.floats(0.01, 5.0), min_size=1, max_size=400))
def test_an_alarm_within_the_bound_otherwise(healthy_seconds: float, pauses: list[float]) -> None:
    network = Network()
    watch = network.watch("far")
    watch.look()
    cut_at = network.now = healthy_seconds
    for pause in pauses:
        network.now += pause
        silence = network.now - cut_at
        network.readings["far"] = quiet(silence)
        changes = watch.look()
        assert (watch.silent == {"far"}) == (silence >= SILENT_SECONDS)
        assert len(changes) <= 1
    if network.now - cut_at < SILENT_SECONDS:
        return
    network.readings["far"] = OPEN
    (back,) = watch.look()
    assert (back.node, back.state) == ("far", NodeState.LIVE)
    assert not watch.silent


@given(st.lists(st.sampled_from([OPEN, ENDED, OPENING]), max_size=60), st.floats(0.1, 3600.0))
def test_a_raylet_that_hangs_up_is_called_again(readings: list[LineReading], pause: float) -> None:
    """It may end a connection that says nothing, and the driver may pause at any moment."""
    network = Network()
    watch = network.watch("far")
    for reading in [OPEN, *readings]:
        network.now += pause
        network.readings["far"] = reading
        assert watch.look() == []


def test_a_machine_that_was_suspended_has_not_asked() -> None:
    """All clocks have moved on when it wakes up, and no node has had a chance to answer."""
    network = Network()
    watch = network.watch("far")
    watch.look()
    network.now += 10_000.0
    network.readings["far"] = LineReading(LineState.OPEN, 10_000.0, num_unanswered=1)
    assert watch.look() == []


def test_a_node_whose_raylet_has_ended_is_gone_after_two_refusals() -> None:
    network = Network()
    watch = network.watch("far")
    watch.look()
    seen = []
    for reading in (ENDED, REFUSED, REFUSED):
        network.now += LOOK_SECONDS
        network.readings["far"] = reading
        seen += [(network.now, change.state) for change in watch.look()]
    assert seen == [(3 * LOOK_SECONDS, NodeState.GONE)]
    network.readings["far"] = OPEN  # another process may get its port
    assert watch.look() == []
    assert watch.gone == {"far"}


@pytest.mark.parametrize("reading", [UNREACHABLE, LineReading(LineState.OPENING, num_unanswered=4)])
def test_a_node_that_cannot_be_reached_again_is_silent(reading: LineReading) -> None:
    network = Network()
    watch = network.watch("far")
    watch.look()
    network.readings["far"] = ENDED
    watch.look()
    cut_at = network.now
    network.readings["far"] = reading
    while not (changes := watch.look()):
        network.now += LOOK_SECONDS
    assert [change.state for change in changes] == [NodeState.SILENT]
    assert network.now - cut_at == SILENT_SECONDS


@pytest.mark.parametrize("reading", [REFUSED, UNREACHABLE, OPENING])
def test_nothing_is_concluded_of_a_port_that_was_never_reached(reading: LineReading) -> None:
    """A firewall may be in the way."""
    network = Network(readings={"far": reading})
    watch = network.watch("far")
    for _ in range(60):
        network.now += LOOK_SECONDS
        assert watch.look() == []
    assert network.num_opened <= (2 if reading is REFUSED else 60)


def test_a_driver_that_is_cut_off_itself_declares_no_node_lost(caplog: pytest.LogCaptureFixture) -> None:
    network = Network(local=frozenset({"here"}))
    watch = network.watch("here", "far", "farther")
    watch.look()
    network.readings |= {"far": quiet(60.0), "farther": quiet(60.0)}
    with caplog.at_level(logging.WARNING):
        assert watch.look() == []
        assert watch.look() == []
    assert [record.getMessage().partition(";")[0] for record in caplog.records] == ["no other node answers"]
    network.readings["farther"] = OPEN
    assert [change.node for change in watch.look()] == ["far"]


@pytest.mark.parametrize("phase", [0.5, 1.9])
def test_nodes_that_a_cut_off_driver_asked_last_at_different_moments_are_not_lost(phase: float) -> None:
    network = Network(local=frozenset({"here"}))
    watch = network.watch("here", "far", "farther")
    watch.look()
    for second in range(60):
        network.now += LOOK_SECONDS
        network.readings |= {"far": quiet(second + phase), "farther": quiet(float(second))}
        assert watch.look() == []


def test_a_local_raylet_that_hangs_up_does_not_speak_for_the_others() -> None:
    network = Network(local=frozenset({"here"}))
    watch = network.watch("here", "far", "farther")
    watch.look()
    network.readings |= {"far": quiet(60.0), "farther": quiet(60.0)}
    for reading in (OPEN, ENDED, OPENING, OPEN):
        network.readings["here"] = reading
        network.now += LOOK_SECONDS
        assert watch.look() == []


def test_a_node_that_is_silent_when_it_is_looked_at_for_the_second_time_is_reported() -> None:
    """The caller of a run may fetch no answers in between."""
    network = Network(readings={"far": OPENING})
    watch = network.watch("far")
    assert watch.look() == []
    network.now += 60.0
    network.readings["far"] = quiet(50.0)
    assert [change.state for change in watch.look()] == [NodeState.SILENT]
    assert watch.silent == {"far"}


def test_a_node_that_is_silent_when_it_is_looked_at_for_the_first_time_is_reported() -> None:
    """It was reached when watching began. Models are loaded before the first look."""
    network = Network()
    watch = network.watch("far")
    assert network.num_opened == 1
    network.now += 60.0
    network.readings["far"] = quiet(50.0)
    assert [change.state for change in watch.look()] == [NodeState.SILENT]


def test_a_driver_that_is_cut_off_before_it_looks_for_the_second_time_declares_no_node_lost() -> None:
    network = Network(readings={"far": OPENING, "farther": OPENING})
    watch = network.watch("far", "farther")
    watch.look()
    network.readings |= {"far": quiet(50.0), "farther": quiet(50.0)}
    assert watch.look() == []


def test_the_only_other_node_may_be_silent() -> None:
    network = Network(local=frozenset({"here"}), readings={})
    watch = network.watch("here", "far")
    watch.look()
    network.readings["far"] = quiet(60.0)
    (change,) = watch.look()
    assert change.why == "it has not answered for 1 min 00 s"


def test_a_host_is_lost_with_the_last_of_its_nodes() -> None:
    """Two raylets may share a machine."""
    network = Network()
    watch = network.watch("far")
    watch.watch({"far": ("far", 1), "neighbour": ("far", 2)})
    watch.look()
    network.readings["far"] = REFUSED
    watch.look()
    watch.look()
    assert watch.gone == {"far", "neighbour"}
    assert watch.lost_host("far") == "far"
    watch.watch({"far": ("far", 1), "neighbour": ("far", 2), "new": ("far", 3)})
    assert watch.lost_host("far") is None


def test_a_node_that_is_watched_no_more_is_forgotten() -> None:
    network = Network()
    watch = network.watch("far")
    watch.look()
    network.readings["far"] = REFUSED
    watch.look()
    watch.look()
    watch.watch({})
    assert not watch.gone
    watch.close()
