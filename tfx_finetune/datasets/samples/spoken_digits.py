"""Sample data: spoken digits and letters, from the Debian packages of prompts of the Asterisk telephone system."""

from typing import NamedTuple

from tfx_finetune.core import assets
from tfx_finetune.core.errors import UserError, did_you_mean
from tfx_finetune.datasets.sources.in_memory import InMemorySource, group_columns_by_split
from tfx_finetune.types.components import SOURCES, Source


class Voice(NamedTuple):
    """Speaker of a package.

    Attributes:
        language: Language tag.
        suffix: Suffix of the audio files.
    """

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
    """Read the digits 0 to 9 as recorded by eight speakers, once each, in telephone quality (8 kHz).

    Installed packages are used; others are downloaded into the cache without root. The column `group` is the voice,
    which stays in one split. The column `text` is the word.

    Args:
        languages: Languages of en, es, fr, it, ru. Spanish, French and Italian have two voices each. Default: all.
        letters: If True, read the letters a to z too, which seven voices recorded. Default False.
        test: Voice or voices of the test split; all others are training samples: allison, allison_mx, july, june,
            armelle, menardi, carlo, ivrvoice. Default: no splits.
        val: Voice or voices of the validation split. Default: none.

    Raises:
        UserError: If a language or voice does not exist, or a package cannot be downloaded.
    """
    for language in languages:
        if language not in WORDS:
            hint = did_you_mean(language, WORDS)
            raise UserError("spoken_digits() has no such language", got=language, expected=WORDS, hint=hint)
    voices = [name for name, voice in VOICES.items() if voice.language in languages]
    if not voices:
        raise UserError("spoken_digits() needs a language", expected=WORDS)
    held_out = [(part, voice) for part, value in (("test", test), ("val", val)) for voice in _convert_to_tuple(value)]
    held_out_voices = [voice for _, voice in held_out]
    for voice in held_out_voices:
        if voice not in voices or held_out_voices.count(voice) > 1 or len(held_out_voices) >= len(voices):
            expected = voices if len(voices) > 1 else "languages with several voices"
            raise UserError("spoken_digits() cannot hold out the voice", got=voice, expected=expected)
    part_of_voice = dict.fromkeys(voices, "train" if held_out else "all") | {voice: part for part, voice in held_out}
    records = [record | {"split": part_of_voice[name]} for name in voices for record in _make_records(name, letters)]
    labels = (*map(str, range(10)), *(_LETTERS if letters else ()))
    return InMemorySource("spoken_digits", labels, ("audio",), group_columns_by_split(records))


def _convert_to_tuple(value: str | tuple[str, ...]) -> tuple[str, ...]:
    return tuple(filter(None, (value,))) if isinstance(value, str) else value


def _make_records(name: str, letters: bool) -> list[dict[str, str]]:
    voice, root = VOICES[name], assets.fetch(f"digits-{name}")
    prompts = [("digits", str(digit), WORDS[voice.language][digit]) for digit in range(10)]
    prompts += [("letters", letter, letter) for letter in _LETTERS if letters]
    return [
        {
            "audio": str(root / folder / f"{label}{voice.suffix}"),
            "text": word,
            "label": label,
            "language": voice.language,
            "group": name,
            "file": f"{name}/{folder}/{label}{voice.suffix}",
        }
        for folder, label, word in prompts
        if (root / folder / f"{label}{voice.suffix}").is_file()
    ]
