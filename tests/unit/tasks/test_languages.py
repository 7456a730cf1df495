"""The letter that an answer chooses in other languages than English, and options that have units."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from latentmas_ray.tasks.grading.choice import extract_choice

CITIES = {"A": "Paris", "B": "London", "C": "Berlin", "D": "Madrid"}

STATED = [
    # German
    "Die richtige Antwort ist C, weil A und B falsch sind.",
    "Die Antwort lautet: C. A ist falsch.",
    "Antwort: C\nDie Optionen A und B sind falsch.",
    "Ich wähle Option C. B wäre London.",
    "C ist richtig, A ist falsch.",
    "B ist nicht richtig. Die korrekte Lösung ist (C).",
    # French
    "Réponse : C\nLes options A et B sont fausses.",
    "La bonne réponse est l'option C, pas A.",
    "La réponse correcte est donc la C. A est fausse.",
    "C est la bonne réponse. B est incorrecte.",
    "Je choisis la réponse C, car B est une autre ville.",
    # Spanish
    "La respuesta correcta es la opción C. Las opciones A y B son incorrectas.",
    "Respuesta: C\nA no es correcta.",
    "Elijo la C porque A es falsa.",
    "C es correcta; B no lo es.",
    # Italian
    "La risposta corretta è la C, non la A.",
    "Risposta: C. Le opzioni A e B sono sbagliate.",
    "C è la risposta giusta. A è sbagliata.",
    # Portuguese
    "A resposta correta é a alternativa C. A alternativa A está errada.",
    "Resposta: C\nAs opções A e B estão erradas.",
    "C está correta. B está errada.",
    "A resposta é a C.",
    # Chinese
    "因此,正确答案是C。A和B不对。",
    "答案：C\nA和B都是错误的。",
    "正确的选项是（C），而不是A。",
    "所以应该选C，不选A。",
    "故选择C。A不正确。",
    "C是正确的。B是错误的。",
    "答案為Ｃ。",
    # Japanese
    "正解はCです。AとBは間違いです。",
    "答え：C\nAは誤りです。",
    "Cが正しいです。Bは正しくありません。",
    "正しい選択肢は「C」です。",
    "Aは正解ではない。Cが正解です。",
    # Korean
    "정답은 C입니다. A는 틀립니다.",
    "답: C\nA와 B는 오답입니다.",
    "C가 정답입니다. A는 정답이 아닙니다.",
    "저는 C를 선택합니다.",
    # Russian
    "Правильный ответ: C. Варианты A и B неверны.",
    "Ответ — C, потому что A неверно.",
    "Правильный ответ это С (кириллицей).",
    "C — верный ответ. A неправильно.",
    "Я выбираю вариант C.",
    # Others
    "Het juiste antwoord is C, want A is fout.",
    "Đáp án đúng là C. A sai.",
    "Jawaban yang benar adalah C.",
]


@pytest.mark.parametrize("answer", STATED)
def test_the_stated_letter_is_read(answer: str) -> None:
    assert extract_choice(answer, CITIES) == "C"
    assert extract_choice(f"<think>{answer.replace('C', 'D')}</think>{answer}", CITIES) == "C"


UNCLEAR = [
    "Les options A et B sont fausses.",
    "Die Option B ist falsch.",
    "Die Option (B) ist falsch.",
    "**B** ist falsch.",
    "Die Antwort ist nicht B.",
    "Die Antwort ist A oder B.",
    "Weder A noch B.",
    "La réponse n'est pas B.",
    "La réponse est A ou B.",
    "Las opciones A y B son incorrectas.",
    "La respuesta no es B.",
    "La respuesta es B o C.",
    "La risposta non è B.",
    "Le opzioni A e B sono sbagliate.",
    "A resposta não é B.",
    "As opções A e B estão erradas.",
    "A和B都不对。",
    "答案不是B。",
    "AとBが正解です。",
    "A and B is correct.",
    "Die Antworten A und B sind richtig.",
    "정답은 A와 B입니다.",
    "不选B。",
    "B是错误的。",
    "正解はBではありません。",
    "Bは間違いです。",
    "정답은 B가 아닙니다.",
    "B는 틀립니다.",
    "Ответ не B.",
    "Варианты A и B неверны.",
    "(B) is wrong.",
    "Not Paris.",
    "London is wrong.",
    "Berlin ist falsch.",
]


@pytest.mark.parametrize("answer", UNCLEAR)
def test_what_is_only_excluded_or_left_open_is_no_answer(answer: str) -> None:
    assert extract_choice(answer, CITIES) is None


@pytest.mark.parametrize(
    ("answer", "letter"),
    [
        ("答案是维生素C", None),  # no option has this name
        ("Es fehlt Vitamin B", None),
        ("Die Antwort ist Berlin.", "C"),
        ("La réponse est Madrid, pas Paris.", "D"),
        ("正确答案是 Berlin。", "C"),
        ("La respuesta es A porque B es falsa.", "A"),
        ("정답은 A입니다.", "A"),
        ("答案是A", "A"),
        ("A resposta é: A capital é outra.", None),  # A is an article here
    ],
)
def test_names_and_articles(answer: str, letter: str | None) -> None:
    assert extract_choice(answer, CITIES) == letter


FORMS = [
    "Die Antwort ist {}.",
    "Réponse : {}",
    "La respuesta correcta es {}.",
    "La risposta è la {}.",
    "A resposta correta é a letra {}.",
    "答案是{}。",
    "正解は{}です。",
    "정답은 {}입니다.",
    "Правильный ответ: {}.",
]


@given(st.sampled_from("ABCD"), st.sampled_from(FORMS))
def test_every_letter_is_read_in_every_language(letter: str, form: str) -> None:
    assert extract_choice(form.format(letter), CITIES) == letter
    assert extract_choice(form.format(letter), {}) == letter


SPEEDS = {"A": "5 m/s", "B": "10 m/s", "C": "1,000 m/s", "D": "20 km/h"}


@pytest.mark.parametrize(
    ("options", "answer", "letter"),
    [
        (SPEEDS, "\\boxed{10}", "B"),
        (SPEEDS, "The answer is 10.", "B"),
        (SPEEDS, "<answer>20</answer>", "D"),
        (SPEEDS, "Answer: 1000", "C"),
        (SPEEDS, "**Answer:** 10.0", "B"),
        (SPEEDS, "\\boxed{10\\text{ m/s}}", "B"),
        (SPEEDS, "\\boxed{10 km/h}", None),  # another unit
        (SPEEDS, "\\boxed{11}", None),
        ({"A": "5 m", "B": "5 km", "C": "7 m"}, "\\boxed{5}", None),  # two options have this value
        ({"A": "$5", "B": "$10"}, "Answer: 10", "B"),
        ({"A": "25%", "B": "50%"}, "The answer is 50.", "B"),
        ({"A": "1/2 cup", "B": "2 cups"}, "The answer is 0.5", "A"),
        ({"A": "16", "B": "4", "C": "8"}, "The answer is 8.0", "C"),
    ],
)
def test_a_bare_value_means_the_only_option_of_that_value(
    options: dict[str, str], answer: str, letter: str | None
) -> None:
    assert extract_choice(answer, options) == letter
