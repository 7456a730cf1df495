"""The RayServices of Kubernetes, against the fields that the operator's definition of ray.io/v1 has and requires.

Kubernetes drops or refuses a field that a definition does not have, so a mistyped one does nothing. The schema here is
of the fields that we use, each with its kind there.
"""

from copy import deepcopy
from typing import Any

import jsonschema
import pytest
import yaml

from latentmas_ray.serve.ray_arguments import AppArguments
from tests.unit.cluster.test_files import CLUSTER, KINDS, load

TEXTS = {"type": "object", "additionalProperties": {"type": "string"}}
COUNT = {"type": "integer", "minimum": 0}


def strict(required: dict[str, Any], optional: dict[str, Any] | None = None) -> dict[str, Any]:
    properties = {**required, **(optional or {})}
    return {"type": "object", "properties": properties, "required": [*required], "additionalProperties": False}


CONTAINER = strict(
    {"name": {"type": "string"}, "image": {"type": "string"}},
    {
        "imagePullPolicy": {"enum": ["Always", "IfNotPresent", "Never"]},
        "ports": {"type": "array", "items": strict({"containerPort": {"type": "integer"}, "name": {"type": "string"}})},
        "resources": strict({"limits": TEXTS, "requests": TEXTS}),
    },
)
TOLERATION = strict(
    {"key": {"type": "string"}, "operator": {"enum": ["Exists", "Equal"]}, "effect": {"type": "string"}}
)
POD = strict(
    {"spec": strict({"containers": {"type": "array", "items": CONTAINER}}, {"tolerations": {"items": TOLERATION}})}
)
WORKERS = strict(
    {
        "groupName": {"type": "string"},
        "minReplicas": COUNT,
        "maxReplicas": COUNT,
        "rayStartParams": TEXTS,
        "template": POD,
    },
    {"replicas": COUNT},
)
RAY_CLUSTER = strict(
    {"headGroupSpec": strict({"rayStartParams": TEXTS, "template": POD})},
    {
        "rayVersion": {"type": "string"},
        "authOptions": strict({"mode": {"enum": ["token", "disabled"]}}),
        "workerGroupSpecs": {"type": "array", "items": WORKERS},
    },
)
RAY_SERVICE = strict(
    {
        "apiVersion": {"const": "ray.io/v1"},
        "kind": {"const": "RayService"},
        "metadata": strict({"name": {"type": "string", "pattern": "^[a-z][a-z0-9-]{0,40}$"}}),
        "spec": strict({"serveConfigV2": {"type": "string"}, "rayClusterConfig": RAY_CLUSTER}),
    }
)


def service(kind: str) -> Any:
    return load(CLUSTER / f"kuberay/rayservice-{kind}.yaml")


@pytest.mark.parametrize("kind", KINDS)
def test_a_rayservice_has_fields_that_the_operator_knows(kind: str) -> None:
    jsonschema.validate(service(kind), RAY_SERVICE)


@pytest.mark.parametrize(
    ("path", "name"),
    [
        (("spec",), "serveConfig"),
        (("spec", "rayClusterConfig"), "headGroup"),
        (("spec", "rayClusterConfig", "workerGroupSpecs", 0), "minReplica"),
        (("spec", "rayClusterConfig", "workerGroupSpecs", 0, "template", "spec", "containers", 0), "limits"),
    ],
)
def test_a_mistyped_field_is_found(path: tuple[Any, ...], name: str) -> None:
    wrong = deepcopy(service("cpu"))
    place = wrong
    for key in path:
        place = place[key]
    place[name] = 1
    with pytest.raises(jsonschema.ValidationError, match=name):
        jsonschema.validate(wrong, RAY_SERVICE)


@pytest.mark.parametrize("kind", KINDS)
def test_its_cluster_is_the_other_files_with_a_port_for_requests(kind: str) -> None:
    own, other = service(kind)["spec"]["rayClusterConfig"], load(CLUSTER / f"kuberay/raycluster-{kind}.yaml")["spec"]
    ports = own["headGroupSpec"]["template"]["spec"]["containers"][0]["ports"]
    serve = ports.pop()
    assert serve == {"containerPort": 8000, "name": "serve"}  # by this name the operator makes the service
    assert own == other


@pytest.mark.parametrize("kind", KINDS)
def test_its_team_can_be_made(kind: str) -> None:
    """All but the model, which is elsewhere."""
    (application,) = yaml.safe_load(service(kind)["spec"]["serveConfigV2"])["applications"]
    teams = AppArguments.read({**application["args"], "model": "tiny"}).make_teams()
    assert list(teams.models) == [f"latentmas/sequential{method}" for method in ("", "/single", "/text")]
    (deployment,) = application["deployments"]
    scaling = deployment["autoscaling_config"]
    assert scaling["min_replicas"] <= scaling["max_replicas"]
