"""Decides which nodes are gone or silent, from a line to each; Ray's own verdict takes half a minute or more.

Each node has a line to the port of its raylet, Ray's process that starts all others there and ends with them:
reaching it is what Ray needs anyway, so no further port must be open. A port that was never reached says nothing, and
the verdict on such a node is left to Ray.
"""

import logging
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from enum import Enum

from latentmas_ray.actors.health.node_line import LineReading, LineState, NodeLine, TcpLine, can_watch
from latentmas_ray.units import format_seconds

LOOK_SECONDS = 1.0  # between two looks at the lines
# A node that is silent for longer is given up where its work can be done elsewhere. It outlasts lost packets, a link
# that is down for some seconds, and a full queue in front of it.
SILENT_SECONDS = 12.0
_MIN_UNANSWERED = 3  # questions of our kernel. A machine that was suspended itself has not asked
_MIN_REFUSED = 2  # attempts, in as many looks
NodeAddress = tuple[str, int]  # of its raylet: IP address and port
_log = logging.getLogger(__name__)


class NodeState(Enum):
    """What is known of a node."""

    UNKNOWN = "unknown"  # it was never reached
    LIVE = "live"
    SILENT = "silent"  # nothing of it answers; it may come back
    GONE = "gone"  # its machine answers, and its raylet has ended


@dataclass(frozen=True)
class NodeChange:
    """A node that has become SILENT or GONE, or LIVE again; `why` is a part of a sentence about it."""

    node: str
    host: str
    state: NodeState
    why: str


@dataclass(eq=False)
class _Watched:
    """A node and the line to it."""

    address: NodeAddress
    line: NodeLine | None = None  # None: to be opened at the next look
    state: NodeState = NodeState.UNKNOWN
    lost_at: float | None = None  # when its line ended; None while that is open
    num_unanswered: int = 0  # by attempts to open it again that are over
    num_refused: int = 0
    is_local: bool = False  # its line led to this machine when that was open
    quiet_seconds: float = 0.0  # since something was heard of its machine

    @property
    def is_watched(self) -> bool:
        """Whether more can be learned: a raylet does not come back, and what refuses us from the start is no raylet."""
        return self.state is not NodeState.GONE and self.num_refused < _MIN_REFUSED


