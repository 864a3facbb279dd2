"""Spoken digits and letters: the prompts of the Asterisk telephone system, as Debian packages bring them."""

from typing import NamedTuple

from tfx_finetune.core import assets
from tfx_finetune.core.errors import UserError, did_you_mean
from tfx_finetune.datasets.sources.in_memory import InMemorySource, group_columns_by_split
from tfx_finetune.types.components import SOURCES, Source


class Voice(NamedTuple):
    """A person who recorded a package: the language, and what the names of the files end in."""

    language: str
    suffix: str = ".wav"


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
    languages: tuple[str, ...] = ("en", "es", "fr", "it", "ru"),
    letters: bool = False,
    test: str | tuple[str, ...] = (),
    val: str | tuple[str, ...] = (),
) -> Source:
    """The digits 0 to 9 as eight people say them, once each, over the telephone (8,000 samples a second).

    The packages are used where they are installed, else downloaded into the cache without root. `group` is the voice,
    so no voice stands on both sides of a split; `text` is the word.

    Args:
        languages: en, es, fr, it, ru; Spanish, French and Italian have two voices each.
        letters: The letters a to z too, of the seven voices that recorded them.
        test: A voice to test on, or several, the others being the training part: allison, allison_mx, july, june,
            armelle, menardi, carlo, ivrvoice.
        val: A voice to choose the best epoch on, or several.

    Raises:
        UserError: There is no such language or voice, or a package cannot be had.
    """
    for language in languages:
        if language not in WORDS:
            todo = did_you_mean(language, WORDS)
            raise UserError("no spoken digits in this language", got=language, expected=WORDS, hint=todo)
    voices = [name for name, voice in VOICES.items() if voice.language in languages]
    if not voices:
        raise UserError("spoken_digits without a language", expected=WORDS)
    held = [(part, voice) for part, said in (("test", test), ("val", val)) for voice in _convert_to_tuple(said)]
    named = [voice for _, voice in held]
    for voice in named:
        if voice not in voices or named.count(voice) > 1 or len(named) >= len(voices):
            allowed = voices if len(voices) > 1 else "languages with several voices"
            raise UserError("not a voice of these languages to hold out", got=voice, expected=allowed)
    part = dict.fromkeys(voices, "train" if held else "all") | {voice: part for part, voice in held}
    records = [record | {"split": part[name]} for name in voices for record in _make_records(name, letters)]
    labels = (*map(str, range(10)), *(_LETTERS if letters else ()))
    return InMemorySource("spoken_digits", labels, ("audio",), group_columns_by_split(records))


def _convert_to_tuple(value: str | tuple[str, ...]) -> tuple[str, ...]:
    return tuple(filter(None, (value,))) if isinstance(value, str) else value


def _make_records(name: str, letters: bool) -> list[dict[str, str]]:
    voice, root = VOICES[name], assets.fetch(f"digits-{name}")
    said = [("digits", str(digit), WORDS[voice.language][digit]) for digit in range(10)]
    said += [("letters", letter, letter) for letter in _LETTERS if letters]
    return [
        {
            "audio": str(root / folder / f"{label}{voice.suffix}"),
            "text": word,
            "label": label,
            "language": voice.language,
            "group": name,
            "file": f"{name}/{folder}/{label}{voice.suffix}",
        }
        for folder, label, word in said
        if (root / folder / f"{label}{voice.suffix}").is_file()
    ]
