"""Inputs of one model as inputs of another: shared tokens, texts in the reader's turns, and the map of thoughts."""

import json
from dataclasses import replace
from functools import cache
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast, Qwen3Config, Qwen3ForCausalLM

from latentmas_ray.env import read_environment
from latentmas_ray.errors import IncompatibleMemoryError, ModelError, SegmentError
from latentmas_ray.memory import LATENT, RecomputeInputs
from latentmas_ray.models import LanguageModel, load_model
from latentmas_ray.models.chat import ChatTokenizer
from latentmas_ray.models.load import load_tokenizer
from latentmas_ray.models.names import find_path
from latentmas_ray.models.presets import CHAT_TEMPLATE, tiny_model, tiny_tokenizer
from latentmas_ray.models.translation import Translator, check_translatable, make_translator
from latentmas_ray.models.translation.embeddings import WriterEmbeddings, load_embeddings
from latentmas_ray.models.translation.retokenize import Retokenizer
from latentmas_ray.models.translation.thought_map import solve_map
from latentmas_ray.models.translation.vocabulary import SharedVocabulary, shared_vocabulary, token_texts

PAIRS = [("tiny", "small"), ("small", "tiny")]
TEXT = "Notes: Mia has 12 beads.\nRepeat the notes."
load = cache(load_model)


@cache
def translator(writer: str, reader: str) -> Translator:
    return make_translator(writer, load(reader), read_environment().cache_dir)


def prompt_ids(lm: LanguageModel, text: str = TEXT) -> list[int]:
    return lm.chat.encode([{"role": "user", "content": text}], {}, "")


def inputs_of(lm: LanguageModel, *questions: list[int]) -> RecomputeInputs:
    ids = torch.tensor([token for question in questions for token in question])
    num = int((ids == LATENT).sum())
    thoughts = torch.randn(num, lm.spec.hidden_size, generator=torch.Generator().manual_seed(1))
    return RecomputeInputs(ids, thoughts.to(lm.spec.torch_dtype), tuple(map(len, questions)))


def marked_tokenizer(words: list[str], template: str = CHAT_TEMPLATE) -> PreTrainedTokenizerFast:
    """A tokenizer of the sentencepiece family: single characters, byte-fallback tokens, and no words of its own."""
    tokens = ["<s>", "</s>", *(f"<0x{value:02X}>" for value in range(256)), *words]
    tokenizer = Tokenizer(models.BPE(vocab={one: i for i, one in enumerate(tokens)}, merges=[], byte_fallback=True))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="never")
    tokenizer.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()])
    tokenizer.add_special_tokens(["<s>", "</s>"])
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="</s>", chat_template=template)


@pytest.mark.parametrize(("writer", "reader"), PAIRS)
def test_tokens_are_matched_by_their_texts(writer: str, reader: str) -> None:
    first, second = load_tokenizer(writer), load_tokenizer(reader)
    shared = shared_vocabulary(first, second, (writer, reader))
    assert not shared.is_same
    pairs = dict(zip(shared.writer_ids, shared.reader_ids, strict=True))
    spaces = {"tiny": "Ġ", "small": "▁"}
    for word in ("Mia", "beads"):
        assert pairs[first.get_vocab()[spaces[writer] + word]] == second.get_vocab()[spaces[reader] + word]
    lines = {"tiny": "Ċ", "small": "\n"}
    assert pairs[first.get_vocab()[lines[writer]]] == second.get_vocab()[lines[reader]]
    assert len(pairs) > 500
    for one, tokenizer in ((pairs.keys(), first), (pairs.values(), second)):
        assert not set(one) & {*tokenizer.all_special_ids, *tokenizer.added_tokens_decoder}


def test_bytes_that_are_no_character_and_fallback_bytes_are_no_shared_text() -> None:
    texts = token_texts(load_tokenizer("small"))
    assert "<0x41>" not in texts
    assert {"\ufffd", ""}.isdisjoint(token_texts(load_tokenizer("tiny")))


def test_one_tokenizer_shares_all_its_tokens() -> None:
    tokenizer = load_tokenizer("tiny")
    shared = shared_vocabulary(tokenizer, load_tokenizer("tiny"), ("tiny", "tiny"))
    assert shared.is_same
    assert shared.writer_ids == shared.reader_ids == tuple(range(len(tokenizer)))


