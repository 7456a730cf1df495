"""The words with which answers are stated, in the languages in which they are read: patterns that ignore case."""

import re

from latentmas_ray.patterns import LazyPattern

CJK = "\u3040-\u30ff\u3400-\u9fff\uac00-\ud7af"

_ANSWER = (
    "antwort|réponse|respuesta|risposta|resposta|ответ|antwoord|odpowiedź|odpowiedzią|cevap|yanıt|jawaban(?:nya)?"
    "|đáp án|câu trả lời"
)
_OPTION = (
    "lösung|option|auswahl|wahl|möglichkeit|alternativ[ae]|solution|choix|opción|solución|elección|opzione|soluzione|scelta"
    "|opção|solução|escolha|вариант|выбор|optie|opcja|seçenek|şık|pilihan|phương án|lựa chọn"
)
_ARE = "ist|lautet|wäre|est|serait|es|sería|è|sarebbe|é|seria|это|is|jest|adalah|là"
_ANSWER_CJK = "答案|答え|解答|正解|回答|正答|答|정답|답안|해답|답"
_OPTION_CJK = "选项|選項|选择|選擇|選択肢|보기|선택지"
_ARE_CJK = "应该是|應該是|应是|应为|是|为|為|は|은|는|[:：=]"
_CHOOSE = (
    "ich wähle|nehme ich|entscheide ich mich für|ich entscheide mich für|je choisis|j['’]opte pour|je sélectionne"
    "|elijo|escojo|selecciono|opto por|me quedo con|scelgo|seleziono|opto per|escolho|seleciono|fico com|выбираю"
    "|выбираем|ik kies|wybieram|seçiyorum|saya memilih|tôi chọn"
)


def _stating(nouns: str, nouns_cjk: str) -> str:
    return (
        rf"\b(?:{nouns})\b[^\n.:=：]{{0,60}}?(?:\b(?:{_ARE})\b|[:=：]|[ ][—–-](?=[ ]))"
        rf"|(?:{nouns_cjk})[^\n。.:=：]{{0,12}}?(?:{_ARE_CJK})"
    )


