"""The generated pages of the reference are up to date."""

from scripts import mkdocs_hooks, reference


def test_pages_are_up_to_date():
    """The files of docs/reference/ are the generated pages."""
    pages = {path.name: path.read_text(encoding="utf-8") for path in reference.FOLDER.glob("*.md")}
    assert pages == reference.make_pages(), "run make reference"


def test_pages_list_the_options_of_users():
    """Defaults that are components are specs, arguments of the caller are omitted, flags of a run are listed once."""
    pages = reference.make_pages()
    assert "neck: Spec = bifpn(dim=96)" in pages["tasks.md"]
    assert "- `labels`:" not in pages["tasks.md"]
    assert "arXiv 2106.09685" in pages["adapters.md"]
    assert "| `--seed` | `0` | at least 0 |" in pages["train.md"]
    assert "--seed" not in pages["tune.md"]
    assert "| `--trials` | `20` | at least 1 |" in pages["tune.md"]


def test_links_of_the_site_lead_to_its_pages():
    """Links to files outside docs/ lead to pages made of them; other links become text."""
    page = "how-to/compress.md"
    text = mkdocs_hooks.replace_links("[a](../../benchmarks/RESULTS.md#x) [b](../../setup.cfg)", f"docs/{page}", page)
    assert text == "[a](../explanation/results.md#x) b"
    text = mkdocs_hooks.replace_links(
        "[c](../configs/mnist.cfg)", "notebooks/quickstart.ipynb", "tutorials/quickstart.md"
    )
    assert text == "[c](../reference/configs.md#mnist)"
