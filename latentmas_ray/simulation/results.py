"""The results of simulated turns: as many tokens and bytes as the plan counts."""

from collections.abc import Sequence
from dataclasses import replace

from latentmas_ray.config import most_steps
from latentmas_ray.engine.turn import Phases, SegmentRead, TurnRequest, TurnResult
from latentmas_ray.placement import Plan


class SimulatedResults:
    """Makes the results of turns on a plan, which must have a topology and a model."""

    def __init__(self, plan: Plan) -> None:
        assert plan.request.model is not None, "the plan has no model"
        self._model = plan.request.model
        self.bytes_per_token = self._model.bytes_per_token
        self._plan = plan
        self._one = {agent: self._of_one_question(agent) for agent in plan.request.agents}

    def num_bytes(self, request: TurnRequest) -> int:
        """Return the bytes of the segment that a latent agent's turn hands over."""
        return self._one[request.agent].segment_bytes[0] * len(request.question_ids)

    def of_turn(self, request: TurnRequest, phases: Phases, reads: Sequence[SegmentRead]) -> TurnResult:
        """Return the result of a turn."""
        one, number = self._one[request.agent], len(request.question_ids)
        return replace(
            one,
            prompt_tokens=one.prompt_tokens * number,
            output_token_ids=one.output_token_ids * number,
            texts=one.texts * number,
            segment_bytes=one.segment_bytes * number,
            memory_tokens=one.memory_tokens * number,
            phases=phases,
            reads=tuple(reads),
        )

    def _of_one_question(self, agent: str) -> TurnResult:
        request = self._plan.request
        estimate, workload = self._plan.memory_estimates[agent], request.workload
        assert request.topology is not None
        is_text = request.topology.by_name[agent].thinks == "text"
        steps = request.topology.by_name[agent].latent_steps
        return TurnResult(
            agent=agent,
            prompt_tokens=(workload.prompt_tokens,),
            latent_steps=0 if is_text else workload.latent_steps if steps is None else most_steps(steps),
            output_token_ids=((0,) * workload.max_new_tokens,) if is_text else (),
            texts=("",) if is_text else (),
            segment_bytes=() if is_text else (self._model.memory_bytes(estimate.handed_over_tokens),),
            memory_tokens=(estimate.own_tokens + estimate.read_tokens,),
        )
