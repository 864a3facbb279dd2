"""Class names in other languages: loading them, label files, and predictions in a language."""

import dataclasses
import functools
from collections.abc import Mapping, Sequence
from typing import Any

from tfx_finetune.core.errors import UserError, did_you_mean
from tfx_finetune.core.spec import Spec
from tfx_finetune.datasets.sources.in_memory import convert_to_text
from tfx_finetune.ops.tf_data import as_numpy, get_schema
from tfx_finetune.tasks.text_embeddings import EMBEDDING
from tfx_finetune.types.components import SOURCES
from tfx_finetune.types.task import ClassLabels, Task

NamesByLanguage = Mapping[str, Mapping[str, str]]
"""Language -> class -> name."""


def load_translations(spec: Spec, columns: Sequence[str]) -> dict[str, NamesByLanguage]:
    """Load the class names of `--label_translations` for each label column.

    Args:
        spec: Spec of a source of texts with a `language`: a table with the columns label, language and text, or
            `digit_words()`.
        columns: Label columns of the heads. The first of several names of a class counts.

    Raises:
        UserError: If the source has no texts, no languages, or none of the columns.
    """
    source = SOURCES.build(spec)
    schema = get_schema(source)
    label_columns = [column for column in columns if column in schema]
    missing = [column for column in ("text", "language") if column not in schema]
    if not label_columns:
        missing.extend(columns[:1])
    if missing:
        expected = "columns text, language and " + " or ".join(columns)
        message = f"The data of --label_translations has no column {missing[0]}"
        raise UserError(message, got=", ".join(sorted(schema)), expected=expected)
    names: dict[str, dict[str, dict[str, str]]] = {column: {} for column in label_columns}
    for part in source.sizes:
        for sample in as_numpy(source.read(part)):
            language, text = convert_to_text(sample["language"]), convert_to_text(sample["text"])
            for column in label_columns if language and text else ():
                names[column].setdefault(language, {}).setdefault(convert_to_text(sample[column]), text)
    return dict(names)


def add_translations(labels: ClassLabels, names: NamesByLanguage) -> ClassLabels:
    """Add the class names of all languages that have a name for at least one class.

    Examples:
        >>> labels = ClassLabels(("cat", "dog"), (1, 1), 2)
        >>> add_translations(labels, {"fi": {"cat": "kissa"}, "sv": {"horse": "häst"}}).translations
        {'fi': ('kissa', '')}
    """
    translations = {
        language: tuple(by_class.get(name, "") for name in labels.names) for language, by_class in names.items()
    }
    return labels._replace(translations={language: row for language, row in sorted(translations.items()) if any(row)})


def parse_manifest_labels(entry: Mapping[str, Any]) -> ClassLabels:
    """Return the classes of a head from its entry in a manifest."""
    translations = {language: tuple(names) for language, names in entry.get("translations", {}).items()}
    return ClassLabels(tuple(entry["labels"]), tuple(entry["counts"]), entry["samples"], translations)


def get_names_in_language(labels: ClassLabels, language: str) -> tuple[str, ...]:
    """Return the class names in a language.

    A missing name is replaced by the class name. If several classes have the same name, the class name is added.

    Examples:
        >>> labels = ClassLabels(("mouse", "rat", "cat"), (1, 1, 1), 3, {"la": ("mus", "mus", "")})
        >>> get_names_in_language(labels, "la")
        ('mus (mouse)', 'mus (rat)', 'cat')
    """
    pairs = list(zip(labels.translations[language], labels.names, strict=True))
    names = [translation or name for translation, name in pairs]
    return tuple(
        f"{translation} ({name})" if names.count(translation) > 1 else translation
        for translation, name in zip(names, labels.names, strict=True)
    )


def make_label_files(heads: Mapping[str, ClassLabels]) -> dict[str, str]:
    """Return the content of `labels.<language>.txt`, or `labels.<head>.<language>.txt` with several heads, by name."""
    return {
        "labels." + (f"{head}." if len(heads) > 1 else "") + f"{language}.txt": "".join(
            f"{name}\n" for name in get_names_in_language(labels, language)
        )
        for head, labels in heads.items()
        for language in labels.translations
    }


def check_language(tasks: Mapping[str, Task], language: str, has_heads_by: bool) -> None:
    """Check that a model has class names in a language, or heads by language.

    Raises:
        UserError: If it has neither.
    """
    languages = sorted({language for task in tasks.values() for language in task.labels.translations})
    if not language or has_heads_by or language in languages:
        return
    if not languages:
        hint = "leave out --language, or train with --label_translations"
        raise UserError("The model has neither heads nor class names by language", got=language, hint=hint)
    hint = did_you_mean(language, languages)
    raise UserError("The model has no class names in this language", got=language, expected=languages, hint=hint)


def translate_predictions(tasks: Mapping[str, Task], language: str) -> dict[str, Task]:
    """Return the tasks with predictions in a language, for the heads that have class names in it."""
    translated = {}
    for head, task in tasks.items():
        if language in task.labels.translations:
            names = dict(zip(task.labels.names, get_names_in_language(task.labels, language), strict=True))
            task = dataclasses.replace(task, format_prediction=functools.partial(_translate_prediction, names, task))
        translated[head] = task
    return translated


def _translate_prediction(names: Mapping[str, str], task: Task, scores: Any) -> dict[str, Any]:
    prediction = task.format_prediction(scores)
    label = prediction["label"]
    return prediction | {
        "label": [names[name] for name in label] if isinstance(label, list) else names[label],
        "scores": {names[name]: score for name, score in prediction["scores"].items()},
    }


def select_outputs(tasks: Mapping[str, Task], classes: Sequence[str]) -> dict[str, tuple[str, Task]]:
    """Return the output name and the task that predict, by head; zero-shot heads predict the given classes.

    Args:
        tasks: Tasks by head.
        classes: Class names of `predict --classes`; empty for the classes of the model.

    Raises:
        UserError: If no head is a zero-shot head, or there are fewer than two classes.
    """
    if not classes:
        return {head: ("scores", task) for head, task in tasks.items()}
    if len(set(classes)) < 2:
        raise UserError("--classes needs two or more names", got=", ".join(classes), expected="'fox, cat, horse'")
    if not any(task.zero_shot for task in tasks.values()):
        hint = "train a model with --heads=zero_shot()"
        raise UserError("The classes of this model are fixed", got=f"--classes={', '.join(classes)}", hint=hint)
    return {
        head: (EMBEDDING, dataclasses.replace(task, format_prediction=task.zero_shot.zero_shot_classifier(classes)))
        if task.zero_shot
        else ("scores", task)
        for head, task in tasks.items()
    }