def test_too_few_shared_tokens_are_one_line_with_both_models_and_the_number() -> None:
    other = marked_tokenizer([chr(code) for code in range(ord("a"), ord("z") + 1)])
    with pytest.raises(
        ModelError, match=r"models: got 'tiny, other'.* 100 tokens .* tiny and other have 26;"
    ) as raised:
        shared_vocabulary(load_tokenizer("tiny"), other, ("tiny", "other"))
    assert "\n" not in str(raised.value)


def test_models_are_checked_by_their_tokenizers_alone(tmp_path: Path) -> None:
    marked_tokenizer(["a"]).save_pretrained(tmp_path)
    (tmp_path / "config.json").write_text('{"model_type": "qwen3"}')
    check_translatable("tiny", "small")
    with pytest.raises(ModelError, match="have 1;"):
        check_translatable(str(tmp_path), "tiny")


@pytest.mark.parametrize("name", ["tiny", "small"])
def test_embeddings_are_those_of_the_loaded_model(name: str) -> None:
    found, lm = load_embeddings(name), load(name)
    assert torch.equal(found.input_VE, lm.input_embeddings())
    assert torch.equal(found.output_VE, lm.output_embeddings())
    assert found.revision == load_embeddings(name).revision


def test_tied_embeddings_are_one_tensor(tmp_path: Path) -> None:
    config = Qwen3Config(
        vocab_size=50, hidden_size=16, num_hidden_layers=1, num_attention_heads=2, head_dim=8, tie_word_embeddings=True
    )
    Qwen3ForCausalLM(config).save_pretrained(tmp_path)
    found = load_embeddings(str(tmp_path))
    assert found.output_VE is found.input_VE
    assert found.input_VE.shape == (50, 16)


def test_only_the_files_of_the_embeddings_are_read(tmp_path: Path) -> None:
    model = tiny_model(torch.float32)
    model.save_pretrained(tmp_path)
    (tmp_path / "model.safetensors").unlink()
    tensors = {name: value.contiguous() for name, value in model.state_dict().items()}
    wanted = {name for name in tensors if "embed" in name or "lm_head" in name}
    save_file({name: tensors[name] for name in wanted}, tmp_path / "first.safetensors")
    places = {name: "first.safetensors" if name in wanted else "absent.safetensors" for name in tensors}
    index = tmp_path / "model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": places}))
    found = load_embeddings(str(tmp_path))
    assert torch.equal(found.output_VE, model.lm_head.weight)
    index.write_text(json.dumps({"weight_map": {name: one for name, one in places.items() if "lm_head" not in name}}))
    with pytest.raises(ModelError, match="must have its output embeddings"):
        load_embeddings(str(tmp_path))


def test_without_safetensors_files_it_is_an_error_of_the_model(tmp_path: Path) -> None:
    tiny_model(torch.float32).config.save_pretrained(tmp_path)
    with pytest.raises(ModelError, match="its embeddings must load from its safetensors files"):
        load_embeddings(str(tmp_path))


def test_a_reader_whose_embeddings_are_a_turned_copy_gets_the_same_thoughts() -> None:
    torch.manual_seed(1)
    writer_VE, turn = torch.randn(400, 24), torch.randn(24, 32)
    ids = tuple(range(0, 300, 2))
    shared = SharedVocabulary(ids, ids, is_same=False)
    found = solve_map(WriterEmbeddings(writer_VE, writer_VE), writer_VE @ turn, shared, "input")
    torch.testing.assert_close(found, turn, rtol=1e-4, atol=1e-4)


def test_for_tied_embeddings_both_spaces_give_one_map() -> None:
    torch.manual_seed(1)
    writer_VE, reader_VE = torch.randn(400, 24), torch.randn(400, 32)
    shared = SharedVocabulary(tuple(range(400)), tuple(range(400)), is_same=True)
    embeddings = WriterEmbeddings(writer_VE, writer_VE)
    torch.testing.assert_close(
        solve_map(embeddings, reader_VE, shared, "input"),
        solve_map(embeddings, reader_VE, shared, "output"),
        rtol=1e-3,
        atol=1e-4,
    )


