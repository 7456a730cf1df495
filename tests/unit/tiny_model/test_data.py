"""What the embedded model is trained on: the prompts of the built-in topologies, packed so that answers stay apart."""

import re
from random import Random

import pytest
import torch
from tokenizers import Tokenizer

from examples.tiny_model.designs import DESIGNS, Design
from examples.tiny_model.document import Document, DocumentPart, Mix
from examples.tiny_model.layouts import TranscriptWriter
from examples.tiny_model.packing import Rows, pack, pack_stream
from examples.tiny_model.texts import (
    AGENTS,
    CHAIN_ROLES,
    answer_prompt,
    context_of,
    expert_prompt,
    role_prompt,
)
from latentmas_ray.tasks import load_questions
from latentmas_ray.tasks.names import HELD_OUT_NAMES, ITEMS, TRAIN_NAMES
from latentmas_ray.tasks.notes import WANTED, Fact, make_notes
from latentmas_ray.topology import format_context, load_topology, render_messages


@pytest.fixture(scope="module", params=list(DESIGNS))
def design(request: pytest.FixtureRequest) -> Design:
    return DESIGNS[request.param]


@pytest.fixture(scope="module")
def tokenizer(design: Design) -> Tokenizer:
    return design.train_tokenizer()


def facts_of(text: str) -> list[Fact]:
    return [Fact(name, int(count), item) for name, count, item in re.findall(r"(\w+) has (\d+) (\w+)\.", text)]


@pytest.mark.parametrize("form", ["sequential", "hierarchical"])
def test_prompts_are_those_of_the_built_in_topologies(form: str) -> None:
    written = [("planner", "one"), ("critic", "two")]
    context = format_context(written)
    notes, chain = load_questions("notes", 1)[0], load_questions("chain", 1)[0]
    *experts, answerer = load_topology(f"notes-{form}").agents
    *roles, judger = load_topology(f"chain-{form}").agents

    def told(agent, question, context=""):  # type: ignore[no-untyped-def]
        return render_messages(agent, question, context=context, answer_form="")[-1]["content"]

    assert tuple(agent.name for agent in experts) == AGENTS["notes"]
    assert tuple(agent.name for agent in roles) == AGENTS["chain"]
    for expert, text in zip(experts, notes.record["notes"], strict=True):
        assert told(expert, notes) == expert_prompt(facts_of(text))
    for agent, role in zip(roles, CHAIN_ROLES, strict=True):
        assert told(agent, chain) == role_prompt(role, chain.question)
    for agent, question in ((answerer, notes), (judger, chain)):
        assert told(agent, question) == answer_prompt(question.question)
        assert told(agent, question, context) == context_of(written) + answer_prompt(question.question)
    if form == "sequential":
        last = facts_of(notes.record["notes"][2])
        assert told(experts[2], notes, context) == expert_prompt(last, context_of(written))


def test_a_prompt_is_what_the_chat_template_makes(design: Design, tokenizer: Tokenizer) -> None:
    messages = [{"role": "user", "content": "Notes"}]
    made = design.wrap(tokenizer).apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
    assert made == design.marks.opening + "Notes" + design.marks.closing


def test_the_marks_of_turns_are_tokens_of_their_own_and_every_other_id_is_a_word(
    design: Design, tokenizer: Tokenizer
) -> None:
    ids = [token for text in vars(design.marks).values() for token in tokenizer.encode(text).ids]
    specials = {token for token, added in tokenizer.get_added_tokens_decoder().items() if added.special}
    assert specials == {0, 1, 2}
    assert {tokenizer.token_to_id(design.end_token), tokenizer.token_to_id(design.pad_token)} <= specials
    assert specials & set(ids)


def test_every_word_and_digit_is_one_token(tokenizer: Tokenizer) -> None:
    for word in (*TRAIN_NAMES, *HELD_OUT_NAMES, *ITEMS):
        assert len(tokenizer.encode(f" {word}").ids) == 1
    assert tokenizer.encode("1234").tokens == list("1234")
    for text in ("Naïve – 你好\n\t 12", "So Mia=12. \\boxed{12}"):
        assert tokenizer.decode(tokenizer.encode(text).ids) == text


