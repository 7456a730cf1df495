"""The driver's side: names the run's actors, renews their leases, and finds those of a former driver."""

import hmac
import logging
import secrets
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ray
from ray.util import list_named_actors

from latentmas_ray.actors.agent_actor import Loaded
from latentmas_ray.actors.detached.keeper import KEEPER, end_keeper, start_keeper
from latentmas_ray.actors.detached.lease import Rejoined, prove
from latentmas_ray.actors.detached.places import remove_groups
from latentmas_ray.actors.detached.record import DetachedRecord
from latentmas_ray.actors.detached.rejoin import rejoin_actors, renew_leases
from latentmas_ray.actors.errors import cluster_errors, ignoring_dead
from latentmas_ray.authentication import RunKey
from latentmas_ray.runs.folder import FolderLock, make_folder

_END_SECONDS = 10.0  # for actors to give their places back
_RENEWALS = 4  # in the time of a lease
_MAX_RENEWAL_SECONDS = 15.0
_STOP_SECONDS = 5.0  # for renewals that are being sent; sending never waits
_NUMBER_BITS = 48
_LOCK_NAME = ".actors.lock"
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
        be used, if their facts are the same.

        Raises JournalError if a driver that lives has such actors for this folder, RunError if the record cannot be
        written.
        """
        self.seconds = seconds
        self._folder = folder
        make_folder(folder)
        # The journal's lock is not enough: of several runs, such as one per seed, each has its own folder in this one.
        self._lock = FolderLock(folder, _LOCK_NAME)
        former = self._former = DetachedRecord.read(folder) if resume else None  # None once its actors were looked for
        if former is not None and former.facts == facts:
            self._record = former
        else:
            self._record = DetachedRecord.new(facts)
            self._record.write(folder)
        self._keeper: Any = None  # while places are asked for
        self._stopped = threading.Event()
        self._renewing: threading.Thread | None = None

    @property
    def key(self) -> RunKey:
        """The run's key, the same for all of its drivers."""
        return self._record.run_key

    @property
    def namespace(self) -> str:
        """That of the actors; the run's placement groups have it in their names."""
        return self._record.namespace

    def options(self, replica: str) -> dict[str, Any]:
        """Return the options of the actor of this replica. Each has a name of its own: Ray frees one late."""
        name = f"{replica}/{secrets.token_hex(4)}"
        return {"name": name, "namespace": self.namespace, "lifetime": "detached"}

    def start_renewing(self, get_actors: Callable[[], Iterable[Any]]) -> None:
        """Renew the leases of these actors from now on, however long this process computes or waits."""
        self._renewing = threading.Thread(target=self._renew, args=(get_actors,), name="leases", daemon=True)
        self._renewing.start()

    @contextmanager
    def keep_places(self) -> Iterator[None]:
        """While the body asks for places and starts actors there: they are given back if this process is killed."""
        self._keeper = start_keeper(self.namespace, self.seconds)
        try:
            yield
        finally:
            keeper, self._keeper = self._keeper, None
            end_keeper(keeper)

    def find(self, replicas: Sequence[str], bundles: Sequence[Mapping[str, float]] | None = None) -> FoundActors | None:
        """Return the actors of the former driver if each of these replicas has one, ready for new turns; None, and end
        those that are left, if not. Only the first call may find any.

        `bundles` is what each bundle of the placement group must ask for: a replica that is replaced would find no
        place in a smaller one.
        """
        former, self._former = self._former, None
        if former is None:
            return None
        actors = _without_keepers(_actors_in(former.namespace))
        if former is not self._record:
            _log.warning("the actors start again: those of the former driver were started with other settings")
            _end(former.namespace, actors.values())
            return None
        nonce = secrets.token_bytes(32)
        found, loaded, group = dict[str, Any](), dict[str, Loaded](), None
        for name, outcome in rejoin_actors(actors, nonce, self._renewal_seconds).items():
            if isinstance(outcome, Rejoined) and hmac.compare_digest(outcome.proof, prove(self.key, nonce)):
                replica = name.rpartition("/")[0]
                found[replica], loaded[replica], group = actors[name], outcome.loaded, outcome.placement_group
        is_whole = set(found) == set(replicas) and len(actors) == len(replicas)
        if is_whole and group is not None and bundles is not None and not _are_alike(group.bundle_specs, bundles):
            _log.warning(
                "the actors start again: those of the former driver have %s, and now each gets %s",
                describe_bundle(group.bundle_specs[0]),
                describe_bundle(bundles[0]),
            )
            _end(former.namespace, actors.values())
            return None
        if is_whole and group is not None:
            _log.warning("the run continues with the %d actors of its former driver; no model is loaded", len(found))
            return FoundActors(found, {replica: loaded[replica] for replica in replicas}, group)
        _log.warning("the actors start again: of the former driver's, %d of %d answered", len(found), len(replicas))
        _end(former.namespace, actors.values())
        return None

    def close(self) -> None:
        """Renew no longer; the actors are ended by their manager. Safe to call twice."""
        self._stopped.set()
        if self._renewing is not None:  # it must not use Ray once this process leaves the cluster
            self._renewing.join(_STOP_SECONDS)
        DetachedRecord.remove(self._folder)
        self._lock.close()

    @property
    def _renewal_seconds(self) -> float:
        return min(_MAX_RENEWAL_SECONDS, self.seconds / _RENEWALS)

    def _renew(self, get_actors: Callable[[], Iterable[Any]]) -> None:
        while not self._stopped.wait(self._renewal_seconds):
            keeper = self._keeper
            renew_leases([*get_actors(), *([] if keeper is None else [keeper])])


