"""What is written about the package agrees with it: generated pages."""

from scripts import reference


def test_pages_are_as_they_are_made():
    """A docstring or an option that changed is on its page; a page without a registry or command is gone."""
    found = {path.name: path.read_text(encoding="utf-8") for path in reference.FOLDER.glob("*.md")}
    assert found == reference.pages(), "run make reference"


def test_pages_tell_what_a_user_may_write():
    """Defaults that are components as specs, no arguments that the caller hands over, flags of a run once."""
    made = reference.pages()
    assert "neck: Spec = bifpn(dim=96)" in made["tasks.md"]
    assert "- `labels`:" not in made["tasks.md"]
    assert "arXiv 2106.09685" in made["adapters.md"]
    assert "| `--seed` | `0` | at least 0 |" in made["train.md"]
    assert "--seed" not in made["tune.md"]
    assert "| `--trials` | `20` | at least 1 |" in made["tune.md"]
