"""The driver's side: names the run's actors, renews their leases, and finds those of a former driver."""

import hmac
import logging
import secrets
import threading
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ray
from ray.util import list_named_actors
from ray.util.placement_group import remove_placement_group

from latentmas_ray.actors.agent_actor import Loaded
from latentmas_ray.actors.detached.lease import Rejoined, prove
from latentmas_ray.actors.detached.record import DetachedRecord
from latentmas_ray.actors.errors import get_outcome, ignoring_dead
from latentmas_ray.authentication import RunKey

REJOIN_SECONDS = 30.0  # for actors to finish what the former driver had them do
_RENEWALS = 4  # in the time of a lease
_MAX_RENEWAL_SECONDS = 15.0
_NUMBER_BITS = 48
_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class FoundActors:
    """The actors of a former driver, by the name of their replica, and the placement group that holds them."""

    actors: dict[str, Any]
    loaded: dict[str, Loaded]  # in the order in which they were asked for
    placement_group: Any

    def of(self, replica: str) -> dict[str, Any]:
        """Return the arguments of `Replica`: the actor of a replica, its node, and the name."""
        return {
            "actors": [self.actors[replica]],
            "nodes": [self.loaded[replica].node_id],
            "name": replica,
            "first_number": secrets.randbits(_NUMBER_BITS),  # turns of the former driver may still end
        }


class DetachedActors:
    """The named actors of one run, which outlive its driver by `seconds`. Each replica has one actor."""

    def __init__(self, folder: Path, seconds: float, facts: str, *, resume: bool) -> None:
        """`folder` is the run's, `facts` what its actors are made from. With `resume` the actors of a former driver may
        be used, if their facts are the same. Raises RunError if the record cannot be written."""
        self.seconds = seconds
        self._folder = folder
        former = DetachedRecord.read(folder) if resume else None
        self._may_rejoin = former is not None and former.facts == facts
        self._record = former if former is not None and self._may_rejoin else DetachedRecord.new(facts)
        if not self._may_rejoin:
            self._record.write(folder)
        self._stopped = threading.Event()

    @property
    def key(self) -> RunKey:
        """The run's key, the same for all of its drivers."""
        return self._record.run_key

    def options(self, replica: str) -> dict[str, Any]:
        """Return the options of the actor of this replica. Each has a name of its own: Ray frees one late."""
        name = f"{replica}/{secrets.token_hex(4)}"
        return {"name": name, "namespace": self._record.namespace, "lifetime": "detached"}

    def start_renewing(self, get_actors: Callable[[], Iterable[Any]]) -> None:
        """Renew the leases of these actors from now on, however long this process computes or waits."""
        threading.Thread(target=self._renew, args=(get_actors,), name="leases", daemon=True).start()

    def find(self, replicas: Sequence[str]) -> FoundActors | None:
        """Return the actors of the former driver if each of these replicas has one, ready for new turns; None, and end
        those that are left, if not. Only the first call may find any."""
        if not self._may_rejoin:
            return None
        self._may_rejoin = False
        named = [one for one in list_named_actors(all_namespaces=True) if one["namespace"] == self._record.namespace]
        asked: dict[Any, tuple[str, Any]] = {}
        nonce = secrets.token_bytes(32)
        for one in named:
            with ignoring_dead("an actor of the former driver is gone"):
                actor = ray.get_actor(one["name"], one["namespace"])
                call = actor.rejoin.options(concurrency_group="side").remote(nonce)
                asked[call] = (one["name"].rpartition("/")[0], actor)
        answered = ray.wait(list(asked), num_returns=len(asked), timeout=REJOIN_SECONDS)[0] if asked else []
        found, loaded, group = dict[str, Any](), dict[str, Loaded](), None
        for call in answered:
            replica, actor = asked[call]
            outcome = get_outcome(call)
            if isinstance(outcome, Rejoined) and hmac.compare_digest(outcome.proof, prove(self.key, nonce)):
                found[replica], loaded[replica], group = actor, outcome.loaded, outcome.placement_group
        if set(found) == set(replicas) and len(asked) == len(replicas) and group is not None:
            _log.warning("the run goes on with the %d actors of its former driver; no model is loaded", len(found))
            return FoundActors(found, {replica: loaded[replica] for replica in replicas}, group)
        _log.warning("the actors start anew: of the former driver's, %d of %d answered", len(found), len(replicas))
        for _, actor in asked.values():
            with ignoring_dead("actor was not ended"):
                ray.kill(actor)
        if group is not None:
            with ignoring_dead("placement group was not removed"):
                remove_placement_group(group)
        return None

    def close(self) -> None:
        """Renew no longer; the actors are ended by their manager. Safe to call twice."""
        self._stopped.set()
        DetachedRecord.remove(self._folder)

    def _renew(self, get_actors: Callable[[], Iterable[Any]]) -> None:
        while not self._stopped.wait(min(_MAX_RENEWAL_SECONDS, self.seconds / _RENEWALS)):
            for actor in list(get_actors()):
                with ignoring_dead("a lease was not renewed"):
                    actor.renew_lease.options(concurrency_group="lease").remote()
