"""Where the facts of a prompt are: positions that a chooser could keep who knew what readers will ask for.

They show how few positions carry the facts, whatever a rule that only sees attention finds.
"""

from collections.abc import Sequence

from benchmarks.keep.settings import SPOTS
from benchmarks.shared_memory.segments import select
from benchmarks.shared_memory.team import TeamMemory
from latentmas_ray.memory.layer_spec import Ranges
from latentmas_ray.models.given import TokenizerObject


def keep_spots(memory: TeamMemory, spot: str, tokenizer: TokenizerObject) -> TeamMemory:
    """Only these positions of each prompt, its first one (the attention sink), and all thoughts; of `prompts` no
    thoughts."""
    segments = {}
    for agent, segment in memory.segments.items():
        inputs, prompts = segment.recompute_inputs, memory.prompt_lengths[agent]
        ids = [part.tolist() for part in inputs.token_ids_T.split(list(inputs.lengths))]
        ranges = [
            ((0, prompt),)
            if spot == "prompts"
            else (*find_spots(row[:prompt], spot, tokenizer), *([(prompt, len(row))] if prompt < len(row) else []))
            for row, prompt in zip(ids, prompts, strict=True)
        ]
        segments[agent] = select(segment, ranges)
    return TeamMemory(segments=segments, prompt_lengths=memory.prompt_lengths)


def find_spots(ids: Sequence[int], spot: str, tokenizer: TokenizerObject) -> Ranges:
    """The positions of a prompt's first token and of the tokens that share a character with such a place."""
    ends = [len(tokenizer.decode(list(ids[: count + 1]))) for count in range(len(ids))]
    places = [match.span() for match in SPOTS[spot].finditer(tokenizer.decode(list(ids)))]
    starts = [0, *ends[:-1]]
    kept = [
        index
        for index, (start, end) in enumerate(zip(starts, ends, strict=True))
        if index == 0 or any(start < last and first < end for first, last in places)
    ]
    return tuple((index, index + 1) for index in kept)