def _actors_in(namespace: str) -> dict[str, Any]:
    """Return the actors of a namespace that exist, by name. Raises ClusterError."""
    actors = {}
    with cluster_errors("the actors of the former driver cannot be listed"):
        listed = list_named_actors(all_namespaces=True)
    for one in listed:
        if one["namespace"] == namespace:
            with ignoring_dead("an actor of the former driver is gone"):
                actors[one["name"]] = ray.get_actor(one["name"], one["namespace"])
    return actors


def _without_keepers(actors: Mapping[str, Any]) -> dict[str, Any]:
    """Return the actors of replicas, and end those that keep places: from now on this driver gives these back."""
    keepers = {name: one for name, one in actors.items() if name.startswith(f"{KEEPER}/")}
    for keeper in keepers.values():
        end_keeper(keeper)
    return {name: one for name, one in actors.items() if name not in keepers}


def _are_alike(bundles: Sequence[Mapping[str, float]], others: Sequence[Mapping[str, float]]) -> bool:
    """Whether bundles ask for the same."""
    rounded = [[{kind: round(amount, 4) for kind, amount in one.items()} for one in each] for each in (bundles, others)]
    return rounded[0] == rounded[1]


def describe_bundle(bundle: Mapping[str, float]) -> str:
    """Return what a bundle asks for, as in `0.5 GPU and 1 CPU`."""
    return " and ".join(f"{amount:g} {kind}" for kind, amount in sorted(bundle.items(), reverse=True)) or "nothing"


def _end(namespace: str, actors: Iterable[Any]) -> None:
    """Let actors give the places of their run back, which ends them all; kill those that do not answer, and remove what
    they have left."""
    asked = {actor.end.options(concurrency_group="lease").remote(): actor for actor in actors}
    if asked:
        ray.wait(list(asked), num_returns=len(asked), timeout=_END_SECONDS)
    for actor in asked.values():
        with ignoring_dead("actor was not ended"):
            ray.kill(actor)
    remove_groups(namespace)


def keeping_places(detached: DetachedActors | None) -> AbstractContextManager[None]:
    """Return `DetachedActors.keep_places`; of a run whose places end with its process, nothing."""
    return nullcontext() if detached is None else detached.keep_places()
