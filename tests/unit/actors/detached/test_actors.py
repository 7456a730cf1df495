"""Which actors of a former driver are used: without Ray."""

import logging
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import ray

from latentmas_ray.actors.detached import actors as module
from latentmas_ray.actors.detached import rejoin
from latentmas_ray.actors.detached.actors import DetachedActors
from latentmas_ray.actors.detached.lease import Rejoined, prove
from latentmas_ray.actors.detached.record import RECORD_NAME
from latentmas_ray.authentication import RunKey
from latentmas_ray.engine.timing.progress import TurnProgress
from latentmas_ray.errors import ClusterError, JournalError

WANTED = ["planner 0", "judger 0"]
SHARE = {"GPU": 0.5, "CPU": 1.0}
GROUP = SimpleNamespace(bundle_specs=[SHARE, SHARE])


@dataclass
class FakeRay:
    """Named actors: what each answers. A key in place of an answer is that of its proof."""

    answers: dict[str, Any] = field(default_factory=dict)
    namespace: str = ""
    killed: list[str] = field(default_factory=list)
    ended: list[str] = field(default_factory=list)  # with what they had, before they were killed
    renewed: list[str] = field(default_factory=list)
    progress: list[Any] = field(default_factory=list)  # what is answered to each look, the last one for ever
    removed: list[str] = field(default_factory=list)  # namespaces whose placement groups were removed

    def list_named_actors(self, *, all_namespaces: bool) -> list[dict[str, str]]:
        foreign = {"name": "planner 0/1", "namespace": "another"}
        return [foreign, *({"name": name, "namespace": self.namespace} for name in self.answers)]

    def answer(self, name: str, nonce: bytes, method: str) -> Any:
        if method == "get_progress":
            return self.progress.pop(0) if len(self.progress) > 1 else self.progress[0]
        key = self.answers[name]
        return Rejoined(prove(key, nonce), f"loaded by {name}", GROUP) if isinstance(key, RunKey) else key


@dataclass(frozen=True)
class FakeActor:
    """An actor handle, its method and its call."""

    fake: FakeRay = field(compare=False)
    name: str
    nonce: bytes = b""
    method: str = ""

    def __getattr__(self, method: str) -> "FakeActor":
        if method not in ("rejoin", "renew_lease", "end", "get_progress"):
            raise AttributeError(method)
        return FakeActor(self.fake, self.name, method=method)

    def options(self, **_: Any) -> "FakeActor":
        return self

    def remote(self, nonce: bytes = b"") -> "FakeActor":
        {"renew_lease": self.fake.renewed, "end": self.fake.ended}.get(self.method, []).append(self.name)
        return FakeActor(self.fake, self.name, nonce, self.method)


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch) -> FakeRay:
    fake = FakeRay()
    monkeypatch.setattr(module, "list_named_actors", fake.list_named_actors)
    monkeypatch.setattr(module, "remove_groups", fake.removed.append)
    monkeypatch.setattr(rejoin, "get_outcome", lambda call: fake.answer(call.name, call.nonce, call.method))
    monkeypatch.setattr(ray, "get_actor", lambda name, _namespace: FakeActor(fake, name))
    monkeypatch.setattr(ray, "kill", lambda actor: fake.killed.append(actor.name))
    silent = lambda call: (  # noqa: E731
        not fake.progress if call.method == "get_progress" else fake.answers[call.name] is None
    )
    parted = lambda calls: ([one for one in calls if not silent(one)], [one for one in calls if silent(one)])  # noqa: E731
    monkeypatch.setattr(ray, "wait", lambda calls, **_: parted(calls))
    monkeypatch.setattr(rejoin, "REJOIN_SECONDS", 0.05)
    monkeypatch.setattr(module, "_END_SECONDS", 0.0)
    return fake


def resumed(fake: FakeRay, folder: Path, facts: str = "facts") -> tuple[DetachedActors, RunKey]:
    """The next driver, and the run's key."""
    former = DetachedActors(folder, 60.0, "facts", resume=False)
    fake.namespace = former.options("planner 0")["namespace"]
    former._lock.close()  # it is killed
    return DetachedActors(folder, 60.0, facts, resume=True), former.key


