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

    `num_end_tokens` are fed after the thoughts. Where the turn of a question may end early, the chunk says how much can
    follow at most, and the last chunk how much did. Returns the bytes per question of the recompute inputs that were
    sent. Raises the errors of `outgoing`.
    """
    with timer.phase("emit"), session.lm.ranks.all_or_none():
        final_at = time.time()
        make_chunk = session.emit_chunk if work.transfer_mode == "kv" else session.emit_recompute_inputs
        num_coming = work.latent_steps + num_end_tokens
        first = make_chunk(work.hands_over, num_coming, outgoing.reserve, is_open=work.may_end_early)
        outgoing.publish(final_at, first)
        return first.recompute_inputs.bytes_per_question
