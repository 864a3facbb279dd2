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
from tfx_finetune.datasets.class_names import classes
from tfx_finetune.models.warm_start import Start
from tfx_finetune.tasks.translations import labels_of
from tfx_finetune.types.components import SHARED, Labels, Task
from tfx_finetune.types.table import Table


@dataclass(frozen=True)
class Growth:
    """What a bundle becomes.

    Attributes:
        language: The one that is added: also the name of its head.
        route: The column that tells which head is asked.
        heads: Task specs by head: those of the bundle, then the new one.
        labels: Classes of the bundle's heads.
    """

    language: str
    route: str
    heads: dict[str, Spec]
    labels: Mapping[str, Labels]

    def check(self, table: Table) -> None:
        """Raises a `UserError` where the data has no sample of the language."""
        found = sorted(set(table.columns[self.route][table.reason == ""]) - {""})
        if self.language not in found:
            todo = did_you_mean(self.language, found)
            what = f"the data has no sample of the {self.route} that is added"
            raise UserError(what, received=self.language, allowed=found, todo=todo)

    def known(self, head: str, task: Task, own: Table) -> Labels | None:
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
        values = own.columns[task.column]
        if head == self.language:
            if not task.pool:
                return None
            names, counts = self.labels[SHARED].names, list(classes(values[own.split == "train"]))
            found = self.labels[SHARED]._replace(counts=tuple(map(counts.count, names)), samples=len(counts))
        else:
            found = self.labels[head]
        if head == self.route:
            trained = list(values[own.split == "train"])
            if set(trained) & set(found.names):
                count = trained.count(self.language)
                named = {language: (*names, "") for language, names in found.translations.items()}
                found = Labels((*found.names, self.language), (*found.counts, count), found.samples + count, named)
        elif task.per and (unknown := set(classes(values[own.split != ""])) - set(found.names)):
            todo = "add the language to a bundle of heads with pool=0, which have classes of their own"
            what = f"a class that the bundle's head {SHARED if task.pool else head} does not know"
            raise UserError(what, received=min(unknown), allowed=found.names, todo=todo if task.pool else "")
        return found


def growth_of(run: Run, start: Start | None) -> Growth | None:
    """What the bundle of `--init` becomes by `--add_language`; None where no language is added.

    Raises:
        UserError: There is no such bundle, it has no heads by language or that one already, or the run asks for what
            would change what it has.
    """
    language = run.add_language
    if not language:
        return None
    if not start:
        raise UserError("--add_language wants a bundle", received=language, todo="name it with --init=old/bundle")
    known: Mapping[str, Any] = start.manifest["heads"]
    heads = {head: parse_spec(entry["task"]) for head, entry in known.items()}
    own = {head: spec for head, spec in heads.items() if spec.kwargs.get("per")}
    if not own:
        todo = "train one with --heads=\"classify(per='language')\""
        raise UserError("the bundle has no heads by language", received=start.path, todo=todo)
    if language in heads:
        what = "the bundle has a head of this name" + (f"; it has the languages {', '.join(own)}" if own else "")
        raise UserError(what, received=language, todo="leave --add_language out to train it on")
    spec = next(iter(own.values()))
    route = str(spec.kwargs["per"])
    _check(run, start, route)
    labels = {head: labels_of(entry) for head, entry in known.items()}
    return Growth(language, route, heads | {language: spec}, labels)


def warmed(phase: Phase) -> Phase:
    """The phase `warm` where a language is added: towers stay frozen, so there is no other."""
    return dataclasses.replace(phase, unfreeze="0", adapter="", in_turn=False, stages=1)


def _check(run: Run, start: Start, route: str) -> None:
    """Raises a `UserError` for what would change the heads that are there."""
    fusion = start.manifest.get("fusion", "")
    if fusion and fusion != run.fusion:
        raise UserError("--fusion is not the bundle's", received=run.fusion, allowed=fusion)
    for entry in start.manifest["towers"].values():
        kind, theirs = entry["modality"], entry["options"]
        mine = dataclasses.asdict(group) if (group := getattr(run, kind, None)) else theirs
        for name in [name for name in mine if mine[name] != theirs.get(name)]:
            what = f"--{kind}.{name} is not the bundle's, whose heads would see other inputs"
            raise UserError(what, received=mine[name], allowed=theirs.get(name))
    refused = {
        "--heads": run.heads if run.heads != Run().heads else "",
        "--route": run.route if run.route != route else "",
        "--compress": run.compress,
        "--objectives": run.objectives,
        "--strategy": run.strategy if run.strategy != "joint" else "",
        "--warm.ema": run.warm.ema or "",
    }
    for option, value in refused.items():
        if value:
            what = f"{option} does not go with --add_language, which leaves all that the bundle has as it is"
            raise UserError(what, received=value, todo="leave it out")
