"""Names of classes in other languages: where they are from, what is written of them, answers in them."""

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
    """The names that the data of `--label_translations` has for the classes of each label column.

    Args:
        spec: A source of texts with a `language`: a table with the columns label, language and text, or
            `digit_words()`.
        columns: Label columns of the heads; of several names of a class, the first one counts.

    Raises:
        UserError: It has no texts, no languages, or none of these columns.
    """
    source = SOURCES.build(spec)
    known = get_schema(source)
    mine = [column for column in columns if column in known]
    if missing := [column for column in ("text", "language") if column not in known] or ([] if mine else columns[:1]):
        allowed = "columns text, language and " + " or ".join(columns)
        raise UserError(
            f"the data of --label_translations has no column {missing[0]}", got=sorted(known), expected=allowed
        )
    found: dict[str, dict[str, dict[str, str]]] = {column: {} for column in mine}
    for part in source.sizes:
        for sample in as_numpy(source.read(part)):
            language, text = convert_to_text(sample["language"]), convert_to_text(sample["text"])
            for column in mine if language and text else ():
                found[column].setdefault(language, {}).setdefault(convert_to_text(sample[column]), text)
    return dict(found)


def add_translations(labels: ClassLabels, names: NamesByLanguage) -> ClassLabels:
    """The classes with their names in every language that has one of some class."""
    listed = {language: tuple(known.get(name, "") for name in labels.names) for language, known in names.items()}
    return labels._replace(translations={language: own for language, own in sorted(listed.items()) if any(own)})


def parse_manifest_labels(entry: Mapping[str, Any]) -> ClassLabels:
    """The classes of a head, from its entry in a manifest."""
    named = {language: tuple(names) for language, names in entry.get("translations", {}).items()}
    return ClassLabels(tuple(entry["labels"]), tuple(entry["counts"]), entry["samples"], named)


def get_names_in_language(labels: ClassLabels, language: str) -> tuple[str, ...]:
    """The names of the classes in a language, their own where there is none; of two with one name, both with it."""
    names = [name or own for name, own in zip(labels.translations[language], labels.names, strict=True)]
    return tuple(
        f"{name} ({own})" if names.count(name) > 1 else name for name, own in zip(names, labels.names, strict=True)
    )


def make_label_files(heads: Mapping[str, ClassLabels]) -> dict[str, str]:
    """Content by name of the files `labels.<language>.txt`; of several heads `labels.<head>.<language>.txt`."""
    return {
        "labels." + (f"{head}." if len(heads) > 1 else "") + f"{language}.txt": "".join(
            f"{name}\n" for name in get_names_in_language(labels, language)
        )
        for head, labels in heads.items()
        for language in labels.translations
    }


def check_language(tasks: Mapping[str, Task], language: str, has_heads_by: bool) -> None:
    """Raises a `UserError` where a model has neither heads nor names by this language."""
    known = sorted({one for task in tasks.values() for one in task.labels.translations})
    if not language or has_heads_by or language in known:
        return
    if not known:
        todo = "leave --language out, or train with --label_translations"
        raise UserError("a model without heads or names by language", got=language, hint=todo)
    todo = did_you_mean(language, known)
    raise UserError("the model's classes have no names in this language", got=language, expected=known, hint=todo)


def translate_predictions(tasks: Mapping[str, Task], language: str) -> dict[str, Task]:
    """The tasks, whose answers are in this language where their classes have names in it."""
    found = {}
    for head, task in tasks.items():
        if language in task.labels.translations:
            names = dict(zip(task.labels.names, get_names_in_language(task.labels, language), strict=True))
            task = dataclasses.replace(task, format_prediction=functools.partial(_translate_prediction, names, task))
        found[head] = task
    return found


def _translate_prediction(names: Mapping[str, str], task: Task, scores: Any) -> dict[str, Any]:
    said = task.format_prediction(scores)
    label = said["label"]
    told = [names[one] for one in label] if isinstance(label, list) else names[label]
    return said | {"label": told, "scores": {names[name]: score for name, score in said["scores"].items()}}


def select_outputs(tasks: Mapping[str, Task], classes: Sequence[str]) -> dict[str, tuple[str, Task]]:
    """The output that each task's answer is made of, and the task, whose classes are these where it names things.

    Raises:
        UserError: None does, or there are fewer than two classes.
    """
    if not classes:
        return {head: ("scores", task) for head, task in tasks.items()}
    if len(set(classes)) < 2:
        raise UserError("--classes takes two or more", got=", ".join(classes), expected="'fox, cat, horse'")
    if not any(task.zero_shot for task in tasks.values()):
        raise UserError("a model of fixed classes", got=", ".join(classes), hint="train it with --heads=zero_shot()")
    return {
        head: (EMBEDDING, dataclasses.replace(task, format_prediction=task.zero_shot.zero_shot_classifier(classes)))
        if task.zero_shot
        else ("scores", task)
        for head, task in tasks.items()
    }