@pytest.mark.parametrize(("writer", "reader"), PAIRS)
def test_the_map_of_input_embeddings_finds_the_words_and_that_of_output_embeddings_does_not(
    writer: str, reader: str
) -> None:
    shared = shared_vocabulary(load_tokenizer(writer), load_tokenizer(reader), (writer, reader))
    embeddings, reader_VE = load_embeddings(writer), load(reader).input_embeddings().float()
    words_SA, words_SB = shared.rows(embeddings.input_VE.float(), reader_VE)
    units_SB = torch.nn.functional.normalize(words_SB, dim=-1)

    def share_found(space: str) -> float:
        mapped = words_SA @ solve_map(embeddings, reader_VE, shared, space)  # type: ignore[arg-type]
        nearest = (torch.nn.functional.normalize(mapped, dim=-1) @ units_SB.T).argmax(-1)
        return float((nearest == torch.arange(len(nearest))).float().mean())

    assert share_found("input") > 0.95
    assert share_found("output") < 0.5


def test_thoughts_get_the_readers_norm_dtype_and_size() -> None:
    writer, reader = load("tiny"), load("small")
    inputs = inputs_of(writer, [*prompt_ids(writer), *[LATENT] * 5])
    found = translator("tiny", "small").translate(inputs)
    assert found.latents_NE.shape == (5, reader.spec.hidden_size)
    assert found.latents_NE.dtype == reader.spec.torch_dtype
    norm = reader.input_embeddings().float().norm(dim=-1).mean()
    torch.testing.assert_close(found.latents_NE.float().norm(dim=-1), norm.expand(5), rtol=0.01, atol=0.0)


def test_the_map_is_cached_by_both_revisions(tmp_path: Path) -> None:
    lm = load("small")
    first = make_translator("tiny", lm, tmp_path)
    (path,) = tmp_path.iterdir()
    assert load_embeddings("tiny").revision in path.name
    assert lm.spec.weights_revision in path.name
    save_file({"matrix": 2 * load_file(path)["matrix"]}, path)
    assert torch.equal(make_translator("tiny", lm, tmp_path).matrix_AB, 2 * first.matrix_AB)
    make_translator("small", load("tiny"), tmp_path)
    assert len(list(tmp_path.iterdir())) == 2


@pytest.mark.parametrize(("writer", "reader"), PAIRS)
def test_a_prompt_is_what_the_readers_template_makes_of_it(writer: str, reader: str) -> None:
    own, other = load(writer), load(reader)
    found = translator(writer, reader).translate(inputs_of(own, prompt_ids(own), prompt_ids(own, "Mia has 7 keys.")))
    expected = [prompt_ids(other), prompt_ids(other, "Mia has 7 keys.")]
    assert found.token_ids_T.tolist() == expected[0] + expected[1]
    assert found.lengths == tuple(map(len, expected))


def test_stretches_between_thoughts_are_translated_one_by_one_and_a_prefix_stays_one() -> None:
    own, other = load("tiny"), load("small")
    prompt, between = prompt_ids(own), own.chat.encode_text(" Mia has 2")
    end = own.chat.turn_terminator
    inputs = inputs_of(own, [*prompt, LATENT, LATENT, *between, LATENT, *end], [])
    found = translator("tiny", "small").translate(inputs)
    new_prompt, new_between = prompt_ids(other), other.chat.encode_text(" Mia has 2")
    # The mark that ends the turn is special, and the line end after it is text.
    expected = [*new_prompt, LATENT, LATENT, *new_between, LATENT, *other.chat.encode_text("\n")]
    assert found.token_ids_T.tolist() == expected
    assert found.lengths == (len(expected), 0)
    for count, new_count in ((len(prompt), len(new_prompt)), (len(prompt) + 2, len(new_prompt) + 2)):
        head = translator("tiny", "small").translate(inputs.head([count, 0]))
        assert head.token_ids_T.tolist() == expected[:new_count]


def test_bytes_of_a_character_that_is_cut_are_left_out() -> None:
    own, other = load("tiny"), load("small")
    ids = own.chat.encode_text("é Mia has é")
    again = Retokenizer(own.chat, other.chat)
    assert again(ids) == other.chat.encode_text("é Mia has é")
    assert again(ids[1:-1]) == other.chat.encode_text(" Mia has ")
    assert again([]) == []


