"""The texts of an answer, as a client gets them."""

from latentmas_ray.engine.decoding.stops import cut_at_stop
from latentmas_ray.engine.turn import CutOff
from latentmas_ray.runs.results import Answer
from latentmas_ray.serve.teams.reply import FinishedChoice
from latentmas_ray.topology import Topology


def whole_texts(answer: Answer, topology: Topology, num_choices: int = 1) -> list[tuple[str, CutOff, int]]:
    """Return each text of an answer with its stop text, why it ended, and its number of tokens: all samples of the
    agent that answers, if several texts are wanted, else the one that was made of the samples and agents."""
    if num_choices > 1:
        return [(vote.answer, vote.cut_off, len(vote.answer_token_ids)) for vote in answer.votes]
    uses = [answer.agents[agent.name] for agent in topology.answering_agents if agent.name in answer.agents]
    cut_off = uses[0].cut_off if len(uses) == 1 else None
    if answer.votes:
        cut_off = next((vote.cut_off for vote in answer.votes if vote.answer == answer.answer), "no")
    return [(answer.answer, cut_off or "no", len(answer.answer_token_ids))]


def choices_of(
    answer: Answer, topology: Topology, stops: tuple[str, ...], num_choices: int = 1
) -> tuple[FinishedChoice, ...]:
    """Return the texts of an answer without stop texts. One that a stop text has ended was not cut off, whatever came
    with it."""
    choices = []
    for whole, cut_off, num_tokens in whole_texts(answer, topology, num_choices):
        text = cut_at_stop(whole, stops)
        ended = cut_off == "no" or len(text) < len(whole)
        choices.append(FinishedChoice(text=text, finish_reason="stop" if ended else "length", num_tokens=num_tokens))
    return tuple(choices)