@dataclass
class NodeWatch:
    """Watches nodes; it makes no threads and never waits. `look` has to be called every `LOOK_SECONDS`.

    A pause between two looks, however long, raises no alarm: lines are read before anything is concluded, and a node
    is silent only if our kernel has asked it several times. If two or more nodes are watched and none was heard of
    lately, this machine may be the one that is cut off: no node is reported as silent. They are asked at different
    moments, so they do not become silent at the same look.
    """

    open_line: Callable[[str, int], NodeLine] = TcpLine
    clock: Callable[[], float] = time.monotonic
    silent_seconds: float = SILENT_SECONDS
    _nodes: dict[str, _Watched] = field(default_factory=dict)
    _is_alone: bool = False  # that was logged

    def watch(self, addresses: Mapping[str, NodeAddress]) -> None:
        """Watch these nodes from now on, and no others. A node that is gone stays gone.

        A line to a new one is opened at once: otherwise one that falls silent before the first look was never reached.
        """
        for node in [node for node in self._nodes if node not in addresses]:
            _close(self._nodes.pop(node))
        for node, address in addresses.items() if can_watch() else ():
            if node not in self._nodes:
                self._nodes[node] = _Watched(address, self._opened(address))

    @property
    def gone(self) -> frozenset[str]:
        """The nodes that have ended, though Ray may still list them."""
        return frozenset(node for node, one in self._nodes.items() if one.state is NodeState.GONE)

    @property
    def silent(self) -> frozenset[str]:
        """The nodes that were reported as silent and have not answered since."""
        return frozenset(node for node, one in self._nodes.items() if one.state is NodeState.SILENT)

    def lost_host(self, node: str) -> str | None:
        """Return the IP address of a node that is lost; None if another node, which is not lost, has the same."""
        host = self._nodes[node].address[0]
        others = [one for one in self._nodes.values() if one.address[0] == host]
        return host if all(one.state in (NodeState.GONE, NodeState.SILENT) for one in others) else None

    def look(self) -> list[NodeChange]:
        """Read all lines and return the nodes whose state has changed; never waits."""
        seen = {node: self._read(one) for node, one in self._nodes.items() if one.is_watched}
        remote = [node for node in seen if not self._nodes[node].is_local]
        reached = [self._nodes[node] for node in remote if seen[node][0] is not NodeState.UNKNOWN]
        is_anyone_silent = any(state is NodeState.SILENT for state, _ in seen.values())
        is_anyone_heard = any(one.quiet_seconds < self.silent_seconds / 2 for one in reached)
        is_alone = len(reached) > 1 and is_anyone_silent and not is_anyone_heard
        if is_alone and not self._is_alone:
            _log.warning("no other node answers; this one may be cut off, so Ray's verdict on them is waited for")
        self._is_alone = is_alone
        changes = []
        for node, (state, why) in seen.items():
            one = self._nodes[node]
            if state is one.state or (is_alone and state is NodeState.SILENT):
                continue
            is_news = one.state is not NodeState.UNKNOWN or state is not NodeState.LIVE
            one.state = state
            if is_news:
                changes.append(NodeChange(node, one.address[0], state, why))
        return changes

    def close(self) -> None:
        """Close all lines. Safe to call twice."""
        self.watch({})

    def _read(self, one: _Watched) -> tuple[NodeState, str]:
        """Return the state of a node by its line; open a line that is missing."""
        now = self.clock()
        one.line = one.line or self._opened(one.address)
        if one.line is None:
            return one.state, ""
        reading = one.line.read()
        if reading.state is LineState.OPEN:
            one.lost_at, one.num_unanswered, one.num_refused = None, 0, 0
            one.is_local, one.quiet_seconds = one.line.is_local, reading.silent_seconds
            is_silent = reading.silent_seconds >= self.silent_seconds and reading.num_unanswered >= _MIN_UNANSWERED
            return (
                (NodeState.SILENT, _silence(reading.silent_seconds))
                if is_silent
                else (NodeState.LIVE, "it answers again")
            )
        return self._read_lost(one, reading, now)

    def _opened(self, address: NodeAddress) -> NodeLine | None:
        """Return a line to a node; None, of which nothing follows, if the system has none."""
        try:
            return self.open_line(*address)
        except OSError as error:  # no address, or no descriptor is left
            _log.debug("node at %s is not watched: %s", address, error)
            return None

    def _read_lost(self, one: _Watched, reading: LineReading, now: float) -> tuple[NodeState, str]:
        """Return the state of a node to which no line is open."""
        if one.lost_at is None:
            one.lost_at = now
        one.quiet_seconds = 0.0 if reading.state is LineState.REFUSED else now - one.lost_at
        if reading.state is not LineState.OPENING:
            _close(one)
            one.num_unanswered += reading.state is LineState.UNREACHABLE
        one.num_refused = one.num_refused + 1 if reading.state is LineState.REFUSED else 0
        if one.state is NodeState.UNKNOWN:
            return one.state, ""
        if one.num_refused >= _MIN_REFUSED:
            return NodeState.GONE, "Ray ended there"
        seconds = now - one.lost_at
        if seconds >= self.silent_seconds and one.num_unanswered + reading.num_unanswered >= _MIN_UNANSWERED:
            return NodeState.SILENT, _silence(seconds)
        return one.state, ""


def _silence(seconds: float) -> str:
    return f"it has not answered for {format_seconds(seconds)}"


def _close(one: _Watched) -> None:
    line, one.line = one.line, None
    if line is not None:
        line.close()