DEFAULT_RULES = (
    "{% if messages[0]['role'] != 'system' %}<s>system\nBe brief.</s>\n{% endif %}"
    "{% for m in messages %}<s>{{ m['role'] }}\n{{ m['content'] }}</s>\n{% endfor %}"
    "{% if add_generation_prompt %}<s>assistant\n{% endif %}"
)
LETTERS = [*"abcdefghijklmnopqrstuvwxyzBHI.?\n", "▁"]


@pytest.mark.parametrize("roles", [("user",), ("system", "user")])
def test_messages_and_what_begins_the_answer_are_found_in_a_prompt(roles: tuple[str, ...]) -> None:
    writer, reader = ChatTokenizer(marked_tokenizer(LETTERS, DEFAULT_RULES), "writer"), load("tiny").chat
    messages = [{"role": role, "content": f"I am the {role}."} for role in roles]
    ids = writer.encode(messages, {}, "Hm. ")
    assert Retokenizer(writer, reader)(ids) == reader.encode(messages, {}, "Hm. ")


def test_of_a_conversation_the_text_stays_and_the_marks_go() -> None:
    """The marks of the writer's turns must not become text of the reader's last message."""
    writer, reader = ChatTokenizer(marked_tokenizer(LETTERS, DEFAULT_RULES), "writer"), load("tiny").chat
    roles = ("system", "user", "assistant", "user")
    ids = writer.encode([{"role": role, "content": f"I am the {role}."} for role in roles], {}, "")
    found = Retokenizer(writer, reader)(ids)
    assert found == reader.encode_text(writer.plain_text(ids))
    assert not {*found} & reader.stop_ids


def test_without_turns_the_text_stays_and_the_marks_go() -> None:
    own, other = load("small"), load("tiny")
    found = Retokenizer(own.chat, other.chat, keeps_turns=False)(prompt_ids(own))
    assert found == other.chat.encode_text(TEXT)


def test_a_model_without_a_template_reads_and_writes_paragraphs() -> None:
    plain = marked_tokenizer(LETTERS)
    plain.chat_template = None
    chat, other = ChatTokenizer(plain, "plain"), load("tiny").chat
    messages = [{"role": "user", "content": "I am the user."}]
    assert Retokenizer(chat, other)(chat.encode(messages, {}, "")) == other.encode(messages, {}, "")
    assert Retokenizer(other, chat)(other.encode(messages, {}, "")) == chat.encode(messages, {}, "")


def test_with_one_tokenizer_ids_stay_as_they_are(tmp_path: Path) -> None:
    model = tiny_model(torch.float32)
    model.save_pretrained(tmp_path)
    tiny_tokenizer().save_pretrained(tmp_path)
    reader = load_model(str(tmp_path))
    one = make_translator(str(tmp_path), reader, tmp_path / "cache")
    inputs = inputs_of(reader, [1, 70, 2, LATENT, 71])
    found = one.translate(inputs)
    assert torch.equal(found.token_ids_T, inputs.token_ids_T)
    # All rows are shared and equal, so the map is the identity, and thoughts keep their directions.
    torch.testing.assert_close(one.matrix_AB, torch.eye(128), rtol=0.0, atol=1e-3)


def test_inputs_of_another_model_are_refused() -> None:
    own = load("tiny")
    inputs = inputs_of(own, [1, LATENT])
    with pytest.raises(IncompatibleMemoryError, match="thoughts of model small have 224 numbers, these have 256"):
        translator("small", "tiny").translate(inputs)
    with pytest.raises(SegmentError, match="token 900 was fed"):
        translator("tiny", "small").translate(replace(inputs, token_ids_T=torch.tensor([900, LATENT])))


def test_the_folder_of_an_embedded_model_is_any_models_folder() -> None:
    folder = find_path("small")
    assert folder is not None
    by_folder = make_translator(str(folder), load("tiny"), read_environment().cache_dir)
    assert torch.equal(by_folder.matrix_AB, translator("small", "tiny").matrix_AB)
