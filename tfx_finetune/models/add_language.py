"""A language is added to a bundle with heads by language, as far as its manifest tells: `--add_language`.

All that the bundle has stays as it is, to the last bit; `held.py` sees to that when the network is built.
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
from tfx_finetune.types.components import SHARED, ClassLabels, Task
from tfx_finetune.types.table import Table


@dataclass(frozen=True)
class LanguageExtension:
    """What a bundle becomes.

    Attributes:
        language: The one that is added: also the name of its head.
        route: The column that tells which head is asked.
        heads: Task specs by head: those of the bundle, then the new one.
        labels: Classes of the bundle's heads.
    """

    language: str
    heads_by: str
    heads: dict[str, Spec]
    labels: Mapping[str, ClassLabels]

    def check(self, table: Table) -> None:
        """Raises a `UserError` where the data has no sample of the language."""
        found = sorted(set(table.columns[self.heads_by][table.error == ""]) - {""})
        if self.language not in found:
            todo = did_you_mean(self.language, found)
            what = f"the data has no sample of the {self.heads_by} that is added"
            raise UserError(what, got=self.language, expected=found, hint=todo)

    def get_fixed_labels(self, head: str, task: Task, head_table: Table) -> ClassLabels | None:
        """The classes of a head as the bundle fixes them; None where the data does.

        The head that tells the language learns the new one where the data has others that it can be told from;
        else it stays without it.

        Args:
            head: Its name.
            task: The head, for any classes.
            own: The samples that it is asked about.

        Raises:
            UserError: A sample has a class that the head cannot have.
        """
        values = head_table.columns[task.column]
        if head == self.language:
            if not task.l2_to_shared:
                return None
            names, counts = self.labels[SHARED].names, list(iterate_classes(values[head_table.split == "train"]))
            found = self.labels[SHARED]._replace(counts=tuple(map(counts.count, names)), num_samples=len(counts))
        else:
            found = self.labels[head]
        if head == self.heads_by:
            trained = list(values[head_table.split == "train"])
            if set(trained) & set(found.names):
                count = trained.count(self.language)
                named = {language: (*names, "") for language, names in found.translations.items()}
                found = ClassLabels(
                    (*found.names, self.language), (*found.counts, count), found.num_samples + count, named
                )
        elif task.heads_by and (unknown := set(iterate_classes(values[head_table.split != ""])) - set(found.names)):
            todo = "add the language to a bundle of heads with pool=0, which have classes of their own"
            what = f"a class that the bundle's head {SHARED if task.l2_to_shared else head} does not know"
            raise UserError(what, got=min(unknown), expected=found.names, hint=todo if task.l2_to_shared else "")
        return found


def make_language_extension(run: Run, init_bundle: InitBundle | None) -> LanguageExtension | None:
    """What the bundle of `--init` becomes by `--add_language`; None where no language is added.

    Raises:
        UserError: There is no such bundle, it has no heads by language or that one already, or the run asks for what
            would change what it has.
    """
    language = run.add_language
    if not language:
        return None
    if not init_bundle:
        raise UserError("--add_language wants a bundle", got=language, hint="name it with --init=old/bundle")
    known: Mapping[str, Any] = init_bundle.manifest["heads"]
    heads = {head: parse_spec(entry["task"]) for head, entry in known.items()}
    own = {head: spec for head, spec in heads.items() if spec.kwargs.get("per")}
    if not own:
        todo = "train one with --heads=\"classify(heads_by='language')\""
        raise UserError("the bundle has no heads by language", got=init_bundle.path, hint=todo)
    if language in heads:
        what = "the bundle has a head of this name" + (f"; it has the languages {', '.join(own)}" if own else "")
        raise UserError(what, got=language, hint="leave --add_language out to train it on")
    spec = next(iter(own.values()))
    route = str(spec.kwargs["per"])
    _check_options_unchanged(run, init_bundle, route)
    labels = {head: parse_manifest_labels(entry) for head, entry in known.items()}
    return LanguageExtension(language, route, heads | {language: spec}, labels)


def disable_unfreezing(phase: Phase) -> Phase:
    """The phase `warm` where a language is added: towers stay frozen, so there is no other."""
    return dataclasses.replace(phase, unfreeze="0", adapter="", one_tower_at_a_time=False, unfreezing_stages=1)


def _check_options_unchanged(run: Run, init_bundle: InitBundle, heads_by: str) -> None:
    """Raises a `UserError` for what would change the heads that are there."""
    fusion = init_bundle.manifest.get("fusion", "")
    if fusion and fusion != run.fusion:
        raise UserError("--fusion is not the bundle's", got=run.fusion, expected=fusion)
    for entry in init_bundle.manifest["towers"].values():
        kind, theirs = entry["modality"], entry["options"]
        mine = dataclasses.asdict(group) if (group := getattr(run, kind, None)) else theirs
        for name in [name for name in mine if mine[name] != theirs.get(name)]:
            what = f"--{kind}.{name} is not the bundle's, whose heads would see other inputs"
            raise UserError(what, got=mine[name], expected=theirs.get(name))
    refused = {
        "--heads": run.heads if run.heads != Run().heads else "",
        "--heads_by": run.heads_by if run.heads_by != heads_by else "",
        "--compress": run.compress,
        "--auxiliary_losses": run.auxiliary_losses,
        "--strategy": run.strategy if run.strategy != "joint" else "",
        "--frozen.ema_momentum": run.frozen.ema_momentum or "",
    }
    for option, value in refused.items():
        if value:
            what = f"{option} does not go with --add_language, which leaves all that the bundle has as it is"
            raise UserError(what, got=value, hint="leave it out")