def test_training_never_asks_about_held_out_names(tokenizer: Tokenizer) -> None:
    writer = TranscriptWriter(tokenizer, Random(1))
    told: set[str] = set()
    for _ in range(60):
        document = writer.document(Mix(recall=0.0, soft=0.5, blind=0.1), 512)
        # What agents add to their prompts may be any words.
        prompts = [parts[:3] for parts in document.shared if not parts[0].soft]
        for parts in (*prompts, *document.branches):
            told |= set(re.findall(r"\w+", tokenizer.decode([token for part in parts for token in part.ids])))
    assert not told & set(HELD_OUT_NAMES)
    assert told & set(TRAIN_NAMES)


def test_agents_mostly_add_equally_many_soft_tokens_and_leave_room_for_a_question(tokenizer: Tokenizer) -> None:
    writer = TranscriptWriter(tokenizer, Random(1))
    documents = [writer.document(Mix(recall=0.0, drill=0.0, solo=0.0, soft=1.0), 512) for _ in range(60)]
    counts = [
        [sum(len(part.ids) for part in parts if part.soft) for parts in document.shared] for document in documents
    ]
    thinking = [some for some in counts if any(some)]
    assert len(thinking) > 30
    assert sum(len(set(some)) == 1 for some in thinking) > 0.7 * len(thinking)
    assert max(map(max, thinking)) > 60
    assert sum(bool(document.branches) for document in documents) > 50


def test_questions_without_notes_have_the_answers_of_notes_that_are_nowhere(tokenizer: Tokenizer) -> None:
    writer = TranscriptWriter(tokenizer, Random(1))
    for _ in range(20):
        document = writer.document(Mix(recall=0.0, drill=0.0, chain=0.0, blind=1.0), 512)
        assert all(part.soft for parts in document.shared for part in parts)
        assert {branch[-1].kind for branch in document.branches} <= set(WANTED)


class _Fixed(TranscriptWriter):
    def __init__(self, document: Document) -> None:
        self._document = document

    def document(self, mix: Mix, max_tokens: int) -> Document:
        return self._document


def packed(parallel: bool) -> Rows:
    shared = [[DocumentPart([3, 4])], [DocumentPart([5, 6])]]
    branches = [[DocumentPart([7]), DocumentPart([8, 9], "drill")], [DocumentPart([10]), DocumentPart([11], "drill")]]
    return pack(_Fixed(Document(shared, branches, [10, 0], parallel)), Mix(), 1, 96)


@pytest.mark.parametrize("parallel", [False, True])
def test_branches_see_the_shared_segments_and_not_one_another(parallel: bool) -> None:
    rows = packed(parallel)
    sees = {
        int(rows.ids_BT[0, i]): {int(rows.ids_BT[0, j]) for j in range(96) if rows.visible[0, i, j]} for i in range(12)
    }
    assert sees[6] == ({5, 6} if parallel else {3, 4, 5, 6})
    assert sees[9] == {3, 4, 5, 6, 7, 8, 9}
    assert sees[11] == {3, 4, 5, 6, 10, 11}


def test_positions_go_on_and_targets_follow_their_token() -> None:
    rows = packed(False)
    assert rows.positions_BT[0, :9].tolist() == [0, 1, 12, 13, 14, 15, 16, 14, 15]
    assert rows.targets_BT[0, :9].tolist() == [-100, -100, -100, -100, 8, 9, -100, 11, -100]
    assert torch.equal(rows.targets_BT >= 0, rows.kinds_BT >= 0)


def test_the_same_seed_makes_the_same_rows(tokenizer: Tokenizer) -> None:
    first, second, other = (pack(TranscriptWriter(tokenizer, Random(seed)), Mix(), 2, 256) for seed in (1, 1, 2))
    assert torch.equal(first.ids_BT, second.ids_BT)
    assert not torch.equal(first.ids_BT, other.ids_BT)
    assert make_notes(Random(1), "train", (2,)) == make_notes(Random(1), "train", (2,))


def test_a_stream_of_documents_fills_rows_in_its_order() -> None:
    """Each document once, those that do not fit into a row at the beginning of the next."""
    lengths = [30, 40, 40, 60, 10, 5, 50]
    made = [Document([], [[DocumentPart([index + 3] * num, "drill")]], []) for index, num in enumerate(lengths)]
    rows = pack_stream(iter(made), 3, 80)
    placed = [[token - 3 for token in row if token] for row in rows.ids_BT.tolist()]
    assert placed == [[0] * 30 + [1] * 40, [2] * 40, [3] * 60 + [4] * 10 + [5] * 5]
    visible = rows.visible[0]
    assert visible[29, 0]
    assert not visible[30, 29]  # a document sees itself alone
    with pytest.raises(ValueError, match="longer than a row of 20 tokens"):
        pack_stream(iter(made), 1, 20)