def test_all_actors_of_the_former_driver_are_used(fake: FakeRay, tmp_path: Path) -> None:
    detached, key = resumed(fake, tmp_path)
    assert detached.key == key
    fake.answers = {"judger 0/a": key, "planner 0/b": key}
    found = detached.find(WANTED)
    assert found is not None
    assert [found.actors[name].name for name in WANTED] == ["planner 0/b", "judger 0/a"]
    assert list(found.loaded.values()) == ["loaded by planner 0/b", "loaded by judger 0/a"]
    assert found.placement_group == GROUP
    assert not fake.killed
    assert detached.find(WANTED) is None  # a later start of this driver makes its own
    detached.close()
    assert not (tmp_path / RECORD_NAME).exists()


def test_a_cluster_that_does_not_list_its_actors_is_a_cluster_error(
    fake: FakeRay, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*, all_namespaces: bool) -> list[dict[str, str]]:
        raise ray.exceptions.RaySystemError("the head is gone")

    detached, _ = resumed(fake, tmp_path)
    monkeypatch.setattr(module, "list_named_actors", fail)
    with pytest.raises(ClusterError, match=r"the actors of the former driver cannot be listed: .*the head is gone"):
        detached.find(WANTED)
    detached.close()


@pytest.mark.parametrize(
    ("second", "num_found"), [(None, 1), (RunKey.generate(), 1), (RuntimeError("it died"), 1), ("missing", 1)]
)
def test_if_one_is_missing_or_not_the_runs_all_start_again(
    second: Any, num_found: int, fake: FakeRay, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    detached, key = resumed(fake, tmp_path)
    fake.answers = {"planner 0/a": key} | ({} if second == "missing" else {"judger 0/b": second})
    with caplog.at_level(logging.WARNING):
        assert detached.find(WANTED) is None
    (record,) = caplog.records
    assert f"{num_found} of 2 answered" in record.getMessage()
    assert set(fake.killed) == set(fake.ended) == set(fake.answers)
    assert fake.removed == [fake.namespace]


def test_the_leases_of_those_that_have_answered_are_renewed_while_others_are_waited_for(
    fake: FakeRay, tmp_path: Path
) -> None:
    """A turn of the former driver may last longer than a lease."""
    detached, key = resumed(fake, tmp_path)
    fake.answers = {"planner 0/a": key, "judger 0/b": None}
    assert detached.find(WANTED) is None
    assert "planner 0/a" in fake.renewed


def test_an_actor_that_makes_progress_is_waited_for_as_long_as_it_takes(
    fake: FakeRay, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """A turn of a large model, or of one on a busy machine, takes longer than any fixed limit."""
    detached, key = resumed(fake, tmp_path)
    now = iter(range(1000))
    monkeypatch.setattr(rejoin, "time", SimpleNamespace(monotonic=lambda: float(next(now))))  # each look: a second
    monkeypatch.setattr(rejoin, "REJOIN_SECONDS", 10.0)
    fake.answers = {"planner 0/a": key, "judger 0/b": None}
    steps = [("prompt", 10), ("latent step", 1), *(("token", number) for number in range(40))]
    fake.progress = [
        [TurnProgress(agent="judger", question_ids=("q",), step=step, num_done=done, num_total=40, seconds=float(at))]
        for at, (step, done) in enumerate(steps)
    ]
    with caplog.at_level(logging.WARNING):
        assert detached.find(WANTED) is None  # it stops at its last token, so it hangs
    assert len(fake.progress) == 1  # all was waited for
    waiting, ended = (record.getMessage() for record in caplog.records)
    assert waiting == "waiting for judger 0 to end what the former driver had begun"
    assert "1 of 2 answered" in ended
    assert next(now) < 150


def test_actors_that_load_their_model_give_their_places_back(fake: FakeRay, tmp_path: Path) -> None:
    """They cannot join a new driver, and no other would ever remove the places of a run that is gone."""
    detached, _ = resumed(fake, tmp_path)
    fake.answers = dict.fromkeys(["planner 0/a", "judger 0/b"], AssertionError("load() comes first"))
    assert detached.find(WANTED) is None
    assert set(fake.ended) == set(fake.answers)


def test_places_that_a_former_driver_waited_for_are_given_back(fake: FakeRay, tmp_path: Path) -> None:
    """No actor has come to have them."""
    detached, _ = resumed(fake, tmp_path)
    assert detached.find(WANTED) is None
    assert fake.removed == [fake.namespace]


def test_actors_that_were_started_otherwise_are_not_used_and_give_their_places_back(
    fake: FakeRay, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    detached, key = resumed(fake, tmp_path, "other facts")
    fake.answers = {"planner 0/a": key, "judger 0/b": key}
    assert detached.key != key
    with caplog.at_level(logging.WARNING):
        assert detached.find(WANTED) is None
    (record,) = caplog.records
    assert record.getMessage().startswith("the actors start again: those of the former driver were started with other")
    assert set(fake.ended) == set(fake.killed) == set(fake.answers)
    assert fake.removed == [fake.namespace]


@pytest.mark.parametrize("resume", [True, False])
def test_actors_of_a_driver_that_lives_are_left_to_it(resume: bool, tmp_path: Path) -> None:
    """It may write into another folder below this one, such as that of another seed."""
    first = DetachedActors(tmp_path / "new", 60.0, "facts", resume=False)
    record = (tmp_path / "new" / RECORD_NAME).read_bytes()
    with pytest.raises(JournalError, match="another run is writing into this folder"):
        DetachedActors(tmp_path / "new", 60.0, "facts", resume=resume)
    assert (tmp_path / "new" / RECORD_NAME).read_bytes() == record
    first.close()
    DetachedActors(tmp_path / "new", 60.0, "facts", resume=resume).close()


def test_nothing_is_renewed_once_it_is_closed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The run leaves its cluster then."""
    monkeypatch.setattr(module, "_MAX_RENEWAL_SECONDS", 0.0)
    renews, is_closed = threading.Event(), threading.Event()

    def get_actors() -> list[Any]:
        renews.set()
        is_closed.wait(0.5)  # it is closed while this thread renews
        return [FakeActor(fake, "planner 0/a")]

    fake = FakeRay()
    detached = DetachedActors(tmp_path, 60.0, "facts", resume=False)
    detached.start_renewing(get_actors)
    assert renews.wait(60.0)
    detached.close()
    count = len(fake.renewed)
    is_closed.set()
    assert not [thread for thread in threading.enumerate() if thread.name == "leases"]
    assert len(fake.renewed) == count


def test_every_actor_has_a_name_of_its_own(tmp_path: Path) -> None:
    """Ray frees the name of one that died late."""
    detached = DetachedActors(tmp_path, 60.0, "facts", resume=False)
    one, other = detached.options("planner 0"), detached.options("planner 0")
    assert one["name"] != other["name"]
    assert one["lifetime"] == "detached"


@pytest.mark.parametrize(
    "bundles",
    [
        [{"GPU": 1.0, "CPU": 1.0}] * 2,  # the cluster has more GPUs now
        [{"GPU": 0.3333, "CPU": 1.0}] * 2,
        [{"CPU": 1.0}] * 2,
        [SHARE],  # both on one GPU
    ],
)
def test_actors_with_another_share_than_the_plan_gives_now_start_again(
    bundles: list[dict[str, float]], fake: FakeRay, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    detached, key = resumed(fake, tmp_path)
    fake.answers = {"judger 0/a": key, "planner 0/b": key}
    with caplog.at_level(logging.WARNING):
        assert detached.find(WANTED, bundles) is None
    (record,) = caplog.records
    assert "start again: those of the former driver have 0.5 GPU and 1 CPU, and now each gets " in record.getMessage()
    assert set(fake.ended) == set(fake.answers)
    assert fake.removed == [fake.namespace]


def test_actors_with_the_share_of_the_plan_are_used(fake: FakeRay, tmp_path: Path) -> None:
    detached, key = resumed(fake, tmp_path)
    fake.answers = {"judger 0/a": key, "planner 0/b": key}
    assert detached.find(WANTED, [{"CPU": 1.0, "GPU": 0.50001}, SHARE]) is not None


def test_who_kept_the_places_of_the_former_driver_ends_and_is_no_replica(fake: FakeRay, tmp_path: Path) -> None:
    """Else it would remove the places of this driver, whose run has the same name."""
    detached, key = resumed(fake, tmp_path)
    fake.answers = {"judger 0/a": key, "places/c": None, "planner 0/b": key}
    assert detached.find(WANTED) is not None
    assert fake.killed == ["places/c"]


def test_places_are_kept_while_they_are_asked_for(
    fake: FakeRay, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "start_keeper", lambda run, seconds: FakeActor(fake, f"places of {run}, {seconds:g}"))
    detached = DetachedActors(tmp_path, 60.0, "facts", resume=False)
    monkeypatch.setattr(DetachedActors, "_renewal_seconds", 0.01)
    detached.start_renewing(list)
    name = f"places of {detached.namespace}, 60"
    with module.keeping_places(detached):
        deadline = time.monotonic() + 60
        while name not in fake.renewed and time.monotonic() < deadline:
            time.sleep(0.01)
        assert not fake.killed
    assert fake.renewed
    assert fake.killed == [name]
    detached.close()
    with module.keeping_places(None):  # a run that ends with its process
        pass
