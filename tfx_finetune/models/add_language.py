"""Extension of a bundle that has one head per language by the head of a new language (`--add_language`).

The towers and all existing heads keep their weights; `frozen_heads.py` freezes them in the network.
"""

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from tfx_finetune.core.config import Phase, Run
from tfx_finetune.core.errors import UserError, did_you_mean
from tfx_finetune.core.spec import Spec, parse_spec
from tfx_finetune.datasets.class_names import iterate_classes
from tfx_finetune.models.warm_start import InitBundle
from tfx_finetune.tasks.translations import parse_manifest_labels
from tfx_finetune.types.table import Table
from tfx_finetune.types.task import SHARED, ClassLabels, Task


@dataclass(frozen=True)
class LanguageExtension:
    """Heads and classes of a bundle with an added language.

    Attributes:
        language: The added language, which is also the name of its head.
        heads_by: Column whose value selects the head of a sample.
        heads: Task specs by head: those of the bundle, then the new one.
        labels: Classes of the bundle's heads.
    """

    language: str
    heads_by: str
    heads: dict[str, Spec]
    labels: Mapping[str, ClassLabels]

    def check(self, table: Table) -> None:
        """Check that the data has samples of the added language.

        Args:
            table: Table of all samples.

        Raises:
            UserError: If no readable sample has the language.
        """
        languages = sorted(set(table.columns[self.heads_by][table.error == ""]) - {""})
        if self.language not in languages:
            message = f"The data has no sample of the {self.heads_by} of --add_language"
            hint = did_you_mean(self.language, languages)
            raise UserError(message, got=self.language, expected=languages, hint=hint)

    def get_fixed_labels(self, head: str, task: Task, head_table: Table) -> ClassLabels | None:
        """Return the classes of a head if the bundle fixes them, or None if the data determines them.

        The head that identifies the language gets the new language as a class if the data also has samples of other
        languages.

        Args:
            head: Name of the head.
            task: Task of the head, for any classes.
            head_table: Table of the samples that the head is trained on.

        Raises:
            UserError: If a sample has a class that the bundle's head does not have.
        """
        values = head_table.columns[task.column]
        train_values = values[head_table.split == "train"]
        if head == self.language:
            if not task.l2_to_shared:
                return None
            labels, classes = self.labels[SHARED], list(iterate_classes(train_values))
            labels = labels._replace(counts=tuple(map(classes.count, labels.names)), num_samples=len(classes))
        else:
            labels = self.labels[head]
        if head == self.heads_by:
            languages = list(train_values)
            if set(languages) & set(labels.names):
                labels = _append_class(labels, self.language, languages.count(self.language))
        elif task.heads_by:
            labeled_values = values[head_table.split != ""]
            if unknown := set(iterate_classes(labeled_values)) - set(labels.names):
                bundle_head = SHARED if task.l2_to_shared else head
                hint = "add the language to a bundle of heads with l2_to_shared=0, which have their own classes"
                raise UserError(
                    f"The head {bundle_head} of the bundle does not have a class of the data",
                    got=min(unknown),
                    expected=labels.names,
                    hint=hint if task.l2_to_shared else "",
                )
        return labels


def make_language_extension(run: Run, init_bundle: InitBundle | None) -> LanguageExtension | None:
    """Return the bundle of `--init` extended by `--add_language`, or None if no language is added.

    Args:
        run: Options of the run.
        init_bundle: Bundle of `--init`, or None.

    Raises:
        UserError: If there is no bundle, it has no heads by language, it has the language already, or an option would
            change its existing heads.
    """
    language = run.add_language
    if not language:
        return None
    if not init_bundle:
        raise UserError("--add_language needs a bundle", got=language, hint="name it with --init=FOLDER")
    entries: Mapping[str, Any] = init_bundle.manifest["heads"]
    heads = {head: parse_spec(entry["task"]) for head, entry in entries.items()}
    group_heads = {head: spec for head, spec in heads.items() if spec.kwargs.get("heads_by")}
    if not group_heads:
        hint = "train one with --heads=\"classify(heads_by='language')\""
        raise UserError("The bundle of --init has no heads by language", got=init_bundle.path, hint=hint)
    if language in heads:
        message = f"The bundle of --init has a head of this name; its languages are {', '.join(group_heads)}"
        raise UserError(message, got=language, hint="leave out --add_language to train this head further")
    spec = next(iter(group_heads.values()))
    heads_by = str(spec.kwargs["heads_by"])
    _check_options_unchanged(run, init_bundle, heads_by)
    labels = {head: parse_manifest_labels(entry) for head, entry in entries.items()}
    return LanguageExtension(language, heads_by, heads | {language: spec}, labels)


def disable_unfreezing(phase: Phase) -> Phase:
    """Return the `frozen` phase of a language extension: the towers stay frozen, so it has no further phases."""
    return dataclasses.replace(phase, unfreeze="0", adapter="", one_tower_at_a_time=False, unfreezing_stages=1)


def _append_class(labels: ClassLabels, name: str, count: int) -> ClassLabels:
    """Append a class without translations, with its number of training samples."""
    translations = {language: (*names, "") for language, names in labels.translations.items()}
    return ClassLabels((*labels.names, name), (*labels.counts, count), labels.num_samples + count, translations)


def _check_options_unchanged(run: Run, init_bundle: InitBundle, heads_by: str) -> None:
    """Check that no option changes the inputs or outputs of the bundle's heads.

    Raises:
        UserError: If an option would change them.
    """
    fusion = init_bundle.manifest.get("fusion", "")
    if fusion and fusion != run.fusion:
        raise UserError("--fusion differs from the fusion of the bundle of --init", got=run.fusion, expected=fusion)
    for entry in init_bundle.manifest["towers"].values():
        modality, bundle_options = entry["modality"], entry["options"]
        group = getattr(run, modality, None)
        options = dataclasses.asdict(group) if group else bundle_options
        for name in [name for name in options if options[name] != bundle_options.get(name)]:
            message = f"--{modality}.{name} differs from the bundle, whose heads would read other inputs"
            raise UserError(message, got=options[name], expected=bundle_options.get(name))
    changes = {
        "--heads": run.heads if run.heads != Run().heads else "",
        "--heads_by": run.heads_by if run.heads_by != heads_by else "",
        "--compress": run.compress,
        "--auxiliary_losses": run.auxiliary_losses,
        "--strategy": run.strategy if run.strategy != "joint" else "",
        "--frozen.ema_momentum": run.frozen.ema_momentum or "",
    }
    for option, value in changes.items():
        if value:
            message = f"{option} cannot be combined with --add_language, which keeps the bundle's heads unchanged"
            raise UserError(message, got=value, hint="leave it out")