# "Die Antwort ist …", "Réponse : …", "答案是…"
ANSWER_IS = _stating(_ANSWER, _ANSWER_CJK)
# The same of an option, and "ich wähle …", "选…"
CHOICE_IS = (
    f"{_stating(f'{_ANSWER}|{_OPTION}', f'{_ANSWER_CJK}|{_OPTION_CJK}')}"
    rf"|\b(?:{_CHOOSE})\b|(?<![不未非])(?:选择?|選擇?)(?![项項択])"
)
# After a letter: "… ist richtig", "… est la bonne réponse", "…是正确的"
IS_RIGHT = (
    r"ist (?:(?:also|somit|daher|damit|eindeutig|wohl|die|das|der|einzig)\s)*"
    r"(?:richtig|korrekt|zutreffend|best|wahr|antwort|lösung)\w*"
    r"|(?:est|serait) (?:(?:donc|bien|clairement|la|le|seule)\s|l['’])*"
    r"(?:bonne|correct|exact|juste|vrai|meilleur|réponse|option)\w*"
    r"|es (?:(?:claramente|entonces|la|el|única)\s)*(?:correct|respuesta|opción|verdader|mejor|adecuad|acertad)\w*"
    r"|è (?:(?:quindi|chiaramente|la|il|quella|unica)\s|l['’])*"
    r"(?:corrett|giust|esatt|risposta|opzione|ver[ao]|miglior)\w*"
    r"|(?:é|está) (?:(?:portanto|claramente|a|o|única)\s)*"
    r"(?:corret|cert|resposta|opção|verdadeir|melhor|alternativa)\w*"
    r"|(?:(?:[—–-]|является|это)\s)?(?:(?:единственн|наиболее)\w*\s)?(?:правильн|верн|верен|верно|подходящ|ответ)\w*"
    r"|is (?:(?:het|de|dus)\s)*(?:juist|goed|antwoord)\w*|jest (?:poprawn|prawidłow)\w*|doğru\w*"
    r"|(?:là )?(?:(?:đáp án|phương án|lựa chọn)\s)?(?:đúng|chính xác)|adalah (?:jawaban )?(?:yang )?(?:benar|tepat)"
    r"|(?:选项|選項|项|項)?(?:才|就)?(?:是|为|為)?(?:唯一|最)?的?(?:正确|正確|对的|對的|合适|恰当|正解|答案)"
    r"|(?:が|は)(?:唯一の|最も)?(?:正解|正しい|適切|答え|妥当)|を(?:選び|選択|選ぶ)"
    r"|(?:이|가|은|는|번이|번은)?\s?(?:정답|맞|옳|올바르|적절|답입)|(?:을|를)\s?(?:선택|고르|고릅)"
)
# A clause with such a word says what is not so.
NEGATES = (
    r"\b(?:not|cannot|neither|nor|nicht|kein\w*|weder|ne|pas|aucune?|ni|no|non|né|nessun\w*|não|nem|nenhum\w*|не|ни|нет|niet|geen"
    r"|nie|değil|không|bukan|tidak)\b|n['’]t\b|\bn['’](?=\w)|不|没|沒|非|ではな|ではあり|じゃな|くない|아니|아닙|않"
)
IS_WRONG = (
    r"\b(?:wrong|incorrect|false|unlikely|excluded|ruled|falsch\w*|inkorrekt\w*|unzutreffend\w*|ausgeschlossen\w*|faux|fauss\w*"
    r"|incorrect\w*|erroné\w*|inexact\w*|exclu\w*|fals[aoei]s?|erróne\w*|equivocad\w*|descartad\w*|sbagliat\w*|errat\w*|scorrett\w*"
    r"|esclus\w*|errad\w*|incorret\w*|неверн\w*|неправильн\w*|ложн\w*|ошибочн\w*|исключ\w*|fout\w*|onjuist\w*|błędn\w*|yanlış|sai"
    r"|salah)\b|错|錯|误|誤|不对|不對|不正|排除|間違|不正解|違い|正しくな|틀|오답"
)
AND_OR = (
    "and|or|und|oder|et|ou|y|o|e|u|ed|od|и|или|i|lub|en|of|ve|veya|và|hoặc|dan|atau"
    "|和|或|与|與|及|と|または|や|와|과|또는|및|나|이나"
)
# What may stand between "the answer is" and the letter.
BEFORE_LETTER = (
    r"die|der|das|antwort|buchstabe|also|somit|möglichkeit|lösung|la|le|il|el|les|réponse|lettre|choix|donc|proposition|opción"
    r"|letra|respuesta|alternativa|inciso|opzione|lettera|risposta|quindi|opção|resposta|portanto|вариант|ответа?|буква"
    r"|под буквой|пункт|het|de|optie|antwoord|选项|選項|字母|選択肢|記号|보기|선택지"
)
BECAUSE = (
    "because|since|as|which|is|due|weil|da|denn|car|parce|puisque|porque|ya que|pues|perché|poiché|pois|já que|omdat"
    "|ponieważ|çünkü|vì|karena"
)
# "Hepatitis B" does not mean option B.
NAMED_BEFORE = (
    *("vitamin", "hepatitis", "influenza", "group", "type", "class", "factor", "protein", "stage", "grade", "gruppe"),
    *("typ", "klasse", "faktor", "stadium", "vitamine", "hépatite", "groupe", "classe", "facteur", "vitamina", "grupo"),
    *("hepatitis", "epatite", "gruppo", "tipo", "clase", "fattore", "витамин", "гепатит", "группа", "тип", "класс"),
    *("维生素", "維生素", "維他命", "肝炎", "ビタミン", "비타민", "型肝", "간염"),
)

_LETTERS = str.maketrans(
    {chr(0xFF21 + index): chr(ord("A") + index) for index in range(26)}
    | {chr(0xFF41 + index): chr(ord("a") + index) for index in range(26)}
    | {
        "（": " (",
        "）": ") ",
        "【": " [",
        "】": "] ",
        "「": ' "',
        "」": '" ',
        "『": ' "',
        "』": '" ',
        "《": ' "',
        "》": '" ',
    }
    | {
        "。": ". ",
        "，": ", ",
        "、": ", ",
        "；": "; ",
        "：": ": ",
        "！": "! ",
        "？": "? ",
        "．": ". ",
        "«": '"',
        "»": '"',
    }
)
_EDGE = LazyPattern(rf"(?<=[{CJK}])(?=[A-Za-z])|(?<=[A-Za-z])(?=[{CJK}])")
_LOOKALIKES = str.maketrans("АВСЕ", "ABCE")
_CYRILLIC_LETTER = LazyPattern(
    r"((?:ответ\w*|вариант\w*|выбираю|букв\w+)[^\n.]{0,30}?[\s\"(*:—–-])([АВСЕ])(?=[\s.,;:)\"*!]|$)", re.IGNORECASE
)


def with_plain_letters(text: str) -> str:
    """Return the text with the letters of options as plain capitals that stand alone, whatever the script around them.

    Letters and brackets of full width become plain ones, and Cyrillic letters that look like A, B, C, E those.
    """
    text = _EDGE.sub(" ", text.translate(_LETTERS))
    return _CYRILLIC_LETTER.sub(lambda match: match[1] + match[2].upper().translate(_LOOKALIKES), text)
