"""Overlap: the memory of a prompt is sent while its agent still thinks."""

import time

from latentmas_ray.engine.segment_io import Outgoing
from latentmas_ray.engine.session import Session
from latentmas_ray.engine.timing.phase_timer import PhaseTimer
from latentmas_ray.engine.turn import TurnRequest


def send_prompt_chunk(
    session: Session, work: TurnRequest, timer: PhaseTimer, outgoing: Outgoing, *, num_end_tokens: int
) -> tuple[int, ...]:
    """Send what is final before the first thought: the KV of the prompt, 85 to 95 % of a segment's bytes.

    `num_end_tokens` are fed after the thoughts. Returns the bytes per question of the recompute inputs that were sent.
    Raises the errors of `outgoing`.
    """
    with timer.phase("emit"), session.lm.ranks.all_or_none():
        final_at = time.time()
        make_chunk = session.emit_chunk if work.transfer_mode == "kv" else session.emit_recompute_inputs
        first = make_chunk(work.hands_over, work.latent_steps + num_end_tokens, outgoing.reserve)
        outgoing.publish(final_at, first)
        return first.recompute_inputs.bytes_per_question
