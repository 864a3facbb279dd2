"""Spoken digits and letters: the prompts of the Asterisk telephone system, as Debian packages bring them."""

from typing import NamedTuple

from tfx_finetune.contracts import SOURCES, Source
from tfx_finetune.core import assets
from tfx_finetune.core.errors import UserError, did_you_mean
from tfx_finetune.sources.rows import Rows


class Voice(NamedTuple):
    """A person who recorded a package: the language, and what the names of the files end in."""

    language: str
    ending: str = ".wav"


VOICES = {
    "allison": Voice("en"),
    "allison_mx": Voice("es"),
    "july": Voice("es", ".gsm"),
    "june": Voice("fr"),
    "armelle": Voice("fr", ".gsm"),
    "menardi": Voice("it"),
    "carlo": Voice("it"),
    "ivrvoice": Voice("ru"),
}
WORDS = {
    "en": ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine"),
    "es": ("cero", "uno", "dos", "tres", "cuatro", "cinco", "seis", "siete", "ocho", "nueve"),
    "fr": ("zéro", "un", "deux", "trois", "quatre", "cinq", "six", "sept", "huit", "neuf"),
    "it": ("zero", "uno", "due", "tre", "quattro", "cinque", "sei", "sette", "otto", "nove"),
    "ru": ("ноль", "один", "два", "три", "четыре", "пять", "шесть", "семь", "восемь", "девять"),
}
_LETTERS = tuple("abcdefghijklmnopqrstuvwxyz")


@SOURCES.register
def spoken_digits(
    languages: tuple[str, ...] = ("en", "es", "fr", "it", "ru"), letters: bool = False, test: str = ""
) -> Source:
    """The digits 0 to 9 as eight people say them, once each, over the telephone (8,000 samples a second).

    The packages are used where they are installed, else downloaded into the cache without root. `group` is the voice,
    so no voice stands on both sides of a split; `text` is the word.

    Args:
        languages: en, es, fr, it, ru; Spanish, French and Italian have two voices each.
        letters: The letters a to z too, of the seven voices that recorded them.
        test: A voice to test on, the others being the training part: allison, allison_mx, july, june, armelle, menardi,
            carlo, ivrvoice.

    Raises:
        UserError: There is no such language or voice, or a package cannot be had.
    """
    for language in languages:
        if language not in WORDS:
            todo = did_you_mean(language, WORDS)
            raise UserError("no spoken digits in this language", received=language, allowed=WORDS, todo=todo)
    voices = [name for name, voice in VOICES.items() if voice.language in languages]
    if not voices:
        raise UserError("spoken_digits without a language", allowed=WORDS)
    if test and (test not in voices or len(voices) == 1):
        allowed = voices if len(voices) > 1 else "languages with several voices"
        raise UserError("not a voice of these languages to test on", received=test, allowed=allowed)
    records = [record for name in voices for record in _records(name, letters)]
    parts = {"all": records}
    if test:
        parts = {
            "train": [record for record in records if record["group"] != test],
            "test": [record for record in records if record["group"] == test],
        }
    columns = {part: {key: [r[key] for r in rows] for key in rows[0]} for part, rows in parts.items()}
    labels = (*map(str, range(10)), *(_LETTERS if letters else ()))
    return Rows("spoken_digits", labels, ("audio",), columns)


def _records(name: str, letters: bool) -> list[dict[str, str]]:
    voice, root = VOICES[name], assets.fetch(f"digits-{name}")
    said = [("digits", str(digit), WORDS[voice.language][digit]) for digit in range(10)]
    said += [("letters", letter, letter) for letter in _LETTERS if letters]
    return [
        {
            "audio": str(root / folder / f"{label}{voice.ending}"),
            "text": word,
            "label": label,
            "language": voice.language,
            "group": name,
            "file": f"{name}/{folder}/{label}{voice.ending}",
        }
        for folder, label, word in said
        if (root / folder / f"{label}{voice.ending}").is_file()
    ]
